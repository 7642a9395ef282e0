//! A file of trace events, one a line, as the kernel's trace buffer would show them.

use rustix::fs::{Mode, OFlags};
use std::fmt::Write as _;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use udax_core::{TraceEvent, Tracer};

/// Bytes that are gathered before they are written.
const BATCH_BYTES: usize = 64 << 10;

struct Lines {
    text: String,
    /// The first error ends the trace, not the program.
    failed: bool,
}

/// Where events go.
pub(crate) struct TraceFile {
    file: OwnedFd,
    lines: Mutex<Lines>,
}

impl TraceFile {
    /// Starts a trace in a file that is made, or emptied.
    pub(crate) fn create(path: &Path) -> rustix::io::Result<Self> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
        let low = rustix::fs::open(path, flags, Mode::from_raw_mode(0o644))?;
        // Out of the way of the program, which may count on low numbers being free.
        let file = rustix::io::fcntl_dupfd_cloexec(&low, 700)?;
        Ok(Self { file, lines: Mutex::new(Lines { text: String::new(), failed: false }) })
    }

    /// Writes what has been gathered.
    pub(crate) fn flush(&self) {
        self.write_out(&mut self.lines.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn write_out(&self, lines: &mut Lines) {
        let mut rest = lines.text.as_bytes();
        while !rest.is_empty() && !lines.failed {
            match rustix::io::write(&self.file, rest) {
                Ok(count @ 1..) => rest = &rest[count..],
                Ok(_) | Err(_) => lines.failed = true,
            }
        }
        lines.text.clear();
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
