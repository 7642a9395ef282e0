#!/usr/bin/env bash
# The tests on real memory (udax-linux, udax) with everything, the standard library too, built for a sanitizer. Needs the nightly compiler
# with its sources: rustup component add rust-src --toolchain nightly
#
#     tests/sanitizers.sh [thread|address]...      default: both
#
# Environment: UDAX_SANITIZER_SECONDS, how long one program may take (default 900); UDAX_ENGINE, by which engine faults are served;
# UDAX_SANITIZER_TESTS, a pattern of the programs to run (default: all).
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
seconds=${UDAX_SANITIZER_SECONDS:-900}
sanitizers=("$@")
[ $# -gt 0 ] || sanitizers=(thread address)
machine=$(rustc +nightly -vV | sed -n 's/^host: //p')
work=$(mktemp -d "${TMPDIR:-/tmp}/udax-sanitizers.XXXXXX")
trap 'rm -rf "$work"' EXIT
passed=0 failed=0 skipped=0

# What a sanitizer cannot run, and why: docs/testing.md, "Sanitizers".
skips_of() {
    case $1 in
    thread) echo a_hole_reads_zero_and_costs_no_memory a_vma_for_which_the_kernel_has_no_more_pieces_goes_plain_as_a_whole ;;
    address) echo a_vma_for_which_the_kernel_has_no_more_pieces_goes_plain_as_a_whole ;;
    esac
}

# A program with a bug, built the same way: a sanitizer that does not tell of it would find nothing else either.
control() {
    local sanitizer=$1
    cat >"$work/control.rs" <<'RUST'
fn main() {
    let memory = Box::leak(vec![0_u8; 100].into_boxed_slice());
    let (start, length) = (memory.as_mut_ptr().expose_provenance(), memory.len());
    let one = move || unsafe { *std::ptr::with_exposed_provenance_mut::<u8>(start) += 1 };
    let other = std::thread::spawn(one);
    one();
    other.join().expect("ended");
    let behind = std::ptr::with_exposed_provenance::<u8>(start + length);
    std::hint::black_box(unsafe { behind.read_volatile() });
}
RUST
    # Its standard library is the ready one, which has no sanitizer.
    rustc +nightly --edition 2024 -g -Zsanitizer="$sanitizer" -Cunsafe-allow-abi-mismatch=sanitizer -o "$work/control" "$work/control.rs"
    if setarch -R "$work/control" >"$work/log" 2>&1 || ! grep -qE 'data race|heap-buffer-overflow' "$work/log"; then
        failed=$((failed + 1))
        echo "FAILED: the $sanitizer sanitizer does not find the bug of the control"
        return 1
    fi
    passed=$((passed + 1))
}

run_program() {
    local sanitizer=$1 crate=$2 program=$3 name=$4 code=0 reports
    local -a skip=()
    local test
    for test in $(skips_of "$sanitizer"); do
        skip+=(--skip "$test")
        if "$program" --list 2>/dev/null | grep -q "^$test: test"; then
            skipped=$((skipped + 1))
            echo "SKIPPED: $test ($sanitizer): docs/testing.md says why"
        fi
    done
    # The addresses of programs are not drawn: the sanitizers' own memory needs its places. SIGSEGV and SIGBUS are the tests' own.
    (cd "$root/crates/$crate" && TSAN_OPTIONS="second_deadlock_stack=1 handle_segv=0 handle_sigbus=0" \
        ASAN_OPTIONS="detect_leaks=0 handle_segv=0 handle_sigbus=0 use_sigaltstack=0" \
        timeout -s KILL "$seconds" setarch -R "$program" --test-threads=1 "${skip[@]}") >"$work/log" 2>&1 || code=$?
    reports=$(grep -cE '(WARNING|ERROR): [A-Za-z]+Sanitizer' "$work/log" || true)
    if [ $code = 0 ] && [ "$reports" = 0 ]; then
        passed=$((passed + 1))
        printf '%-8s %-12s %-18s %s\n' "$sanitizer" "$crate" "$name" "$(grep '^test result' "$work/log" | tail -n 1 | cut -d. -f2- | cut -d';' -f1)"
    else
        failed=$((failed + 1))
        echo "FAILED: $crate $name with the $sanitizer sanitizer: exit code $code, $reports reports"
        grep -vE '^test .* ok$' "$work/log" | head -n 120 | sed 's/^/    /'
    fi
}

for sanitizer in "${sanitizers[@]}"; do
    control "$sanitizer" || continue
    # In a place of its own: another build would throw it away.
    if ! CARGO_TARGET_DIR=$target/sanitizers-$sanitizer RUSTFLAGS="-Zsanitizer=$sanitizer" cargo +nightly test -Zbuild-std \
        --target "$machine" -p udax-linux -p udax --tests --no-run 2>&1 | tee "$work/build" | grep -E '^(warning|error)'; then
        :
    fi
    # "Executable tests/NAME.rs (PATH)"; whose it is stands in what was built before.
    programs=$(sed -n 's/^ *Executable .*(\(.*\))$/\1/p' "$work/build")
    if [ -z "$programs" ]; then
        failed=$((failed + 1))
        echo "FAILED: no build for the $sanitizer sanitizer"
        tail -n 25 "$work/build"
        continue
    fi
    for program in $programs; do
        name=$(basename "$program" | sed 's/-[0-9a-f]*$//')
        # shellcheck disable=SC2053 # meant as a pattern
        [[ $name == ${UDAX_SANITIZER_TESTS:-*} ]] || continue
        crate=udax
        if [ "$name" = udax_linux ] || [ -e "$root/crates/udax-linux/tests/$name.rs" ]; then crate=udax-linux; fi
        run_program "$sanitizer" "$crate" "$program" "$name"
    done
done
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
