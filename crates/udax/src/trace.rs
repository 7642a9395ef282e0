//! A file of trace events, one a line, as the kernel's trace buffer would show them.

use rustix::fs::{Mode, OFlags};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use udax_core::{TraceEvent, Tracer};

/// Bytes that are gathered before they are written.
const BATCH_BYTES: usize = 64 << 10;

struct Lines {
    text: String,
    /// The first error ends the trace, not the program.
    failed: bool,
}

/// Where events go. The file is opened anew for every batch: service threads do not have the program's descriptors, and a number that is kept there may be
/// closed by the program and given to a file of its own.
pub(crate) struct TraceFile {
    path: PathBuf,
    lines: Mutex<Lines>,
}

impl TraceFile {
    /// Starts a trace in a file that is made, or emptied.
    pub(crate) fn create(path: &Path) -> std::io::Result<Self> {
        let path = std::path::absolute(path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
        rustix::fs::open(&path, flags, Mode::from_raw_mode(0o644))?;
        Ok(Self { path, lines: Mutex::new(Lines { text: String::new(), failed: false }) })
    }

    /// Writes what has been gathered.
    pub(crate) fn flush(&self) {
        self.write_out(&mut self.lines.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn write_out(&self, lines: &mut Lines) {
        if !lines.failed {
            lines.failed = self.append(lines.text.as_bytes()).is_err();
        }
        lines.text.clear();
    }

    fn append(&self, mut rest: &[u8]) -> rustix::io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CLOEXEC | OFlags::NOCTTY;
        let file = rustix::fs::open(&self.path, flags, Mode::empty())?;
        while !rest.is_empty() {
            match rustix::io::write(&file, rest)? {
                0 => return Err(rustix::io::Errno::IO),
                count => rest = &rest[count..],
            }
        }
        Ok(())
    }
}

impl Tracer for TraceFile {
    fn event(&self, event: &TraceEvent) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = writeln!(lines.text, "{event}");
        if lines.text.len() >= BATCH_BYTES {
            self.write_out(&mut lines);
        }
    }
}
