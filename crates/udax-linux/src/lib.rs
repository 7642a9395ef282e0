//! The real address space on Linux: userfaultfd, atomic replacement of mappings, leases, and a private descriptor table.
//!
//! All that is unsafe in the project is here, and everything that knows Linux's calls; nothing here knows what an extent is.
//! The service threads ([`Service`]) catch the faults, a [`LinuxSpace`] is one VMA's page tables, a [`FileHandle`] one open
//! file.

#[cfg(not(target_pointer_width = "64"))]
compile_error!("addresses and file offsets are taken to be of 64 bits");

mod area;
mod bounds;
mod bus;
mod call;
mod catcher;
mod engine;
mod events;
mod file;
mod follow;
mod fork;
mod guarded;
mod handover;
mod in_place;
#[doc(hidden)]
pub mod inject;
mod inspect;
mod lease;
mod native;
mod page_tables;
mod parts;
mod plain;
mod platform;
mod probe;
mod reserve;
mod runs;
mod service;
mod signals;
mod space;
mod start;
mod stats;
mod strangers;
mod sys;
mod unsaved;
mod userfaultfd;
mod watch;
mod window;

pub use area::{Prot, Sharing, VmaArea};
pub use bus::{BusAnswer, BusQuestion, BusWatch, bus_questions, watch_bus};
pub use engine::{Engine, UnknownEngine};
pub use events::{Access, Cause, FaultEvent, Handler, Verdict};
pub use file::{AccessMode, FileHandle, FileInfo, descriptor_appends, file_info};
pub use fork::at_fork;
pub use in_place::InPlace;
pub use lease::{Lease, LeaseId, LeaseReason, LeaseRefused};
pub use native::{Mapped, NativeCalls};
pub use parts::Parts;
pub use platform::{StdLock, StdParker, StdPlatform, unpoisoned};
pub use probe::{Capabilities, HandoverWay, UserfaultfdAccess, probe};
pub use runs::{Run, RunState};
pub use service::Service;
pub mod segv {
    //! SIGSEGV of a process whose faults come by it: for who stands between a program and the C library.
    pub use crate::signals::{
        STAND_IN, SegvAction, Writing, blocked_by_stand_in, exchange, exchange_of, handles_segv,
        install, is_our_handler, kernel_set, program_set, sent_with,
    };
}
pub use space::LinuxSpace;
pub use start::StartError;
pub use stats::{Stats, StatsSnapshot, calls_made};
pub use sys::errno::Errno;
pub use sys::signal::SignalsBlocked;
pub use unsaved::Unsaved;
pub use watch::{AtWork, at_work};

/// What is read from the kernel, for the fuzzer.
#[cfg(fuzzing)]
pub mod fuzzing {
    pub use crate::engine::named as engine;
    pub use crate::inject::any_plan as plan;
    pub use crate::strangers::any_line as maps_line;
    pub use crate::sys::sched::any_stat as stat;
    pub use crate::sys::socket::any_beside as beside;
    pub use crate::sys::uffd::any_message as message;
}
