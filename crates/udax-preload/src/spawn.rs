//! Calls that start another program. Its descriptors are copies of ours, so what they are open on may be written unseen.

use crate::{real, state};
use libc::{FILE, c_char, c_int, c_void, pid_t, posix_spawn_file_actions_t, posix_spawnattr_t};
use real::Strings;

/// Before a process is started that does not come through a fork.
pub(crate) fn before_spawn() {
    state::ask(|program| program.before_spawn());
}

/// posix_spawn(3).
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn posix_spawn(
    pid: *mut pid_t,
    path: *const c_char,
    actions: *const posix_spawn_file_actions_t,
    attributes: *const posix_spawnattr_t,
    arguments: Strings,
    environment: Strings,
) -> c_int {
    before_spawn();
    // SAFETY: the program's own arguments.
    unsafe { real::posix_spawn(pid, path, actions, attributes, arguments, environment) }
}

/// posix_spawnp(3).
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn posix_spawnp(
    pid: *mut pid_t,
    file: *const c_char,
    actions: *const posix_spawn_file_actions_t,
    attributes: *const posix_spawnattr_t,
    arguments: Strings,
    environment: Strings,
) -> c_int {
    before_spawn();
    // SAFETY: the program's own arguments.
    unsafe { real::posix_spawnp(pid, file, actions, attributes, arguments, environment) }
}

/// pidfd_spawn(3).
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn pidfd_spawn(
    pidfd: *mut c_int,
    path: *const c_char,
    actions: *const posix_spawn_file_actions_t,
    attributes: *const posix_spawnattr_t,
    arguments: Strings,
    environment: Strings,
) -> c_int {
    before_spawn();
    // SAFETY: the program's own arguments.
    unsafe { real::pidfd_spawn(pidfd, path, actions, attributes, arguments, environment) }
}

/// pidfd_spawnp(3).
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn pidfd_spawnp(
    pidfd: *mut c_int,
    file: *const c_char,
    actions: *const posix_spawn_file_actions_t,
    attributes: *const posix_spawnattr_t,
    arguments: Strings,
    environment: Strings,
) -> c_int {
    before_spawn();
    // SAFETY: the program's own arguments.
    unsafe { real::pidfd_spawnp(pidfd, file, actions, attributes, arguments, environment) }
}

/// system(3). A cancellation point.
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn system(command: *const c_char) -> c_int {
    before_spawn();
    // SAFETY: the program's own argument.
    unsafe { real::system(command) }
}

/// popen(3).
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn popen(command: *const c_char, mode: *const c_char) -> *mut FILE {
    before_spawn();
    // SAFETY: the program's own arguments.
    unsafe { real::popen(command, mode) }
}

/// wordexp(3): command substitution starts programs.
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn wordexp(
    words: *const c_char,
    expansion: *mut c_void,
    flags: c_int,
) -> c_int {
    before_spawn();
    // SAFETY: the program's own arguments.
    unsafe { real::wordexp(words, expansion, flags) }
}
