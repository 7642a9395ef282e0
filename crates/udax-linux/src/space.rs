//! One VMA of real memory: which of its pages are trap, zero and plain, and how they become one another.
//!
//! A page becomes zero only from trap, and plain from anything; only [`LinuxSpace::relay_traps`] leads back. Every change is
//! one mmap or mremap, so that another thread sees the old or the new. Plain is always right: whatever fails ends there.
//!
//! The lock of a space is held over these calls. None of them waits for a fault to be served, and the events that an mremap
//! needs to have read are read by the thread that wants it: so the fault thread may wait for this lock like any other.

use crate::area::{Prot, Sharing, VmaArea};
use crate::catcher::Catcher;
use crate::file::FileHandle;
use crate::guarded;
use crate::inject::{self, Point};
use crate::plain;
use crate::platform::lock;
use crate::runs::{Run, RunState, Runs, stretches, together, units};
use crate::service::{Service, die};
use crate::strangers::forget_strangers_in;
use crate::sys::errno::Errno;
use crate::sys::mem;
use crate::sys::signal::SignalsBlocked;
use crate::window::{self, Failure, Prepared};
use linux_raw_sys::general as k;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use udax_core::{Order, PageIndex, PageRange, PrivateCopies};

/// One VMA. It starts plain: the kernel's own mapping of the file must lie there already. Dropping it changes no memory.
pub struct LinuxSpace {
    file: Arc<FileHandle>,
    state: Mutex<State>,
    overflowed: AtomicBool,
}

pub(crate) struct State {
    pub(crate) area: VmaArea,
    pub(crate) runs: Runs,
    /// The 2 MiB units (by first page) of zero runs to which 4 KiB faults are to come.
    pub(crate) split: BTreeSet<PageIndex>,
    /// Zeros that were made traps until all mappings of the file have given theirs up.
    held_back: Vec<PageRange>,
    /// Some of it may be in VMAs of its own, for which scattered accesses are expected.
    pub(crate) scattered: bool,
    /// Zero pages for the rest of some 2 MiB, while a fault is served there.
    pub(crate) prepared: Option<Prepared>,
    /// What the service's count includes for this space.
    counted: u64,
}

/// The lock of a space; signal handlers of the program do not run on a thread that has it.
pub(crate) struct Held<'a> {
    pub(crate) state: MutexGuard<'a, State>,
    _quiet: Option<SignalsBlocked>,
}

impl fmt::Debug for LinuxSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinuxSpace")
            .field("area", &self.area())
            .field("runs", &self.runs())
            .finish()
    }
}

impl LinuxSpace {
    /// A space for `area`, all plain.
    #[must_use]
    pub fn new(area: VmaArea, file: Arc<FileHandle>) -> Self {
        Self::with_runs(area, file, Runs::default())
    }

    fn with_runs(area: VmaArea, file: Arc<FileHandle>, runs: Runs) -> Self {
        let mut state = State::new(area, runs);
        state.recount(file.service());
        file.service().expect_faults(&(area.address()..area.end()));
        Self { file, state: Mutex::new(state), overflowed: AtomicBool::new(false) }
    }

    pub(crate) fn service(&self) -> &Service {
        self.file.service()
    }

    pub(crate) fn hold(&self) -> Held<'_> {
        inject::die_holding(Point::SpaceLock, || lock(&self.state));
        let quiet = (!Service::on_service_thread()).then(SignalsBlocked::new);
        Held { state: lock(&self.state), _quiet: quiet }
    }

    /// The addresses and rights as they are now.
    #[must_use]
    pub fn area(&self) -> VmaArea {
        self.hold().state.area
    }

    /// The file it maps.
    #[must_use]
    pub const fn file(&self) -> &Arc<FileHandle> {
        &self.file
    }

    /// Whether more was made plain than was asked for, because the kernel refused the part alone; it is told once. Whoever knows which
    /// other mappings of the file show zeros has to see to those.
    pub fn take_overflow(&self) -> bool {
        self.overflowed.swap(false, Ordering::Relaxed)
    }

    /// Every run, in order; neighbours in the same state are one.
    #[must_use]
    pub fn runs(&self) -> Vec<Run> {
        let held = self.hold();
        held.state.runs.all(held.state.area.pages)
    }

    /// The state of one page.
    #[must_use]
    pub fn state_of(&self, page: PageIndex) -> RunState {
        self.hold().state.runs.state_of(page)
    }

    /// Gives up what was kept for more windows in the 2 MiB of the last one. To be called when a fault has been served, before the VMA can change.
    pub fn end_of_fault(&self) {
        drop(self.hold().state.prepared.take());
    }

    /// Whether all of `range` that is in this VMA is plain.
    #[must_use]
    pub fn is_plain(&self, range: PageRange) -> bool {
        let held = self.hold();
        let range = range.intersect(held.state.area.pages);
        held.state.runs.in_range(range).all(|run| run.state == RunState::Plain)
    }

    /// The first trap in `range`.
    #[must_use]
    pub fn first_trap(&self, range: PageRange) -> Option<PageRange> {
        self.first_run(range, |state| state == RunState::Trap).map(|run| run.pages)
    }

    /// The first run in `range`, cut to it, whose state is one that is looked for; plain is none.
    #[must_use]
    pub fn first_run(&self, range: PageRange, is_it: impl Fn(RunState) -> bool) -> Option<Run> {
        let held = self.hold();
        held.state.runs.in_range(range).find(|run| is_it(run.state))
    }

    /// Lays a trap over the part of `range` that is in this VMA; it must be plain, and no other thread may use it yet. Pages
    /// behind the end of the file are to be left out: they have to stay plain, for the kernel's SIGBUS.
    ///
    /// # Errors
    /// What the kernel refused; the range is plain then, as before.
    pub fn lay_traps(&self, range: PageRange) -> Result<(), Errno> {
        self.trap(range, window::lay)
    }

    /// The same while other threads use the mapping: they see the file before, and fault after. For shared mappings.
    ///
    /// # Errors
    /// [`Errno::INVAL`] for a private mapping, whose copies would be lost; what the kernel refused: the range is plain then.
    pub fn relay_traps(&self, range: PageRange) -> Result<(), Errno> {
        if self.area().sharing() == Sharing::Private {
            return Err(Errno::INVAL);
        }
        self.trap(range, window::lay_live)
    }

    fn trap(
        &self,
        range: PageRange,
        lay: fn(&Service, &VmaArea, PageRange) -> Result<(), Failure>,
    ) -> Result<(), Errno> {
        let mut held = self.hold();
        let state = &mut *held.state;
        let range = range.intersect(state.area.pages);
        if range.is_empty() {
            return Ok(());
        }
        let laid = self.service().with_descriptors(|| lay(self.service(), &state.area, range));
        if laid.is_ok() {
            state.runs.set(range, RunState::Trap);
        } else if let Err(Failure::Halfway(_)) = laid {
            self.plain_now(state, range);
        }
        state.recount(self.service());
        laid.map_err(Failure::errno)
    }

    /// Makes all of it plain, and one VMA again where nothing else keeps it apart; the private copies stay. Ends the process if the kernel refuses even that.
    pub fn plain_all(&self) {
        let all = PageRange::from(PageIndex(0));
        self.plain(all);
        let scattered = std::mem::take(&mut self.hold().state.scattered);
        if scattered {
            self.advise_plain(all, k::MADV_NORMAL);
        }
    }

    /// Makes the part of `range` that is in this VMA plain; the private copies stay. As [`plain_all`](Self::plain_all).
    pub fn plain(&self, range: PageRange) {
        let mut held = self.hold();
        let state = &mut *held.state;
        self.make_plain(state, range, PrivateCopies::Keep, &[RunState::Trap, RunState::Zero]);
    }

    /// Makes accesses wait where `range` shows zeros, until they are unmapped or all is made plain: for who is to make several mappings of a file plain. A store
    /// through the first must not meet zeros that the last still shows. Private ones become plain at once, as no store through them reaches the file.
    pub fn hold_back(&self, range: PageRange) {
        let mut held = self.hold();
        let state = &mut *held.state;
        let zeros = stretches(&state.runs, range.intersect(state.area.pages), &[RunState::Zero]);
        self.trap_zeros_in(state, range);
        state.held_back.extend(zeros.iter().map(|run| run.pages));
    }

    /// Makes plain what was held back of `range`; the rest is for who held it.
    pub(crate) fn end_hold(&self, state: &mut State, range: PageRange) {
        let is_ours = |piece: &mut PageRange| !piece.intersect(range).is_empty();
        for piece in state.held_back.extract_if(.., is_ours).collect::<Vec<_>>() {
            let ours = piece.intersect(range);
            self.make_plain(state, ours, PrivateCopies::Keep, &[RunState::Trap]);
            let rest = [(piece.start, ours.start), (ours.end, piece.end)];
            let rest = rest.map(|(start, end)| PageRange::between(start, end));
            state.held_back.extend(rest.into_iter().filter(|rest| !rest.is_empty()));
        }
    }

    /// Puts traps in the place of zero runs in `range`, at once for other threads. Private ones become plain and keep their copies: no
    /// store through them reaches the file.
    pub(crate) fn trap_zeros(&self, range: PageRange) {
        let mut held = self.hold();
        self.trap_zeros_in(&mut held.state, range);
    }

    fn trap_zeros_in(&self, state: &mut State, range: PageRange) {
        if state.area.sharing() == Sharing::Private {
            self.make_plain(state, range, PrivateCopies::Keep, &[RunState::Zero]);
            return;
        }
        let service = self.service();
        let range = range.intersect(state.area.pages);
        for piece in stretches(&state.runs, range, &[RunState::Zero]) {
            let piece = piece.pages;
            let laid = service.with_descriptors(|| window::lay_live(service, &state.area, piece));
            if laid.is_ok() {
                state.runs.set(piece, RunState::Trap);
            } else {
                self.plain_now(state, piece);
            }
        }
        state.recount(service);
    }

    /// Maps the file over `range`, which holds no private copies, whatever is there: the way out where nothing else could be had.
    pub(crate) fn plain_now(&self, state: &mut State, range: PageRange) {
        let service = self.service();
        let (area, file) = (state.area, self.file.descriptor());
        self.overflowed.store(true, Ordering::Relaxed);
        let map = || service.with_reserve(|| plain::map(service, &area, file, range));
        match service.with_descriptors(map) {
            Ok(()) => state.runs.set(range, RunState::Plain),
            Err(errno) => failed(range, errno),
        }
    }

    /// Maps the file over what of `range` is in one of `states`; if that cannot be, over everything.
    pub(crate) fn make_plain(
        &self,
        state: &mut State,
        range: PageRange,
        copies: PrivateCopies,
        states: &[RunState],
    ) {
        let service = self.service();
        let pages = state.area.pages;
        let range = range.intersect(pages);
        if state.runs.in_range(range).all(|run| !states.contains(&run.state)) {
            return;
        }
        service.with_descriptors(|| {
            let mut first = self.plain_in(state, range, copies, states);
            if first == Err(Errno::NOENT) {
                forget_strangers_in(service, state, pages);
                first = self.plain_in(state, range, copies, states);
            }
            if first.is_err() {
                self.overflowed.store(true, Ordering::Relaxed);
                let everything = &[RunState::Trap, RunState::Zero];
                let whole = || self.plain_in(state, pages, copies, everything);
                if let Err(errno) = service.with_reserve(whole) {
                    failed(pages, errno);
                }
            }
        });
        state.recount(service);
    }

    fn plain_in(
        &self,
        state: &mut State,
        range: PageRange,
        copies: PrivateCopies,
        states: &[RunState],
    ) -> Result<(), Errno> {
        let pieces: Vec<Run> = match state.area.sharing() {
            // Plain pages between them may be mapped once more: they show the file before and after.
            Sharing::Shared => together(stretches(&state.runs, range, states)),
            Sharing::Private => {
                state.runs.in_range(range).filter(|run| states.contains(&run.state)).collect()
            }
        };
        let (service, file) = (self.service(), self.file.descriptor());
        for piece in pieces {
            let keeps = state.area.sharing() == Sharing::Private
                && piece.state == RunState::Zero
                && copies == PrivateCopies::Keep;
            if !keeps {
                plain::map(service, &state.area, file, piece.pages)?;
                state.runs.set(piece.pages, RunState::Plain);
                continue;
            }
            for part in units(piece.pages) {
                plain::map_keeping_copies(service, &state.area, file, part)?;
                state.runs.set(part, RunState::Plain);
            }
        }
        Ok(())
    }

    /// Keeps the pages before `page` and gives the rest. No memory is touched; no fault of this VMA may be under way.
    ///
    /// # Panics
    /// Unless `page` lies inside.
    #[must_use]
    pub fn split_at(&mut self, page: PageIndex) -> Self {
        let file = Arc::clone(&self.file);
        let mut held = self.hold();
        let state = &mut *held.state;
        let pages = state.area.pages;
        assert!(pages.start < page && page < pages.end, "a part would be empty");
        let (lower, upper) = state.area.split(page);
        let runs = state.runs.split_off(page);
        state.area = lower;
        state.recount(file.service());
        let scattered = state.scattered;
        let mut other = Self::with_runs(upper, file, runs);
        other.state.get_mut().unwrap_or_else(PoisonError::into_inner).scattered = scattered;
        other
    }

    /// All that it is, for who does not own it; it is left without a page. No memory is touched; no fault of this VMA may be under way.
    #[must_use]
    pub fn take(&self) -> Self {
        let mut held = self.hold();
        let area = held.state.area;
        let none = VmaArea { pages: PageRange::new(area.pages.start, 0), ..area };
        let left = State::new(none, Runs::default());
        let state = std::mem::replace(&mut *held.state, left);
        let overflowed = AtomicBool::new(self.take_overflow());
        Self { file: Arc::clone(&self.file), state: Mutex::new(state), overflowed }
    }

    /// [`split_at`](Self::split_at) for who owns the space.
    ///
    /// # Panics
    /// Unless `page` lies inside.
    #[must_use]
    pub fn into_split(mut self, page: PageIndex) -> (Self, Self) {
        let upper = self.split_at(page);
        (self, upper)
    }

    /// The parts of it whose rights in the kernel are not those that the program gives: their addresses, in order, and the rights that they are to have there
    /// when it gives `prot`.
    #[must_use]
    pub fn rights_of_parts(&self, prot: Prot) -> Vec<(Range<usize>, Prot)> {
        if let Catcher::Userfaultfd(_) = self.service().catcher() {
            return Vec::new();
        }
        let held = self.hold();
        let area = held.state.area;
        let part = |run: Run| {
            let (address, length_bytes) = area.span(run.pages);
            let rights = guarded::rights(area.sharing(), run.state, prot)?;
            Some((address..address + length_bytes, rights))
        };
        held.state.runs.in_range(area.pages).filter_map(part).collect()
    }

    /// Notes the rights that later pieces are to have; the mprotect is done already, or this VMA has no faults.
    pub fn set_prot(&self, prot: Prot) {
        self.hold().state.area.prot = prot;
    }

    /// Runs `change`, which is to unmap `range` or map something else there, with faults of this VMA held off: else the fault
    /// thread might put a window over what comes there next. If it succeeds, the runs of `range` are forgotten.
    ///
    /// # Errors
    /// Those of `change`.
    pub fn while_unmapping<R, E>(
        &self,
        range: PageRange,
        change: impl FnOnce() -> Result<R, E>,
    ) -> Result<R, E> {
        let mut held = self.hold();
        let answer = change()?;
        let state = &mut *held.state;
        state.runs.set(range.intersect(state.area.pages), RunState::Plain);
        state.recount(self.service());
        Ok(answer)
    }
}

/// Nothing right can be shown any more.
fn failed(range: PageRange, errno: Errno) -> ! {
    let (start, end) = (range.start.byte(), range.end.byte());
    die(&format!("mapping bytes {start} to {end} of the file again: {errno}"))
}

impl Drop for LinuxSpace {
    fn drop(&mut self) {
        let counted = self.state.get_mut().map_or(0, |state| state.counted);
        self.file.service().runs.fetch_sub(counted, Ordering::Relaxed);
    }
}

impl State {
    const fn new(area: VmaArea, runs: Runs) -> Self {
        Self {
            area,
            runs,
            split: BTreeSet::new(),
            held_back: Vec::new(),
            scattered: false,
            prepared: None,
            counted: 0,
        }
    }

    /// Puts a window over `piece`, a trap. On a service thread.
    pub(crate) fn open_window(
        &mut self,
        service: &Service,
        piece: PageRange,
    ) -> Result<(), Failure> {
        let Catcher::Userfaultfd(uffd) = service.catcher() else {
            return window::open(service, &self.area, piece);
        };
        let unit = PageRange::unit(piece.start, Order::Pmd);
        if self.prepared.as_ref().is_none_or(|prepared| prepared.unit() != unit) {
            self.prepared = None;
            let traps = self.runs.in_range(unit).filter(|run| run.state == RunState::Trap).count();
            let is_huge = self.area.pages.covers(unit)
                && self.area.address_of(unit.start).is_multiple_of(mem::HUGE);
            if traps < 2 || !is_huge || !unit.covers(piece) || !service.huge_zero_pages {
                return window::open(service, &self.area, piece);
            }
            let prepared =
                Prepared::new(service, uffd, &self.area, unit).map_err(Failure::Before)?;
            self.prepared = Some(prepared);
        }
        match &mut self.prepared {
            Some(prepared) => prepared.open(service, &self.area, piece),
            None => window::open(service, &self.area, piece),
        }
    }

    /// Tells the service how many runs there are now.
    pub(crate) fn recount(&mut self, service: &Service) {
        let count = self.runs.count();
        service.runs.fetch_add(count, Ordering::Relaxed);
        service.runs.fetch_sub(self.counted, Ordering::Relaxed);
        self.counted = count;
    }
}
