//! The command as its users meet it: `map`, `info`, and what is said about bad input.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output};

fn udax(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_udax")).args(arguments).output().expect("udax can be started")
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("udax was not killed")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("text")
}

fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("no JSON ({error}): {}{}", stdout(output), stderr(output));
    })
}

/// A file of 9 MiB and a page: units of hole, mixed, hole, data, and a tail of hole.
fn made_file(directory: &Path) -> String {
    let path = directory.join("made");
    let file = File::create(&path).expect("room");
    file.set_len((9 << 20) + 4096).expect("room");
    file.write_all_at(b"x", (2 << 20) + 12345).expect("room");
    file.write_all_at(&vec![1; 2 << 20], 6 << 20).expect("room");
    path.to_str().expect("a plain name").to_owned()
}

#[test]
fn map_shows_what_each_unit_would_be_and_why() {
    for directory in [std::env::temp_dir(), "/dev/shm".into()] {
        let directory = tempfile::tempdir_in(directory).expect("a directory");
        let path = made_file(directory.path());
        let found = json(&udax(&["map", "--json", &path]));
        assert_eq!(found["size_bytes"], (9 << 20) + 4096);
        let units = found["units"].as_array().expect("units");
        let becomes: Vec<_> = units.iter().map(|u| u["becomes"].as_str().expect("text")).collect();
        assert_eq!(becomes, ["zero_huge", "mixed", "zero_huge", "data", "zero_tail"]);
        assert_eq!(units[1]["data_pages"], 1);
        let data = 4096 + (2 << 20);
        assert_eq!(found["zero_bytes"], (9 << 20) + 4096 - data);
        let text = stdout(&udax(&["map", &path]));
        for part in ["·▒·█·", "1 of 512 pages have data", "the file ends here, after 257 of 512"]
        {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }
}

#[test]
fn map_says_why_a_whole_file_stays_plain() {
    let directory = tempfile::tempdir_in("/dev/shm").expect("a directory");
    let path = directory.path().join("full");
    std::fs::write(&path, vec![1; 4 << 20]).expect("room");
    let output = udax(&["map", path.to_str().expect("a plain name")]);
    assert_eq!(code(&output), 0);
    assert!(stdout(&output).contains("it is not sparse"), "{}", stdout(&output));
}

#[test]
fn map_of_an_empty_file_and_of_a_huge_hole_is_no_trouble() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("file");
    let name = path.to_str().expect("a plain name");
    let file = File::create(&path).expect("room");
    assert_eq!(json(&udax(&["map", "--json", name]))["units"].as_array().map(Vec::len), Some(0));
    file.set_len(8 << 40).expect("a hole takes no room");
    let output = udax(&["map", name]);
    assert_eq!(code(&output), 0);
    assert!(stdout(&output).lines().count() < 40, "more than a screen:\n{}", stdout(&output));
}

#[test]
fn info_is_json_that_agrees_with_its_exit_code() {
    let output = udax(&["info", "--json"]);
    let found = json(&output);
    let usable = found["usable"].as_bool().expect("a truth value");
    assert_eq!(code(&output), if usable { 0 } else { 125 });
    // What is in the way of the best engine is told as well, where another serves.
    let (engine, why_not_better) = match udax_linux::probe().engine() {
        Ok((engine, why_not_better)) => (engine.name(), why_not_better),
        Err(why) => ("none", Some(why)),
    };
    assert_eq!(found["engine"], engine);
    assert_eq!(usable, engine != "none");
    assert_eq!(found["advice"].as_str(), why_not_better.as_deref());
    let asked = std::env::var("UDAX_ENGINE").is_ok_and(|name| !name.is_empty());
    let is_best = asked || ["userfaultfd", "userfaultfd-user"].contains(&engine);
    assert_eq!(found["advice"].is_null(), usable && is_best, "{found}");
    assert!(stdout(&udax(&["info"])).contains("vm.max_map_count"));
}

#[test]
fn bad_input_is_named_and_ends_with_two() {
    let cases: [(&[&str], &str); 4] = [
        (&["map", "/nowhere/file"], "/nowhere/file"),
        (&["map", "/dev"], "/dev is not a regular file"),
        (&["map"], "<FILE>"),
        (&["fly"], "fly"),
    ];
    for (arguments, named) in cases {
        let output = udax(arguments);
        assert_eq!(code(&output), 2, "{arguments:?}");
        assert!(stderr(&output).contains(named), "{arguments:?}: {}", stderr(&output));
        assert_eq!(stdout(&output), "", "{arguments:?}");
    }
}

#[test]
fn every_command_explains_itself_with_examples() {
    for command in ["run", "map", "info"] {
        let output = udax(&[command, "--help"]);
        assert_eq!(code(&output), 0);
        assert!(stdout(&output).contains("Examples:"), "{command}");
    }
    assert!(stdout(&udax(&["--version"])).starts_with("udax "));
}

#[test]
fn a_reader_that_has_gone_is_no_error() {
    let piped = format!("{} info | true; echo ${{PIPESTATUS[0]}}", env!("CARGO_BIN_EXE_udax"));
    let output = Command::new("bash").args(["-c", &piped]).output().expect("bash");
    assert!(["0\n", "125\n"].contains(&stdout(&output).as_str()), "{}", stderr(&output));
}

#[test]
fn bench_measures_each_way_by_turns_and_writes_what_it_found() {
    if udax_linux::probe().engine().is_err() {
        eprintln!("SKIPPED: faults cannot be served here");
        return;
    }
    for directory in [std::env::temp_dir(), "/dev/shm".into()] {
        let directory = tempfile::tempdir_in(directory).expect("a directory");
        let plot = directory.path().join("plot.svg");
        let (dir, svg) = (directory.path().to_str().expect("text"), plot.to_str().expect("text"));
        let found = udax(&[
            "bench",
            "read-hole",
            "map-small",
            "--dir",
            dir,
            "--size",
            "8MiB",
            "--runs",
            "2",
            "--json",
            "--svg",
            svg,
        ]);
        assert!([0, 1].contains(&code(&found)), "{}", stderr(&found));
        let found = json(&found);
        let rows = found["rows"].as_array().expect("rows");
        assert_eq!(rows.len(), 2);
        for row in rows {
            let ways: Vec<_> = row["samples"]
                .as_array()
                .expect("samples")
                .iter()
                .map(|sample| sample[0].as_str().expect("a way").to_owned())
                .collect();
            assert_eq!(ways, ["plain", "udax", "floor", "plain", "udax", "floor"]);
        }
        // What the time follows from: a fault for 2 MiB and one for the other 6, and none for a small file.
        let udax = &rows[0]["samples"][1][1];
        assert_eq!(udax["user_space_faults"], 2);
        assert_eq!(udax["storage_bytes"], 0);
        assert_eq!(rows[1]["samples"][1][1]["user_space_faults"], 0);
        assert!(std::fs::read_to_string(&plot).expect("a plot").contains("<circle"));
    }
}

#[test]
fn bench_says_what_is_wrong_with_its_arguments() {
    for (arguments, says) in [
        (["bench", "no-such-pattern"].as_slice(), "no-such-pattern"),
        (&["bench", "--runs", "0"], "--runs"),
        (&["bench", "--size", "1k"], "too small"),
        (&["bench", "--task", "{}"], "no task"),
    ] {
        let found = udax(arguments);
        assert_eq!(code(&found), 2, "{arguments:?}");
        assert!(stderr(&found).contains(says), "{arguments:?}: {}", stderr(&found));
    }
}

/// What the ratios of a benchmark follow from: how many faults come to user space, how many VMAs are left, and how many system calls were made. Exactly these, on a file of 64 MiB on tmpfs, when
/// nothing is given back meanwhile (which depends on time).
#[test]
fn each_pattern_takes_so_many_faults_and_system_calls_and_leaves_so_many_vmas() {
    let Ok((engine, _)) = udax_linux::probe().engine() else {
        eprintln!("SKIPPED: faults cannot be served here");
        return;
    };
    // Faults, VMAs and calls by a userfaultfd; VMAs and calls by signals, where zeros are made in place.
    let expected = [
        // Windows of 2, 16 and the other 46 MiB; each is a VMA, made elsewhere and moved.
        ("read-hole", 3, (2, 48), (0, 30)),
        ("scan-hole", 3, (2, 48), (0, 30)),
        // Eight times 2 MiB, until a quarter of what was filled is as much; then more each time.
        ("write-sequential", 16, (0, 123), (0, 107)),
        // 2, 8, 32 and the other 22 MiB.
        ("write-strided", 4, (0, 29), (0, 25)),
        // Four times 2 MiB, then the 8 or 32 MiB around the store, until all is open.
        ("write-random", 7, (0, 47), (0, 40)),
        ("mixed", 7, (0, 47), (0, 40)),
        // And 50 times msync(2).
        ("sync-random", 7, (0, 97), (0, 90)),
        // What has data is the kernel's from the start.
        ("rewrite", 0, (0, 0), (0, 0)),
        ("read-random", 0, (0, 0), (0, 0)),
        // mmap(2), munmap(2), and three to find that there is nothing to serve; 10,000 times.
        ("map-small", 0, (0, 50_000), (0, 50_000)),
    ];
    for (pattern, faults, by_userfaultfd, by_signals) in expected {
        let are_signals = engine == udax_linux::Engine::Signals;
        let (vmas, calls) = if are_signals { by_signals } else { by_userfaultfd };
        let task = serde_json::json!({
            "pattern": pattern, "way": "udax", "directory": "/dev/shm", "size_bytes": 64 << 20, "seed": 1,
        });
        let output = Command::new(env!("CARGO_BIN_EXE_udax"))
            .args(["bench", "--task", &task.to_string()])
            .env("UDAX_TEST_KEEP_OPEN", "1")
            .output()
            .expect("udax can be started");
        let found = json(&output);
        let counts = ["user_space_faults", "vmas", "calls"].map(|count| found[count].as_u64());
        assert_eq!(counts, [Some(faults), Some(vmas), Some(calls)], "{pattern}");
    }
}
