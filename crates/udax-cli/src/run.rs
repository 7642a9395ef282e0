//! `udax run`: finds the library to preload, sets the environment, and becomes the program.

use crate::output::CannotWork;
use clap::Args;
use std::env;
use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const LIBRARY: &str = "libudax_preload.so";
/// Where the library is, if not beside this command.
const LIBRARY_VARIABLE: &str = "UDAX_PRELOAD_LIB";
/// The file name of `--stats` that means standard error.
const STDERR: &str = "-";
const CANNOT_RUN: u8 = 126;
const NOT_FOUND: u8 = 127;

/// Run a program with its file mappings served by udax.
#[derive(Args)]
#[command(long_about = "\
Run a program with its file mappings served by udax.

The program is not changed and needs no privilege. A mapping of a sparse file then shows its holes through one common zero page, \
which takes no memory and no storage; the first store to a hole gets the file's own storage. This command becomes the program: \
process number, input and output, signals and exit code are the program's own. Programs that it starts are served too.

A hole is shown as zeros only while the kernel vouches, by a file lease, that no other process can write the file unseen. When \
another opens it for writing, the plain mapping is put back first. Files that cannot be served so are mapped as ever: always \
right, merely slow on holes. --stats says which, and why.

Programs that are statically linked, or that run with other rights than yours (setuid), do not load the library: they run as ever.")]
#[command(after_long_help = "\
Examples:
  udax run -- python3 sum_memmap.py array.bin
  udax run --stats -- sqlite3 sparse.db 'pragma mmap_size=1e9; select count(*) from t'
  udax run --trace events.txt -- ./scanner disk.img

Exit codes: the program's own; 125 udax cannot work here, 126 the program cannot be run, 127 it was not found.

Environment: UDAX_PRELOAD_LIB names the library to preload, if it is not beside this command or in ../lib/udax.")]
pub(crate) struct RunArgs {
    /// At the end, tell what was served, what was not, and why: on standard error, or as a line of JSON added to FILE
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = STDERR)]
    stats: Option<PathBuf>,

    /// Write an event to FILE for every step of every fault
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,

    /// Promise that no other process writes the files that the program maps; no lease is then asked for
    ///
    /// Serves files that belong to somebody else, or that a parent process has open too. If the promise is broken, the program may
    /// go on seeing zeros where the other process has stored.
    #[arg(long)]
    exclusive: bool,

    /// Where faults cannot be served in user space, run the program as it is instead of refusing
    #[arg(long)]
    plain_if_refused: bool,

    /// The program and its arguments
    #[arg(value_name = "PROGRAM", required = true, trailing_var_arg = true)]
    #[arg(allow_hyphen_values = true)]
    command: Vec<OsString>,
}

/// Becomes the program. Returns only if that was not possible: then with the exit code, after a message.
///
/// # Errors
/// `CannotWork` where faults cannot be served, or the library is not to be found.
pub(crate) fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let Some((program, arguments)) = args.command.split_first() else {
        return Ok(ExitCode::from(NOT_FOUND));
    };
    let mut command = Command::new(program);
    command.args(arguments);
    match udax_linux::probe().engine() {
        Ok(_) => serve(&mut command, args)?,
        Err(_) if args.plain_if_refused => {}
        Err(why) => {
            let way_out = "(--plain-if-refused runs the program as it is)";
            return Err(CannotWork(format!("{why} {way_out}")).into());
        }
    }
    let error = command.exec();
    eprintln!("udax: cannot run {}: {error}", program.display());
    let missing = error.kind() == ErrorKind::NotFound;
    Ok(ExitCode::from(if missing { NOT_FOUND } else { CANNOT_RUN }))
}

/// Has the library loaded, and tells it what was asked for.
fn serve(command: &mut Command, args: &RunArgs) -> anyhow::Result<()> {
    let library = find_library()?;
    command.env("LD_PRELOAD", preload_list(&library, env::var_os("LD_PRELOAD").as_deref())?);
    if let Some(file) = &args.stats {
        let wanted = if file.as_os_str() == STDERR {
            // The program will have this process's number. It reports in any case, its children if they have mapped a file.
            std::process::id().to_string().into()
        } else {
            std::path::absolute(file)?.into_os_string()
        };
        command.env("UDAX_STATS", wanted);
    }
    if let Some(file) = &args.trace {
        command.env("UDAX_TRACE", std::path::absolute(file)?);
    }
    if args.exclusive {
        command.env("UDAX_EXCLUSIVE", "1");
    }
    Ok(())
}

/// Where the library may be, in order.
fn candidates(named: Option<OsString>, executable: Option<&Path>) -> Vec<PathBuf> {
    if let Some(named) = named.filter(|named| !named.is_empty()) {
        return vec![PathBuf::from(named)];
    }
    let Some(directory) = executable.and_then(Path::parent) else { return Vec::new() };
    ["", "deps", "../lib/udax"].map(|place| directory.join(place).join(LIBRARY)).into()
}

fn find_library() -> anyhow::Result<PathBuf> {
    let executable = env::current_exe().ok();
    let candidates = candidates(env::var_os(LIBRARY_VARIABLE), executable.as_deref());
    for candidate in &candidates {
        if let Ok(found) = candidate.canonicalize() {
            return Ok(found);
        }
    }
    let tried: Vec<String> = candidates.iter().map(|path| path.display().to_string()).collect();
    let tried = tried.join(", ");
    Err(CannotWork(format!(
        "{LIBRARY} is not there (looked for {tried}; {LIBRARY_VARIABLE} names it)"
    ))
    .into())
}

/// The library, then whatever is preloaded already: ours comes first, so that it sees what the program asks for.
fn preload_list(library: &Path, others: Option<&OsStr>) -> anyhow::Result<OsString> {
    let path = library.as_os_str();
    if path.as_bytes().iter().any(|byte| b" :".contains(byte)) {
        let why = "LD_PRELOAD cannot hold a path with a space or a colon";
        return Err(CannotWork(format!("{}: {why}", library.display())).into());
    }
    let mut list = path.to_owned();
    if let Some(others) = others.filter(|others| !others.is_empty()) {
        let mut known = others.as_bytes().split(|byte| b" :".contains(byte));
        if known.any(|other| other == path.as_bytes()) {
            return Ok(others.to_owned());
        }
        list.push(":");
        list.push(others);
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(library: &str, others: Option<&str>) -> String {
        let list = preload_list(Path::new(library), others.map(OsStr::new));
        list.expect("a list").into_string().expect("text")
    }

    #[test]
    fn what_is_preloaded_already_is_kept() {
        assert_eq!(listed("/a/u.so", None), "/a/u.so");
        assert_eq!(listed("/a/u.so", Some("")), "/a/u.so");
        assert_eq!(listed("/a/u.so", Some("/b/jemalloc.so /c")), "/a/u.so:/b/jemalloc.so /c");
    }

    #[test]
    fn a_run_within_a_run_preloads_once() {
        assert_eq!(listed("/a/u.so", Some("/a/u.so:/b")), "/a/u.so:/b");
        assert_eq!(listed("/a/u.so", Some("/a/u.so.bak")), "/a/u.so:/a/u.so.bak");
    }

    #[test]
    fn a_path_that_ld_preload_cannot_hold_is_refused() {
        for path in ["/a b/u.so", "/a:b/u.so"] {
            let error = preload_list(Path::new(path), None).expect_err("not expressible");
            assert!(error.is::<CannotWork>() && error.to_string().contains(path));
        }
    }

    #[test]
    fn the_library_is_looked_for_beside_the_command() {
        let beside = candidates(None, Some(Path::new("/opt/bin/udax")));
        let expected = ["/opt/bin/", "/opt/bin/deps/", "/opt/bin/../lib/udax/"];
        assert_eq!(beside, expected.map(|place| PathBuf::from(place).join(LIBRARY)));
        assert_eq!(candidates(Some("/x.so".into()), None), [PathBuf::from("/x.so")]);
    }
}
