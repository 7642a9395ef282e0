//! The life of a fault between the address space and the engine: which region it is in, what is known of the file's holes there, how much to map in
//! one go, and what is left to do where the engine has no answer.

use crate::opened::Opening;
use crate::regions::Region;
use crate::runtime::State;
use crate::served::whole_units;
use crate::window::Reason;
use std::sync::{Arc, mpsc};
use std::time::Duration;
use udax_core::{Fault, Order, PMD_PAGES, PageIndex, PageRange, Sharing};
use udax_host::HostKind;
use udax_linux::inject::{self, Point};
use udax_linux::{Access, Cause, Engine, FaultEvent, InPlace, RunState, Verdict, at_work};

/// Runs that a process may have before VMAs go plain as a whole; from half of them on 2 MiB that are holes in part go plain. Each costs up to
/// two mappings of the kernel's, of which a process may have 65,530 by default.
const RUN_LIMIT: u64 = 20_000;
/// How long a fault waits to learn of holes. Longer only if the file's own lock is held by a write that waits for this very fault.
const SURVEY_PATIENCE: Duration = Duration::from_millis(20);
/// How far a survey for a fault looks: 1 GiB.
const SURVEY_PAGES: u64 = 1 << 18;
/// Look-ups of one survey, about a millisecond of them: mapping a file must not cost a walk over its extents.
pub(crate) const SURVEY_LOOKUPS: u32 = 2048;
/// Pages around a load that are looked through for more holes at most: 64 MiB.
const AROUND_PAGES: u64 = 32 * PMD_PAGES;

impl State {
    /// Serves a fault. On `udax-fault`.
    pub(crate) fn serve_fault(&self, event: FaultEvent) -> Verdict {
        let regions = self.regions();
        // None: the program has unmapped it meanwhile, or it has become plain for good. The retry gets the kernel's own answer.
        let Some(region) = regions.at(event.address) else { return Verdict::Free };
        let space = &region.vma.space;
        let area = space.area();
        let Some(index) = area.page_of(event.address) else { return Verdict::Free };
        // A userfaultfd does not tell of what the kernel refuses.
        if !area.prot().allows(event.access) {
            return Verdict::NotOurs;
        }
        let operation = match event.access {
            Access::Read => "a load",
            Access::Write => "a store",
        };
        let _at_work = at_work(operation, &region.file.name, PageRange::new(index, 1));
        inject::pass(Point::FaultThread);
        inject::stop_here();
        region.file.count_fault();
        match space.serve_in_place(event) {
            InPlace::Free => return Verdict::Free,
            InPlace::Served => region.file.settle_overflow(),
            InPlace::NeedsEngine => self.serve_by_engine(region, index, event),
        }
        Verdict::Served
    }

    fn serve_by_engine(&self, region: &Region, index: PageIndex, event: FaultEvent) {
        if region.file.handle.service().runs() > RUN_LIMIT {
            make_plain(region, region.vma.pages);
            return;
        }
        survey_for(region, index);
        if region.file.handle.service().runs() > RUN_LIMIT / 2 && is_mixed(region, index) {
            make_plain(region, PageRange::unit(index, Order::Pmd));
            region.file.settle_overflow();
            return;
        }
        if event.access == Access::Read && region.loads.are_sparse(region.vma.pages) {
            make_plain(region, region.vma.pages);
            return;
        }
        let ahead = serve(region, index, event);
        match event.access {
            Access::Write => self.open_around(region, index),
            Access::Read => {
                serve_around(region, index, ahead);
                region.file.settle_overflow();
            }
        }
        region.vma.space.end_of_fault();
    }

    /// After a first store at `index`: opens as much around it as the stores before suggest, and has it watched.
    fn open_around(&self, region: &Region, index: PageIndex) {
        let (vma, file) = (&*region.vma, &region.file);
        if vma.sharing != Sharing::Shared {
            return;
        }
        let unit = PageRange::unit(index, Order::Pmd);
        let is_whole = vma.space.is_plain(unit);
        let unit = if is_whole { unit } else { PageRange::new(index, 1) };
        let (wanted, reason) = region.stores.around_store(unit, || {
            // Elsewhere a file system may let us wait for what it likes.
            let before =
                PageRange::new(PageIndex(unit.start.0.saturating_sub(PMD_PAGES)), PMD_PAGES);
            is_whole
                && file.host.kind() == HostKind::Tmpfs
                && vma.pages.covers(before)
                && vma.space.touched(before).is_ok_and(|touched| touched == [before])
        });
        let mut opened = unit;
        if wanted != unit {
            let in_file = PageRange::between(PageIndex(0), file.pages());
            // Whole units: zeros that stick out of the range go with their entry, and become plain in every mapping. All that becomes plain has to be assigned.
            opened = whole_units(wanted.intersect(vma.pages).intersect(in_file));
            if opened.is_empty() || !open(region, opened) {
                return;
            }
        }
        let why = match reason {
            Reason::Filling => return vma.space.populate(opened),
            Reason::InOrder => Opening::InOrder,
            // It has no cache beside the file itself.
            Reason::Guess if file.host.kind() == HostKind::Tmpfs => Opening::Guess,
            Reason::Guess => {
                vma.space.expect_scattered(opened, true);
                Opening::Scattered
            }
        };
        self.note_opened(file, opened, index, why);
    }
}

/// Maps the file over `range` in one region, before anybody stores there.
fn open(region: &Region, range: PageRange) -> bool {
    let (file, space) = (&region.file, &region.vma.space);
    // First, as zeros there become plain before the change is made.
    file.host.assign(range);
    // Excludes faults and whoever gives back, so that what is shown and what is assigned stay the same.
    let opened = file.mapping.change_layout(range, |host| {
        host.assign(range);
        space.plain(range);
        Ok(())
    });
    file.settle_overflow();
    opened.is_ok()
}

/// The walk of a fault through the engine. Whatever it comes to, the access can be tried again afterwards. How many pages behind its 2 MiB
/// a load is to have as well.
fn serve(region: &Region, index: PageIndex, event: FaultEvent) -> u64 {
    let vma = &*region.vma;
    // A private store makes its copy in the kernel, once the page shows what the file has.
    let access = match (event.access, vma.sharing) {
        (Access::Write, Sharing::Shared) => udax_core::Access::Write,
        (Access::Read, _) | (Access::Write, Sharing::Private) => udax_core::Access::Read,
    };
    let behind = match access {
        udax_core::Access::Read => region.loads.ahead_of_load(index),
        udax_core::Access::Write => 0,
    };
    let ahead = match access {
        // The rest of a 2 MiB that can only be had in 4 KiB units comes along.
        udax_core::Access::Read => in_hole_behind(region, index, behind + PMD_PAGES - 1),
        udax_core::Access::Write => 0,
    };
    // A signal does not tell what was in the way.
    let translation_present = event.cause == Cause::WriteProtected
        || region.file.handle.service().engine() == Engine::Signals
            && vma.space.state_of(index) == RunState::Zero;
    let fault = Fault { translation_present, ahead, ..Fault::new(vma, index, access) };
    inject::pass(Point::Engine);
    let outcome = region.file.mapping.fault(&fault);
    let served = match vma.space.state_of(index) {
        RunState::Plain => true,
        RunState::Zero => access == udax_core::Access::Read,
        RunState::Trap => false,
    };
    if outcome.is_error() || !served {
        // Always right: the kernel then maps the page, or gives its own SIGBUS. And an end: the access cannot come here again.
        make_plain(region, PageRange::new(index, 1));
    }
    region.file.settle_overflow();
    behind
}

/// The plain mapping goes in for the units of `range` in one region, and the zeros there out of all others.
fn make_plain(region: &Region, range: PageRange) {
    let units = whole_units(range);
    region.file.host.keep(units);
    region.file.mapping.invalidate(units);
    region.vma.space.plain(units);
}

/// After a load: the rest of its 2 MiB as well, and what comes behind if loads come in order, where it is holes in part and so took more than one
/// run. A fault in user space costs more than some windows.
fn serve_around(region: &Region, index: PageIndex, ahead: u64) {
    let space = &region.vma.space;
    let unit = PageRange::unit(index, Order::Pmd);
    let mut rest = PageRange::between(unit.start, unit.end.plus(ahead.min(AROUND_PAGES)));
    while let Some(trap) = space.first_trap(rest) {
        if !region.file.host.knows(trap.start) {
            return;
        }
        let fault = Fault {
            ahead: in_hole_behind(region, trap.start, PMD_PAGES - 1),
            ..Fault::new(&region.vma, trap.start, udax_core::Access::Read)
        };
        let outcome = region.file.mapping.fault(&fault);
        if outcome.is_error() || space.state_of(trap.start) == RunState::Trap {
            return;
        }
        rest.start = trap.start;
    }
}

/// How many of `most` pages behind `index` are in the hole of `index`. An entry that the engine makes and takes back costs as much as one that it keeps.
fn in_hole_behind(region: &Region, index: PageIndex, most: u64) -> u64 {
    let hole = region.file.host.hole_at(index);
    hole.map_or(most, |hole| (hole.end.0 - index.0 - 1).min(most))
}

/// Whether the 2 MiB of `index` are holes in part, and so would be several runs.
fn is_mixed(region: &Region, index: PageIndex) -> bool {
    let unit = PageRange::unit(index, Order::Pmd);
    let holes = region.file.host.hole_pages(unit);
    holes != 0 && holes != unit.len()
}

/// Learns where holes are from `index` on, if that is not known. Seeking takes the file's lock in the kernel, so another thread does
/// it; if it does not come back in time, the page counts as storage, which is right for every page.
fn survey_for(region: &Region, index: PageIndex) {
    if region.file.host.knows(index) {
        return;
    }
    let (host, (told, heard)) = (region.file.host.clone(), mpsc::channel());
    let (name, range) = (Arc::clone(&region.file.name), PageRange::new(index, SURVEY_PAGES));
    region.file.handle.service().post_file_work(move || {
        let _at_work = at_work("a look for holes", &name, range);
        inject::run_out_of_memory(Point::SurveyMemory);
        let _ = host.survey_within(range, SURVEY_LOOKUPS);
        let _ = told.send(());
    });
    let _ = heard.recv_timeout(SURVEY_PATIENCE);
}
