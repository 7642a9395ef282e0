//! mprotect.

use super::Program;
use super::memory::pages_at;
use crate::eligible::PROT_EXEC;
use crate::regions::Region;
use std::ops::Range;
use udax_core::Sharing;
use udax_linux::{AccessMode, Errno, Prot, SignalsBlocked};

const PROT_WRITE: i32 = 2;
/// The rights that pages have; what else there is says how mprotect(2) is to go about it, and is refused for the mapping of a file.
const PROT_KNOWN: i32 = 0xf;

impl Program {
    /// mprotect(2).
    ///
    /// # Errors
    /// The kernel's own; `EACCES` where the file's descriptor does not allow stores, which the kernel would not find on a trap.
    pub fn mprotect(&self, address: usize, length: usize, prot: i32) -> Result<(), Errno> {
        // Only a whole range of pages is cut; anything else the kernel refuses before it changes a thing, and rights that there are not. For no bytes it does nothing.
        let usual = address.is_multiple_of(4096) && length > 0 && prot & !PROT_KNOWN == 0;
        let addresses = pages_at(address, length).filter(|_| usual);
        let Some(addresses) = addresses.filter(|_| self.runtime.state.is_serving()) else {
            return self.native.mprotect(address, length, prot);
        };
        let _signals = SignalsBlocked::new();
        let mut regions = self.runtime.state.regions_mut();
        let forbidden = |region: &Region| {
            prot & PROT_WRITE != 0
                && region.vma.sharing == Sharing::Shared
                && region.file.handle.info().access == AccessMode::ReadOnly
        };
        let refused = regions.over(&addresses).find(|region| forbidden(region));
        if let Some(at) = refused.map(|region| region.area().address()) {
            drop(regions);
            // What lies before it gets them, and may have an error of its own.
            return if at > address {
                self.mprotect(address, at - address, prot).and(Err(Errno::ACCES))
            } else {
                Err(Errno::ACCES)
            };
        }
        if prot & PROT_EXEC != 0 {
            for region in regions.over(&addresses) {
                region.file.make_storage(region.vma.pages);
                region.vma.space.plain_all();
            }
        }
        let changed = regions.carve(&addresses);
        // No fault is under way while the registry is held, so the order does not matter.
        let (result, refused) = match self.protect_parts(&changed, &addresses, length, prot) {
            Ok(()) => (Ok(()), addresses.end..addresses.end),
            Err((errno, refused)) => (Err(errno), refused),
        };
        for region in changed {
            let address = region.area().address();
            let rights = if address < refused.start {
                Some(prot)
            } else if refused.contains(&address) {
                // Some of it has changed, as far as the kernel came.
                self.runtime.rights_at(address)
            } else {
                None
            };
            if let Some(rights) = rights {
                region.vma.space.set_prot(Prot::from_bits(rights));
            }
            regions.insert(region);
        }
        result
    }

    /// The kernel's mprotect; of `changed`, which are the regions in `addresses`, only where the program's rights are the kernel's. With
    /// an error comes the part that was refused; what lies before it was done.
    fn protect_parts(
        &self,
        changed: &[Region],
        addresses: &Range<usize>,
        length: usize,
        prot: i32,
    ) -> Result<(), (Errno, Range<usize>)> {
        let protect = |start, end, prot| {
            let done = self.native.mprotect(start, end - start, prot);
            done.map_err(|errno| (errno, start..end))
        };
        let parts = changed
            .iter()
            .flat_map(|region| region.vma.space.rights_of_parts(Prot::from_bits(prot)));
        let mut next = addresses.start;
        for (part, own) in parts {
            if next < part.start {
                protect(next, part.start, prot)?;
            }
            protect(part.start, part.end, own.bits())?;
            next = part.end;
        }
        if next == addresses.start {
            // As it was asked for.
            let done = self.native.mprotect(next, length, prot);
            return done.map_err(|errno| (errno, addresses.clone()));
        }
        if next < addresses.end { protect(next, addresses.end, prot) } else { Ok(()) }
    }
}
