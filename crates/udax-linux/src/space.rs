//! One VMA of real memory: which of its pages are trap, zero and plain, and how they become one another.
//!
//! A page becomes zero only from trap, and plain from anything; only [`LinuxSpace::relay_traps`] leads back. Every change is
//! one mmap or mremap, so that another thread sees the old or the new. Plain is always right: whatever fails ends there.
//!
//! The lock of a space is held over these calls. None of them waits for a fault to be served, and the events that an mremap
//! needs to have read are read by the thread that wants it: so the fault thread may wait for this lock like any other.

use crate::area::{Prot, Sharing, VmaArea};
use crate::file::FileHandle;
use crate::plain;
use crate::platform::lock;
use crate::runs::{Run, RunState, Runs, stretches, together, units};
use crate::service::{Access, Cause, FaultEvent, Service, die};
use crate::stats::add;
use crate::sys::errno::Errno;
use crate::sys::signal::SignalsBlocked;
use crate::sys::{fd, mem, pagemap, uffd};
use crate::window::{self, Failure};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use udax_core::{Order, PageIndex, PageRange, PrivateCopies};

/// Whether [`LinuxSpace::serve_in_place`] was enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InPlace {
    /// The thread can try again.
    Served,
    /// The engine has to decide what the page is to show.
    NeedsEngine,
}

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
        let mut state =
            State { area, runs, split: BTreeSet::new(), held_back: Vec::new(), counted: 0 };
        state.recount(file.service());
        Self { file, state: Mutex::new(state), overflowed: AtomicBool::new(false) }
    }

    pub(crate) fn service(&self) -> &Service {
        self.file.service()
    }

    pub(crate) fn hold(&self) -> Held<'_> {
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

    /// Serves what needs no engine: a page that has become plain meanwhile; a piece of a zero window that the program emptied
    /// by MADV_DONTNEED; the first store to 2 MiB of a private zero window. On the fault thread.
    #[must_use]
    pub fn serve_in_place(&self, fault: FaultEvent) -> InPlace {
        let mut held = self.hold();
        let state = &mut *held.state;
        let Some(page) = state.area.page_of(fault.address) else { return InPlace::Served };
        let Some(run) = state.runs.at(page) else { return InPlace::Served };
        match (run.state, state.area.sharing()) {
            (RunState::Plain, _) => InPlace::Served,
            (RunState::Trap, _) => InPlace::NeedsEngine,
            (RunState::Zero, Sharing::Shared) if fault.access == Access::Write => {
                InPlace::NeedsEngine
            }
            (RunState::Zero, Sharing::Shared) => {
                self.repair(state, page, run);
                InPlace::Served
            }
            (RunState::Zero, Sharing::Private) => {
                self.serve_private(state, page, run, fault.cause);
                InPlace::Served
            }
        }
    }

    /// A load found nothing in a shared window: makes the 2 MiB around it anew. What it replaces are zero pages at most.
    fn repair(&self, state: &mut State, page: PageIndex, run: Run) {
        let piece = PageRange::unit(page, Order::Pmd).intersect(run.pages);
        let service = self.service();
        add(&service.stats().repairs, 1);
        let opened = service.with_descriptors(|| window::open(service, &state.area, piece));
        if opened.is_err() {
            self.plain_now(state, piece);
        } else {
            state.runs.set(piece, RunState::Zero);
        }
        state.recount(service);
    }

    /// A store or a load in a private window.
    fn serve_private(&self, state: &mut State, page: PageIndex, run: Run, cause: Cause) {
        let service = self.service();
        let piece = PageRange::unit(page, Order::Pmd).intersect(run.pages);
        let served = match cause {
            // The kernel maps the zero page where nothing is, and makes its own copy of it at a store. It does not matter how
            // far it comes: whoever finds nothing comes here.
            Cause::Missing => {
                add(&service.stats().repairs, 1);
                let (address, length_bytes) = state.area.span(PageRange::between(page, piece.end));
                service.with_descriptors(|| {
                    match uffd::zero_pages(service.table.uffd, address, length_bytes) {
                        // Another thread's store was first, or only a part could be done.
                        Err(Errno::EXIST | Errno::AGAIN) => Ok(()),
                        answer => answer,
                    }
                })
            }
            Cause::WriteProtected => {
                service.with_descriptors(|| open_to_stores(service, &state.area, page, piece))
            }
        };
        if served.is_err() {
            self.make_plain(state, piece, PrivateCopies::Keep, &[RunState::Zero]);
        }
    }

    /// Makes all of it plain; the private copies stay. Ends the process if the kernel refuses even that.
    pub fn plain_all(&self) {
        self.plain(PageRange::from(PageIndex(0)));
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
            self.make_plain(state, piece, PrivateCopies::Keep, &[RunState::Trap]);
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
        match service.with_descriptors(|| plain::map(service, &area, file, range)) {
            Ok(()) => state.runs.set(range, RunState::Plain),
            Err(errno) => die(&format!("mapping the file again failed: {errno}")),
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
            let first = self.plain_in(state, range, copies, states);
            if first.is_err() {
                self.overflowed.store(true, Ordering::Relaxed);
                let everything = &[RunState::Trap, RunState::Zero];
                if let Err(errno) = self.plain_in(state, pages, copies, everything) {
                    die(&format!("mapping the file again failed: {errno}"));
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
        Self::with_runs(upper, file, runs)
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

    /// Runs `change`, which is to mprotect the whole area to `prot`, with faults of this VMA held off; later pieces get
    /// those rights if it succeeds. A shared mapping of a file that is open for reading only must be refused PROT_WRITE by the
    /// caller (EACCES): the trap would allow it.
    ///
    /// # Errors
    /// Those of `change`.
    pub fn while_protecting<R, E>(
        &self,
        prot: Prot,
        change: impl FnOnce() -> Result<R, E>,
    ) -> Result<R, E> {
        let mut held = self.hold();
        let answer = change()?;
        held.state.area.prot = prot;
        Ok(answer)
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

    /// The private pages where no page but the zero page may be: in trap and zero runs of a shared VMA. There must be none; one
    /// found holds stores that have not reached the file.
    ///
    /// # Errors
    /// As the PAGEMAP_SCAN request.
    pub fn audit(&self) -> Result<Vec<PageRange>, Errno> {
        let held = self.hold();
        let state = &*held.state;
        if state.area.sharing() == Sharing::Private {
            return Ok(Vec::new());
        }
        let service = self.service();
        service.with_descriptors(|| {
            let mut found = Vec::new();
            for run in stretches(&state.runs, state.area.pages, &[RunState::Trap, RunState::Zero]) {
                let (address, length_bytes) = state.area.span(run.pages);
                let end = address + length_bytes;
                let pages = pagemap::private_pages(service.table.pagemap, address, end)?;
                found.extend(pages.iter().map(|(start, end)| {
                    let first = run.pages.start.plus(((start - address) / mem::PAGE) as u64);
                    PageRange::new(first, ((end - start) / mem::PAGE) as u64)
                }));
            }
            Ok(found)
        })
    }

    /// The bytes of a page, read through /proc/self/mem, so that the program's rights do not matter.
    ///
    /// # Errors
    /// [`Errno::IO`] if the page cannot be had; [`Errno::INVAL`] if it is not of this VMA.
    pub fn page_bytes(&self, page: PageIndex) -> Result<Box<[u8; 4096]>, Errno> {
        let area = self.area();
        if !area.pages.contains(page) {
            return Err(Errno::INVAL);
        }
        let at = area.address_of(page) as u64;
        let mut bytes = Box::new([0; mem::PAGE]);
        let service = self.service();
        let length = service
            .with_descriptors(|| fd::read_at(service.table.memory, bytes.as_mut_slice(), at))?;
        if length == mem::PAGE { Ok(bytes) } else { Err(Errno::IO) }
    }
}

impl Drop for LinuxSpace {
    fn drop(&mut self) {
        let counted = self.state.get_mut().map_or(0, |state| state.counted);
        self.file.service().runs.fetch_sub(counted, Ordering::Relaxed);
    }
}

impl State {
    /// Tells the service how many runs there are now.
    pub(crate) fn recount(&mut self, service: &Service) {
        let count = self.runs.count();
        service.runs.fetch_add(count, Ordering::Relaxed);
        service.runs.fetch_sub(self.counted, Ordering::Relaxed);
        self.counted = count;
    }
}

/// Lets stores through in `piece` of a private window.
///
/// A store to an unprotected 2 MiB zero page gets 2 MiB of real memory from the kernel. Unprotecting one page of it makes the
/// kernel split it first, and then each store gets 4 KiB.
fn open_to_stores(
    service: &Service,
    area: &VmaArea,
    page: PageIndex,
    piece: PageRange,
) -> Result<(), Errno> {
    for range in [PageRange::new(page, 1), piece] {
        let (address, length_bytes) = area.span(range);
        service.protect(address, length_bytes, uffd::Protection::Nothing)?;
    }
    Ok(())
}
