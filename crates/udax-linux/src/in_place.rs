//! Faults that are served without the engine: nothing of the file is asked or changed by them.

use crate::area::{Sharing, VmaArea};
use crate::catcher::Catcher;
use crate::events::{Access, Cause, FaultEvent};
use crate::runs::{Run, RunState};
use crate::space::{LinuxSpace, State};
use crate::stats::add;
use crate::strangers::{are_rights_there, forget_in};
use crate::sys::errno::Errno;
use crate::sys::uffd::Protection;
use crate::userfaultfd::Userfaultfd;
use crate::window;
use udax_core::{Order, PageIndex, PageRange, PrivateCopies};

/// Whether [`LinuxSpace::serve_in_place`] was enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InPlace {
    /// The thread can try again.
    Served,
    /// Nothing was in its way.
    Free,
    /// The engine has to decide what the page is to show.
    NeedsEngine,
}

impl LinuxSpace {
    /// Serves what needs no engine: a page that has become plain meanwhile; a piece of a zero window that the program emptied
    /// by MADV_DONTNEED; the first store to 2 MiB of a private zero window. On the fault thread.
    #[must_use]
    pub fn serve_in_place(&self, fault: FaultEvent) -> InPlace {
        let mut held = self.hold();
        let state = &mut *held.state;
        let Some(page) = state.area.page_of(fault.address) else { return InPlace::Free };
        let Some(run) = state.runs.at(page) else { return InPlace::Free };
        let Catcher::Userfaultfd(uffd) = self.service().catcher() else {
            let needs_engine = match (run.state, state.area.sharing()) {
                (RunState::Trap, _) => true,
                (RunState::Zero, Sharing::Shared) => fault.access == Access::Write,
                (RunState::Zero, Sharing::Private) | (RunState::Plain, _) => false,
            };
            if needs_engine {
                return InPlace::NeedsEngine;
            }
            // With the space held nobody of ours takes rights away; so if they are missing, it is not our mapping that lies there.
            let is_there = are_rights_there(self.service(), fault.address, fault.access);
            return if is_there { InPlace::Served } else { InPlace::Free };
        };
        match (run.state, state.area.sharing()) {
            (RunState::Plain, _) => InPlace::Free,
            (RunState::Trap, _) => InPlace::NeedsEngine,
            (RunState::Zero, Sharing::Shared) if fault.access == Access::Write => {
                InPlace::NeedsEngine
            }
            (RunState::Zero, Sharing::Shared) => {
                self.repair(state, page, run);
                InPlace::Served
            }
            (RunState::Zero, Sharing::Private) => {
                self.serve_private(uffd, state, page, run, fault.cause);
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
    fn serve_private(
        &self,
        uffd: &Userfaultfd,
        state: &mut State,
        page: PageIndex,
        run: Run,
        cause: Cause,
    ) {
        let service = self.service();
        let piece = PageRange::unit(page, Order::Pmd).intersect(run.pages);
        let served = match cause {
            // The kernel maps the zero page where nothing is, and makes its own copy of it at a store. It does not matter how
            // far it comes: whoever finds nothing comes here.
            Cause::Missing => {
                add(&service.stats().repairs, 1);
                let (address, length_bytes) = state.area.span(PageRange::between(page, piece.end));
                service.with_descriptors(|| {
                    match uffd.zero_pages(address, length_bytes) {
                        // Another thread's store was first, or only a part could be done.
                        Err(Errno::EXIST | Errno::AGAIN) => Ok(()),
                        answer => answer,
                    }
                })
            }
            Cause::WriteProtected => {
                service.with_descriptors(|| open_to_stores(uffd, &state.area, page, piece))
            }
        };
        if served == Err(Errno::NOENT) {
            service.with_descriptors(|| forget_in(service, state, piece, RunState::Zero));
        } else if served.is_err() {
            self.make_plain(state, piece, PrivateCopies::Keep, &[RunState::Zero]);
        }
    }
}

/// Lets stores through in `piece` of a private window.
///
/// A store to an unprotected 2 MiB zero page gets 2 MiB of real memory from the kernel. Unprotecting one page of it makes the
/// kernel split it first, and then each store gets 4 KiB.
fn open_to_stores(
    uffd: &Userfaultfd,
    area: &VmaArea,
    page: PageIndex,
    piece: PageRange,
) -> Result<(), Errno> {
    for range in [PageRange::new(page, 1), piece] {
        let (address, length_bytes) = area.span(range);
        uffd.protect(address, length_bytes, Protection::Nothing)?;
    }
    Ok(())
}
