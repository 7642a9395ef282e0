//! Programs under the preloaded library do what they do without it: same output, same exit code, same files.
//!
//! One C program makes every call that is interposed (tests/programs/calls.c), with good arguments and bad ones; another writes
//! a mapped file in every way that does not look like a write (writers.c).

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::{env, fs};

/// The library under test, which cargo has built beside this test.
fn library() -> PathBuf {
    let test = env::current_exe().expect("this test has a path");
    let beside = test.parent().expect("a directory").join("libudax_preload.so");
    assert!(beside.exists(), "{} has been built", beside.display());
    beside
}

/// A directory of this test process, emptied.
fn fresh(name: &str) -> PathBuf {
    let directory = env::temp_dir().join(format!("udax-preload-{}-{name}", std::process::id()));
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).expect("a directory for the test");
    directory
}

/// A C program of tests/programs, compiled.
fn compile(name: &str) -> PathBuf {
    let source = format!("{}/tests/programs/{name}.c", env!("CARGO_MANIFEST_DIR"));
    let program = fresh(&format!("program-{name}")).join(name);
    let compiler = env::var_os("CC").unwrap_or_else(|| "cc".into());
    let done = Command::new(compiler)
        .args(["-std=gnu17", "-O1", "-w", "-pthread", "-o"])
        .arg(&program)
        .arg(source)
        .status();
    assert!(done.expect("there is a C compiler").success(), "{name}.c compiles");
    program
}

/// calls.c, compiled once.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| compile("calls"))
}

fn preloaded(command: &mut Command) -> &mut Command {
    command.env("LD_PRELOAD", library())
}

/// What a run printed, how it ended, and what it left in its directory.
fn traces(output: &Output, directory: &Path) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut files: Vec<PathBuf> = fs::read_dir(directory)
        .expect("the directory of the run")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.sort();
    let mut traces = format!("{}{}{}\n", text(&output.stdout), text(&output.stderr), output.status);
    for file in files {
        let contents = fs::read(&file).expect("a file of the run");
        let name = file.file_name().expect("a name").to_string_lossy().into_owned();
        traces += &format!("{name}: {:?}\n", text(&contents));
    }
    traces
}

/// Runs a case of the C program both ways.
fn check(case: &str) {
    let run = |way: &str, with: fn(&mut Command) -> &mut Command| {
        let directory = fresh(&format!("{case}-{way}"));
        let mut command = Command::new(program());
        let output = with(command.arg(case).current_dir(&directory)).output().expect("it runs");
        let traces = traces(&output, &directory);
        let _ = fs::remove_dir_all(directory);
        traces
    };
    let plain = run("plain", |command| command);
    let udax = run("udax", preloaded);
    for (plain, udax) in plain.lines().zip(udax.lines()) {
        assert_eq!(plain, udax, "without the library (left) and with it (right), case {case}");
    }
    assert_eq!(plain, udax, "without the library (left) and with it (right), case {case}");
}

#[test]
fn memory_calls_answer_as_ever() {
    check("memory");
}

#[test]
fn writing_calls_answer_as_ever() {
    check("contents");
}

#[test]
fn streams_and_printing_to_descriptors_are_as_ever() {
    check("streams");
}

#[test]
fn descriptor_calls_answer_as_ever() {
    check("descriptors");
}

#[test]
fn messages_carry_descriptors_as_ever() {
    check("messages");
}

#[test]
fn asynchronous_writes_are_as_ever() {
    check("asynchronous");
}

#[test]
fn processes_are_made_as_ever() {
    check("processes");
}

#[test]
fn programs_are_executed_as_ever() {
    check("executing");
}

#[test]
fn system_calls_by_number_answer_as_ever() {
    check("system_calls");
}

#[test]
fn a_thread_is_cancelled_in_a_write_as_ever() {
    check("cancellation");
}

#[test]
fn a_handler_interrupts_a_write_as_ever() {
    check("interruption");
}

#[test]
fn leaving_at_once_is_as_ever() {
    check("leaving");
}

#[test]
fn every_way_to_write_a_mapped_file_is_seen_in_it() {
    let directory = fresh("writers");
    let program = compile("writers");
    let output =
        preloaded(Command::new(program).current_dir(&directory)).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(!said.contains("STALE"), "{said}");
    assert_eq!((said.lines().count(), output.status.code()), (15, Some(3)), "{said}");
    let _ = fs::remove_dir_all(directory);
}

/// Runs a shell script both ways and compares.
fn check_script(name: &str, script: &str) {
    let run = |way: &str, with: fn(&mut Command) -> &mut Command| {
        let directory = fresh(&format!("{name}-{way}"));
        let mut command = Command::new("bash");
        let output = with(command.args(["-c", script]).current_dir(&directory)).output();
        let traces = traces(&output.expect("bash runs"), &directory);
        let _ = fs::remove_dir_all(directory);
        traces
    };
    assert_eq!(run("plain", |command| command), run("udax", preloaded), "{script}");
}

#[test]
fn shells_and_their_tools_work_as_ever() {
    check_script(
        "shell",
        "echo one >a; cat a a | tee b; cp a c; ls; (exit 3); echo $?; x=$(wc -l <b); echo $x; \
         printf '%s\\n' z y x | sort; dd if=/dev/zero of=d bs=4096 count=3 status=none; cmp a c",
    );
}

#[test]
fn a_compiler_works_as_ever() {
    check_script(
        "compiler",
        "echo 'int main(void) { return 4; }' >m.c; cc -o m m.c && ./m; echo $?; rm m",
    );
}

#[test]
fn statistics_are_reported_as_asked() {
    let directory = fresh("statistics");
    let file = directory.join("statistics.json");
    let mut command = Command::new("bash");
    command.args(["-c", "exit 6"]).env("UDAX_STATS", &file);
    let output = preloaded(&mut command).output().expect("bash runs");
    assert_eq!(output.status.code(), Some(6));
    assert!(output.stderr.is_empty(), "nothing on standard error");
    let line = fs::read_to_string(&file).expect("statistics have been written");
    let statistics: serde_json::Value =
        serde_json::from_str(line.trim()).expect("one line of JSON");
    assert_eq!(statistics["faults"], 0);

    let mut command = Command::new("bash");
    command.args(["-c", "exit 6"]).env("UDAX_STATS", "1");
    let output = preloaded(&mut command).output().expect("bash runs");
    assert!(!output.stderr.is_empty(), "told on standard error");
    // A number of another process: only those that have mapped a file report.
    let mut command = Command::new("bash");
    command.args(["-c", "exit 6"]).env("UDAX_STATS", "2");
    let output = preloaded(&mut command).output().expect("bash runs");
    assert!(output.stderr.is_empty(), "bash has mapped no file");
    let _ = fs::remove_dir_all(directory);
}

/// Nothing tells a program, so the statistics do: its parent has no fault to report.
#[test]
fn a_child_of_fork_is_served() {
    if let Err(why) = udax_linux::probe().engine() {
        let _ = writeln!(std::io::stderr(), "SKIPPED a_child_of_fork_is_served: {why}");
        return;
    }
    let directory = fresh("child");
    let report = directory.join("statistics.json");
    // In memory, whatever the directory is in.
    let holes = PathBuf::from(format!("/dev/shm/udax-preload-{}-child", std::process::id()));
    let mut command = Command::new(compile("child"));
    command.arg(&holes).env("UDAX_STATS", &report);
    let output = preloaded(&mut command).output().expect("it runs");
    let _ = fs::remove_file(&holes);
    assert_eq!(output.status.code(), Some(6), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = fs::read_to_string(&report).expect("statistics have been written");
    let reports: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let [child, parent] = &*reports else { panic!("two processes report: {lines}") };
    assert_eq!(parent["faults"], 0, "{lines}");
    assert_ne!(child["faults"], 0, "{lines}");
    let _ = fs::remove_dir_all(directory);
}
