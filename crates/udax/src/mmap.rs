//! The library's mappings, shaped like `memmap2`'s.
#![expect(
    unsafe_code,
    reason = "the constructors pass the caller's promise on to udax-linux, which holds all other unsafe code"
)]

use crate::advice::Advice;
use crate::eligible::Refusal;
use crate::kept::Kept;
use crate::no_space::{Callback, Guard};
use crate::process::runtime;
use crate::report::{MapReport, UnitReport, UnitState};
use crate::runtime::Promise;
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use udax_core::{NotHuge, Order, PAGE_BYTES, PageIndex, PageRange};
use udax_linux::{Errno, Mapped, Prot, Sharing, SignalsBlocked};

const PROT_READ: i32 = 1;
const PROT_WRITE: i32 = 2;
const MS_ASYNC: i32 = 1;
pub(crate) const MS_SYNC: i32 = 4;

/// How to map a file.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// let file = tempfile::tempfile()?;
/// file.set_len(8 << 20)?;
/// // SAFETY: nobody else has the file.
/// let map = unsafe { udax::MmapOptions::new().offset(2 << 20).len(4 << 20).map(&file)? };
/// assert!(map.iter().all(|&byte| byte == 0));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default)]
pub struct MmapOptions {
    offset: u64,
    length: Option<usize>,
    populate: bool,
    exclusive: bool,
    pub(crate) keeps_file: bool,
    pub(crate) no_space: Option<Callback>,
}

impl MmapOptions {
    /// The whole file.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts at this byte of the file; any offset will do.
    pub fn offset(&mut self, offset: u64) -> &mut Self {
        self.offset = offset;
        self
    }

    /// Maps so many bytes; without it, up to the end of the file.
    pub fn len(&mut self, length: usize) -> &mut Self {
        self.length = Some(length);
        self
    }

    /// Makes everything present before the call returns. Holes cost no memory all the same.
    pub fn populate(&mut self) -> &mut Self {
        self.populate = true;
        self
    }

    /// A promise that no other process writes the file while it is mapped; then no lease is asked for. Nothing checks it: if it is
    /// broken, loads may go on seeing zeros where the other process has written.
    pub fn assume_exclusive(&mut self) -> &mut Self {
        self.exclusive = true;
        self
    }

    /// Maps for loads.
    ///
    /// # Safety
    /// 1. While the slice is in use nobody changes the mapped bytes of the file or truncates it: neither this process nor another, by
    ///    whatever means.
    ///
    /// # Errors
    /// Of the kernel's mmap(2), naming the range.
    pub unsafe fn map(&self, file: impl AsFd) -> io::Result<Mmap> {
        let inner = self.make(file.as_fd().as_raw_fd(), Sharing::Shared, PROT_READ)?;
        Ok(Mmap { inner })
    }

    /// Maps for loads and stores, which reach the file.
    ///
    /// # Safety
    /// As [`map`](Self::map), and nobody else reads the bytes through another reference while they are being changed.
    ///
    /// # Errors
    /// As [`map`](Self::map).
    pub unsafe fn map_mut(&self, file: impl AsFd) -> io::Result<MmapMut> {
        let inner = self.make(file.as_fd().as_raw_fd(), Sharing::Shared, PROT_READ | PROT_WRITE)?;
        Ok(MmapMut { inner })
    }

    /// Maps for loads and stores, which stay private.
    ///
    /// # Safety
    /// As [`map`](Self::map).
    ///
    /// # Errors
    /// As [`map`](Self::map).
    pub unsafe fn map_copy(&self, file: impl AsFd) -> io::Result<MmapMut> {
        let inner =
            self.make(file.as_fd().as_raw_fd(), Sharing::Private, PROT_READ | PROT_WRITE)?;
        Ok(MmapMut { inner })
    }

    /// Maps a private copy for loads only.
    ///
    /// # Safety
    /// As [`map`](Self::map).
    ///
    /// # Errors
    /// As [`map`](Self::map).
    pub unsafe fn map_copy_read_only(&self, file: impl AsFd) -> io::Result<Mmap> {
        let inner = self.make(file.as_fd().as_raw_fd(), Sharing::Private, PROT_READ)?;
        Ok(Mmap { inner })
    }

    pub(crate) fn make(&self, fd: i32, sharing: Sharing, prot: i32) -> io::Result<Inner> {
        let context = |errno: Errno, length: usize| {
            let cause = io::Error::from(errno);
            let name = crate::descriptors::name_of(fd);
            let what = format!("cannot map {length} bytes at {} of {name}: {cause}", self.offset);
            io::Error::new(cause.kind(), what)
        };
        let length = match self.length {
            Some(length) => length,
            None => {
                let size = udax_linux::file_info(fd).map_err(|e| context(e, 0))?.size_bytes;
                usize::try_from(size.saturating_sub(self.offset))
                    .map_err(|_| context(Errno::NOMEM, usize::MAX))?
            }
        };
        let start = PageIndex::of_byte(self.offset).byte();
        let skipped = usize::try_from(self.offset - start).unwrap_or(0);
        if length == 0 {
            return Ok(Inner::default());
        }
        let whole = length.checked_add(skipped).ok_or_else(|| context(Errno::NOMEM, length))?;
        let mapped = Mapped::new(fd, start, whole, sharing, Prot::from_bits(prot), 0)
            .map_err(|errno| context(errno, length))?;
        let promise = if self.exclusive { Promise::Exclusive } else { Promise::None };
        let refusal = runtime().adopt(mapped.area(), fd, promise).err();
        if let Some(refusal) = &refusal {
            runtime().count_refusal(refusal);
        }
        let mapped = Some(mapped);
        let mut inner = Inner { mapped, skipped, length, refusal, kept: None, guard: None };
        if self.keeps_file {
            inner.keep_file(fd, self.offset).map_err(|errno| context(errno, length))?;
        }
        if let Some(decide) = &self.no_space {
            inner.guard(decide)?;
        }
        if self.populate {
            inner.advise(Advice::PopulateRead, 0, length)?;
        }
        Ok(inner)
    }
}

/// What both kinds of mapping are.
#[derive(Debug, Default)]
pub(crate) struct Inner {
    /// `None` for a mapping of no bytes, and while it is being dropped.
    pub(crate) mapped: Option<Mapped>,
    /// Bytes between the page border and the offset asked for.
    pub(crate) skipped: usize,
    pub(crate) length: usize,
    refusal: Option<Refusal>,
    /// The file, if it is kept at hand.
    pub(crate) kept: Option<Kept>,
    /// Who is asked where there is no space.
    pub(crate) guard: Option<Arc<Guard>>,
}

impl Inner {
    fn slice(&self) -> &[u8] {
        let Some(mapped) = &self.mapped else { return &[] };
        // SAFETY: 1: promised by whoever made the mapping; 2: every mapping here may be read.
        let whole = unsafe { mapped.as_slice() };
        &whole[self.skipped..self.skipped + self.length]
    }

    fn slice_mut(&mut self) -> &mut [u8] {
        let Some(mapped) = &mut self.mapped else { return &mut [] };
        // SAFETY: 1: promised by whoever made the mapping; 2: only `MmapMut` calls this, whose mappings may be written.
        let whole = unsafe { mapped.as_mut_slice() };
        &mut whole[self.skipped..self.skipped + self.length]
    }

    /// The whole pages that hold the bytes, as an offset in the mapping and a length.
    pub(crate) fn pages_of(&self, offset: usize, length: usize) -> io::Result<(usize, usize)> {
        if offset.checked_add(length).is_none_or(|end| end > self.length) {
            let what =
                format!("bytes {offset} and {length} more are not in a mapping of {}", self.length);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        let from = self.skipped + offset;
        let start = from - from % 4096;
        Ok((start, from + length - start))
    }

    fn advise(&self, advice: Advice, offset: usize, length: usize) -> io::Result<()> {
        let (start, length) = self.pages_of(offset, length)?;
        let Some(mapped) = &self.mapped else { return Ok(()) };
        // Hints about traps and windows are not the kernel's business.
        if self.refusal.is_none() && advice != Advice::PopulateRead {
            return Ok(());
        }
        let begin = mapped.address() + start;
        let _prepared = (advice == Advice::PopulateRead)
            .then(|| runtime().prepare(begin..begin + length, udax_linux::Access::Read));
        Ok(mapped.madvise(start, length, advice.bits())?)
    }

    pub(crate) fn flush(&self, offset: usize, length: usize, flags: i32) -> io::Result<()> {
        let (start, length) = self.pages_of(offset, length)?;
        let Some(mapped) = &self.mapped else { return Ok(()) };
        let begin = mapped.address() + start;
        let addresses = begin..begin + length;
        let saved = self.guard.as_ref().map_or(Ok(()), |guard| guard.flush(&addresses));
        let native = || mapped.msync(start, length, flags);
        let synced = runtime().sync(addresses, flags, native).map_err(|errno| {
            let cause = io::Error::from(errno);
            let what = format!("cannot flush bytes {offset} and {length} more: {cause}");
            io::Error::new(cause.kind(), what)
        });
        // All else is durable whatever could not be saved.
        saved.and(synced)
    }

    pub(crate) fn report(&self) -> MapReport {
        let refused = self.refusal.as_ref().map(ToString::to_string);
        let Some(mapped) = &self.mapped else {
            return MapReport { plain_because: refused, proof: None, units: Vec::new() };
        };
        let _signals = SignalsBlocked::new();
        let area = mapped.area();
        let regions = runtime().state.regions();
        let region = regions.at(area.address());
        let mut units = Vec::new();
        let mut next = area.pages().start;
        while next < area.pages().end {
            let unit = PageRange::unit(next, Order::Pmd).intersect(area.pages());
            let runs = region.map(|region| region.vma.space.runs()).unwrap_or_default();
            let mut states = runs.iter().filter(|run| !run.pages.intersect(unit).is_empty());
            let first = states.next().map_or(UnitState::Plain, |run| run.state.into());
            let state = if states.next().is_some() { UnitState::Mixed } else { first };
            let why = region.and_then(|r| r.file.mapping.why_not_huge(&r.vma, next));
            units.push(UnitReport {
                offset: unit.start.byte(),
                length: unit.len() * PAGE_BYTES,
                state,
                why_not_2mib: match (region, state) {
                    (None, _) => Some("the mapping is plain".to_owned()),
                    (Some(_), UnitState::Plain) => Some("it has data, in 4 KiB pages".to_owned()),
                    (Some(_), _) => why.map(|why| why_in_words(why).to_owned()),
                },
            });
            next = unit.end;
        }
        let proof = region.map(|region| region.file.proof_name());
        let ended = "its service has ended (statistics tell why)".to_owned();
        let plain_because = refused.or_else(|| region.is_none().then_some(ended));
        MapReport { plain_because, proof, units }
    }
}

/// The engine's reasons for people.
fn why_in_words(why: NotHuge) -> &'static str {
    match why {
        NotHuge::Colour => "address and offset differ modulo 2 MiB",
        NotHuge::PrivateWrite => "private stores copy 4 KiB",
        NotHuge::VmaBounds => "it sticks out of the mapping",
        NotHuge::EndOfFile => "the file ends in it",
        NotHuge::SmallEntry => "4 KiB of it were mapped before",
        NotHuge::FilesystemError => "the file system refused",
        NotHuge::ExtentTooShort => "an extent ends in it",
        NotHuge::Storage => "its storage is not aligned",
        NotHuge::NoTranslation => "no 2 MiB translation was to be had",
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(guard) = self.guard.take() {
            guard.end();
        }
        if let Some(mapped) = self.mapped.take() {
            runtime().unmap(mapped);
        }
    }
}

/// A mapping for loads.
#[derive(Debug)]
pub struct Mmap {
    pub(crate) inner: Inner,
}

/// A mapping for loads and stores.
#[derive(Debug)]
pub struct MmapMut {
    pub(crate) inner: Inner,
}

impl Mmap {
    /// Maps a whole file for loads.
    ///
    /// # Safety
    /// As [`MmapOptions::map`].
    ///
    /// # Errors
    /// As [`MmapOptions::map`].
    pub unsafe fn map(file: impl AsFd) -> io::Result<Self> {
        // SAFETY: the same promise.
        unsafe { MmapOptions::new().map(file) }
    }

    /// Gives the kernel a hint about all of it.
    ///
    /// # Errors
    /// Of madvise(2).
    pub fn advise(&self, advice: Advice) -> io::Result<()> {
        self.inner.advise(advice, 0, self.inner.length)
    }

    /// Gives the kernel a hint about some bytes.
    ///
    /// # Errors
    /// Of madvise(2); `InvalidInput` for bytes that are not in the mapping.
    pub fn advise_range(&self, advice: Advice, offset: usize, len: usize) -> io::Result<()> {
        self.inner.advise(advice, offset, len)
    }

    /// How it is mapped, 2 MiB by 2 MiB, and why not larger. A snapshot.
    #[must_use]
    pub fn report(&self) -> MapReport {
        self.inner.report()
    }
}

impl MmapMut {
    /// Maps a whole file for loads and stores.
    ///
    /// # Safety
    /// As [`MmapOptions::map_mut`].
    ///
    /// # Errors
    /// As [`MmapOptions::map_mut`].
    pub unsafe fn map_mut(file: impl AsFd) -> io::Result<Self> {
        // SAFETY: the same promise.
        unsafe { MmapOptions::new().map_mut(file) }
    }

    /// Makes all stores so far durable. Blocks.
    ///
    /// # Errors
    /// Of the file system: what could not be written is still dirty, or lost as msync(2) says. No space, or a quota, as long as something
    /// is kept in memory ([`MmapOptions::on_no_space`]), naming file and range; all else is durable then.
    pub fn flush(&self) -> io::Result<()> {
        self.inner.flush(0, self.inner.length, MS_SYNC)
    }

    /// Makes the stores to some bytes durable (whole pages of them). Blocks.
    ///
    /// # Errors
    /// As [`flush`](Self::flush); `InvalidInput` for bytes that are not in the mapping.
    pub fn flush_range(&self, offset: usize, len: usize) -> io::Result<()> {
        self.inner.flush(offset, len, MS_SYNC)
    }

    /// Starts that, and does not wait.
    ///
    /// # Errors
    /// As [`flush`](Self::flush).
    pub fn flush_async(&self) -> io::Result<()> {
        self.inner.flush(0, self.inner.length, MS_ASYNC)
    }

    /// Starts that for some bytes, and does not wait.
    ///
    /// # Errors
    /// As [`flush_range`](Self::flush_range).
    pub fn flush_async_range(&self, offset: usize, len: usize) -> io::Result<()> {
        self.inner.flush(offset, len, MS_ASYNC)
    }

    /// Gives the kernel a hint about all of it.
    ///
    /// # Errors
    /// Of madvise(2).
    pub fn advise(&self, advice: Advice) -> io::Result<()> {
        self.inner.advise(advice, 0, self.inner.length)
    }

    /// Gives the kernel a hint about some bytes.
    ///
    /// # Errors
    /// Of madvise(2); `InvalidInput` for bytes that are not in the mapping.
    pub fn advise_range(&self, advice: Advice, offset: usize, len: usize) -> io::Result<()> {
        self.inner.advise(advice, offset, len)
    }

    /// How it is mapped, 2 MiB by 2 MiB, and why not larger. A snapshot.
    #[must_use]
    pub fn report(&self) -> MapReport {
        self.inner.report()
    }
}

impl Deref for Mmap {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.inner.slice()
    }
}

impl AsRef<[u8]> for Mmap {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Deref for MmapMut {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.inner.slice()
    }
}

impl DerefMut for MmapMut {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.inner.slice_mut()
    }
}

impl AsRef<[u8]> for MmapMut {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl AsMut<[u8]> for MmapMut {
    fn as_mut(&mut self) -> &mut [u8] {
        self
    }
}
