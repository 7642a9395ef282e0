//! The check that no store was swallowed: a private page where only the zero page may be means that a protection was lost. What is found
//! is still written to the file.

use crate::eligible::Refusal;
use crate::regions::Region;
use crate::runtime::Runtime;
use std::sync::atomic::{AtomicU64, Ordering};
use udax_core::{PageIndex, Sharing};
use udax_linux::SignalsBlocked;

/// Pages that an audit found and saved, in this process.
static RESCUED: AtomicU64 = AtomicU64::new(0);

/// How many pages audits have found; 0 unless something outside has taken a protection away.
pub(crate) fn rescued() -> u64 {
    RESCUED.load(Ordering::Relaxed)
}

impl Runtime {
    /// Looks through the windows of some regions, and writes what should not be there to the file.
    pub(crate) fn audit<'r>(&self, regions: impl Iterator<Item = &'r Region>) {
        for region in regions.filter(|region| region.vma.sharing == Sharing::Shared) {
            region.vma.space.forget_strangers(region.vma.pages);
            for pages in region.vma.space.audit().unwrap_or_default() {
                for index in pages.start.0..pages.end.0 {
                    rescue(region, PageIndex(index));
                }
            }
        }
    }

    /// All of them.
    pub(crate) fn audit_all(&self) {
        if !self.state.is_serving() {
            return;
        }
        let _signals = SignalsBlocked::new();
        self.audit(self.state.regions().iter());
    }

    pub(crate) fn count_refusal(&self, refusal: &Refusal) {
        let _signals = SignalsBlocked::new();
        *self.state.files().refused.entry(refusal.reason()).or_default() += 1;
    }
}

fn rescue(region: &Region, index: PageIndex) {
    let file = &region.file;
    let saved = region
        .vma
        .space
        .page_bytes(index)
        .is_ok_and(|bytes| file.handle.pwrite(&bytes[..], index.byte()) == Ok(bytes.len()));
    RESCUED.fetch_add(1, Ordering::Relaxed);
    let end = if saved { "it was written to the file" } else { "it could not be saved" };
    eprintln!("udax: a store to {} page {index} missed the file; {end}", file.name);
}
