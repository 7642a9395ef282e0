//! What each 2 MiB unit of a file would be. Works on runs: a file may have more units than there is memory.

use serde::Serialize;
use udax_core::{Order, PAGE_BYTES, PMD_BYTES, PMD_PAGES, PageIndex, PageRange};
use udax_host::{Extent, ExtentKind};

/// What a unit would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Becomes {
    /// The common 2 MiB zero page.
    ZeroHuge,
    /// 4 KiB zero pages: the file ends in this unit.
    ZeroTail,
    /// The file's own pages, all of them data.
    Data,
    /// The file's own pages, and 4 KiB zero pages in holes of some length.
    Mixed,
}

impl Becomes {
    /// Whether reading all of it costs no memory.
    pub(crate) const fn is_zero(self) -> bool {
        matches!(self, Self::ZeroHuge | Self::ZeroTail)
    }

    /// In words.
    pub(crate) fn words(self) -> String {
        match self {
            Self::ZeroHuge => "2 MiB zero page",
            Self::ZeroTail => "4 KiB zero pages",
            Self::Data => "the file's own pages",
            Self::Mixed => "4 KiB zero pages and the file's own",
        }
        .to_owned()
    }
}

/// Units in a row that would be the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct UnitRun {
    /// The first unit's number.
    pub(crate) first_unit: u64,
    /// How many.
    pub(crate) units: u64,
    /// How long; less than the units if the file ends in the last one. Whole pages.
    pub(crate) length_bytes: u64,
    /// What they would be.
    pub(crate) becomes: Becomes,
    /// Pages with data in them.
    pub(crate) data_pages: u64,
}

impl UnitRun {
    /// Where it begins in the file.
    pub(crate) const fn start_bytes(&self) -> u64 {
        self.first_unit * PMD_BYTES
    }

    /// Why not the 2 MiB zero page.
    pub(crate) fn why(&self) -> String {
        let pages = self.length_bytes / PAGE_BYTES;
        match self.becomes {
            Becomes::ZeroHuge => String::new(),
            Becomes::ZeroTail => format!("the file ends here, after {pages} of 512 pages"),
            Becomes::Data => "it is data; the kernel chooses the page size".to_owned(),
            Becomes::Mixed => format!("{} of {pages} pages have data", self.data_pages),
        }
    }
}

/// Sorts extents, which come in order and without a gap, into units.
#[derive(Debug, Default)]
pub(crate) struct Units {
    runs: Vec<UnitRun>,
    /// The unit that is not complete yet: its pages so far, and how many of them are data.
    open: Option<(PageRange, u64)>,
}

impl Units {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// The next extent.
    pub(crate) fn add(&mut self, extent: Extent) {
        let mut rest = extent.pages;
        while !rest.is_empty() {
            let whole = rest.len() / PMD_PAGES;
            let part = if self.open.is_none() && rest.start.colour() == 0 && whole > 0 {
                let part = PageRange::new(rest.start, whole * PMD_PAGES);
                self.push(part, if extent.kind == ExtentKind::Data { part.len() } else { 0 });
                part
            } else {
                let part = PageRange::unit(rest.start, Order::Pmd).intersect(rest);
                self.add_part(part, extent.kind);
                part
            };
            rest = PageRange::between(part.end, rest.end);
        }
    }

    /// A part of one unit.
    fn add_part(&mut self, part: PageRange, kind: ExtentKind) {
        let (pages, data) = self.open.take().unwrap_or((PageRange::new(part.start, 0), 0));
        let pages = PageRange::between(pages.start, part.end);
        let data = data + if kind == ExtentKind::Data { part.len() } else { 0 };
        if pages.end.colour() == 0 {
            self.push(pages, data);
        } else {
            self.open = Some((pages, data));
        }
    }

    /// The runs, when there are no more extents.
    pub(crate) fn finish(mut self) -> Vec<UnitRun> {
        if let Some((pages, data)) = self.open.take() {
            self.push(pages, data);
        }
        self.runs
    }

    fn push(&mut self, pages: PageRange, data_pages: u64) {
        let becomes = match data_pages {
            0 if pages.end.colour() == 0 => Becomes::ZeroHuge,
            0 => Becomes::ZeroTail,
            data if data == pages.len() => Becomes::Data,
            _ => Becomes::Mixed,
        };
        let run = UnitRun {
            first_unit: unit_of(pages.start),
            units: pages.len().div_ceil(PMD_PAGES),
            length_bytes: pages.len() * PAGE_BYTES,
            becomes,
            data_pages,
        };
        match self.runs.last_mut().filter(|last| last.becomes == becomes) {
            Some(last) => {
                last.units += run.units;
                last.length_bytes += run.length_bytes;
                last.data_pages += run.data_pages;
            }
            None => self.runs.push(run),
        }
    }
}

const fn unit_of(page: PageIndex) -> u64 {
    page.0 / PMD_PAGES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(extents: &[(u64, ExtentKind)]) -> Vec<(u64, u64, Becomes, u64)> {
        let mut units = Units::new();
        let mut start = PageIndex(0);
        for &(pages, kind) in extents {
            units.add(Extent { pages: PageRange::new(start, pages), kind });
            start = start.plus(pages);
        }
        let found = units.finish();
        assert_eq!(found.iter().map(|run| run.length_bytes).sum::<u64>(), start.byte());
        found.iter().map(|run| (run.first_unit, run.units, run.becomes, run.data_pages)).collect()
    }

    #[test]
    fn whole_holes_become_huge_zero_pages_and_the_end_small_ones() {
        let found = runs(&[(512 * 1000 + 3, ExtentKind::Hole)]);
        assert_eq!(found, [(0, 1000, Becomes::ZeroHuge, 0), (1000, 1, Becomes::ZeroTail, 0)]);
    }

    #[test]
    fn one_page_of_data_makes_its_unit_mixed_and_no_other() {
        let found = runs(&[
            (512 * 2 + 7, ExtentKind::Hole),
            (1, ExtentKind::Data),
            (512 * 2 - 8, ExtentKind::Hole),
        ]);
        let (huge, mixed) = (Becomes::ZeroHuge, Becomes::Mixed);
        assert_eq!(found, [(0, 2, huge, 0), (2, 1, mixed, 1), (3, 1, huge, 0)]);
    }

    #[test]
    fn data_across_units_is_counted_where_it_lies() {
        let found = runs(&[
            (500, ExtentKind::Hole),
            (12 + 512 + 5, ExtentKind::Data),
            (10, ExtentKind::Hole),
        ]);
        let (data, mixed) = (Becomes::Data, Becomes::Mixed);
        assert_eq!(found, [(0, 1, mixed, 12), (1, 1, data, 512), (2, 1, mixed, 5)]);
    }

    #[test]
    fn an_empty_file_has_no_units() {
        assert_eq!(runs(&[]), []);
    }
}
