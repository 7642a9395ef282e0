//! What the tests on real memory share.

use std::io::Write as _;

/// Whether this kernel or this user cannot serve faults; then it says so, past the test harness's capture, and what to do about it.
pub(crate) fn cannot_serve() -> bool {
    let Err(why) = udax_linux::probe().usable() else { return false };
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {why}");
    true
}
