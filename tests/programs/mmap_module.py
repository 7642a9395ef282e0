"""Python's mmap module on a sparse file: reads, random stores, flush, resize, find, context."""

import hashlib
import mmap
import os
import random

SIZE = 64 << 20
chance = random.Random(7)

with open("data", "w+b") as file:
    file.truncate(SIZE)

# A scan of nothing but holes, read-only.
with open("data", "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
    print("length", len(view), "find", view.find(b"\1"), "rfind", view.rfind(b"\1"))
    print("sum", sum(view[n] for n in range(0, SIZE, mmap.PAGESIZE)))
    print("hash", hashlib.sha256(view).hexdigest())
    try:
        view[0] = 1
    except TypeError as error:
        print("store:", error)

with open("data", "r+b") as file:
    with mmap.mmap(file.fileno(), 0) as view:
        shadow = {}
        for _ in range(2000):
            at = chance.randrange(SIZE)
            shadow[at] = view[at] = chance.randrange(1, 256)
        assert all(view[at] == value for at, value in shadow.items())
        view[SIZE // 2 : SIZE // 2 + 11] = b"hello world"
        view.flush()
        view.flush(0, mmap.PAGESIZE)
        print("find", view.find(b"hello world") == SIZE // 2, "rfind", view.rfind(b"world") == SIZE // 2 + 6)
        view.move(100, SIZE // 2, 11)
        print("moved", view[100:111])
        view.seek(100)
        print("read", view.read(5), view.read_byte(), view.tell())
        view.seek(3 << 20)
        view.write(b"written through the object")
        print("hash", hashlib.sha256(view).hexdigest())
        os.pwrite(file.fileno(), b"by pwrite", 40 << 20)
        print("by pwrite:", view[40 << 20 : (40 << 20) + 9])
        if hasattr(mmap, "MADV_DONTNEED"):
            view.madvise(mmap.MADV_DONTNEED)
        print("hash", hashlib.sha256(view).hexdigest())
        view.resize(SIZE + (8 << 20))
        print("resized", len(view), os.fstat(file.fileno()).st_size, view[SIZE], view[100:111])
        view[SIZE + (4 << 20)] = 77
        view.resize(SIZE // 2 + (1 << 20))
        print("resized", len(view), os.fstat(file.fileno()).st_size, view[SIZE // 2 : SIZE // 2 + 5])
        print("hash", hashlib.sha256(view).hexdigest())

# Private, and with an offset.
with open("data", "r+b") as file:
    with mmap.mmap(file.fileno(), 8 << 20, access=mmap.ACCESS_COPY, offset=4 << 20) as view:
        view[0:4] = b"copy"
        view[5 << 20] = 9
        print("private", view[0:4], view[5 << 20], os.pread(file.fileno(), 4, 4 << 20) == b"copy")
    with mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ) as view:
        print("hash", hashlib.sha256(view).hexdigest())
    try:
        mmap.mmap(file.fileno(), 1 << 40)
    except ValueError as error:
        print("too long:", error)
