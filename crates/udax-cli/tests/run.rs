//! `udax run` as a user sees it: how it ends, what the program gets, what is reported.

#[path = "../../udax/tests/common/mod.rs"]
mod common;

use std::path::PathBuf;
use std::process::{Command, Output};
use std::{env, fs};

/// The command, and the library that cargo has built beside the tests' own binaries, if it has.
fn udax(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_udax"));
    command.arg("run").args(arguments).env_remove("LD_PRELOAD");
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn ended(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), text(&output.stderr))
}

/// Any file does as a library that is never loaded: these programs do not start.
fn some_library() -> PathBuf {
    env::current_exe().expect("this test has a path")
}

#[test]
fn a_program_that_is_not_there_ends_with_127() {
    if common::cannot_serve() {
        return;
    }
    let run = udax(&["--", "/does/not/exist"]).env("UDAX_PRELOAD_LIB", some_library()).output();
    let (code, message) = ended(&run.expect("udax runs"));
    assert_eq!(code, Some(127));
    assert!(message.starts_with("udax: cannot run /does/not/exist: No such file"), "{message}");
}

#[test]
fn a_file_that_is_no_program_ends_with_126() {
    if common::cannot_serve() {
        return;
    }
    let run = udax(&["--", "/etc/passwd"]).env("UDAX_PRELOAD_LIB", some_library()).output();
    let (code, message) = ended(&run.expect("udax runs"));
    assert_eq!(code, Some(126));
    assert!(message.starts_with("udax: cannot run /etc/passwd: "), "{message}");
}

#[test]
fn a_library_that_is_not_there_ends_with_125() {
    if common::cannot_serve() {
        return;
    }
    let run = udax(&["--", "true"]).env("UDAX_PRELOAD_LIB", "/does/not/exist.so").output();
    let (code, message) = ended(&run.expect("udax runs"));
    assert_eq!(code, Some(125));
    assert!(message.contains("/does/not/exist.so"), "{message}");
}

#[test]
fn a_command_line_without_a_program_ends_with_2() {
    assert_eq!(udax(&[]).output().expect("udax runs").status.code(), Some(2));
}

#[test]
fn the_program_gets_its_arguments_and_the_settings() {
    if common::cannot_serve() {
        return;
    }
    // The dynamic linker ignores what it cannot preload, and says so on standard error.
    let directory = tempfile::tempdir().expect("a directory");
    let library = directory.path().join("library.so");
    fs::write(&library, "").expect("written");
    let script = r#"echo "$LD_PRELOAD|$UDAX_STATS|$UDAX_TRACE|$UDAX_EXCLUSIVE|$0|$1"; exit 6"#;
    let options =
        ["--stats=s.json", "--trace", "t", "--exclusive", "sh", "-c", script, "-x", "--y"];
    let run = udax(&options)
        .env("UDAX_PRELOAD_LIB", &library)
        .env("LD_PRELOAD", "/other.so")
        .current_dir(directory.path())
        .output()
        .expect("udax runs");
    let here = directory.path().display();
    let expected = format!("{}:/other.so|{here}/s.json|{here}/t|1|-x|--y\n", library.display());
    assert_eq!(text(&run.stdout), expected);
    assert_eq!(run.status.code(), Some(6));
}

#[test]
fn the_program_keeps_the_process_number() {
    if common::cannot_serve() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let library = directory.path().join("library.so");
    fs::write(&library, "").expect("written");
    let mut command = udax(&["--stats", "sh", "-c", "echo $$ $UDAX_STATS"]);
    let child = command
        .env("UDAX_PRELOAD_LIB", &library)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("udax runs");
    let number = child.id();
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(text(&output.stdout), format!("{number} {number}\n"));
}
