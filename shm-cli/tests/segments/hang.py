"""A server of a file system (FUSE) that stops answering once "hang" comes on
standard input, and goes, with the file system, at the end of that.

    hang.py DIRECTORY
"""

import ctypes
import os
import select
import struct
import sys

LOOKUP, GETATTR, OPEN, INIT = 1, 3, 14, 26
ENOSYS = 38


def attributes(inode):
    mode = 0o40755 if inode == 1 else 0o100644
    words = (inode, 4096, 8, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)
    return struct.pack("<6Q10I", *words)


def answer(call, inode):
    if call == INIT:
        head = struct.pack("<4I2H2I2HI", 7, 31, 65536, 0, 9, 9, 65536, 1, 0, 0, 0)
        return head + bytes(28)
    if call == GETATTR:
        return struct.pack("<QII", 0, 0, 0) + attributes(inode)
    if call == LOOKUP:
        return struct.pack("<4QII", 2, 0, 0, 0, 0, 0) + attributes(2)
    if call == OPEN:
        return struct.pack("<QII", 1, 0, 0)
    return None


fuse = os.open("/dev/fuse", os.O_RDWR)
options = f"fd={fuse},rootmode=40000,user_id=0,group_id=0"
directory = os.fsencode(sys.argv[1])
mount = ctypes.CDLL(None, use_errno=True).mount
if mount(b"hang", directory, b"fuse.hang", 0, options.encode()) != 0:
    raise OSError(ctypes.get_errno(), "mount")
print("ready", flush=True)
hangs = False
while True:
    ready, _, _ = select.select([0] if hangs else [0, fuse], [], [])
    if 0 in ready:
        if not os.read(0, 100):
            break
        hangs = True
        print("hangs", flush=True)
    elif fuse in ready:
        request = os.read(fuse, 1 << 17)
        _, call, number, inode = struct.unpack_from("<IIQQ", request)
        data = answer(call, inode)
        error = -ENOSYS if data is None else 0
        data = data or b""
        head = struct.pack("<IiQ", 16 + len(data), error, number)
        os.write(fuse, head + data)
