"""The other side in Python; its arguments are those of other.c.

POSIX objects go through multiprocessing.shared_memory, System V segments
through ctypes, memfds through os and mmap.
"""

import ctypes
import fcntl
import mmap
import os
import socket
import sys
from multiprocessing import resource_tracker, shared_memory

IPC_CREAT, IPC_EXCL, IPC_STAT = 0o1000, 0o2000, 2
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
libc.shmat.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int]
libc.shmget.argtypes = [ctypes.c_int, ctypes.c_size_t, ctypes.c_int]


def check(result):
    if result in (-1, ctypes.c_void_p(-1).value):
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno))
    return result


def size_of_segment(identifier):
    """What /proc/sysvipc/shm says: shmid_ds has no ctypes layout to rely on."""
    with open("/proc/sysvipc/shm") as table:
        heads = table.readline().split()
        for line in table:
            row = dict(zip(heads, line.split()))
            if int(row["shmid"]) == identifier:
                return int(row["size"])
    raise FileNotFoundError(identifier)


def attach(identifier):
    size = size_of_segment(identifier)
    start = check(libc.shmat(identifier, None, 0))
    return memoryview((ctypes.c_char * size).from_address(start)).cast("B")


def keep(segment):
    """Before 3.13, whoever attaches also unlinks at exit: not what we want."""
    resource_tracker.unregister(segment._name, "shared_memory")
    return segment


def open_it(mechanism, target):
    if mechanism == "sysv":
        return attach(int(target))
    if mechanism == "memfd":
        return memoryview(mmap.mmap(int(target), os.fstat(int(target)).st_size))
    global segment
    segment = keep(shared_memory.SharedMemory(target.lstrip("/")))
    return segment.buf


def create(mechanism, target, size, text):
    if mechanism == "sysv":
        flags = IPC_CREAT | IPC_EXCL | 0o600
        identifier = check(libc.shmget(int(target, 0), size, flags))
        attach(identifier)[: len(text)] = text
        print(identifier, end="")
    elif mechanism == "memfd":
        fd = os.memfd_create("other", os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, size)
        mmap.mmap(fd, size)[: len(text)] = text
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        socket.send_fds(socket.socket(fileno=int(target)), [b"!"], [fd])
    else:
        name = target.lstrip("/")
        created = shared_memory.SharedMemory(name, create=True, size=size)
        keep(created).buf[: len(text)] = text


def main():
    mechanism, verb, target, *rest = sys.argv[1:]
    if verb == "create":
        create(mechanism, target, int(rest[0]), rest[1].encode())
        return
    view = open_it(mechanism, target)
    if verb == "size":
        print(len(view), end="")
    elif verb == "read":
        sys.stdout.buffer.write(bytes(view[: int(rest[0])]))
    elif verb == "write":
        text = rest[0].encode()
        view[: len(text)] = text


main()
