//! The program's own calls, seen before the kernel sees them. For the preloaded library.
//!
//! Every call here does what the program asked, and returns what the kernel returned. Where no file is served it costs an atomic
//! load. Calls that change what is mapped hold the registry over the kernel's own call.

mod files;
mod memory;
mod prepare;
mod processes;
mod protect;
mod remap;

pub use crate::calls::{FileCall, WriteAt};
pub use crate::fork::{ForkGuard, UserChange};
pub use crate::prepare::Prepared;
pub use udax_linux::{Access, NativeCalls};

use crate::runtime::{Promise, Runtime};
use crate::statistics::Statistics;
use crate::trace::TraceFile;
use std::path::PathBuf;
use std::sync::Arc;
use udax_core::Tracer;

/// What the user asked for.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Nobody else writes the files while they are mapped: no lease is needed. A promise, not checked.
    pub exclusive: bool,
    /// Where trace events go.
    pub trace: Option<PathBuf>,
}

/// The runtime of a process whose calls are seen.
pub struct Program {
    native: NativeCalls,
    promise: Promise,
    runtime: Runtime,
    trace: Option<Arc<TraceFile>>,
}

impl Program {
    /// Starts nothing yet: threads come with the first mapping worth serving.
    #[must_use]
    pub fn new(native: NativeCalls, settings: Settings) -> Self {
        let promise = if settings.exclusive { Promise::Exclusive } else { Promise::None };
        let trace = settings.trace.and_then(|path| TraceFile::create(&path).ok()).map(Arc::new);
        let tracer = trace.clone().map(|trace| trace as Arc<dyn Tracer>);
        Self { native, promise, runtime: Runtime::new(tracer), trace }
    }

    /// Whether any file is served now. Any thread; blocks nothing.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        self.runtime.state.is_serving()
    }

    /// What was served, what was passed through, and why.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        Statistics::of(&self.runtime)
    }

    /// The process ends: looks for stores that a window has swallowed, writes them to their files, and flushes the trace.
    pub fn at_exit(&self) {
        if self.runtime.state.is_closed() {
            return;
        }
        self.runtime.audit_all();
        if let Some(trace) = &self.trace {
            trace.flush();
        }
    }
}
