//! What the tests on real memory share.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use udax::File;

pub(crate) const PAGE: usize = 4096;
pub(crate) const UNIT: usize = 2 << 20;

/// A folder on the disk that the tests are built on.
pub(crate) fn disk() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

/// A file without a name, all hole, of so many 2 MiB.
pub(crate) fn sparse(place: &Path, units: usize) -> File {
    let file = tempfile::tempfile_in(place).expect("a file");
    file.set_len((units * UNIT) as u64).expect("a length");
    File::from(file)
}

/// Waits until more pages have been given back than `before`.
pub(crate) fn wait_for_giving_back(before: u64) {
    let since = Instant::now();
    while udax::statistics().given_back_pages == before {
        assert!(since.elapsed() < Duration::from_secs(60), "nothing is given back");
        std::thread::yield_now();
    }
}

/// Whether this kernel or this user cannot serve faults; then it says so, past the test harness's capture, and what to do about it.
pub(crate) fn cannot_serve() -> bool {
    let Err(why) = udax_linux::probe().engine() else { return false };
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {why}");
    true
}

/// This test binary, to run one test of it as an ordinary user, who may work in `dir`. It takes root to ask for that.
pub(crate) fn as_nobody(dir: &Path, test: &str) -> Command {
    let copy = dir.join("test");
    let this = std::env::current_exe().expect("its own path");
    std::fs::copy(this, &copy).expect("copied to where anybody may run it");
    std::fs::set_permissions(dir, PermissionsExt::from_mode(0o777)).expect("set");
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"]);
    command.arg(copy).args([test, "--exact", "--nocapture", "--test-threads=1"]);
    command.current_dir(dir);
    command
}

/// Tells a test that it is the child, and where to work.
pub(crate) const CHILD: &str = "UDAX_TEST_CHILD";

/// A file system that a child gets for itself, mounted on the directory that [`CHILD`] names.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mounted {
    /// tmpfs of so many MiB.
    Tmpfs(u32),
    /// ext4 in a file of so many MiB.
    Ext4(u32),
}

/// This test binary, to run one test of it as a child on a file system of its own, which goes with the child.
pub(crate) fn on_its_own(test: &str, dir: &Path, mounted: Mounted) -> Command {
    let mount = match mounted {
        Mounted::Tmpfs(size) => format!("mount -t tmpfs -o size={size}m none \"$UDAX_TEST_CHILD\""),
        Mounted::Ext4(size) => format!(
            "truncate -s {size}M \"$UDAX_TEST_CHILD/disk\" && mkfs.ext4 -q -m 0 \"$UDAX_TEST_CHILD/disk\" && \
             mount -o loop \"$UDAX_TEST_CHILD/disk\" \"$UDAX_TEST_CHILD\""
        ),
    };
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", &format!("{mount} || exit 77; exec \"$0\" \"$@\"")]);
    command.arg(std::env::current_exe().expect("its own path"));
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]).env(CHILD, dir);
    command
}

/// Runs the child and says how it ended, and what it wrote to standard error. `None`, and a word about it, if it could not mount.
pub(crate) fn outcome(command: &mut Command) -> Option<(std::process::ExitStatus, String)> {
    let output = command.output().expect("unshare can be run");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    if matches!(output.status.code(), Some(77 | 1)) && errors.contains("ermi") {
        let _ = writeln!(std::io::stderr(), "SKIPPED: nothing can be mounted here: {errors}");
        return None;
    }
    Some((output.status, errors))
}
