"""numpy.memmap in all its modes over a sparse file."""

import hashlib
import os

import numpy

SIZE = 128 << 20
chance = numpy.random.default_rng(5)

with open("array", "wb") as file:
    file.truncate(SIZE)

array = numpy.memmap("array", dtype=numpy.uint8, mode="r")
print("r: sum", int(array.sum()), "any", bool(array.any()), "shape", array.shape)
del array

array = numpy.memmap("array", dtype=numpy.float64, mode="r+")
where = chance.integers(0, array.size, 3000)
array[where] = chance.random(3000)
array[1000:2000] += 1.5
array.flush()
print("r+: sum", float(array.sum()), "max", float(array.max()), "nonzero", int(numpy.count_nonzero(array)))
print("r+: hash", hashlib.sha256(array).hexdigest())
del array

array = numpy.memmap("array", dtype=numpy.float64, mode="c")
array[:100000] = 3.0
print("c: sum", float(array.sum()))
del array
print("after c:", hashlib.sha256(open("array", "rb").read()).hexdigest())

array = numpy.memmap("grid", dtype=numpy.int32, mode="w+", shape=(2048, 4096))
print("w+: zeros", int(array.sum()))
array[::64, ::16] = numpy.arange(32 * 256, dtype=numpy.int32).reshape(32, 256)
array[100:200] = array[0:100] + 1
array.flush()
view = numpy.memmap("grid", dtype=numpy.int32, mode="r", shape=(2048, 4096))
print("w+: equal", bool((view == array).all()), "columns", int(view.sum(axis=0)[::512].sum()))
part = numpy.memmap("grid", dtype=numpy.int32, mode="r+", offset=12345 * 4, shape=(1000000,))
part.sort()
print("sorted:", bool((numpy.diff(part) >= 0).all()), int(part[-1]))
print("matrix:", float((array[:64, :64].astype(float) @ array[64:128, :64].astype(float)).sum()))

numpy.save("saved.npy", numpy.zeros((1000, 1000)))
loaded = numpy.load("saved.npy", mmap_mode="r+")
loaded[500] = numpy.arange(1000)
loaded.flush()
print("load:", float(numpy.load("saved.npy").sum()), os.stat("saved.npy").st_size)
