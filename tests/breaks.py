#!/usr/bin/env python3
"""Plants bugs, one at a time, in a copy of the repository, and sees whether the test that is named for each finds it.

    tests/breaks.py                     every break
    tests/breaks.py wakes 'pitfall_0*'  those whose file or name matches one of the patterns
    tests/breaks.py --sample 12         so many, drawn anew each time (--seed N draws the same again)
    tests/breaks.py --quick             without those that a shell command or the end of their time tells
    tests/breaks.py --list              names and rules only
    tests/breaks.py --check             nothing is built: every text is there once, every named test exists

The breaks are in tests/breaks/*.toml; docs/testing.md says how one is written. No build of the repository itself can contain one: they are
text that is exchanged in the copy (target/breaks), and a break whose text is not found there exactly once is an error, not a pass. Every named test
is run unbroken first, and must pass. At the end there is a table, and again all that failed. The last line is `N passed, M failed`: a break passes
when each of its tests failed.
"""
import argparse
import fcntl
import fnmatch
import os
import pathlib
import queue
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent
KEYS = {"name", "rule", "file", "from", "to", "edits", "test", "tests", "seconds", "env", "hang"}
AGAIN_KEYS = {"prefix", "breaks", "test"}


class Break:
    """One change that must be noticed."""

    def __init__(self, group, table):
        unknown = set(table) - KEYS
        if unknown:
            sys.exit(f"{group}: {table.get('name')}: unknown keys {sorted(unknown)}")
        self.group = group
        self.name = table["name"]
        self.rule = table["rule"]
        self.edits = table.get("edits") or [{k: table[k] for k in ("file", "from", "to")}]
        self.tests = table.get("tests") or [table["test"]]
        # Whether a test that hangs has noticed, or should have told.
        self.hang_tells = table.get("hang", "tells") == "tells"
        # Tells itself quickly: neither a command that builds much, nor a test that takes its time.
        self.quick = not any(" " in test for test in self.tests) and "seconds" not in table and self.hang_tells
        # How long a test may take.
        self.seconds = table.get("seconds", 60)
        self.env = table.get("env", {})

    def matches(self, patterns):
        names = (self.name, self.group, f"{self.group}:{self.name}")
        return not patterns or any(fnmatch.fnmatchcase(n, p) for n in names for p in patterns)


def load():
    tables, again = {}, []
    for path in sorted((ROOT / "tests/breaks").glob("*.toml")):
        with path.open("rb") as file:
            read = tomllib.load(file)
        twice = [table["name"] for table in read.get("break", []) if table["name"] in tables]
        if twice:
            sys.exit(f"{path.stem}: named twice: {twice}")
        tables |= {table["name"]: (path.stem, table) for table in read.get("break", [])}
        again += [(path.stem, table) for table in read.get("again", [])]
    breaks = [Break(group, table) for group, table in tables.values()]
    # Breaks that another test must find as well.
    for group, other in again:
        if not AGAIN_KEYS <= set(other) <= AGAIN_KEYS | {"env", "hang"}:
            sys.exit(f"{group}: [[again]] has the keys {sorted(AGAIN_KEYS)}, and may have env and hang")
        for name in other["breaks"]:
            if name not in tables:
                sys.exit(f"{group}: there is no break {name}")
            table = {key: value for key, value in tables[name][1].items() if key in {"rule", "file", "from", "to", "edits"}}
            shared = {key: value for key, value in other.items() if key not in {"prefix", "breaks"}}
            breaks.append(Break(group, {**table, **shared, "name": f"{other['prefix']}_{name}"}))
    return breaks


def command_of(test):
    """`package::target::path::of::test`; the target is a file under tests/, or `lib`. With a blank in it: a shell command."""
    if " " in test:
        return ["bash", "-c", test]
    package, target, name = test.split("::", 2)
    where = ["--lib"] if target == "lib" else ["--test", target]
    return ["cargo", "test", "--quiet", "-p", package, *where, "--", "--exact", name]


def exchange(text, edit):
    """`text` with the edit made. Raises ValueError where its `from` is not there exactly once."""
    old, new = edit["from"].strip("\n"), edit["to"].strip("\n")
    if text.count(old) != 1:
        raise ValueError(f"{edit['file']} has the text {text.count(old)} times, not once: {(old.strip() or '(nothing)').splitlines()[0]}")
    return text.replace(old, new)


def exists(test):
    """Whether the source has the named test."""
    if " " in test:
        return True
    package, target, name = test.split("::", 2)
    crate = ROOT / "crates" / package
    sources = (crate / "src").rglob("*.rs") if target == "lib" else [crate / "tests" / f"{target}.rs", *(crate / "tests" / target).rglob("*.rs")]
    # A test of its own, or a line of a macro that makes tests.
    short = re.escape(name.rsplit("::", 1)[-1])
    wanted = re.compile(rf"\bfn {short}\b|^ *{short}: ", re.MULTILINE)
    return any(wanted.search(source.read_text()) for source in sources if source.is_file())


def check(chosen):
    """What can be told of breaks without a build."""
    complaints = []
    for one in chosen:
        texts = {}
        try:
            for edit in one.edits:
                name = edit["file"]
                before = texts[name] if name in texts else (ROOT / name).read_text()
                texts[name] = exchange(before, edit)
                if texts[name] == before:
                    raise ValueError(f"{name}: nothing is changed")
        except (ValueError, OSError) as error:
            complaints.append(f"{one.group}:{one.name} does not apply: {error}")
        complaints += [f"{one.group}:{one.name}: there is no test {test}" for test in one.tests if not exists(test)]
    return complaints


class Copy:
    """A copy of the repository with a build of its own."""

    def __init__(self, number):
        self.root = ROOT / "target/breaks" / f"copy-{number}"
        self.root.mkdir(parents=True, exist_ok=True)
        # Held until the end: another run in the same copy would plant its own bug beside ours.
        self.lock = (self.root.parent / f"copy-{number}.lock").open("w")
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, check=True,
                                capture_output=True).stdout.decode().split("\0")
        wanted = {name for name in listed if name and (ROOT / name).is_file()}
        for name in wanted:
            here, there = ROOT / name, self.root / name
            if not there.exists() or there.read_bytes() != here.read_bytes():
                there.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(here, there)
        for path in [p for folder in ("crates", "tests") for p in (self.root / folder).rglob("*") if p.is_file()]:
            if str(path.relative_to(self.root)) not in wanted:
                path.unlink()

    def environment(self, test, env):
        # Without debug information a bug is built and linked in half the time, and the tests on the simulator are built in less than they run.
        level = "0" if test.startswith("udax-sim::") else "1"
        return {**os.environ, "CARGO_TERM_COLOR": "never", "RUST_BACKTRACE": "0", "CARGO_PROFILE_DEV_DEBUG": "0",
                "CARGO_PROFILE_DEV_OPT_LEVEL": level, "CARGO_TARGET_DIR": str(self.root / "target"), **env}

    def run(self, test, seconds, env):
        """(exit code or None for a hang, output)"""
        process = subprocess.Popen(command_of(test), cwd=self.root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                   errors="replace", start_new_session=True,
                                   env=self.environment(test, env))
        try:
            output, _ = process.communicate(timeout=seconds)
            return process.returncode, output
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            return None, output

    def build(self, test, env):
        """Builds what `test` needs, without a limit on time; the compiler's errors, if any."""
        if " " in test:
            return ""
        command = command_of(test)
        command = command[:command.index("--")] + ["--no-run"]
        done = subprocess.run(command, cwd=self.root, capture_output=True, text=True,
                              env=self.environment(test, env))
        return "" if done.returncode == 0 else done.stderr

    def edit(self, edits):
        """Exchanges the texts; returns what puts them back. Raises ValueError where a text is not there exactly once."""
        before = {}
        try:
            for edit in edits:
                path = self.root / edit["file"]
                text = path.read_text()
                before.setdefault(path, text)
                path.write_text(exchange(text, edit))
        except (ValueError, OSError):
            self.restore(before)
            raise
        return before

    @staticmethod
    def restore(before):
        for path, text in before.items():
            path.write_text(text)


def ran_one(test, output):
    return " " in test or re.search(r"test result: \w+\. (1 passed; 0|0 passed; 1) failed", output)


def first_words(output):
    """What the failing test said."""
    lines = output.splitlines()
    for at, line in enumerate(lines):
        if "panicked at" in line:
            return next((said for said in lines[at + 1:] if said.strip()), line).strip()[:110]
    return next((line.strip()[:110] for line in lines if "error" in line.lower()), "it failed")


def try_break(copy, one, needed):
    """(passed?, what was seen); `needed` is how long each test took unbroken."""
    try:
        before = copy.edit(one.edits)
    except (ValueError, OSError) as error:
        return False, f"does not apply: {error}"
    try:
        seen = ""
        for test in one.tests:
            errors = copy.build(test, one.env)
            if errors:
                return False, "does not compile: " + first_words(errors)
            # On a busy machine a slow test is not taken for one that hangs.
            limit = max(one.seconds, 10 * needed.get(test, 0))
            code, output = copy.run(test, limit, one.env)
            if code is None and not one.hang_tells:
                return False, f"{test} hangs and tells nothing"
            if code == 0:
                return False, f"NOT NOTICED by {test}"
            if code is not None and code >= 0 and not ran_one(test, output) and "panicked" not in output:
                return False, f"{test} did not run: {first_words(output)}"
            seen = seen or ("it hangs" if code is None else first_words(output))
        return True, seen
    finally:
        copy.restore(before)


def unbroken(copy, tests):
    """(the named tests that do not pass by themselves, how long each took)"""
    failed, needed = [], {}
    for test, (seconds, env) in tests.items():
        errors = copy.build(test, env)
        begun = time.monotonic()
        code, output = (1, errors) if errors else copy.run(test, max(seconds, 120) + 60, env)
        needed[test] = time.monotonic() - begun
        if code != 0 or not ran_one(test, output):
            failed.append(f"{test}: {'hangs' if code is None else first_words(output)}")
    return failed, needed


def table(chosen, results):
    """One line for each group."""
    lines = [f"{'group':24}{'breaks':>8}{'caught':>8}{'failed':>8}{'seconds':>9}{'slowest':>9}"]
    for group in dict.fromkeys(one.group for one in chosen):
        done = [results[one.name] for one in chosen if one.group == group and one.name in results]
        caught, times = sum(passed for passed, _, _ in done), [spent for _, spent, _ in done]
        all_of_it = sum(one.group == group for one in chosen)
        lines.append(f"{group:24}{all_of_it:8}{caught:8}{all_of_it - caught:8}{sum(times):9.0f}{max(times, default=0):9.0f}")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("patterns", nargs="*")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--sample", type=int)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1))
    options = parser.parse_args()
    if options.jobs < 1:
        sys.exit("--jobs must be at least 1")
    chosen = [one for one in load() if one.matches(options.patterns) and (one.quick or not options.quick)]
    if options.sample is not None:
        seed = options.seed if options.seed is not None else random.randrange(1 << 32)
        print(f"a sample of {options.sample} (--seed {seed})")
        chosen = random.Random(seed).sample(chosen, min(options.sample, len(chosen)))
    if not chosen:
        sys.exit("no break has such a name")
    if options.list:
        for one in chosen:
            print(f"{one.group}:{one.name}  {one.rule}")
        return
    if options.check:
        found = check(chosen)
        print("\n".join([*found, f"{len(chosen)} breaks, {len(found)} complaints"]))
        sys.exit(1 if found else 0)
    work = queue.Queue()
    for one in chosen:
        work.put(one)
    results, complaints, needed, lock = {}, set(), {}, threading.Lock()
    started = time.monotonic()
    jobs = min(options.jobs, len(chosen))
    all_seen_unbroken = threading.Barrier(jobs)

    def worker(number):
        try:
            copy = Copy(number)
            mine = {test: (one.seconds, one.env) for one in chosen[number::jobs] for test in one.tests}
            failed, times = unbroken(copy, mine)
            with lock:
                complaints.update(failed)
                needed.update(times)
            all_seen_unbroken.wait()
        except BaseException:
            all_seen_unbroken.abort()
            raise
        while True:
            try:
                one = work.get_nowait()
            except queue.Empty:
                return
            begun = time.monotonic()
            passed, seen = try_break(copy, one, needed)
            spent = time.monotonic() - begun
            with lock:
                results[one.name] = (passed, spent, seen)
                print(f"{'caught' if passed else 'FAILED':7} {spent:5.1f} s  {one.name}: {one.rule}\n"
                      f"                 {', '.join(one.tests)}\n                 {seen}", flush=True)

    threads = [threading.Thread(target=worker, args=(number,)) for number in range(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print("\n" + table(chosen, results))
    for one in chosen:
        passed, _, seen = results.get(one.name, (False, 0, "was not played"))
        if not passed:
            print(f"FAILED {one.group}:{one.name}: {seen}")
    for complaint in sorted(complaints):
        print(f"FAILED unbroken: {complaint}")
    caught = sum(passed for passed, _, _ in results.values())
    failed = len(chosen) - caught + len(complaints)
    print(f"{len(chosen)} breaks in {time.monotonic() - started:.0f} s")
    print(f"{caught} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
