//! The four parts together, and a VMA whose faults the engine serves.

use crate::file::SimFile;
use crate::media::SimMedia;
use crate::platform::SimPlatform;
use crate::space::SimSpace;
use crate::thread::AccessError;
use crate::vma::SimVma;
use std::sync::Arc;
use udax_core::{Durability, Fault, HugePages, Mapping, Served, Vma, World};

/// The simulated world, for the engine.
#[derive(Clone, Copy, Debug)]
pub struct SimWorld;

impl World for SimWorld {
    type Platform = SimPlatform;
    type Filesystem = SimFile;
    type Media = SimMedia;
    type Space = SimSpace;
}

impl SimVma {
    /// Attaches the VMA to `mapping`, which serves its faults from now on. munmap does not detach it: the caller does.
    ///
    /// # Panics
    /// In a fault, if the engine leaves it unfinished; that is a bug of the engine.
    pub fn serve(
        &self,
        mapping: &Arc<Mapping<SimWorld>>,
        durability: Durability,
        huge_pages: HugePages,
    ) -> Arc<Vma<SimWorld>> {
        let layout = self.layout();
        let vma = Arc::new(Vma {
            pages: layout.pages,
            address_page: layout.address_page,
            sharing: layout.sharing,
            durability,
            huge_pages,
            space: self.space(),
        });
        mapping.attach(Arc::clone(&vma));
        let (mapping, served) = (Arc::clone(mapping), Arc::clone(&vma));
        self.on_fault(move |request| {
            let outcome = mapping.fault(&Fault {
                translation_present: request.translation_present,
                ..Fault::new(&served, request.index, request.access)
            });
            match outcome.served {
                Served::Installed | Served::Retry | Served::Copied => Ok(()),
                Served::BusError => Err(AccessError::BusError),
                Served::Poisoned => Err(AccessError::Poisoned),
                Served::OutOfMemory => Err(AccessError::OutOfMemory),
                // Nobody interrupts this fault.
                Served::Fallback | Served::NeedsCommit { .. } | Served::Interrupted => {
                    panic!("{request:?} was left unfinished: {outcome:?}")
                }
            }
        });
        vma
    }
}
