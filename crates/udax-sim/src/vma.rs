//! A mapping of a file in a process, and the faults it hands to the engine.

use crate::machine::VmaLayout;
use crate::process::Translation;
use crate::space::{Mm, SimSpace};
use crate::thread::AccessError;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use udax_core::{Access, Order, PageIndex};

/// What a fault handler is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(alias = "vm_fault")]
pub struct FaultRequest {
    /// The file page that was accessed.
    pub index: PageIndex,
    /// How.
    pub access: Access,
    /// There is a translation that does not allow it.
    pub translation_present: bool,
}

pub(crate) type Handler = Arc<dyn Fn(FaultRequest) -> Result<(), AccessError> + Send + Sync>;

/// A mapping of a file in a process.
pub struct SimVma {
    mm: Arc<Mm>,
    layout: VmaLayout,
    handler: Mutex<Option<Handler>>,
}

impl fmt::Debug for SimVma {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimVma").field("layout", &self.layout).finish_non_exhaustive()
    }
}

impl SimVma {
    pub(crate) fn new(mm: Arc<Mm>, layout: VmaLayout) -> Arc<Self> {
        Arc::new(Self { mm, layout, handler: Mutex::new(None) })
    }

    /// Where it lies. What was cut off by munmap, and changed by mprotect, does not show here.
    #[must_use]
    pub fn layout(&self) -> VmaLayout {
        self.layout
    }

    /// Its page tables, for the engine.
    #[must_use]
    pub fn space(&self) -> SimSpace {
        SimSpace::new(Arc::clone(&self.mm), self.layout)
    }

    /// Says who serves its faults: the access is tried again after `Ok`, and ends in the signal of `Err`. Called with the mm lock held shared, on the faulting thread.
    pub fn on_fault(
        &self,
        handler: impl Fn(FaultRequest) -> Result<(), AccessError> + Send + Sync + 'static,
    ) {
        *self.handler.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(handler));
    }

    pub(crate) fn handler(&self) -> Option<Handler> {
        self.handler.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The address of a file page, in bytes.
    #[must_use]
    pub fn address(&self, page: PageIndex) -> u64 {
        self.address_page(page) << udax_core::PAGE_SHIFT
    }

    pub(crate) fn address_page(&self, page: PageIndex) -> u64 {
        self.layout.address_page + (page.0 - self.layout.pages.start.0)
    }

    /// The file page at an address page.
    pub(crate) fn page_at(&self, address_page: u64) -> PageIndex {
        self.layout.pages.start.plus(address_page - self.layout.address_page)
    }

    /// The translation that serves a page.
    #[must_use]
    pub fn translation(&self, page: PageIndex) -> Option<Translation> {
        let address_page = self.address_page(page);
        let tables = self.mm.tables();
        let (order, entry) = tables.walk(address_page)?;
        let first = match order {
            Order::Pte => address_page,
            Order::Pmd => crate::mmu::level_start(address_page),
        };
        Some(Translation::of(&self.mm, first, order, entry))
    }

    /// All its translations, by address.
    #[must_use]
    pub fn translations(&self) -> Vec<Translation> {
        let tables = self.mm.tables();
        let first = self.layout.address_page;
        let pages = first..first + self.layout.pages.len();
        let mine = tables.iter().filter(|(page, ..)| pages.contains(page));
        mine.map(|(page, order, entry)| Translation::of(&self.mm, page, order, entry)).collect()
    }
}
