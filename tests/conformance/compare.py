#!/usr/bin/env python3
"""Compares what a script did under udax with what it did without, and with what Linux DAX did.

    compare.py --script FILE --place tmpfs|disk --udax FILE [--plain FILE] [--stats FILE] --recordings FOLDER --applied FILE
    compare.py --unused FILE PLACE...      the rules below that never applied; exit code 1 if there is one

Without udax and with it every answer must be the same: result, error, bytes. Of the recordings, every answer must be the same that
makes sense on an ordinary file; RULES is what does not. The recordings of all kernels and file systems count alike, and where they
disagree a rule says which to follow.
"""
import argparse
import json
import pathlib
import re
import sys

PAGE, UNIT = 4096, 2 << 20

# name: (where it must apply, what and why).
RULES = {
    "tracing": ("tmpfs disk", "traces, page tables, entries, smaps, mount options and the machine's own settings are not on ordinary files"),
    "fault counts": ("tmpfs disk", "udax serves in user space what the kernel then counts in another way"),
    "stat of DAX": ("tmpfs disk", "the DAX flags and the preferred block size are the file system's"),
    "layout": ("tmpfs disk", "where extents lie is the file system's choice; a store under DAX allocates up to 2 MiB"),
    "residency": ("tmpfs disk", "mincore(2) tells of the page cache, of which DAX has none"),
    "storage": ("tmpfs disk", "a store under DAX allocates up to 2 MiB, here a page; what nobody stored to must take none (see Storage)"),
    "MAP_SYNC": ("tmpfs disk", "an ordinary file cannot be mapped with MAP_SYNC: refused or ignored as without udax, then mapped without"),
    "address": ("tmpfs disk", "where nothing else is asked for, the address is the kernel's choice"),
    "refused": ("tmpfs", "a file system without that mode of fallocate(2), or without O_DIRECT; from there on plainly is the measure"),
    "past the end": ("tmpfs disk", "stored past the end, then extended: zeros, or what an older kernel showed if this one plainly does so too"),
}

NOT_HERE = {"trace-start", "trace-stop", "trace-dump", "trace-count", "trace-clear", "pt", "xa", "smaps", "vmstat", "faults", "get", "set",
            "remount", "chattr", "dropcaches"}
# The keys of an answer that a rule takes out: of any operation, or of one.
IGNORED = {
    "fault counts": {"*": {"minflt", "majflt"}},
    "stat of DAX": {"stat": {"dax", "daxmask", "blksize"}},
    "layout": {"fiemap": {"ext", "extents"}, "seek": {"runs"}},
    "residency": {"mincore": {"runs", "resident"}},
    "storage": {"stat": {"blocks512"}},
    "address": {"mmap auto": {"addr_mod_2m"}},
}
# What also differs between the two runs here.
DIFFERS_HERE = ("layout", "residency", "storage", "address")
# These say nothing that could be compared.
WITHOUT_ANSWER = {"label", "sleep"}


def number(text):
    """4096, 8m-4k, 3h+1p."""
    units = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "p": PAGE, "h": UNIT}
    return sum(int(f"{sign}{digits}") * units[unit] for sign, digits, unit in re.findall(r"([+-]?)(\d+)([kmgph]?)", text))


class Script:
    """What is known of the files and mappings while a script goes on."""

    def __init__(self):
        self.file_of, self.unknown_from, self.stored, self.sizes, self.expected = {}, {}, set(), {}, set()
        self.forked = False

    def reach(self, words):
        """(file, end) of each range of bytes that the answer depends on."""
        name, rest = words[0], words[1:]
        if name in ("read", "write"):
            return [(self.file_of.get(rest[0]), (number(rest[1]) + 1) * PAGE)]
        if name in ("touch", "fill"):
            stride = number(rest[4]) if name == "touch" and len(rest) > 4 else 1
            return [(self.file_of.get(rest[0]), (number(rest[1]) + number(rest[2]) * stride) * PAGE)]
        if name in ("pread", "hexdump"):
            return [(rest[0], number(rest[1]) + number(rest[2]))]
        if name in ("preadmap", "pwritemap"):
            length = number(rest[2])
            return [(rest[0], number(rest[1]) + length), (self.file_of.get(rest[3]), number(rest[4]) + length)]
        if name in ("mincore", "mlock", "madvise", "msync", "mremap", "munmap", "mprotect"):
            return [(self.file_of.get(rest[0]), 1)]
        return [(rest[0], 1 << 62)] if rest else []

    def is_unknown(self, words):
        """Whether an operation that was refused before may have changed what this one answers."""
        return any(end > self.unknown_from.get(file, 1 << 62) for file, end in self.reach(words))

    def forget(self, file, start):
        """An operation was refused here that Linux DAX did: from `start` on the file is another one."""
        self.unknown_from[file] = min(start, self.unknown_from.get(file, start))

    def follow(self, words, answer):
        name, rest = words[0], words[1:]
        if name == "create":
            self.sizes[rest[0]] = number(rest[1])
            self.stored.discard(rest[0])
            self.unknown_from.pop(rest[0], None)
        elif name == "truncate" and answer.get("ok"):
            self.sizes[rest[0]] = number(rest[1])
            if number(rest[1]) <= self.unknown_from.get(rest[0], -1):
                del self.unknown_from[rest[0]]
        elif name == "mmap" and (answer.get("ok") or "instead" in answer):
            self.file_of[rest[0]] = rest[1]
            self.must_be_served(rest)
        elif name in ("pwrite", "falloc", "pwritemap"):
            self.stored.add(rest[0])
        elif name == "fork":
            self.forked = True
        if name in ("preadmap", "pwritemap") and self.is_unknown(words):
            for file, _ in self.reach(words):
                self.forget(file, 0)
        if name in ("write", "fill", "preadmap") or name == "touch" and rest[3] == "w":
            self.stored.add(self.file_of.get(rest[3] if name == "preadmap" else rest[0]))

    def must_be_served(self, rest):
        """A mapping of at least a whole unit of a file that is all hole."""
        name, offset, length, rights = rest[1], number(rest[2]), number(rest[3]), rest[5]
        first = -(-offset // UNIT) * UNIT
        if name not in self.stored and not self.forked and rights != "none" and first + UNIT <= min(offset + length, self.sizes.get(name, 0)):
            self.expected.add(name)


class Case:
    """One script at one place."""

    def __init__(self, options):
        self.options, self.script = options, Script()
        self.complaints, self.applied = [], set()
        self.as_recorded = self.as_plain = 0

    def complain(self, line, what):
        self.complaints.append(f"line {line.get('i', '-')} `{line.get('cmd', 'the files at the end')}`: {what}")

    def play(self):
        udax, (plain, _) = load(self.options.udax), load(self.options.plain) if self.options.plain else ([], [])
        lines, self.files = udax
        found = sorted(self.options.recordings.rglob(self.options.script.stem + ".jsonl"))
        recordings = [load(path)[0] for path in found]
        names = [str(path.parent.relative_to(self.options.recordings)) for path in found]
        for other, whose in [(plain, "without udax")] * bool(self.options.plain) + list(zip(recordings, names)):
            if [(line["i"], line["cmd"]) for line in other] != [(line["i"], line["cmd"]) for line in lines]:
                self.complaints.append(f"udax and {whose} did not come through the same lines: {len(lines)} and {len(other)}")
        if self.complaints:
            return
        for at, line in enumerate(lines):
            self.line(line, plain[at] if plain else None, {name: recording[at] for name, recording in zip(names, recordings)})
        self.storage()
        if not self.as_recorded + self.as_plain:
            self.complaints.append("nothing was compared")

    def line(self, udax, plain, recorded):
        words = udax["cmd"].split()
        if words[0] in WITHOUT_ANSWER:
            return
        if (words[0] in NOT_HERE) != bool(udax.get("na")):
            self.complain(udax, "is an answer where none is possible, or none where one is")
        elif udax.get("na"):
            self.applied.add("tracing")
        else:
            if plain is not None:
                self.compare_with_plain(words, udax, plain)
            self.compare_with_recordings(words, udax, plain, recorded)
            self.script.follow(words, udax)

    def without(self, rules, words, answer):
        """The answer without the keys that some rules take out."""
        left = {key: value for key, value in answer.items() if key not in ("i", "cmd")}
        names = {"*", words[0], f"{words[0]} auto" if "auto" in words else ""}
        for rule in rules:
            for key in set().union(*(keys for name, keys in IGNORED[rule].items() if name in names)) & set(left):
                self.applied.add(rule)
                del left[key]
        return left

    def compare_with_plain(self, words, udax, plain):
        mine, other = (self.without(DIFFERS_HERE, words, answer) for answer in (udax, plain))
        for key in sorted(set(mine) | set(other)):
            if udax.get(key) != plain.get(key):
                self.complain(udax, f"{key} is {udax.get(key)}, and {plain.get(key)} without udax")
        if self.options.place == "tmpfs" and udax.get("blocks512", 0) > plain.get("blocks512", 0):
            self.complain(udax, f"takes {udax['blocks512']} blocks, and {plain['blocks512']} without udax")

    def compare_with_recordings(self, words, udax, plain, recorded):
        if not recorded:
            self.as_plain += 1
            return
        if self.script.is_unknown(words):
            self.as_plain += 1
            return
        wanted = {name: self.what_counts(words, answer) for name, answer in recorded.items()}
        kinds = []
        for answer in wanted.values():
            if answer not in kinds:
                kinds.append(answer)
        allowed = kinds[-1:]
        if len(kinds) > 1:
            self.applied.add("past the end")
            allowed += [kind for kind in kinds if plain is not None and agrees(plain, kind)]
        if any(agrees(udax, kind) for kind in allowed):
            self.as_recorded += 1
        elif self.is_refused(words, udax, plain, recorded):
            self.as_plain += 1
        else:
            mine = {key: udax.get(key) for key in allowed[0]}
            self.complain(udax, f"is {mine}, and {allowed[0]} on Linux DAX ({list(wanted)[-1]})")

    def what_counts(self, words, answer):
        """The answer of a recording without what makes no sense here."""
        left = self.without(IGNORED, words, answer)
        if words[0] == "fiemap" and self.options.place == "tmpfs":
            left.pop("ok")
        return left

    def is_refused(self, words, udax, plain, recorded):
        """Whether this file system refuses what Linux DAX did, and udax repeats it."""
        if plain is None or plain.get("err") != udax.get("err"):
            return False
        if words[0] == "mmap" and {"sync", "rawsync"} & set(words):
            self.applied.add("MAP_SYNC")
            return True
        if udax.get("err") in ("EOPNOTSUPP", "EINVAL") and all(answer["ok"] for answer in recorded.values()):
            if words[0] == "falloc":
                self.script.forget(words[1], number(words[3]))
            if words[0] == "falloc" or words[0] == "open" and "direct" in words:
                self.applied.add("refused")
                return True
        return False

    def storage(self):
        """Storage: a served file that nobody stored to takes none, but for a last part that is smaller than 2 MiB."""
        if not self.options.stats:
            return
        if not self.options.stats.exists():
            self.complaints.append("udax has left no report")
            return
        with open(self.options.stats) as file:
            reports = [json.loads(line) for line in file]
        served = {pathlib.Path(one["path"]).name for report in reports for one in report["files"] + report["ended"]}
        for name in sorted(self.script.expected - served):
            reasons = [one["reason"] for report in reports for one in report["passed_through"]]
            self.complaints.append(f"{name} was all hole when it was mapped, and udax did not serve it ({'; '.join(reasons) or 'no reason given'})")
        for file in self.files:
            tail = -(-(file["size"] % UNIT) // PAGE) * PAGE
            if file["name"] in served - self.script.stored and file["blocks512"] * 512 > tail:
                self.complaints.append(f"{file['name']} was only read, and takes {file['blocks512']} blocks of 512 bytes")
        lost = sum(report["rescued_pages"] for report in reports)
        if lost:
            self.complaints.append(f"{lost} pages had missed the file")
        self.served = sorted(served)
        self.windows = sum(report["windows_opened"] for report in reports)


def agrees(answer, wanted):
    return all(answer.get(key) == value for key, value in wanted.items())


def load(path):
    """The answers of a run or a recording, and what its files were at the end."""
    lines, files = [], []
    with open(path) as file:
        for text in file:
            line = json.loads(text)
            if "i" in line:
                lines.append(line)
            files = line.get("files", files)
    return lines, files


def unused(path, places):
    """Rules that never applied where they must: they hide nothing today, and something tomorrow."""
    with open(path) as file:
        seen = {tuple(line.rstrip("\n").split(":")) for line in file}
    missing = [f"{rule} on {place}" for rule, (where, _) in RULES.items() for place in places
               if place in where.split() and (place, rule) not in seen]
    print("\n".join(f"the rule `{one}` never applied: take it out of compare.py" for one in missing))
    sys.exit(1 if missing else 0)


def main():
    if sys.argv[1:2] == ["--unused"]:
        unused(sys.argv[2], sys.argv[3:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("script", "udax", "plain", "stats", "recordings", "applied"):
        parser.add_argument(f"--{name}", type=pathlib.Path)
    parser.add_argument("--place", choices=["tmpfs", "disk"])
    case = Case(parser.parse_args())
    case.served, case.windows = [], 0
    case.play()
    with case.options.applied.open("a") as file:
        file.writelines(f"{case.options.place}:{rule}\n" for rule in sorted(case.applied))
    print("\n".join(case.complaints) or f"{case.as_recorded} answers as on Linux DAX, {case.as_plain} as without udax; "
          f"{case.windows} zero windows; served: {' '.join(case.served) or 'none'}")
    sys.exit(1 if case.complaints else 0)


if __name__ == "__main__":
    main()
