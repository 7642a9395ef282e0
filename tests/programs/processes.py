"""Processes of one program that share a mapped file: fork, pools, spawned interpreters, subprocesses."""

import hashlib
import mmap
import multiprocessing
import os
import subprocess
import sys

SIZE = 32 << 20
WORKERS = 4


def fill(which):
    with open("shared", "r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        for at in range(which * 4096, SIZE, WORKERS * 4096):
            view[at : at + 8] = (at + 1).to_bytes(8, "little")
    return which


def total():
    with open("shared", "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        return sum(int.from_bytes(view[at : at + 8], "little") for at in range(0, SIZE, 4096))


def create():
    with open("shared", "wb") as file:
        file.truncate(SIZE)


def by_fork():
    create()
    with open("shared", "r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        print("fork: before", sum(view[at] for at in range(0, SIZE, 4096)))
        children = []
        for which in range(WORKERS):
            child = os.fork()
            if child == 0:
                for at in range(which * 4096, SIZE, WORKERS * 4096):
                    view[at : at + 8] = (at + 1).to_bytes(8, "little")
                os._exit(0)
            children.append(child)
        print("fork: codes", [os.waitpid(child, 0)[1] for child in children])
        print("fork: sum", sum(int.from_bytes(view[at : at + 8], "little") for at in range(0, SIZE, 4096)))
        print("fork: hash", hashlib.sha256(view).hexdigest())


def by_pool(method):
    create()
    context = multiprocessing.get_context(method)
    with open("shared", "r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        print(method, "before", sum(view[at] for at in range(0, SIZE, 4096)))
        with context.Pool(WORKERS) as pool:
            print(method, sorted(pool.map(fill, range(WORKERS))))
        print(method, "sum", total(), "hash", hashlib.sha256(view).hexdigest())


def by_subprocess():
    create()
    with open("shared", "r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        print("subprocess: before", sum(view[at] for at in range(0, SIZE, 4096)))
        code = "import sys, os; f = open('shared', 'r+b'); f.seek(5 << 20); f.write(b'child')"
        print("subprocess:", subprocess.run([sys.executable, "-c", code], check=False).returncode)
        print("subprocess:", view[5 << 20 : (5 << 20) + 5])
        file.seek(9 << 20)
        file.write(b"parent")
        file.flush()
        print("buffered write:", view[9 << 20 : (9 << 20) + 6])


if __name__ == "__main__":
    by_fork()
    by_pool("fork")
    by_pool("spawn")
    by_subprocess()
