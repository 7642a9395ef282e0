#!/usr/bin/env bash
# The fuzzers of fuzz/, all at the same time.
#
#     tests/fuzz.sh [SECONDS [TARGET[:ENGINE]]...]      default: 30 seconds of each, where faults are served under each engine
#
# FUZZ_SANITIZER=address needs the nightly compiler (RUSTUP_TOOLCHAIN=nightly). What is found is left in fuzz/artifacts/; what was learnt, in
# fuzz/corpus/. `cargo fuzz run TARGET` does the same for one of them.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
seconds=${1:-30}
[ $# -eq 0 ] || shift
targets=("$@")
[ $# -gt 0 ] || targets=(text index {library,calls}{,:userfaultfd-user,:signals})
# For what is built for this machine itself: only then do build scripts not get the flags below.
machine=$(rustc -vV | sed -n 's/^host: //p')
flags="--cfg fuzzing -Cpasses=sancov-module -Ccodegen-units=1"
for option in level=4 inline-8bit-counters pc-table trace-compares; do
    flags+=" -Cllvm-args=-sanitizer-coverage-$option"
done
[ -z "${FUZZ_SANITIZER:-}" ] || flags+=" -Zsanitizer=$FUZZ_SANITIZER"

cd "$root/fuzz"
RUSTFLAGS="${RUSTFLAGS:-} $flags" cargo build --quiet --release --target "$machine"

passed=0 failed=0 running=()
for target in "${targets[@]}"; do
    name=${target%%:*} engine=
    [ "$name" = "$target" ] || engine=${target#*:}
    mkdir -p "corpus/$name" "artifacts/$name"
    UDAX_ENGINE=$engine "target/$machine/release/$name" -max_total_time="$seconds" -artifact_prefix="artifacts/$name/" \
        "corpus/$name" >"artifacts/$target.log" 2>&1 &
    running+=("$!:$target")
done
for entry in "${running[@]}"; do
    target=${entry#*:}
    if wait "${entry%%:*}"; then
        passed=$((passed + 1))
        coverage=$(grep -o 'cov: [0-9]* ft: [0-9]*' "artifacts/$target.log" | tail -n 1)
        echo "$target: $(grep -o 'Done .*' "artifacts/$target.log"), $coverage"
    else
        failed=$((failed + 1))
        echo "FAILED: $target"
        tail -n 25 "artifacts/$target.log" | sed 's/^/    /'
    fi
done
echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" = 0 ]
