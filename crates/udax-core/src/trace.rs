//! Trace events with the names and fields of Linux's `fs_dax` events (SEMANTICS 9), to whoever asks for them.

use crate::entry::Entry;
use crate::units::PageIndex;
use bitflags::bitflags;
use core::fmt;

bitflags! {
    /// How an access came to fault (`FAULT_FLAG_*`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct FaultFlags: u32 {
        /// A store.
        const WRITE = 1;
        /// A store to a translation that is there, read-only.
        const MKWRITE = 1 << 1;
    }
}

bitflags! {
    /// What a fault came to (`VM_FAULT_*`). No flag at all means: try the access again.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct FaultResult: u32 {
        /// No memory.
        const OOM = 1;
        /// Beyond the end of the file, no space, or an I/O error.
        const SIGBUS = 1 << 1;
        /// Storage was allocated.
        const MAJOR = 1 << 2;
        /// The storage is poisoned.
        const HWPOISON = 1 << 4;
        /// The translation is in place.
        const NOPAGE = 1 << 8;
        /// The wait was ended before anything was done.
        const RETRY = 1 << 10;
        /// Not with 2 MiB: try 4 KiB.
        const FALLBACK = 1 << 11;
        /// A private copy was installed.
        const DONE_COW = 1 << 12;
        /// Metadata must become durable first.
        const NEEDDSYNC = 1 << 13;
    }
}

impl FaultResult {
    /// The results that end in a signal or worse.
    pub const ERROR: Self = Self::OOM.union(Self::SIGBUS).union(Self::HWPOISON);

    /// Whether the access cannot succeed.
    #[must_use]
    pub const fn is_error(self) -> bool {
        self.intersects(Self::ERROR)
    }
}

/// Which inode, on which device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
pub struct Inode {
    /// Device number, as `stat` gives it.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
}

/// Where a fault was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultPlace {
    /// The file.
    pub inode: Inode,
    /// First byte of the VMA.
    pub vm_start: u64,
    /// Byte after its last.
    pub vm_end: u64,
    /// `VM_SHARED`, that is.
    pub shared: bool,
    /// The page-aligned address.
    pub address: u64,
    /// The page of the access.
    pub pgoff: PageIndex,
    /// Pages in the file, rounded up.
    pub max_pgoff: PageIndex,
    /// How the access came.
    pub flags: FaultFlags,
}

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names and fields are those of Linux's fs_dax events")]
pub enum TraceEvent {
    PmdFault(FaultPlace),
    PmdFaultDone(FaultPlace, FaultResult),
    PmdLoadHole { place: FaultPlace, entry: Entry },
    PmdLoadHoleFallback { place: FaultPlace, entry: Option<Entry> },
    PmdInsertMapping { place: FaultPlace, length: u64, frame: u64, entry: Entry, write: bool },
    PteFault(FaultPlace),
    PteFaultDone(FaultPlace, FaultResult),
    LoadHole(FaultPlace, FaultResult),
    InsertMapping { place: FaultPlace, entry: Entry, write: bool },
    InsertPfnMkwrite(FaultPlace, FaultResult),
    InsertPfnMkwriteNoEntry(FaultPlace, FaultResult),
    WritebackRange { inode: Inode, start: PageIndex, end: PageIndex },
    WritebackRangeDone { inode: Inode, start: PageIndex, end: PageIndex },
    WritebackOne { inode: Inode, pgoff: PageIndex, pglen: u64 },
}

impl TraceEvent {
    /// The event's name, as under `events/fs_dax` in tracefs.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::PmdFault(_) => "dax_pmd_fault",
            Self::PmdFaultDone(..) => "dax_pmd_fault_done",
            Self::PmdLoadHole { .. } => "dax_pmd_load_hole",
            Self::PmdLoadHoleFallback { .. } => "dax_pmd_load_hole_fallback",
            Self::PmdInsertMapping { .. } => "dax_pmd_insert_mapping",
            Self::PteFault(_) => "dax_pte_fault",
            Self::PteFaultDone(..) => "dax_pte_fault_done",
            Self::LoadHole(..) => "dax_load_hole",
            Self::InsertMapping { .. } => "dax_insert_mapping",
            Self::InsertPfnMkwrite(..) => "dax_insert_pfn_mkwrite",
            Self::InsertPfnMkwriteNoEntry(..) => "dax_insert_pfn_mkwrite_no_entry",
            Self::WritebackRange { .. } => "dax_writeback_range",
            Self::WritebackRangeDone { .. } => "dax_writeback_range_done",
            Self::WritebackOne { .. } => "dax_writeback_one",
        }
    }
}

/// Whoever wants the events. Called on the faulting thread, with the entry lock held: it must be quick and must not fault.
pub trait Tracer: Send + Sync {
    /// Takes one event.
    fn event(&self, event: &TraceEvent);
}

/// Names joined by `|`, without blanks: scripts count words. No flag at all is `0`, which keeps their number.
struct Flags<T>(T);

impl<T: bitflags::Flags> fmt::Display for Flags<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("0");
        }
        for (place, (name, _)) in self.0.iter_names().enumerate() {
            let joint = if place == 0 { "" } else { "|" };
            write!(f, "{joint}{name}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Inode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The major and minor numbers as glibc packs them into 64 bits.
        let major = ((self.dev >> 8) & 0xfff) | ((self.dev >> 32) & 0xffff_f000);
        let minor = (self.dev & 0xff) | ((self.dev >> 12) & 0xffff_ff00);
        write!(f, "dev {major}:{minor} ino {:#x}", self.ino)
    }
}

impl FaultPlace {
    const fn sharing(&self) -> &'static str {
        if self.shared { "shared" } else { "private" }
    }

    fn pmd(&self, f: &mut fmt::Formatter<'_>, result: FaultResult) -> fmt::Result {
        write!(
            f,
            "{} {} {} address {:#x} vm_start {:#x} vm_end {:#x} pgoff {} max_pgoff {} {}",
            self.inode,
            self.sharing(),
            Flags(self.flags),
            self.address,
            self.vm_start,
            self.vm_end,
            self.pgoff,
            self.max_pgoff,
            Flags(result)
        )
    }

    fn pte(&self, f: &mut fmt::Formatter<'_>, result: FaultResult) -> fmt::Result {
        write!(
            f,
            "{} {} {} address {:#x} pgoff {} {}",
            self.inode,
            self.sharing(),
            Flags(self.flags),
            self.address,
            self.pgoff,
            Flags(result)
        )
    }

    /// What the events of one entry begin with: `access` is empty where they do not tell it.
    fn place(&self, f: &mut fmt::Formatter<'_>, access: &str) -> fmt::Result {
        write!(f, "{} {}{access} address {:#x}", self.inode, self.sharing(), self.address)
    }
}

impl fmt::Display for TraceEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let access = |write: bool| if write { " write" } else { " read" };
        let word = |entry: Option<Entry>| entry.map_or(0, Entry::word);
        write!(f, "{}: ", self.name())?;
        match self {
            Self::PmdFault(place) => place.pmd(f, FaultResult::empty()),
            Self::PmdFaultDone(place, result) => place.pmd(f, *result),
            Self::PmdLoadHole { place, entry } => {
                place.place(f, "")?;
                write!(f, " radix_entry {:#x}", entry.word())
            }
            Self::PmdLoadHoleFallback { place, entry } => {
                place.place(f, "")?;
                write!(f, " radix_entry {:#x}", word(*entry))
            }
            Self::PmdInsertMapping { place, length, frame, entry, write } => {
                place.place(f, access(*write))?;
                let word = entry.word();
                write!(f, " length {length:#x} pfn {frame:#x} radix_entry {word:#x}")
            }
            Self::PteFault(place) => place.pte(f, FaultResult::empty()),
            Self::PteFaultDone(place, result)
            | Self::LoadHole(place, result)
            | Self::InsertPfnMkwrite(place, result)
            | Self::InsertPfnMkwriteNoEntry(place, result) => place.pte(f, *result),
            Self::InsertMapping { place, entry, write } => {
                place.place(f, access(*write))?;
                write!(f, " radix_entry {:#x}", entry.word())
            }
            Self::WritebackRange { inode, start, end }
            | Self::WritebackRangeDone { inode, start, end } => {
                write!(f, "{inode} pgoff {start}-{end}")
            }
            Self::WritebackOne { inode, pgoff, pglen } => {
                write!(f, "{inode} pgoff {pgoff} pglen {pglen:#x}")
            }
        }
    }
}
