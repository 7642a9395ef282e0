//! What udax did, told at the end of the program: `udax run --stats` asks for it.

use crate::state;
use libc::{c_int, c_void};
use std::ffi::{OsStr, OsString};
use std::fs::OpenOptions;
use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

/// What `UDAX_STATS` said when the library was loaded.
static WANTED: OnceLock<OsString> = OnceLock::new();
/// The process that the library was loaded in, or a child by fork: a child that shares its memory does not report.
static PROCESS: AtomicI32 = AtomicI32::new(0);
static IS_CHILD: AtomicBool = AtomicBool::new(false);
static REPORTED: AtomicBool = AtomicBool::new(false);

fn this_process() -> c_int {
    // SAFETY: no argument.
    unsafe { libc::getpid() }
}

/// Whether this process is the one that the library was loaded in or a child by fork, and not the child of a vfork that shares its memory.
pub(crate) fn is_own_process() -> bool {
    PROCESS.load(Ordering::Relaxed) == this_process()
}

/// In a child of fork, which reports for itself, if it has mapped a file.
pub(crate) fn begin_anew() {
    PROCESS.store(this_process(), Ordering::Relaxed);
    IS_CHILD.store(true, Ordering::Relaxed);
    REPORTED.store(false, Ordering::Relaxed);
}

/// Takes note of what is asked for. `1` means standard error; any other number as well, but from processes other than that one only
/// if they have mapped a file; anything else is the path of a file to add a line of JSON to.
pub(crate) fn prepare(wanted: Option<OsString>) {
    PROCESS.store(this_process(), Ordering::Relaxed);
    if let Some(wanted) = wanted.filter(|wanted| !wanted.is_empty()) {
        WANTED.get_or_init(|| wanted);
    }
}

/// At the end of the process: the last check of what is mapped, and the report. Once.
pub(crate) fn at_end() {
    if !is_own_process() || REPORTED.swap(true, Ordering::Relaxed) {
        return;
    }
    state::ask(|program| {
        program.at_exit();
        let has_done_anything = !IS_CHILD.load(Ordering::Relaxed) || state::any_file_mapped();
        if let Some(wanted) = WANTED.get().filter(|_| has_done_anything) {
            tell(wanted, &program.statistics());
        }
    });
}

fn tell(wanted: &OsStr, statistics: &udax::Statistics) {
    let number = wanted.to_str().and_then(|text| text.parse::<c_int>().ok());
    if let Some(number) = number {
        if number == 1 || state::any_file_mapped() || number == PROCESS.load(Ordering::Relaxed) {
            to_stderr(&format!("{statistics}\n"));
        }
        return;
    }
    let line = serde_json::to_string(statistics).map_err(std::io::Error::from);
    let appended = line.and_then(|line| {
        let mut file = OpenOptions::new().append(true).create(true).open(wanted)?;
        file.write_all(format!("{line}\n").as_bytes())
    });
    if let Err(error) = appended {
        to_stderr(&format!("udax: statistics to {}: {error}\n", wanted.display()));
    }
}

/// Writes to the program's standard error, as one write where the kernel takes it whole.
pub(crate) fn to_stderr(text: &str) {
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        // SAFETY: the buffer is `rest`.
        let written = unsafe {
            crate::real::write(libc::STDERR_FILENO, rest.as_ptr().cast::<c_void>(), rest.len())
        };
        match usize::try_from(written) {
            Ok(count) if count > 0 => rest = &rest[count.min(rest.len())..],
            Ok(_) => return,
            Err(_) if crate::errno::get() == libc::EINTR => {}
            Err(_) => return,
        }
    }
}

/// _exit(2).
///
/// # Safety
/// As the C function.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn _exit(code: c_int) -> ! {
    at_end();
    if let Some(address) = crate::real::EXIT.address() {
        // SAFETY: libc's function of this name, which has this type.
        let exit = unsafe {
            std::mem::transmute::<*mut c_void, unsafe extern "C" fn(c_int) -> !>(address)
        };
        // SAFETY: the program's own argument.
        unsafe { exit(code) }
    }
    std::process::abort()
}

/// _Exit(3).
///
/// # Safety
/// As `_exit`.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn _Exit(code: c_int) -> ! {
    // SAFETY: the program's own argument.
    unsafe { _exit(code) }
}
