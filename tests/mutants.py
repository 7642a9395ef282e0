#!/usr/bin/env python3
"""The mutation score of the engine: what cargo-mutants changes in udax-core, and no test of udax-core and udax-sim notices.

    tests/mutants.py                    all of it; hours
    tests/mutants.py --shard 0/10       options of `cargo mutants`
    tests/mutants.py --iterate          only what was not caught in the run before, with its results added

It happens in a copy (target/mutation/copy). Nextest runs the tests, and stops at the first that fails. `cargo install cargo-mutants cargo-nextest` makes both commands.
Results are in target/mutation/mutants.out; at the end there is the score, and what was missed.
"""
import json
import os
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PLACE = ROOT / "target/mutation"


def copy_repository(to):
    """The files of the repository as they are now; the build in `to` stays."""
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, check=True,
                            capture_output=True).stdout.decode().split("\0")
    shutil.rmtree(to, ignore_errors=True)
    for name in listed:
        if name and (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, to / name)


def score(outcomes):
    """Prints what came out, and what was missed."""
    kinds = {}
    for outcome in outcomes:
        if outcome["scenario"] != "Baseline":
            kinds.setdefault(outcome["summary"], []).append(outcome["scenario"]["Mutant"]["name"])
    for name in sorted(kinds.get("MissedMutant", [])):
        print(f"missed  {name}")
    caught, hangs, missed = (len(kinds.get(kind, [])) for kind in ("CaughtMutant", "Timeout", "MissedMutant"))
    viable = caught + hangs + missed
    print(f"{viable + len(kinds.get('Unviable', []))} mutants, {viable} of them compile: {caught} caught, {hangs} hang, {missed} missed: "
          f"{100 * (caught + hangs) / max(viable, 1):.1f}% noticed")


def main():
    if any(option in ("-h", "--help") for option in sys.argv[1:]):
        print(__doc__)
        return
    copy_repository(PLACE / "copy")
    # A few seeds of the torture are enough here.
    environment = {**os.environ, "NEXTEST_PROFILE": "mutants", "UDAX_TORTURE_SEEDS": "10"}
    subprocess.run(["cargo", "mutants", "-d", "copy", "-p", "udax-core", "--test-package", "udax-core", "--test-package", "udax-sim",
                    "--baseline", "skip", "--timeout", "300", "--no-shuffle", "--output", ".", *sys.argv[1:]], cwd=PLACE, env=environment, check=False)
    score(json.loads((PLACE / "mutants.out/outcomes.json").read_text())["outcomes"])


if __name__ == "__main__":
    main()
