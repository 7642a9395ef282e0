"""Reads a byte of every page of a sparse file through numpy.memmap: 256 MiB of holes."""

import numpy

with open("sparse", "wb") as file:
    file.truncate(256 << 20)
array = numpy.memmap("sparse", dtype=numpy.uint8, mode="r")
print("sum", int(array[::4096].sum()), "all", int(array.sum()))
