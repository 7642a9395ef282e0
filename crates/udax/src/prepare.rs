//! Memory that is given to a system call, where the kernel's own faults are not served ([`Engine::serves_the_kernel`]): what the call
//! touches is made ready for it before, by faults that nobody has taken.

use crate::process::runtime;
use crate::regions::{Region, pages_within};
use crate::runtime::Runtime;
use std::ops::Range;
use std::sync::RwLockReadGuard;
use udax_core::{Order, PAGE_BYTES, PageIndex, Sharing};
use udax_linux::{Access, Cause, Engine, FaultEvent, RunState, SignalsBlocked};

/// What was made ready stays so while this lives, unless its file ceases to be served meanwhile, or another of its mappings is unmapped.
#[derive(Debug)]
#[must_use = "it must live until the system call has returned"]
pub struct Prepared<'r> {
    _no_giving_back: RwLockReadGuard<'r, ()>,
}

/// Makes `memory` ready for a system call of your own that reads it (`write(2)`, `sendmsg(2)`), where the kernel could not wait for a fault of it to be
/// served and would answer `EFAULT`. Needed for parts of mappings alone, and only where `udax info` speaks of faults in user mode; it costs an atomic load
/// elsewhere. [`File`](crate::File) does it by itself.
///
/// May block for faults to be served. To be kept until the call has returned; nothing that stores have opened is given back meanwhile.
///
/// ```no_run
/// use std::io::Write;
/// # fn main() -> std::io::Result<()> {
/// let file = std::fs::File::open("sparse.bin")?;
/// // SAFETY: nobody truncates or changes the file while the slice is in use.
/// let map = unsafe { udax::Mmap::map(&file)? };
/// let prepared = udax::prepare_to_be_read(&map[..4096]);
/// std::io::stdout().write_all(&map[..4096])?;
/// drop(prepared);
/// # Ok(()) }
/// ```
#[must_use = "it must live until the system call has returned"]
pub fn prepare_to_be_read(memory: &[u8]) -> Option<Prepared<'static>> {
    runtime().prepare(addresses_of(memory), Access::Read)
}

/// The same for a system call that writes to `memory` (`read(2)`, `recvmsg(2)`).
#[must_use = "it must live until the system call has returned"]
pub fn prepare_to_be_written(memory: &mut [u8]) -> Option<Prepared<'static>> {
    runtime().prepare(addresses_of(memory), Access::Write)
}

fn addresses_of(memory: &[u8]) -> Range<usize> {
    let start = memory.as_ptr().addr();
    start..start + memory.len()
}

/// What is in the way of a system call.
enum Unready {
    /// What a fault there would do is to be done.
    Fault(FaultEvent),
    /// A private mapping shows zeros in these addresses: the kernel makes the copies, once it maps the file there.
    Private(Range<usize>),
}

impl Runtime {
    /// Whether memory has to be prepared for system calls.
    pub(crate) fn prepares(&self) -> bool {
        self.state.is_serving()
            && self.running().is_some_and(|service| !service.engine().serves_the_kernel())
    }

    /// Whether any of `addresses` may have to be. No lock is taken.
    pub(crate) fn may_prepare(&self, addresses: &Range<usize>) -> bool {
        self.prepares() && self.running().is_some_and(|service| service.may_serve(addresses))
    }

    /// Makes what is served of `addresses` ready for a system call that accesses it. `None` if nothing is, or if the kernel needs no help.
    pub(crate) fn prepare(&self, addresses: Range<usize>, access: Access) -> Option<Prepared<'_>> {
        if !self.may_prepare(&addresses) {
            return None;
        }
        let service = self.running()?;
        let _signals = SignalsBlocked::new();
        self.state.regions().over(&addresses).next()?;
        // Before the look: what is found ready is not taken back.
        let prepared = Prepared { _no_giving_back: self.state.while_syncing()? };
        let mut rest = addresses;
        if self.first_unready(&rest, access).is_some() {
            // A fault that nobody has taken tells nothing of what lies there.
            let regions = self.state.regions();
            regions.over(&rest).for_each(|region| {
                region.vma.space.forget_strangers(pages_within(region.area(), &rest));
            });
        }
        // With no lock held but that: who serves the fault takes them.
        while let Some(unready) = self.first_unready(&rest, access) {
            match unready {
                Unready::Fault(event) => {
                    service.serve_as_fault(event);
                    rest.start = event.address.saturating_add(PAGE);
                }
                Unready::Private(unit) => {
                    self.make_plain(unit.clone());
                    rest.start = unit.end;
                }
            }
            if rest.is_empty() {
                break;
            }
        }
        Some(prepared)
    }

    fn first_unready(&self, addresses: &Range<usize>, access: Access) -> Option<Unready> {
        let regions = self.state.regions();
        regions.over(addresses).find_map(|region| unready_in(region, addresses, access))
    }
}

/// One page, in addresses.
const PAGE: usize = 1 << udax_core::PAGE_SHIFT;

fn unready_in(region: &Region, addresses: &Range<usize>, access: Access) -> Option<Unready> {
    let area = region.area();
    if !area.prot().allows(access) {
        // The kernel's own EFAULT is right.
        return None;
    }
    let pages = pages_within(area, addresses);
    let is_private = region.vma.sharing == Sharing::Private;
    let kernel_copies = is_private && region.file.handle.service().engine() == Engine::Signals;
    let is_unready = |state| match access {
        Access::Write if !kernel_copies => state != RunState::Plain,
        Access::Read | Access::Write => state == RunState::Trap,
    };
    let run = region.vma.space.first_run(pages, is_unready)?;
    let address = area.address_of(run.pages.start);
    if access == Access::Write && is_private && !kernel_copies {
        let unit = udax_core::PageRange::unit(run.pages.start, Order::Pmd);
        let unit = unit.intersect(region.vma.pages);
        let last = PageIndex(unit.end.0 - 1);
        return Some(Unready::Private(area.address_of(unit.start)..area.address_of(last) + PAGE));
    }
    let cause = if run.state == RunState::Zero { Cause::WriteProtected } else { Cause::Missing };
    Some(Unready::Fault(FaultEvent { address, access, cause, thread: 0 }))
}

const _: () = assert!(PAGE as u64 == PAGE_BYTES);
