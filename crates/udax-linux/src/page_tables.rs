//! The engine's view of a [`LinuxSpace`]: what it asks of page tables, done by replacing runs of the VMA.
//!
//! The kernel's own mapping of the file is the one translation to storage there is. It appears, and zeros are taken back, by
//! the same single mmap; which frame and which rights are asked for makes no difference to it.

use crate::area::Sharing;
use crate::runs::RunState;
use crate::space::LinuxSpace;
use crate::stats::add;
use crate::sys::mem;
use crate::window::Failure;
use udax_core::{
    AddressSpace, Frame, InstallError, Order, PageIndex, PageRange, Pmd, PrivateCopies, Rights,
    WriteTracking,
};

impl AddressSpace for LinuxSpace {
    const UNMAP_SHOWS_THE_FILE: bool = true;

    fn pmd(&self, index: PageIndex) -> Pmd {
        let held = self.hold();
        let unit = PageRange::unit(index, Order::Pmd);
        let area = held.state.area;
        if !area.pages.covers(unit) || !area.address_of(unit.start).is_multiple_of(mem::HUGE) {
            // Never one 2 MiB translation.
            return Pmd::Table;
        }
        match held.state.runs.only_state_of(unit) {
            Some(RunState::Trap) => Pmd::None,
            Some(RunState::Zero) if held.state.split.contains(&unit.start) => Pmd::Table,
            Some(RunState::Zero) => Pmd::HugeReadOnly,
            // Somebody has made it plain since the fault: there is nothing to do.
            Some(RunState::Plain) => Pmd::HugeWritable,
            None => Pmd::Table,
        }
    }

    fn install_storage(
        &self,
        run: PageRange,
        _frame: Frame,
        _order: Order,
        _rights: Rights,
    ) -> Result<Rights, InstallError> {
        // The frame is the page's own number, and the kernel grants what rights the VMA has or an mprotect gives it later.
        self.plain(run);
        let stores_reach_the_file =
            self.area().sharing() == Sharing::Shared && self.file().info().access.can_write();
        Ok(if stores_reach_the_file { Rights::WritableDirty } else { Rights::ReadOnly })
    }

    fn install_zeros(&self, run: PageRange, _order: Order) -> Result<(), InstallError> {
        let mut held = self.hold();
        let state = &mut *held.state;
        let range = run.intersect(state.area.pages);
        let traps: Vec<PageRange> = state
            .runs
            .in_range(range)
            .filter(|run| run.state == RunState::Trap)
            .map(|run| run.pages)
            .collect();
        let service = self.service();
        let installed = service.with_descriptors(|| {
            for piece in traps {
                match state.open_window(service, piece) {
                    Ok(()) => state.runs.set(piece, RunState::Zero),
                    // The trap is as it was: whoever asked makes it plain in an order that hides nothing.
                    Err(Failure::Before(_)) => return Err(InstallError::OutOfMemory),
                    // Nothing of the program's was there yet.
                    Err(Failure::Halfway(_)) => self.plain_now(state, piece),
                }
                add(&service.stats().windows_opened, 1);
                add(&service.stats().window_pages, piece.len());
            }
            Ok(())
        });
        state.recount(service);
        installed
    }

    fn install_copy(&self, index: PageIndex, _from: Option<Frame>) -> Result<(), InstallError> {
        self.plain(PageRange::new(index, 1));
        Ok(())
    }

    fn unmap(&self, range: PageRange, copies: PrivateCopies) {
        let mut held = self.hold();
        self.make_plain(&mut held.state, range, copies, &[RunState::Zero]);
        self.end_hold(&mut held.state, range);
    }

    fn hold_zeros(&self, range: PageRange) {
        self.hold_back(range);
    }

    fn unmap_zeros(&self, range: PageRange) {
        self.trap_zeros(range);
    }

    fn write_protect(&self, _range: PageRange, _frame: Frame) -> WriteTracking {
        WriteTracking::Native
    }

    fn clear_pmd(&self, index: PageIndex) {
        // Windows are cut where they are replaced, and the kernel splits its zero page itself: only the answer of `pmd` changes.
        let unit = index.align_down(Order::Pmd);
        if self.pmd(index) == Pmd::HugeReadOnly {
            self.hold().state.split.insert(unit);
        }
    }
}
