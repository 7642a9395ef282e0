//! Loads and stores, as a CPU does them: TLB, page tables, rights, fault, and again.

use crate::cache::FRAME_BYTES;
use crate::machine::{PrivateStores, Protection};
use crate::mmu::{Entry, PrivatePage, Slot};
use crate::process::Process;
use crate::sched::yield_point;
use crate::tlb::Cached;
use crate::vma::{FaultRequest, SimVma};
use std::fmt;
use std::sync::{Arc, PoisonError};
use udax_core::{Access, Order, PAGE_BYTES, PAGE_SHIFT, PageIndex, Sharing};

/// So often one access may fault; beyond it, it would for ever.
const FAULT_LIMIT: u32 = 1000;

/// The signal that an access got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessError {
    /// SIGBUS.
    BusError,
    /// SIGBUS, for lost data (`BUS_MCEERR_AR`).
    Poisoned,
    /// The out-of-memory killer.
    OutOfMemory,
    /// SIGSEGV.
    Segmentation,
}

impl fmt::Display for AccessError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BusError => "SIGBUS",
            Self::Poisoned => "SIGBUS for poison",
            Self::OutOfMemory => "out of memory",
            Self::Segmentation => "SIGSEGV",
        })
    }
}

impl std::error::Error for AccessError {}

enum Bytes<'a> {
    Load(&'a mut [u8]),
    Store(&'a [u8]),
}

impl Bytes<'_> {
    fn access(&self) -> Access {
        match self {
            Self::Load(_) => Access::Read,
            Self::Store(_) => Access::Write,
        }
    }
}

enum Step {
    Done,
    Missed,
}

/// A thread of a process, on one CPU.
#[derive(Clone, Debug)]
pub struct SimThread {
    process: Arc<Process>,
    cpu: usize,
}

impl SimThread {
    pub(crate) fn new(process: Arc<Process>, cpu: usize) -> Self {
        Self { process, cpu }
    }

    /// The process it belongs to.
    #[must_use]
    pub fn process(&self) -> &Arc<Process> {
        &self.process
    }

    /// Loads from `address`. Each page of it is one indivisible access.
    ///
    /// # Errors
    /// The signal that the access got; what lies before the page that got it was loaded.
    ///
    /// # Panics
    /// If a page faults again and again without end.
    pub fn load(&self, address: u64, into: &mut [u8]) -> Result<(), AccessError> {
        let mut done = 0;
        while done < into.len() {
            let at = address + done as u64;
            let length = in_page(at, into.len() - done);
            self.access(at, &mut Bytes::Load(&mut into[done..done + length]))?;
            done += length;
        }
        Ok(())
    }

    /// Stores at `address`. Each page of it is one indivisible access.
    ///
    /// # Errors
    /// The signal that the access got; what lies before the page that got it was stored.
    ///
    /// # Panics
    /// If a page faults again and again without end.
    pub fn store(&self, address: u64, from: &[u8]) -> Result<(), AccessError> {
        let mut done = 0;
        while done < from.len() {
            let at = address + done as u64;
            let length = in_page(at, from.len() - done);
            self.access(at, &mut Bytes::Store(&from[done..done + length]))?;
            done += length;
        }
        Ok(())
    }

    /// The first byte of a page of a mapping.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_byte(&self, vma: &SimVma, page: PageIndex) -> Result<u8, AccessError> {
        let mut byte = [0];
        self.load(vma.address(page), &mut byte)?;
        Ok(byte[0])
    }

    /// Stores the first byte of a page of a mapping.
    ///
    /// # Errors
    /// As [`store`](Self::store).
    pub fn store_byte(&self, vma: &SimVma, page: PageIndex, byte: u8) -> Result<(), AccessError> {
        self.store(vma.address(page), &[byte])
    }

    fn access(&self, address: u64, bytes: &mut Bytes<'_>) -> Result<(), AccessError> {
        for _ in 0..FAULT_LIMIT {
            yield_point();
            match self.try_access(address, bytes)? {
                Step::Done => return Ok(()),
                Step::Missed => self.fault(address, bytes.access())?,
            }
        }
        let mm = self.process.mm();
        panic!(
            "process {}: a {:?} at address {address:#x} faults without end; level {:?}, region {:?}",
            mm.process,
            bytes.access(),
            mm.tables().pmd(address >> PAGE_SHIFT),
            mm.region(address >> PAGE_SHIFT),
        )
    }

    /// The instruction itself. Its CPU's TLB stays locked from the look-up to the last byte: a shoot-down waits for it.
    fn try_access(&self, address: u64, bytes: &mut Bytes<'_>) -> Result<Step, AccessError> {
        let mm = self.process.mm();
        let page = address >> PAGE_SHIFT;
        let offset = address & (PAGE_BYTES - 1);
        let access = bytes.access();
        let cpu = &mm.machine.cpus()[self.cpu];
        let mut tlb = cpu.lock().unwrap_or_else(PoisonError::into_inner);
        let suffices =
            |cached: &Cached| access == Access::Read || (cached.writable && cached.dirty);
        if let Some(cached) = tlb.look_up(mm.process, page).filter(suffices) {
            return self.transfer(&cached.slot, offset, bytes);
        }
        // Missing, or without the right: the CPU walks the page tables anew before it faults.
        tlb.forget(mm.process, &(page..page + 1));
        let wanted = if access == Access::Read { Protection::Read } else { Protection::ReadWrite };
        if !mm.may(page, wanted) {
            return Ok(Step::Missed);
        }
        let mut tables = mm.tables();
        let Some((order, entry)) = tables.walk_mut(page) else { return Ok(Step::Missed) };
        if access == Access::Write && !entry.writable {
            return Ok(Step::Missed);
        }
        entry.accessed = true;
        entry.dirty |= access == Access::Write;
        let cached =
            Cached { slot: entry.slot.clone(), writable: entry.writable, dirty: entry.dirty };
        drop(tables);
        tlb.fill(mm.process, page, order, cached);
        let Some(cached) = tlb.look_up(mm.process, page) else { return Ok(Step::Missed) };
        self.transfer(&cached.slot, offset, bytes)
    }

    fn transfer(
        &self,
        slot: &Slot,
        offset: u64,
        bytes: &mut Bytes<'_>,
    ) -> Result<Step, AccessError> {
        let media = self.process.machine().media();
        match (slot, bytes) {
            (Slot::Zero, Bytes::Load(into)) => into.fill(0),
            (Slot::Zero, Bytes::Store(_)) => panic!("a store went through to the zero page"),
            (Slot::Storage(frame), Bytes::Load(into)) => {
                media.cpu_load(*frame, offset, into).map_err(|_| AccessError::Poisoned)?;
            }
            (Slot::Storage(frame), Bytes::Store(from)) => {
                media.cpu_store(*frame, offset, from).map_err(|_| AccessError::Poisoned)?;
            }
            (Slot::Private(page), bytes) => {
                let mut page = page.0.lock().unwrap_or_else(PoisonError::into_inner);
                let start = usize::try_from(offset).expect("a page offset fits");
                match bytes {
                    Bytes::Load(into) => into.copy_from_slice(&page[start..start + into.len()]),
                    Bytes::Store(from) => page[start..start + from.len()].copy_from_slice(from),
                }
            }
        }
        Ok(Step::Done)
    }

    fn fault(&self, address: u64, access: Access) -> Result<(), AccessError> {
        let mm = self.process.mm();
        let page = address >> PAGE_SHIFT;
        let _shared = mm.lock.shared();
        let region = mm.region(page).ok_or(AccessError::Segmentation)?;
        let vma = region.vma.upgrade().ok_or(AccessError::Segmentation)?;
        let wanted = if access == Access::Read { Protection::Read } else { Protection::ReadWrite };
        if region.protection < wanted {
            return Err(AccessError::Segmentation);
        }
        let translation_present = {
            let mut tables = mm.tables();
            let translation = tables.walk_mut(page);
            let present = translation.is_some();
            if let Some((_, entry)) = translation
                && entry.slot.is_private()
            {
                // Anonymous memory is the machine's own: only mprotect and fork can have taken the right.
                entry.writable |= region.protection == Protection::ReadWrite;
                mm.machine.note_served();
                return Ok(());
            }
            present
        };
        let is_machines = access == Access::Write
            && vma.layout().sharing == Sharing::Private
            && mm.machine.private_stores() == PrivateStores::Machine;
        if is_machines && self.copy_mapped_page(page) {
            mm.machine.note_served();
            return Ok(());
        }
        mm.machine.note_fault();
        let handler = vma.handler().expect("a mapping that is accessed has a fault handler");
        handler(FaultRequest { index: vma.page_at(page), access, translation_present })?;
        mm.machine.note_served();
        Ok(())
    }

    /// Gives a private mapping a copy of what a 4 KiB translation of it shows; false if there is none. A poisoned page stays for
    /// the handler to tell.
    fn copy_mapped_page(&self, page: u64) -> bool {
        let mm = self.process.mm();
        let mut bytes = vec![0; FRAME_BYTES];
        let mut tables = mm.tables();
        match tables.walk(page) {
            Some((Order::Pte, Entry { slot: Slot::Zero, .. })) => {}
            Some((Order::Pte, Entry { slot: Slot::Storage(frame), .. })) => {
                if mm.machine.media().cpu_load(*frame, 0, &mut bytes).is_err() {
                    return false;
                }
            }
            _ => return false,
        }
        let copied = tables.install_private(page, PrivatePage::new(bytes), true).is_ok();
        drop(tables);
        mm.shoot_down(&(page..page + 1));
        copied
    }
}

fn in_page(address: u64, length: usize) -> usize {
    let rest = PAGE_BYTES - (address & (PAGE_BYTES - 1));
    length.min(usize::try_from(rest).expect("a page fits in memory"))
}
