//! `udax demo`: it keeps its promises on memory and on a disk, and says so where it cannot.

use std::path::Path;
use std::process::{Command, Output};

fn demo(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_udax"));
    command.arg("demo").args(arguments).output().expect("udax can be started")
}

fn works_here() -> bool {
    let info = Command::new(env!("CARGO_BIN_EXE_udax")).arg("info").output();
    info.expect("udax can be started").status.success()
}

fn passes_in(directory: &Path) {
    let name = directory.to_str().expect("a plain name");
    let output = demo(&["--size", "64MiB", "--json", "--dir", name]);
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    if !works_here() {
        assert_eq!(output.status.code(), Some(125), "{said}");
        return;
    }
    assert_eq!(output.status.code(), Some(0), "{said}");
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).expect(&said);
    assert_eq!(found["passed"], true);
    assert_eq!(found["pages"], 16384);
    // The plain mapping fills what it reads: were it served too, nothing would be compared.
    assert_eq!(found["plain"]["smaps"]["kib"]["Rss"], 65536, "{said}");
    assert_eq!(found["udax"]["smaps"]["kib"]["Rss"], 0, "{said}");
    assert_eq!(found["udax"]["smaps"]["kib"]["Size"], 65536, "{said}");
    assert!(found["udax"]["user_space_faults"].as_u64() > Some(0), "{said}");
    let left: Vec<_> = std::fs::read_dir(directory).expect("a directory").collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

#[test]
fn the_demo_passes_on_memory_and_leaves_nothing() {
    passes_in(tempfile::tempdir_in("/dev/shm").expect("a directory").path());
}

#[test]
fn the_demo_passes_on_a_disk_and_leaves_nothing() {
    passes_in(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory").path());
}

#[test]
fn people_get_a_table_with_both_ways_and_the_checks() {
    if !works_here() {
        return;
    }
    let output = demo(&["--size", "16M"]);
    let text = String::from_utf8(output.stdout).expect("text");
    for part in ["plain mapping", "RssShmem", "Private_Clean", "ok      the file is still sparse"] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
}

#[test]
fn a_size_that_does_not_fit_is_refused_before_any_memory_is_taken() {
    if !works_here() {
        return;
    }
    let output = demo(&["--size", "16T", "--dir", "/dev/shm"]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).expect("text");
    assert!(said.contains("16 TiB does not fit"), "{said}");
}

#[test]
fn a_file_system_that_is_not_served_is_named() {
    if !works_here() {
        return;
    }
    let output = demo(&["--dir", "/proc"]);
    assert!([Some(2), Some(125)].contains(&output.status.code()));
    assert!(String::from_utf8(output.stderr).expect("text").contains("/proc"));
}

#[test]
fn bad_input_is_named_and_ends_with_two() {
    let output = demo(&["--size", "4x"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("is no unit"));
    if works_here() {
        let output = demo(&["--dir", "/nowhere"]);
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&output.stderr).contains("/nowhere"));
    }
}
