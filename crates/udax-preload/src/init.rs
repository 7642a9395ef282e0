//! The library's beginning and end.
//!
//! Settings come in the environment, from `udax run`: `UDAX_STATS` (see `report`), `UDAX_TRACE` (a file for trace events) and
//! `UDAX_EXCLUSIVE` (`1`: the user's promise that nobody else writes the files).

use crate::{process, real, report, signals, state};
use std::env::var_os;
use std::path::PathBuf;
use udax::Engine;
use udax::program::{Program, Settings};

/// Called by the dynamic linker once libc is ready, before the program's own code.
#[used]
#[unsafe(link_section = ".init_array")]
static AT_LOAD: extern "C" fn() = begin;

/// Called by the dynamic linker at exit, after the program's handlers and destructors.
#[used]
#[unsafe(link_section = ".fini_array")]
static AT_EXIT: extern "C" fn() = end;

extern "C" fn begin() {
    let _errno = crate::errno::Kept::now();
    real::resolve();
    let settings = Settings {
        exclusive: var_os("UDAX_EXCLUSIVE").is_some_and(|value| value == "1"),
        trace: var_os("UDAX_TRACE").filter(|path| !path.is_empty()).map(PathBuf::from),
    };
    if Engine::expected() == Engine::Signals {
        signals::keep_ours();
    }
    report::prepare(var_os("UDAX_STATS"));
    let program = Program::new(state::native(), settings);
    program.snapshot_inherited();
    state::switch_on(program);
    process::register();
}

extern "C" fn end() {
    report::at_end();
}
