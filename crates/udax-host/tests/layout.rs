//! The layout of a file, page by page.

mod common;

use common::{Bench, everything, pages, places, sparse};
use proptest::prelude::*;
use std::os::unix::fs::FileExt;
use udax_core::{PAGE_BYTES, PageRange};
use udax_host::{Extent, ExtentKind, extents};

fn layout(bench: &Bench, range: PageRange) -> Vec<(u64, u64, ExtentKind)> {
    extents(&*bench.io, range)
        .map(|extent: Result<Extent, _>| {
            let Extent { pages, kind } = extent.unwrap();
            (pages.start.0, pages.end.0, kind)
        })
        .collect()
}

#[test]
fn holes_and_data_alternate_up_to_the_end_of_the_file() {
    use ExtentKind::{Data, Hole};
    for place in places() {
        let bench = sparse(&place, 20 * PAGE_BYTES + 1);
        for page in [3, 4, 9] {
            bench.write_page(page);
        }
        let whole = [(0, 3, Hole), (3, 5, Data), (5, 9, Hole), (9, 10, Data), (10, 21, Hole)];
        assert_eq!(layout(&bench, everything()), whole);
        assert_eq!(layout(&bench, pages(4, 7)), [(4, 5, Data), (5, 7, Hole)]);
        assert_eq!(layout(&bench, pages(6, 8)), [(6, 8, Hole)]);
        assert_eq!(layout(&bench, pages(21, 30)), []);
        assert_eq!(layout(&sparse(&place, 0), everything()), []);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_page_is_what_was_written_there(
        written in prop::collection::vec(any::<bool>(), 0..40),
        start in 0..40_u64,
        length in 0..40_u64,
    ) {
        for place in places() {
            let bench = sparse(&place, written.len() as u64 * PAGE_BYTES);
            for (page, _) in written.iter().enumerate().filter(|(_, data)| **data) {
                bench.file.write_all_at(&[1], page as u64 * PAGE_BYTES + 99).unwrap();
            }
            let range = pages(start, start + length);
            let mut seen = Vec::new();
            let mut previous = None;
            for (from, to, kind) in layout(&bench, range) {
                prop_assert!(from < to && previous != Some(kind), "extents are not maximal");
                previous = Some(kind);
                seen.extend((from..to).map(|page| (page, kind == ExtentKind::Data)));
            }
            let wanted: Vec<(u64, bool)> = (0_u64..)
                .zip(written.iter().copied())
                .filter(|(page, _)| (start..start + length).contains(page))
                .collect();
            prop_assert_eq!(seen, wanted);
        }
    }
}
