//! The page tables of one VMA: what each unit and each tracked page shows, under one lock.
//!
//! An access of the CPU happens under that lock too, so that unmapping waits for it: there are no stale translations here.

use crate::disk::TRACKED;
use crate::platform::Checker;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use udax_core::{
    AddressSpace, Frame, Guarded, InstallError, Order, PMD_PAGES, PageIndex, PageRange, Pmd,
    PrivateCopies, Rights, ShortLock, WriteTracking,
};

/// What a translation leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Target {
    Zeros,
    Storage(Frame),
}

/// One translation, of either size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Translation {
    pub(crate) target: Target,
    pub(crate) writable: bool,
}

impl Translation {
    /// What page `page` behind the first shows.
    pub(crate) fn page(self, page: u64) -> Self {
        let target = match self.target {
            Target::Storage(frame) => Target::Storage(frame.plus(page)),
            Target::Zeros => Target::Zeros,
        };
        Self { target, ..self }
    }
}

/// One unit's page-table level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Level {
    None,
    Table([Option<Translation>; TRACKED]),
    Huge(Translation),
}

impl Level {
    pub(crate) fn translation(&self, page: usize) -> Option<Translation> {
        match self {
            Self::None => None,
            Self::Table(pages) => pages[page],
            Self::Huge(translation) => Some(translation.page(page as u64)),
        }
    }

    /// Installs `new`, or adds rights to what is there already for the same storage (SEMANTICS 4.4).
    fn put(slot: &mut Option<Translation>, new: Translation) {
        match slot {
            None => *slot = Some(new),
            Some(old) if old.target == new.target => old.writable |= new.writable,
            // The access is tried again and finds that.
            Some(_) => {}
        }
    }

    fn install(&mut self, order: Order, page: usize, new: Translation) -> Result<(), InstallError> {
        match (order, &mut *self) {
            (Order::Pmd, Self::None) => *self = Self::Huge(new),
            (Order::Pmd, Self::Huge(old)) => {
                let mut slot = Some(*old);
                Self::put(&mut slot, new);
                *old = slot.unwrap_or(new);
            }
            (Order::Pmd, Self::Table(_)) | (Order::Pte, Self::Huge(_)) => {
                return Err(InstallError::LevelTaken);
            }
            (Order::Pte, Self::Table(pages)) => Self::put(&mut pages[page], new),
            (Order::Pte, Self::None) => {
                let mut pages = [None; TRACKED];
                pages[page] = Some(new);
                *self = Self::Table(pages);
            }
        }
        Ok(())
    }
}

/// The levels of all units.
pub(crate) struct Levels(Vec<Level>);

impl Guarded for Levels {
    fn describe(&self, mut state: &mut dyn Hasher) -> bool {
        self.0.hash(&mut state);
        true
    }
}

impl Levels {
    pub(crate) fn of_unit(&self, number: usize) -> &Level {
        &self.0[number]
    }
}

/// The page tables of one VMA. The disk has a look at them too.
pub struct Tables<P: Checker> {
    levels: P::Lock<Levels>,
}

impl<P: Checker> Tables<P> {
    pub(crate) fn new(units: u64) -> Self {
        Self { levels: ShortLock::new(Levels((0..units).map(|_| Level::None).collect())) }
    }

    pub(crate) fn levels(&self) -> <P::Lock<Levels> as ShortLock<Levels>>::Guard<'_> {
        self.levels.lock()
    }

    fn install(
        &self,
        run: PageRange,
        order: Order,
        at: impl Fn(u64) -> Translation,
    ) -> Result<(), InstallError> {
        let mut levels = self.levels();
        let mut index = run.start;
        while index < run.end {
            let (unit, page) = place(index);
            levels.0[unit].install(order, page, at(index.0 - run.start.0))?;
            index = index.plus(order.pages());
        }
        Ok(())
    }

    /// The storage of `range` is about to be given back.
    pub(crate) fn demand_no_storage(&self, range: PageRange) {
        self.each_level(range, |level, pages| {
            for page in (0..TRACKED).filter(|&page| pages.contains(&(page as u64))) {
                let storage = level.translation(page).filter(|there| there.target != Target::Zeros);
                assert_eq!(storage, None, "storage of page {page} is given back, and mapped");
            }
        });
    }

    /// Calls `act` for each unit that has pages of `range`, with the numbers of those pages in it.
    fn each_level(&self, range: PageRange, mut act: impl FnMut(&mut Level, std::ops::Range<u64>)) {
        P::told(|| {
            for (number, level) in self.levels().0.iter_mut().enumerate() {
                let unit = PageRange::unit(PageIndex(number as u64 * PMD_PAGES), Order::Pmd);
                let part = unit.intersect(range);
                if !part.is_empty() {
                    act(level, part.start.0 - unit.start.0..part.end.0 - unit.start.0);
                }
            }
        });
    }
}

/// The unit of a page, and its number in it.
pub(crate) fn place(index: PageIndex) -> (usize, usize) {
    let number = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    (number(index.0 / PMD_PAGES), number(index.colour()))
}

/// A VMA's hold on them.
pub struct Space<P: Checker>(pub(crate) Arc<Tables<P>>);

impl<P: Checker> AddressSpace for Space<P> {
    fn pmd(&self, index: PageIndex) -> Pmd {
        P::told(|| match self.0.levels().of_unit(place(index).0) {
            Level::None => Pmd::None,
            Level::Table(_) => Pmd::Table,
            Level::Huge(translation) if translation.writable => Pmd::HugeWritable,
            Level::Huge(_) => Pmd::HugeReadOnly,
        })
    }

    fn install_storage(
        &self,
        run: PageRange,
        frame: Frame,
        order: Order,
        rights: Rights,
    ) -> Result<Rights, InstallError> {
        let writable = rights == Rights::WritableDirty;
        let first = Translation { target: Target::Storage(frame), writable };
        P::told(|| self.0.install(run, order, |page| first.page(page))).map(|()| rights)
    }

    fn install_zeros(&self, run: PageRange, order: Order) -> Result<(), InstallError> {
        let zeros = Translation { target: Target::Zeros, writable: false };
        P::told(|| self.0.install(run, order, |_| zeros))
    }

    fn install_copy(&self, index: PageIndex, _: Option<Frame>) -> Result<(), InstallError> {
        unreachable!("no VMA of a model is private (page {index})")
    }

    fn unmap(&self, range: PageRange, _: PrivateCopies) {
        self.0.each_level(range, |level, pages| match level {
            Level::None => {}
            // Page tables go with the last page of theirs, so that 2 MiB can be had again.
            Level::Table(_) if pages == (0..PMD_PAGES) => *level = Level::None,
            Level::Table(table) => {
                for (number, page) in table.iter_mut().enumerate() {
                    if pages.contains(&(number as u64)) {
                        *page = None;
                    }
                }
            }
            // A part of a 2 MiB translation cannot go alone.
            Level::Huge(_) => *level = Level::None,
        });
    }

    fn write_protect(&self, range: PageRange, frame: Frame) -> WriteTracking {
        let of_page = |page: u64| Target::Storage(frame.plus(page));
        self.0.each_level(range, |level, pages| match level {
            Level::None => {}
            Level::Table(table) => {
                for (number, page) in table.iter_mut().enumerate() {
                    let at = number as u64;
                    if let Some(page) = page
                        && pages.contains(&at)
                        && page.target == of_page(at - pages.start)
                    {
                        page.writable = false;
                    }
                }
            }
            Level::Huge(huge) => huge.writable &= huge.page(pages.start).target != of_page(0),
        });
        WriteTracking::Faults
    }

    fn clear_pmd(&self, index: PageIndex) {
        let is_empty = |pages: &[Option<Translation>]| pages.iter().all(Option::is_none);
        P::told(|| match &mut self.0.levels().0[place(index).0] {
            Level::None => {}
            Level::Table(pages) if !is_empty(pages) => {}
            level @ (Level::Table(_) | Level::Huge(_)) => *level = Level::None,
        });
    }
}
