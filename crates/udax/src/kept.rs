//! What a mapping can do while it has its file at hand: copy bytes out and in although the file may be cut, and reserve storage.

use crate::mmap::{Inner, Mmap, MmapMut, MmapOptions};
use crate::process::runtime;
use crate::shared_map::SharedMap;
use std::io;
use std::sync::Arc;
use udax_core::{PAGE_BYTES, PMD_BYTES, PageRange};
use udax_linux::{Access, Errno, FileHandle, Sharing, SignalsBlocked};

/// Bytes that are read at once, into memory of our own: the caller's might be a mapping in which faults are served.
const CHUNK: usize = 256 << 10;
/// Storage that is reserved by one call: others wait for the thread that makes it.
const RESERVED_AT_ONCE: u64 = 64 << 20;
/// A place that can be stored to by all accounts, and yet cannot, is tried so often: where faults are served in user mode only, what was made ready
/// may be taken back (see `prepare`).
const ATTEMPTS: u32 = 8;

/// The file of a mapping, in udax's own table of descriptors: so the program may close its own, and loses no record lock when this closes.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) handle: Arc<FileHandle>,
    pub(crate) name: Arc<str>,
    /// The byte of the file at which the mapping begins.
    pub(crate) offset: u64,
}

/// What is known of the bytes at some place without reading them.
enum Known {
    /// So many are zeros; none if the file ends there.
    Zeros(usize),
    /// Nothing is known of so many.
    Nothing(usize),
}

impl MmapOptions {
    /// Keeps the file at hand, for [`Mmap::read_at`], [`MmapMut::write_at`] and [`MmapMut::reserve`]. It takes a descriptor, in udax's own table
    /// and not in the program's, until the mapping is dropped; where faults cannot be served, mapping fails.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// # if udax_linux::probe().engine().is_err() { return Ok(()) }
    /// let file = tempfile::tempfile()?;
    /// file.set_len(8 << 20)?;
    /// // SAFETY: the slice is not used.
    /// let map = unsafe { udax::MmapOptions::new().keep_file().map(&file)? };
    /// file.set_len(5)?; // it may as well be another process that cuts the file
    /// let mut bytes = [1; 8];
    /// assert_eq!(map.read_at(0, &mut bytes)?, 5); // a load from the slice, further behind, would be SIGBUS
    /// assert_eq!(map.read_at(4 << 20, &mut bytes)?, 0);
    /// # Ok(()) }
    /// ```
    pub fn keep_file(&mut self) -> &mut Self {
        self.keeps_file = true;
        self
    }
}

impl Inner {
    pub(crate) fn keep_file(&mut self, fd: i32, offset: u64) -> Result<(), Errno> {
        let Some(mapped) = &self.mapped else { return Ok(()) };
        let served = {
            let _signals = SignalsBlocked::new();
            let regions = runtime().state.regions();
            regions.at(mapped.address()).map(|region| Arc::clone(&region.file.handle))
        };
        let handle = match (served, runtime().service()) {
            (Some(handle), _) => handle,
            (None, Ok(service)) => FileHandle::keep(service, fd)?,
            (None, Err(_)) => return Err(Errno::OPNOTSUPP),
        };
        let name = crate::descriptors::name_of(fd).into();
        self.kept = Some(Kept { handle, name, offset });
        Ok(())
    }

    fn kept(&self) -> io::Result<&Kept> {
        if runtime().state.is_of_the_parent() {
            let what = "a forked child does not have the file at hand";
            return Err(io::Error::new(io::ErrorKind::Unsupported, what));
        }
        self.kept.as_ref().ok_or_else(|| {
            let what = "the mapping was made without MmapOptions::keep_file";
            io::Error::new(io::ErrorKind::InvalidInput, what)
        })
    }

    fn refuse_private(&self) -> io::Result<()> {
        let sharing = self.mapped.as_ref().map(|mapped| mapped.area().sharing());
        if sharing != Some(Sharing::Private) {
            return Ok(());
        }
        let what = "a private mapping may show copies of its own, which the file does not have";
        Err(io::Error::new(io::ErrorKind::Unsupported, what))
    }

    fn read_at(&self, offset: usize, into: &mut [u8]) -> io::Result<usize> {
        let length = self.length.saturating_sub(offset).min(into.len());
        let Some(mapped) = self.mapped.as_ref().filter(|_| length > 0) else { return Ok(0) };
        let kept = self.kept()?;
        let mut done = 0;
        while done < length {
            if let Some(count) = self.read_unsaved(offset + done, &mut into[done..length]) {
                done += count;
                continue;
            }
            let at = kept.offset + (offset + done) as u64;
            let read = match kept.known(mapped.address(), at, length - done) {
                Known::Zeros(count) => {
                    into[done..done + count].fill(0);
                    Ok(count)
                }
                Known::Nothing(count) => kept.read(at, &mut into[done..done + count]),
            };
            match read {
                Ok(0) => break,
                Ok(count) => done += count,
                // Left to the next call.
                Err(_) if done > 0 => break,
                Err(errno) => return Err(kept.failed(errno, "read", at, length as u64)),
            }
        }
        Ok(done)
    }

    fn write_at(&self, offset: usize, from: &[u8]) -> io::Result<usize> {
        let length = self.length.saturating_sub(offset).min(from.len());
        let Some(mapped) = self.mapped.as_ref().filter(|_| length > 0) else { return Ok(0) };
        let kept = self.kept()?;
        self.refuse_private()?;
        let start = self.skipped + offset;
        let first = kept.offset + offset as u64;
        let failed = |errno, done: usize| kept.failed(errno, "write", first + done as u64, 1);
        // Nothing is stored to the rest of the last page: it would come to light when the file grows (tmpfs).
        let length = kept.in_file(first, length).map_err(|errno| failed(errno, 0))?;
        let (mut done, mut attempts) = (0, 0);
        while done < length {
            let begin = mapped.address() + start + done;
            let _prepared = runtime().prepare(begin..begin + (length - done), Access::Write);
            let _readable = crate::prepare_to_be_read(&from[done..length]);
            match mapped.copy_in(start + done, &from[done..length]) {
                Ok(count) => (done, attempts) = (done + count, 0),
                Err(Errno::FAULT) if attempts < ATTEMPTS => {
                    attempts += 1;
                    let place = first + done as u64;
                    if kept.in_file(place, 1).map_err(|errno| failed(errno, done))? == 0 {
                        break;
                    }
                    // The kernel does not say why. This call does, or it helps.
                    match kept.make_room(place, attempts) {
                        Ok(()) => {}
                        Err(_) if done > 0 => break,
                        Err(errno) => return Err(failed(errno, done)),
                    }
                }
                Err(_) if done > 0 => break,
                Err(errno) => return Err(failed(errno, done)),
            }
        }
        // It may have been cut meanwhile.
        kept.in_file(first, done).map_err(|errno| failed(errno, done))
    }

    fn reserve(&self, offset: usize, length: usize) -> io::Result<()> {
        self.pages_of(offset, length)?;
        let kept = self.kept()?;
        let end = kept.offset + (offset + length) as u64;
        let mut at = kept.offset + offset as u64;
        while at < end {
            let part = (end - at).min(RESERVED_AT_ONCE);
            let reserved = kept.handle.allocate(at, part);
            reserved.map_err(|errno| kept.failed(errno, "reserve", at, end - at))?;
            at += part;
        }
        Ok(())
    }
}

impl Kept {
    pub(crate) fn failed(&self, errno: Errno, what: &str, at: u64, length: u64) -> io::Error {
        let cause = io::Error::from(errno);
        let what = format!("cannot {what} {length} bytes at {at} of {}: {cause}", self.name);
        io::Error::new(cause.kind(), what)
    }

    /// What is known of `length` bytes of the file at `at`, by whoever serves the mapping at `address`. While the registry is held nobody else can
    /// store to a hole, or cut the file: he would wait for the proof to end.
    fn known(&self, address: usize, at: u64, length: usize) -> Known {
        let _signals = SignalsBlocked::new();
        let regions = runtime().state.regions();
        let Some(region) = regions.at(address) else { return Known::Nothing(length) };
        let range = PageRange::of_bytes(at, length as u64);
        let Some(hole) = region.file.host.first_hole(range) else { return Known::Nothing(length) };
        let up_to =
            |end: u64| usize::try_from(end.saturating_sub(at)).map_or(length, |n| n.min(length));
        if hole.start > range.start {
            return Known::Nothing(up_to(hole.start.byte()));
        }
        match self.handle.size() {
            Ok(size) => Known::Zeros(up_to(hole.end.byte().min(size))),
            Err(_) => Known::Nothing(length),
        }
    }

    /// How many of `length` bytes at `at` the file has now.
    fn in_file(&self, at: u64, length: usize) -> Result<usize, Errno> {
        let left = self.handle.size()?.saturating_sub(at);
        Ok(usize::try_from(left).map_or(length, |left| left.min(length)))
    }

    /// Allocates the page of byte `at`; where that was not enough the `attempt` before, more around it: a file system that keeps pages in larger pieces wants
    /// room for a whole piece before it lets anybody store to one of them (ext4).
    pub(crate) fn make_room(&self, at: u64, attempt: u32) -> Result<(), Errno> {
        let length = match attempt {
            0 | 1 => PAGE_BYTES,
            2 => 16 * PAGE_BYTES,
            _ => PMD_BYTES,
        };
        let start = at / length * length;
        let end = (start + length).min(self.handle.size()?.next_multiple_of(PAGE_BYTES));
        self.handle.allocate(start, end.max(start + 1) - start)
    }

    fn read(&self, at: u64, into: &mut [u8]) -> Result<usize, Errno> {
        let length = into.len().min(CHUNK);
        let mut buffer = vec![0; length];
        let count = self.handle.pread(&mut buffer, at)?;
        into[..count].copy_from_slice(&buffer[..count]);
        Ok(count)
    }
}

impl Mmap {
    /// Copies bytes out of the mapping, though another process may cut the file at any time: where the file ends, or the mapping does, fewer bytes are copied, and none at or behind
    /// the end. Nothing is loaded through the mapping, so there is no `SIGBUS`; holes of a served mapping are told as zeros without being read, and take
    /// neither storage nor page cache. What is not served is read as read(2) reads. Blocks.
    ///
    /// # Errors
    /// `InvalidInput` if the mapping was made without [`MmapOptions::keep_file`]; else of pread(2), naming file and range.
    pub fn read_at(&self, offset: usize, into: &mut [u8]) -> io::Result<usize> {
        self.inner.read_at(offset, into)
    }
}

impl MmapMut {
    /// As [`Mmap::read_at`].
    ///
    /// # Errors
    /// As [`Mmap::read_at`]; `Unsupported` for a private mapping.
    pub fn read_at(&self, offset: usize, into: &mut [u8]) -> io::Result<usize> {
        self.inner.refuse_private()?;
        self.inner.read_at(offset, into)
    }

    /// Copies bytes into the mapping, though another process may cut the file at any time: fewer bytes where the file ends by now, or the mapping does, and none at
    /// or behind the end; it never makes the file longer. The kernel copies, so there is no `SIGBUS`. Blocks.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// # if udax_linux::probe().engine().is_err() { return Ok(()) }
    /// let file = tempfile::tempfile()?;
    /// file.set_len(8 << 20)?;
    /// // SAFETY: the slice is not used.
    /// let mut map = unsafe { udax::MmapOptions::new().keep_file().map_mut(&file)? };
    /// map.reserve(0, 64 << 10)?; // stores there do not run out of space
    /// assert_eq!(map.write_at(100, b"stored")?, 6);
    /// let mut bytes = [0; 6];
    /// assert_eq!(map.read_at(100, &mut bytes)?, 6);
    /// assert_eq!(&bytes, b"stored");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// `InvalidInput` if the mapping was made without [`MmapOptions::keep_file`], `Unsupported` if it is private; no space, a quota, or what else is in the way of the first
    /// byte, naming the file. Behind the first byte it makes the count shorter.
    pub fn write_at(&mut self, offset: usize, from: &[u8]) -> io::Result<usize> {
        self.inner.write_at(offset, from)
    }

    /// Reserves storage for some bytes, so that stores there cannot run out of space. What they hold stays, and holes go on being shown without memory.
    /// Behind the end of the file, which stays where it is, it helps who makes the file longer later. Blocks. [`File::reserve`](crate::File::reserve) says what file systems promise.
    ///
    /// # Errors
    /// `InvalidInput` for bytes that are not in the mapping, or if it was made without [`MmapOptions::keep_file`]; else of fallocate(2), naming file and what of the range could not be
    /// reserved: no space, a quota, or a range past the largest file. What was reserved before that stays so, and nothing that was stored is lost.
    pub fn reserve(&self, offset: usize, len: usize) -> io::Result<()> {
        self.inner.reserve(offset, len)
    }
}

impl SharedMap {
    /// As [`Mmap::read_at`].
    ///
    /// # Errors
    /// As [`Mmap::read_at`].
    pub fn read_at(&self, offset: usize, into: &mut [u8]) -> io::Result<usize> {
        self.inner.read_at(offset, into)
    }

    /// As [`MmapMut::write_at`].
    ///
    /// # Errors
    /// As [`MmapMut::write_at`].
    pub fn write_at(&self, offset: usize, from: &[u8]) -> io::Result<usize> {
        self.inner.write_at(offset, from)
    }

    /// As [`MmapMut::reserve`].
    ///
    /// # Errors
    /// As [`MmapMut::reserve`].
    pub fn reserve(&self, offset: usize, len: usize) -> io::Result<()> {
        self.inner.reserve(offset, len)
    }
}
