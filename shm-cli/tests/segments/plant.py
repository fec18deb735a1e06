"""A program that knows nothing of this workspace: makes a segment, has it, and
waits until it is killed or its standard input ends.

    plant.py posix /NAME | sysv KEY | memfd LABEL
"""

import ctypes
import mmap
import os
import sys

SIZE = 12345
WORDS = b"planted by Python\0"


def with_descriptor(fd):
    os.ftruncate(fd, SIZE)
    mapping = mmap.mmap(fd, SIZE)
    mapping[: len(WORDS)] = WORDS
    return fd, mapping


def system_v(key):
    libc = ctypes.CDLL(None, use_errno=True)
    libc.shmat.restype = ctypes.c_void_p
    create, exclusive = 0o1000, 0o2000
    identifier = libc.shmget(key, SIZE, 0o600 | create | exclusive)
    address = libc.shmat(identifier, None, 0)
    if identifier == -1 or address == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "shmget, shmat")
    ctypes.memmove(address, WORDS, len(WORDS))


kind, name = sys.argv[1:]
if kind == "posix":
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
    has = with_descriptor(os.open("/dev/shm" + name, flags, 0o600))
elif kind == "sysv":
    key = int(name, 0)
    has = system_v(key - (1 << 32) if key >> 31 else key)
elif kind == "memfd":
    has = with_descriptor(os.memfd_create(name))
print("ready", flush=True)
sys.stdin.read()
