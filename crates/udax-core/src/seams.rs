//! What the engine asks of the world: a file system, its media, page tables, and a platform to wait on.
//!
//! Four narrow traits, defined here by their consumer. The simulator and the real address space implement the same ones.

use crate::error::{InstallError, IoError};
use crate::units::{Frame, FrameRange, Order, PageIndex, PageRange};
use alloc::sync::Arc;
use core::hash::{Hash, Hasher};
use core::ops::DerefMut;
use core::sync::atomic::{AtomicUsize, Ordering};

/// What somebody means to do with an extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(alias = "IOMAP_WRITE")]
pub enum Intent {
    /// Look only: holes and unwritten extents come back as they are.
    Read,
    /// Store: the answer must be mapped storage that reads as zeros where it was a hole; the file system allocates. Leave to store holds until
    /// the pages are written back, or dropped: whoever comes to share the storage by reflink first has all that is dirty flushed and
    /// write-protected ([`Mapping::change_layout`](crate::Mapping::change_layout)).
    Write,
    /// Overwrite with zeros what is there: nothing need be allocated (`IOMAP_ZERO`).
    Zero,
    /// Move the pages to storage of one piece, 2 MiB aligned where the range is. The answer is like that for shared storage which is being
    /// copied: mapped to the new storage, `copy_from` where the first page is now. The caller copies. [`Filesystem::iomap_end`] with all
    /// pages done makes the exchange durable, and only then gives the old storage back; if it fails, or with fewer pages done, nothing was
    /// exchanged. A file system that cannot move storage refuses.
    Move,
}

/// How an extent is backed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Backing {
    /// No storage; reads as zeros.
    Hole,
    /// Storage reserved, never written; reads as zeros.
    Unwritten,
    /// Storage; the frame of the extent's first page.
    Mapped(Frame),
    /// Anything the engine cannot map (inline data, delayed allocation).
    Other,
}

/// One extent of a file, as the file system answers for a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[doc(alias = "struct iomap")]
pub struct Iomap {
    /// The pages it covers. Starts at the page asked for; may be shorter or longer than asked.
    pub range: PageRange,
    /// What backs them.
    pub backing: Backing,
    /// Storage was allocated by this very call (`IOMAP_F_NEW`).
    pub is_new: bool,
    /// Metadata needed to find the storage after a crash is not yet durable (`IOMAP_F_DIRTY`).
    pub metadata_dirty: bool,
    /// The range was shared by reflink, and is being copied: where the old data of `range.start` is (`IOMAP_F_SHARED`). Until the
    /// operation is closed everybody else who means to store there is answered the same, even if the sharing ends meanwhile.
    pub copy_from: Option<Backing>,
}

impl Iomap {
    /// The storage of page `index` of the extent, if it has any that can be mapped.
    pub(crate) fn frame_at(&self, index: PageIndex) -> Option<Frame> {
        match self.backing {
            Backing::Mapped(first) => Some(first.plus(index.0 - self.range.start.0)),
            Backing::Hole | Backing::Unwritten | Backing::Other => None,
        }
    }
}

/// One file of a file system: where its pages are stored.
///
/// Called with the entry lock held, so an implementation must never wait for an entry lock, and must not hold anything of its
/// own over a copy from or to user memory (SEMANTICS 7.5, pitfall 38).
pub trait Filesystem: Send + Sync {
    /// The file's length in bytes, now.
    #[doc(alias = "i_size_read")]
    fn size_bytes(&self) -> u64;

    /// Which extent covers the start of `range`, for `intent`. For [`Intent::Write`] it allocates what is missing.
    ///
    /// # Errors
    /// No space, no memory, poison, or an I/O error; nothing was changed then that a later call could not go on from.
    fn iomap_begin(&self, range: PageRange, intent: Intent) -> Result<Iomap, IoError>;

    /// The caller is done with `iomap`; `done` pages of it were used. An error after a fault succeeded is ignored (pitfall 86).
    ///
    /// # Errors
    /// Whatever the file system meets in closing the operation.
    fn iomap_end(&self, iomap: &Iomap, done: u64) -> Result<(), IoError>;

    /// Sets the length in bytes. The engine has seen to mappings and entries.
    ///
    /// # Errors
    /// As the file system says; the length is then as before.
    fn set_size(&self, bytes: u64) -> Result<(), IoError>;

    /// Gives the storage of `range` back: it is a hole afterwards.
    ///
    /// # Errors
    /// As the file system says.
    fn free(&self, range: PageRange) -> Result<(), IoError>;

    /// Makes what is needed to find `range` after a crash durable (the metadata part of `fdatasync`).
    ///
    /// # Errors
    /// As the file system says.
    fn commit(&self, range: PageRange) -> Result<(), IoError>;

    /// A store is about to be let through: modification time, dirty inode (`file_update_time`).
    fn note_store(&self);
}

/// Why frames are to be accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(alias = "DAX_RECOVERY_WRITE")]
pub enum MediaAccess {
    /// Load or store: poison in the range is an error.
    Ordinary,
    /// Overwrite in order to clear poison.
    Recovery,
}

/// Which page of which file some frames hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The mapping's number.
    pub mapping: u64,
    /// The file page that the first frame holds.
    pub index: PageIndex,
}

/// The storage itself.
pub trait Media: Send + Sync {
    /// How many of `frames`, from the first, can be accessed directly and contiguously. At least one; the caller must
    /// bound everything it does by the answer (pitfall 91).
    ///
    /// # Errors
    /// Poison ([`crate::IoErrorKind::Poisoned`]), a device that is gone, or an I/O error.
    fn direct_access(&self, frames: FrameRange, access: MediaAccess) -> Result<u64, IoError>;

    /// Makes every store to `frames` that happened before durable.
    ///
    /// # Errors
    /// As the device says; what was not flushed is still dirty then.
    fn flush(&self, frames: FrameRange) -> Result<(), IoError>;

    /// Copies out of storage, from byte `offset` of `frame` on; how many bytes were copied.
    ///
    /// # Errors
    /// As [`direct_access`](Self::direct_access).
    fn load(&self, frame: Frame, offset: u64, into: &mut [u8]) -> Result<usize, IoError>;

    /// Copies into storage, durable when it returns; how many bytes were copied.
    ///
    /// # Errors
    /// As [`direct_access`](Self::direct_access).
    fn store(&self, frame: Frame, offset: u64, from: &[u8]) -> Result<usize, IoError>;

    /// Zeroes `length` bytes inside one frame, durable when it returns. A whole frame clears its poison.
    ///
    /// # Errors
    /// As the device says.
    fn zero(&self, frame: Frame, offset: u64, length: u64) -> Result<(), IoError>;

    /// The first frame of `frames` that a device still holds pinned, if any.
    #[doc(alias = "dax_layout_busy_page")]
    fn first_pinned(&self, frames: FrameRange) -> Option<Frame>;

    /// Sleeps until `frame` is no longer pinned. Called with no lock of the engine held.
    fn wait_unpinned(&self, frame: Frame);

    /// Notes whose pages these frames are from now on, `None` for nobody's, for reverse look-ups. Exactly one call with
    /// an owner when an entry comes to stand for the frames, and one without when it ceases to (SEMANTICS I11). Called with the tree
    /// lock held: it must neither wait nor call the engine.
    #[doc(alias = "dax_associate_entry")]
    #[doc(alias = "dax_disassociate_entry")]
    fn associate(&self, frames: FrameRange, owner: Option<Owner>) {
        let _ = (frames, owner);
    }
}

/// What the page tables hold for the 2 MiB around an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[doc(alias = "pmd_t")]
pub enum Pmd {
    /// Nothing.
    None,
    /// A table of 4 KiB translations.
    Table,
    /// One 2 MiB translation, read-only.
    HugeReadOnly,
    /// One 2 MiB translation, writable.
    HugeWritable,
}

/// The rights a translation gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rights {
    /// Loads only.
    ReadOnly,
    /// Loads and stores, marked dirty at once; writable only if the VMA allows writing.
    WritableDirty,
}

/// What becomes of private copies when a range is unmapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(alias = "even_cows")]
pub enum PrivateCopies {
    /// They stay: they are the program's own.
    Keep,
    /// They go too: the file has been truncated under them.
    Drop,
}

/// Who sees the next store to a page that was write-protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WriteTracking {
    /// It comes to the engine as a fault: the dirty mark may be cleared.
    Faults,
    /// It does not: the host kernel keeps that account, and the mark has to stay.
    Native,
}

/// The page tables of one virtual memory area. File pages name the addresses.
///
/// Every call may sleep, none may fault on memory that the engine serves. A run is a whole number of units of its order, in the
/// VMA. An existing translation only gains rights (SEMANTICS 4.4).
pub trait AddressSpace: Send + Sync {
    /// Whether [`unmap`](Self::unmap) shows the file itself at once, so that stores go through without a fault. What is stored so must not meet zeros that
    /// another space still shows (I9): where there are several, all of them [hold](Self::hold_zeros) accesses first.
    const UNMAP_SHOWS_THE_FILE: bool = false;

    /// The page-table level that holds `index`.
    fn pmd(&self, index: PageIndex) -> Pmd;

    /// Maps storage: page `run.start` to `frame`, the rest behind it. Answers with the rights that stores have found
    /// possible: a space whose host tracks stores itself may grant more than was asked, and the engine then marks the entry dirty.
    ///
    /// # Errors
    /// No memory for page tables; the level is taken; or the host refused.
    fn install_storage(
        &self,
        run: PageRange,
        frame: Frame,
        order: Order,
        rights: Rights,
    ) -> Result<Rights, InstallError>;

    /// Maps the common zero page of `order` over `run`, read-only.
    ///
    /// # Errors
    /// As [`install_storage`](Self::install_storage), and [`InstallError::NoHugeZero`].
    #[doc(alias = "dax_load_hole")]
    #[doc(alias = "dax_pmd_load_hole")]
    fn install_zeros(&self, run: PageRange, order: Order) -> Result<(), InstallError>;

    /// Gives a private VMA its own writable copy of page `index`: of `from`, or of zeros.
    ///
    /// # Errors
    /// No memory, or the copy met poison.
    #[doc(alias = "cow_page")]
    fn install_copy(&self, index: PageIndex, from: Option<Frame>) -> Result<(), InstallError>;

    /// After it returns no load through this VMA sees what was mapped in `range`; the next access finds storage anew. Either the file
    /// system has storage there by now, or nothing was mapped but storage.
    #[doc(alias = "unmap_mapping_pages")]
    fn unmap(&self, range: PageRange, copies: PrivateCopies);

    /// Takes zeros away from `range` although the file has no storage there, and the next access has to come as a fault. A space that
    /// unmaps by showing the file itself (which is right once there is storage) must not do so here: stores would tell nobody.
    fn unmap_zeros(&self, range: PageRange) {
        self.unmap(range, PrivateCopies::Keep);
    }

    /// [`unmap`](Self::unmap) of `range` follows, in this space and in others that may show zeros there: until then an access to what shows zeros here
    /// waits. Asked only of spaces with [`UNMAP_SHOWS_THE_FILE`](Self::UNMAP_SHOWS_THE_FILE).
    fn hold_zeros(&self, range: PageRange) {
        let _ = range;
    }

    /// Takes the right to store to `range` from every translation to the storage at `frame`, and its dirty bit.
    #[doc(alias = "pfn_mkclean_range")]
    fn write_protect(&self, range: PageRange, frame: Frame) -> WriteTracking;

    /// Leaves nothing at the page-table level that holds `index`, so that translations of the other size can follow: a 2 MiB one goes, and
    /// so does a table that holds no translation. A table that holds one stays.
    #[doc(alias = "split_huge_pmd")]
    #[doc(alias = "collapse_pte_mapped_thp")]
    fn clear_pmd(&self, index: PageIndex);
}

/// What a lock guards. Whoever tries every schedule asks, so as to take two ways that come to the same for one.
pub trait Guarded: Send {
    /// Tells `state` all that anybody can find out under the lock, and whether that is all.
    fn describe(&self, state: &mut dyn Hasher) -> bool {
        let _ = state;
        false
    }
}

/// A lock that is held for a moment: the tree lock, a wait bucket. Its implementation may spin or sleep.
pub trait ShortLock<T>: Send + Sync {
    /// What holding it looks like; dropping unlocks.
    type Guard<'a>: DerefMut<Target = T>
    where
        Self: 'a,
        T: 'a;

    /// A lock around `value`.
    fn new(value: T) -> Self;

    /// Takes the lock.
    fn lock(&self) -> Self::Guard<'_>;
}

/// One sleep of one thread: an [`unpark`](Self::unpark) before the [`park`](Self::park) makes it return at once.
pub trait Parker: Send + Sync {
    /// A token nobody has unparked yet.
    fn new() -> Arc<Self>
    where
        Self: Sized;

    /// Sleeps until [`unpark`](Self::unpark) has been called.
    fn park(&self);

    /// Ends the sleep.
    fn unpark(&self);
}

/// A number that is written under a lock and read without it. It orders nothing: whoever relies on what it says has been ordered
/// behind the writer by a lock.
pub trait Counter: Send + Sync {
    /// A counter that stands at `value`.
    fn new(value: usize) -> Self;

    /// What it stands at.
    fn load(&self) -> usize;

    /// From now on it stands at `value`. The caller excludes other writers.
    fn store(&self, value: usize);
}

/// That of every platform whose threads are real.
impl Counter for AtomicUsize {
    fn new(value: usize) -> Self {
        Self::new(value)
    }

    fn load(&self) -> usize {
        self.load(Ordering::Relaxed)
    }

    fn store(&self, value: usize) {
        self.store(value, Ordering::Relaxed);
    }
}

/// How threads exclude each other and wait, so that std, loom, shuttle and a kernel can each supply theirs to the same engine.
pub trait Platform: Sized + Send + Sync + 'static {
    /// The lock.
    type Lock<T: Guarded>: ShortLock<T>;
    /// The sleep.
    type Parker: Parker + 'static;
    /// The number that is read without a lock.
    type Counter: Counter;

    /// Does a step of which the caller learns `told` and nothing else. For those who try every schedule, and take two ways that come to the same
    /// for one; else it is the step alone.
    fn step<T, H: Hash>(act: impl FnOnce() -> T, told: impl FnOnce(&T) -> H) -> T {
        let _ = told;
        act()
    }
}

/// The four of them together: what world an engine lives in.
pub trait World: Sized + Send + Sync + 'static {
    /// Locks and sleeps.
    type Platform: Platform;
    /// One file's extents.
    type Filesystem: Filesystem + 'static;
    /// The storage.
    type Media: Media + 'static;
    /// One VMA's page tables.
    type Space: AddressSpace + 'static;
}
