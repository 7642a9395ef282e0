//! Giving back what stores have opened: traps go over it again, another look is taken where its holes are, and its data is shown as before.
//!
//! What a sync has to write must lie under the kernel's own mapping, where msync(2) looks for it. So no sync of ours is let through between the
//! traps and the data's return, and nothing is given back while one is under way.

use crate::opened::{Opening, Touched};
use crate::regions::Regions;
use crate::runtime::State;
use crate::served::{ServedFile, whole_units};
use crate::world::Vma;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, RwLockReadGuard, TryLockError, Weak};
use udax_core::{Order, PageIndex, PageRange, Sharing};
use udax_host::HostKind;

/// Look-ups for one run of them.
const LOOKUPS: u32 = 16 * 128;
/// Around a piece of data of fewer pages the kernel is not to read ahead: it would read holes.
const SMALL_PIECE: u64 = 16;
/// With more runs in the process nothing is given back: it would make more of them.
const RUN_LIMIT: u64 = 5_000;

impl State {
    /// Held over a native msync(2), together with the engine's account of it. A second one on the same thread (a signal handler's) may be.
    /// Nothing is given back in a fork child, where the lock may be held by a thread that there is not.
    pub(crate) fn while_syncing(&self) -> Option<RwLockReadGuard<'_, ()>> {
        if self.is_closed() {
            return None;
        }
        self.giving_back.read().ok()
    }

    /// `range` was opened to stores in `file`, as page `stored` was stored to.
    pub(crate) fn note_opened(
        &self,
        file: &Arc<ServedFile>,
        range: PageRange,
        stored: PageIndex,
        why: Opening,
    ) {
        if self.keeps_open {
            return;
        }
        let look = file.opened().add(range, stored, why);
        if let Some(delay) = look {
            self.look_later(file, delay);
        }
    }

    fn look_later(&self, file: &Arc<ServedFile>, delay: std::time::Duration) {
        let (state, watched) = (Weak::clone(&self.own), Arc::downgrade(file));
        file.handle.service().post_file_work_later(delay, move || {
            if let (Some(state), Some(file)) = (state.upgrade(), watched.upgrade()) {
                state.look(&file);
            }
        });
    }

    /// On `udax-file`, the only thread that looks for holes.
    fn look(&self, file: &Arc<ServedFile>) {
        let mut cool = self.cool(file);
        // Each piece of data that is shown again may be a mapping more. And what the program has put in the place of a mapping gets no traps.
        let gives_back = cool.is_empty()
            || crate::descriptors::has_room_for_mappings(file.handle.service())
                && self.shows_the_file(file, &cool);
        if !gives_back {
            file.opened().clear();
            cool.clear();
        }
        for range in cool {
            file.handle.service().let_faults_pass();
            self.give_back(file, range);
        }
        let next = file.opened().next_look();
        if let Some(delay) = next {
            self.look_later(file, delay);
        }
    }

    /// The opened runs that are used no more.
    fn cool(&self, file: &ServedFile) -> Vec<PageRange> {
        let service = file.handle.service();
        if !file.is_proved() || service.runs() > RUN_LIMIT {
            file.opened().clear();
            return Vec::new();
        }
        let runs = file.opened().runs();
        let mut found: BTreeMap<PageIndex, Touched> = BTreeMap::new();
        // The registry is not held for long. If one of them is unmapped meanwhile, what lies there now is taken for what was opened: nothing is lost by a wrong guess.
        let vmas: Vec<Arc<Vma>> = shared_vmas(&self.regions(), file).cloned().collect();
        for vma in &vmas {
            for &run in &runs {
                service.let_faults_pass();
                // What cannot be told counts as untouched: that it is looked at again costs a fault, no more.
                for pages in vma.space.touched(run).unwrap_or_default() {
                    let mut start = pages.start.align_down(Order::Pmd);
                    while start < pages.end {
                        let unit = PageRange::unit(start, Order::Pmd);
                        found.entry(start).or_default().add(unit, pages);
                        start = unit.end;
                    }
                }
            }
        }
        let looked = file.opened().looked(&runs, &found);
        let regions = self.regions();
        for vma in shared_vmas(&regions, file) {
            for &full in &looked.full {
                vma.space.expect_scattered(full, false);
            }
        }
        looked.cool
    }

    fn shows_the_file(&self, file: &ServedFile, ranges: &[PageRange]) -> bool {
        // Not with the registry held, as the look takes its time.
        let vmas: Vec<Arc<Vma>> = shared_vmas(&self.regions(), file).cloned().collect();
        vmas.iter().all(|vma| vma.space.shows_the_file(ranges))
    }

    pub(crate) fn give_back(&self, file: &Arc<ServedFile>, range: PageRange) {
        let _no_sync = match self.giving_back.try_write() {
            Ok(guard) => guard,
            Err(TryLockError::WouldBlock | TryLockError::Poisoned(_)) => {
                file.opened().add_again(range);
                return;
            }
        };
        if !self.lay_again(file, range) {
            return;
        }
        // Not with the registry held: this may wait for a write(2) that waits for a fault that waits for the registry. An error leaves pages unknown.
        let _ = file.host.survey_within(range, LOOKUPS);
        let regions = self.regions();
        let show = |pages: PageRange| {
            file.take_zeros_off(pages);
            for vma in shared_vmas(&regions, file) {
                vma.space.plain(pages);
                if pages.len() < SMALL_PIECE && file.host.kind() != HostKind::Tmpfs {
                    vma.space.expect_scattered(pages, true);
                }
            }
        };
        // Also what was assigned meanwhile, by a write of the process or by a fault in another mapping: it may lie beside what was stored before.
        let mut rest = range;
        while let Some(shown) = file.host.assign_but_holes(rest) {
            show(shown);
            file.settle_overflow();
            rest.start = shown.end;
        }
    }

    /// Traps go over `range` in every mapping that stores to the file, and what it holds is unknown from then on. Not if somebody else may store there
    /// unseen. With no fault under way: none may find the storage assigned and show it when it is not any more.
    fn lay_again(&self, file: &ServedFile, range: PageRange) -> bool {
        let regions = self.regions();
        if !file.is_proved() {
            return false;
        }
        // What lies past the end stays plain, for the kernel's SIGBUS.
        let range = range.intersect(PageRange::between(PageIndex(0), file.pages()));
        // First, as zeros there become plain before the change is made, and may be stored to.
        file.host.assign(whole_units(range));
        let laid = file.mapping.change_layout(range, |host| {
            let laid = shared_vmas(&regions, file).all(|vma| vma.space.relay_traps(range).is_ok());
            Ok(laid && host.release(range))
        });
        let laid = laid == Ok(true);
        if !laid {
            file.host.assign(range);
            shared_vmas(&regions, file).for_each(|vma| vma.space.plain(range));
        }
        file.settle_overflow();
        if laid {
            self.given_back_pages.fetch_add(range.len(), Ordering::Relaxed);
            regions.iter().filter(|r| std::ptr::eq(&*r.file, file)).for_each(|r| r.stores.shrink());
        }
        laid
    }
}

fn shared_vmas<'r>(
    regions: &'r Regions,
    file: &'r ServedFile,
) -> impl Iterator<Item = &'r Arc<Vma>> {
    let own = regions.iter().filter(move |region| std::ptr::eq(&*region.file, file));
    own.map(|region| &region.vma).filter(|vma| vma.sharing == Sharing::Shared)
}

#[cfg(test)]
mod tests {
    use crate::runtime::Runtime;
    use std::sync::mpsc;
    use std::time::Duration;

    /// In a child of fork nobody gives back, and the lock may be held by a thread that it does not have.
    #[test]
    fn a_sync_waits_for_nobody_who_gives_back_in_a_child_of_fork() {
        let runtime = Runtime::new(None);
        let state = runtime.state;
        state.close();
        let (says, heard) = mpsc::channel();
        std::thread::scope(|scope| {
            let giving_back = state.giving_back.write();
            scope.spawn(|| says.send(state.while_syncing().is_none()));
            let answer = heard.recv_timeout(Duration::from_secs(20));
            drop(giving_back);
            assert_eq!(answer, Ok(true), "it waits");
        });
    }
}
