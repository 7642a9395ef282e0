//! What becomes of a store for which there is no space, in mappings that ask to be told ([`MmapOptions::on_no_space`]).
//!
//! The kernel answers such a store by SIGBUS. Its handler has the thread wait, and a thread of the library, `udax-space`, finds out why: it asks the file system for the storage. With no lock held
//! it asks the program what to do. What is to be kept in memory gets memory in the file's place, and a list here says so until it has been written.
//!
//! Lock order: a mapping's list of what is unsaved, then the table of files and what comes below it.

use crate::kept::Kept;
use crate::mmap::{Inner, MmapOptions};
use crate::process::runtime;
use crate::served::FileKey;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};
use udax_core::{PAGE_BYTES, PageIndex, PageRange};
use udax_linux::{
    BusAnswer, BusQuestion, BusWatch, Errno, FileHandle, Sharing, SignalsBlocked, Unsaved, VmaArea,
    bus_questions, unpoisoned, watch_bus,
};

/// So many pages are kept in memory at once at most; as many as were before, at least.
const KEPT_AT_ONCE: u64 = 512;
/// An access that fails so often in a row although its storage is there fails for another reason.
const IN_VAIN: u32 = 4;

/// There is no space for a store, or for what was stored before.
#[derive(Debug)]
#[non_exhaustive]
pub struct NoSpace<'a> {
    /// The file.
    pub file: &'a str,
    /// The first byte of the file for which there is no space.
    pub offset: u64,
    /// How many there are to be room for.
    pub length: u64,
    /// What the file system said: `StorageFull` or `QuotaExceeded`.
    pub cause: &'a io::Error,
    /// How often this was asked about the same store before.
    pub attempt: u32,
    /// The mapping is being dropped, and what is kept of it in memory goes with it: if this is not tried again, it is lost.
    pub is_last: bool,
}

/// What a store is to come to for which there is no space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WithoutSpace {
    /// The file system is asked again: the program has made room, or has waited.
    TryAgain,
    /// Memory takes the place of the file there, and the store goes on. `flush` fails until it could be written to the file.
    KeepInMemory,
    /// The thread gets `SIGBUS`, as if nobody had asked.
    Signal,
}

/// What the program wants to be asked.
#[derive(Clone)]
pub(crate) struct Callback(Arc<dyn Fn(&NoSpace<'_>) -> WithoutSpace + Send + Sync>);

impl fmt::Debug for Callback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Callback")
    }
}

impl MmapOptions {
    /// Asks `decide` whenever there is no space for a store to a shared mapping, instead of `SIGBUS`; and implies [`keep_file`](Self::keep_file).
    ///
    /// The thread that stores waits for the answer. `decide` runs on a thread of the library's own, `udax-space`, with no lock of udax held, and may do whatever it likes but store to such a mapping
    /// or wait for the thread that does: delete files, ask somebody, wait. One is asked at a time.
    ///
    /// What is kept in memory is in the mapping alone: the file, other mappings and other processes do not have it, and what they store to those bytes meanwhile is not seen here. [`MmapMut::flush`](crate::MmapMut::flush)
    /// writes it, byte for byte what was stored since, and fails with `StorageFull` or `QuotaExceeded` as long as it cannot. Dropping the mapping tries once more, and asks once more before anything is lost. A process that ends otherwise
    /// loses it. The file is not served from then on, until it is mapped again: its mappings are plain.
    ///
    /// It takes the signal `SIGBUS`: of other addresses, for other reasons and in a forked child it goes to the handler that was there before. A handler that comes later must give it on. A thread that blocks `SIGBUS` is ended by it. A system call
    /// that stores to the mapping fails with `EFAULT`, and nobody is asked.
    ///
    /// ```
    /// use udax::{MmapOptions, NoSpace, WithoutSpace};
    /// # fn main() -> std::io::Result<()> {
    /// # if udax_linux::probe().engine().is_err() { return Ok(()) }
    /// # let file = tempfile::tempfile()?;
    /// # file.set_len(8 << 20)?;
    /// let ask = |lack: &NoSpace<'_>| {
    ///     eprintln!("no space for {} bytes at {} of {}", lack.length, lack.offset, lack.file);
    ///     if std::fs::remove_file("cache").is_ok() { WithoutSpace::TryAgain } else { WithoutSpace::KeepInMemory }
    /// };
    /// // SAFETY: nobody truncates or changes the file while the slice is in use.
    /// let mut map = unsafe { MmapOptions::new().on_no_space(ask).map_mut(&file)? };
    /// map[5] = 1;
    /// map.flush()?; // an error as long as something is kept in memory only
    /// # Ok(()) }
    /// ```
    pub fn on_no_space(
        &mut self,
        decide: impl Fn(&NoSpace<'_>) -> WithoutSpace + Send + Sync + 'static,
    ) -> &mut Self {
        self.no_space = Some(Callback(Arc::new(decide)));
        self.keep_file()
    }
}

/// A mapping that asks.
pub(crate) struct Guard {
    area: VmaArea,
    file: Arc<FileHandle>,
    name: Arc<str>,
    decide: Callback,
    unsaved: Mutex<Vec<Unsaved>>,
    _watch: BusWatch,
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("area", &self.area).finish_non_exhaustive()
    }
}

fn guards() -> MutexGuard<'static, Vec<Weak<Guard>>> {
    static GUARDS: Mutex<Vec<Weak<Guard>>> = Mutex::new(Vec::new());
    unpoisoned(GUARDS.lock())
}

impl Inner {
    /// From now on its stores ask.
    pub(crate) fn guard(&mut self, decide: &Callback) -> io::Result<()> {
        let (Some(mapped), Some(kept)) = (&self.mapped, &self.kept) else { return Ok(()) };
        if mapped.area().sharing() == Sharing::Private || !mapped.area().prot().can_write() {
            return Ok(());
        }
        answer_questions()?;
        let area = mapped.area();
        let guard = Arc::new(Guard {
            area,
            file: Arc::clone(&kept.handle),
            name: Arc::clone(&kept.name),
            decide: decide.clone(),
            unsaved: Mutex::default(),
            _watch: watch_bus(area.address()..area.end())?,
        });
        let mut guards = guards();
        guards.retain(|guard| guard.strong_count() > 0);
        guards.push(Arc::downgrade(&guard));
        self.guard = Some(guard);
        Ok(())
    }

    /// The bytes at `offset` of the mapping that are in memory only, of `into.len()` at most; how many.
    pub(crate) fn read_unsaved(&self, offset: usize, into: &mut [u8]) -> Option<usize> {
        let (guard, mapped) = (self.guard.as_ref()?, self.mapped.as_ref()?);
        let place = self.skipped + offset;
        let _signals = SignalsBlocked::new();
        let unsaved = guard.unsaved();
        let page = guard.area.page_of(mapped.address() + place)?;
        let run = unsaved.iter().find(|run| run.pages().contains(page))?;
        let left = guard.area.address_of(run.pages().end) - mapped.address() - place;
        let count = left.min(into.len());
        mapped.load(place, &mut into[..count]);
        Some(count)
    }
}

/// Starts the thread that asks.
fn answer_questions() -> io::Result<()> {
    static STARTED: OnceLock<Result<(), io::ErrorKind>> = OnceLock::new();
    let started = STARTED.get_or_init(|| {
        // It takes no signal of the program's.
        let _signals = SignalsBlocked::new();
        let body = || {
            loop {
                bus_questions().into_iter().for_each(answer);
            }
        };
        let thread = std::thread::Builder::new().name("udax-space".to_owned()).spawn(body);
        thread.map(drop).map_err(|error| error.kind())
    });
    (*started).map_err(io::Error::from)
}

fn answer(question: BusQuestion) {
    let at = question.address();
    let holds = |guard: &Arc<Guard>| (guard.area.address()..guard.area.end()).contains(&at);
    let guard = guards().iter().filter_map(Weak::upgrade).find(holds);
    let answer = guard.map_or(BusAnswer::Deliver, |guard| guard.answer(at, question.thread()));
    question.answer(answer);
}

/// The access that was asked about last, and how often.
static LAST: Mutex<(i32, usize, u32)> = Mutex::new((0, 0, 0));

/// How often `thread` has met this page in a row before.
fn in_a_row(thread: i32, address: usize) -> u32 {
    let mut last = unpoisoned(LAST.lock());
    let page = address / 4096;
    let count = if (last.0, last.1) == (thread, page) { last.2 + 1 } else { 0 };
    *last = (thread, page, count);
    count
}

fn is_lack(errno: Errno) -> bool {
    matches!(errno, Errno::NOSPC | Errno::DQUOT)
}

impl Guard {
    fn unsaved(&self) -> MutexGuard<'_, Vec<Unsaved>> {
        unpoisoned(self.unsaved.lock())
    }

    fn answer(&self, address: usize, thread: i32) -> BusAnswer {
        let Some(page) = self.area.page_of(address) else { return BusAnswer::Deliver };
        let in_vain = in_a_row(thread, address);
        let kept = self.as_kept();
        let mut attempt = 0;
        loop {
            // Kept for another thread meanwhile, or for this one; or the file does not have it any more.
            if self.unsaved().iter().any(|run| run.pages().contains(page)) {
                return if in_vain < IN_VAIN { BusAnswer::TryAgain } else { BusAnswer::Deliver };
            }
            if !self.file.size().is_ok_and(|size| page.byte() < size) {
                return BusAnswer::Deliver;
            }
            match kept.make_room(page.byte(), in_vain + 1) {
                Ok(()) if in_vain < IN_VAIN => return BusAnswer::TryAgain,
                Err(errno) if is_lack(errno) => {
                    match self.ask(page.byte(), PAGE_BYTES, errno, attempt, false) {
                        WithoutSpace::TryAgain => attempt += 1,
                        WithoutSpace::KeepInMemory if self.keep(page).is_ok() => {
                            return BusAnswer::TryAgain;
                        }
                        WithoutSpace::KeepInMemory | WithoutSpace::Signal => {
                            return BusAnswer::Deliver;
                        }
                    }
                }
                Ok(()) | Err(_) => return BusAnswer::Deliver,
            }
        }
    }

    fn as_kept(&self) -> Kept {
        Kept { handle: Arc::clone(&self.file), name: Arc::clone(&self.name), offset: 0 }
    }

    fn ask(&self, at: u64, length: u64, errno: Errno, attempt: u32, is_last: bool) -> WithoutSpace {
        // What comes next is another attempt.
        unpoisoned(LAST.lock()).2 = 0;
        let (offset, cause) = (at, io::Error::from(errno));
        let file = &*self.name;
        (self.decide.0)(&NoSpace { file, offset, length, cause: &cause, attempt, is_last })
    }

    /// Memory takes the place of the file at `page`, and of as many pages without contents behind it as are kept already. The file is served no more, so that nobody else maps
    /// anything there.
    fn keep(&self, page: PageIndex) -> Result<(), Errno> {
        let _signals = SignalsBlocked::new();
        let mut unsaved = self.unsaved();
        let (state, key) = (&runtime().state, FileKey::of(&self.file.info()));
        let mut files = state.files();
        state.end_service(&mut files, key, "there was no space for a store");
        drop(files);
        let before: u64 = unsaved.iter().map(|run| run.pages().len()).sum();
        let size = self.file.size()?.div_ceil(PAGE_BYTES);
        let next = unsaved.iter().map(|run| run.pages().start).filter(|start| *start > page).min();
        let limit = next.unwrap_or(self.area.pages().end).min(self.area.pages().end);
        let count = before.clamp(1, KEPT_AT_ONCE);
        let end = page.plus(count).min(limit).min(PageIndex(size.max(page.0 + 1)));
        unsaved.push(Unsaved::keep(&self.file, &self.area, PageRange::between(page, end))?);
        Ok(())
    }

    /// Writes what is unsaved in `addresses`, as far as there is space. The first place that there is none for.
    fn save(&self, addresses: &Range<usize>) -> Result<(), (PageRange, Errno)> {
        let _signals = SignalsBlocked::new();
        let mut unsaved = self.unsaved();
        if unsaved.is_empty() {
            return Ok(());
        }
        let state = &runtime().state;
        // Nobody begins to serve the file, and looks for its holes, while it is written.
        let files = state.files();
        let served = files.served.get(&FileKey::of(&self.file.info()));
        let wanted = crate::regions::pages_within(self.area, addresses);
        let (mut left, mut outcome) = (Vec::new(), Ok(()));
        for run in unsaved.drain(..) {
            if run.pages().intersect(wanted).is_empty() {
                left.push(run);
                continue;
            }
            if let Some(file) = served {
                let _regions = state.regions();
                file.make_storage(run.pages());
            }
            if let Err((rest, errno)) = run.save(&self.file, &self.area) {
                outcome = outcome.and(Err((rest.pages(), errno)));
                left.push(rest);
            }
        }
        *unsaved = left;
        outcome
    }

    /// [`save`](Self::save) for a sync.
    pub(crate) fn flush(&self, addresses: &Range<usize>) -> io::Result<()> {
        let saved = if runtime().state.is_of_the_parent() {
            // The parent has it too, and may save it. Whoever held the lock at the fork is not here.
            let nothing = self.unsaved.try_lock().is_ok_and(|unsaved| unsaved.is_empty());
            if nothing { Ok(()) } else { Err((self.area.pages(), Errno::OPNOTSUPP)) }
        } else {
            self.save(addresses)
        };
        saved.map_err(|(pages, errno)| {
            let (at, length) = (pages.start.byte(), pages.len() * PAGE_BYTES);
            self.as_kept().failed(errno, "save what was stored to", at, length)
        })
    }

    /// The mapping goes: what is unsaved is saved, or the program is told of it.
    pub(crate) fn end(&self) {
        if runtime().state.is_of_the_parent() {
            return;
        }
        let mut attempt = 0;
        while let Err((pages, errno)) = self.save(&(self.area.address()..self.area.end())) {
            let (at, length) = (pages.start.byte(), pages.len() * PAGE_BYTES);
            if self.ask(at, length, errno, attempt, true) != WithoutSpace::TryAgain {
                return;
            }
            attempt += 1;
        }
    }
}
