"""LMDB through its Python binding, with and without a writable map: many transactions, two environments, a reopening."""

import hashlib
import os
import random
import sys

import lmdb

writable = sys.argv[1] == "writemap"
chance = random.Random(11)
expected = {}

with lmdb.open("store", map_size=1 << 30, writemap=writable, max_dbs=2, sync=False) as environment:
    for transaction_number in range(300):
        with environment.begin(write=True) as transaction:
            for _ in range(40):
                key = b"%08d" % chance.randrange(20000)
                if chance.random() < 0.2:
                    transaction.delete(key)
                    expected.pop(key, None)
                else:
                    value = bytes([chance.randrange(256)]) * chance.randrange(1, 3000)
                    transaction.put(key, value)
                    expected[key] = value
    try:
        with environment.begin(write=True) as transaction:
            transaction.put(b"given up", b"x")
            raise KeyError("to abort")
    except KeyError:
        pass
    named = environment.open_db(b"named", dupsort=True)
    with environment.begin(write=True, db=named) as transaction:
        for number in range(5000):
            transaction.put(b"%d" % (number % 50), b"%d" % number)
    with environment.begin() as transaction:
        stored = {key: value for key, value in transaction.cursor() if key != b"named"}
        print("equal", stored == expected, "entries", len(stored), "given up", transaction.get(b"given up"))
    environment.sync(True)

with lmdb.open("store", map_size=1 << 30, readonly=True, max_dbs=2) as environment:
    with environment.begin() as transaction:
        digest = hashlib.sha256()
        for key, value in transaction.cursor():
            if key != b"named":
                digest.update(key + value)
        print("hash", digest.hexdigest())
    named = environment.open_db(b"named", dupsort=True)
    with environment.begin(db=named) as transaction:
        print("named", transaction.stat()["entries"])
    environment.copy("copy" if not os.mkdir("copy") else "copy", compact=True)
os.remove("store/lock.mdb")
if os.path.exists("copy/lock.mdb"):
    os.remove("copy/lock.mdb")
