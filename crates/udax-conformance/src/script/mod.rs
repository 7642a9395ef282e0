//! The language of the scripts: one operation a line (tests/conformance/README.md).
//!
//! Glossary: a *place* is an offset and a length in bytes; the offset is one in the mapped file, as pages are pages of the file.

mod parse;

pub use parse::{bytes, parse};

use std::fmt;

/// A run of bytes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The first byte.
    pub offset: u64,
    /// How many.
    pub length: u64,
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenAs {
    /// Read only.
    pub read_only: bool,
    /// Every write is a sync, too.
    pub dsync: bool,
}

/// What `falloc` is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of fallocate's modes")]
pub enum Falloc {
    Alloc,
    Keep,
    Punch,
    Zero,
    ZeroKeep,
    Collapse,
    Insert,
    Unshare,
}

/// What a mapping allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the script's")]
pub enum Prot {
    ReadOnly,
    ReadWrite,
    WriteOnly,
    None,
}

/// How a mapping is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "they are flags of mmap, any of them at once")]
pub struct MapFlags {
    /// `MAP_PRIVATE`; else shared.
    pub private: bool,
    /// `MAP_SHARED_VALIDATE`.
    pub validate: bool,
    /// `MAP_SYNC`, with validation (`sync`) or without (`rawsync`).
    pub sync: bool,
    /// `MAP_POPULATE`, or `MAP_LOCKED`, which does the same here.
    pub populate: bool,
    /// `MAP_FIXED_NOREPLACE`.
    pub noreplace: bool,
    /// At an address off by 4 KiB from the file offset modulo 2 MiB.
    pub misaligned: bool,
    /// Where the kernel likes.
    pub auto: bool,
}

/// What `msync` is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of msync's flags")]
pub enum Msync {
    Sync,
    Async,
    Invalidate,
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names and arguments are the script's")]
pub enum Op {
    Create {
        file: String,
        size: u64,
        open: OpenAs,
    },
    Open {
        file: String,
        open: OpenAs,
    },
    Close {
        file: String,
    },
    Unlink {
        file: String,
    },
    Truncate {
        file: String,
        size: u64,
    },
    Falloc {
        file: String,
        mode: Falloc,
        place: Place,
    },
    Pread {
        file: String,
        place: Place,
    },
    Pwrite {
        file: String,
        place: Place,
        byte: u8,
        dsync: bool,
    },
    PreadMap {
        file: String,
        place: Place,
        map: String,
        at: u64,
    },
    PwriteMap {
        file: String,
        place: Place,
        map: String,
        at: u64,
    },
    Mmap {
        map: String,
        file: String,
        place: Place,
        prot: Prot,
        flags: MapFlags,
    },
    Munmap {
        map: String,
        place: Option<Place>,
    },
    Mprotect {
        map: String,
        place: Place,
        prot: Prot,
    },
    Mremap {
        map: String,
        length: u64,
        may_move: bool,
    },
    Mlock {
        map: String,
        place: Option<Place>,
    },
    Madvise {
        map: String,
        place: Place,
        advice: String,
    },
    Read {
        map: String,
        page: u64,
        byte: u64,
    },
    Write {
        map: String,
        page: u64,
        value: u8,
        byte: u64,
    },
    Touch {
        map: String,
        page: u64,
        count: u64,
        write: bool,
        stride: u64,
        value: u8,
    },
    Fill {
        map: String,
        page: u64,
        count: u64,
        value: u8,
    },
    Msync {
        map: String,
        place: Option<Place>,
        how: Msync,
    },
    Fsync {
        file: String,
    },
    DropCaches {
        what: u64,
    },
    Remount {
        options: String,
    },
    Chattr {
        file: String,
        change: String,
    },
    Fork,
    EndFork,
    Smaps {
        map: String,
    },
    Pt {
        map: String,
        place: Option<Place>,
    },
    Xa {
        file: String,
    },
    Mincore {
        map: String,
    },
    Fiemap {
        file: String,
    },
    Seek {
        file: String,
    },
    Stat {
        file: String,
    },
    Hash {
        file: String,
    },
    Pages {
        file: String,
    },
    Hexdump {
        file: String,
        place: Place,
    },
    TraceStart,
    TraceStop,
    TraceDump,
    TraceCount,
    TraceClear,
    Label,
    /// What only a real machine can do or tell (`get`, `set`, `vmstat`, `faults`, `sleep`): has no effect here.
    MachineOnly,
    /// What this crate does not know; its effects are unknown too.
    Unknown,
}

/// One line that holds an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Counted from 1.
    pub number: u64,
    /// As written, without blanks at its ends.
    pub text: String,
    /// What it says.
    pub op: Op,
}

/// A line that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// Its number.
    pub number: u64,
    /// Its text.
    pub text: String,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: its arguments are not understood: {}", self.number, self.text)
    }
}

impl std::error::Error for Unreadable {}
