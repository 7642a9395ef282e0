//! Calls by which the process becomes another user, in all of its threads, ours among them. A lease can be given back by the file's owner and by who may take any: what
//! is served ends before, or whoever opens the file would wait until the kernel takes the lease away.
//!
//! setfsuid(2), capset(2), and calls by number are of the calling thread alone, and so none of ours changes.

use crate::errno::Kept;
use crate::{real, state};
use libc::{c_int, uid_t};

/// What setreuid(2) and its kin take for "as it is".
const SAME: uid_t = uid_t::MAX;

/// Makes `call`, which is to set the real, effective and saved user.
fn becoming(wanted: [uid_t; 3], call: impl FnOnce() -> c_int) -> c_int {
    let kept = Kept::now();
    let mut now = [0; 3];
    let [real, effective, saved] = &mut now;
    // SAFETY: three numbers to be filled.
    unsafe { libc::getresuid(real, effective, saved) };
    let changes = wanted.into_iter().zip(now).any(|(wanted, now)| wanted != SAME && wanted != now);
    let program = state::program().filter(|_| changes);
    let change = program.map(|program| state::or_abort(|| program.before_becoming_another_user()));
    drop(kept);
    let answer = call();
    let _errno = Kept::now();
    drop(change);
    answer
}

/// setuid(2).
///
/// # Safety
/// None needed.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn setuid(user: uid_t) -> c_int {
    // SAFETY: the program's own argument.
    becoming([user; 3], || unsafe { real::setuid(user) })
}

/// seteuid(3).
///
/// # Safety
/// None needed.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn seteuid(user: uid_t) -> c_int {
    // SAFETY: the program's own argument.
    becoming([SAME, user, SAME], || unsafe { real::seteuid(user) })
}

/// setreuid(2), which may set the saved user too.
///
/// # Safety
/// None needed.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn setreuid(user: uid_t, effective: uid_t) -> c_int {
    // SAFETY: the program's own arguments.
    becoming([user, effective, effective], || unsafe { real::setreuid(user, effective) })
}

/// setresuid(2).
///
/// # Safety
/// None needed.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn setresuid(user: uid_t, effective: uid_t, saved: uid_t) -> c_int {
    // SAFETY: the program's own arguments.
    becoming([user, effective, saved], || unsafe { real::setresuid(user, effective, saved) })
}
