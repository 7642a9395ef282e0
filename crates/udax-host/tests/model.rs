//! Random writes, punches, truncations, surveys and answers, against one flag per page and per unit.

mod common;

use common::{Bench, everything, page, pages, places, sparse};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;
use udax_core::{Backing, Filesystem, Intent, PAGE_BYTES, PMD_PAGES, PageIndex};
use udax_host::{HostIo, HostKind};

const UNITS: u64 = 5;
const PAGES: u64 = UNITS * PMD_PAGES;

#[derive(Clone, Debug)]
enum Step {
    /// write(2) by the process, told of beforehand.
    Write {
        page: u64,
    },
    /// A store through a mapping that shows the page natively, told to nobody; skipped where none may.
    NativeStore {
        page: u64,
    },
    Fault {
        start: u64,
        length: u64,
        intent: Intent,
    },
    Punch {
        start: u64,
        length: u64,
    },
    Resize {
        bytes: u64,
    },
    Release {
        start: u64,
        length: u64,
    },
    Survey,
    LoseTrust,
    WinTrust,
}

fn step() -> impl Strategy<Value = Step> {
    // Borders of units are where it goes wrong: most places are next to one.
    let place = prop_oneof![
        (0..=UNITS, 0..3_u64).prop_map(|(unit, near)| {
            (unit * PMD_PAGES + near).saturating_sub(1).min(PAGES - 1)
        }),
        0..PAGES,
    ];
    let length = prop_oneof![Just(1), Just(PMD_PAGES), 1..PAGES];
    let intent = prop_oneof![Just(Intent::Read), Just(Intent::Write), Just(Intent::Zero)];
    prop_oneof![
        2 => place.clone().prop_map(|page| Step::Write { page }),
        3 => place.clone().prop_map(|page| Step::NativeStore { page }),
        6 => (place.clone(), length.clone(), intent)
            .prop_map(|(start, length, intent)| Step::Fault { start, length, intent }),
        3 => (place.clone(), length.clone())
            .prop_map(|(start, length)| Step::Punch { start, length }),
        2 => (place.clone(), 0..3_u64)
            .prop_map(|(page, odd)| Step::Resize { bytes: page * PAGE_BYTES + odd * 2047 }),
        2 => (place, length).prop_map(|(start, length)| Step::Release { start, length }),
        4 => Just(Step::Survey),
        1 => Just(Step::LoseTrust),
        1 => Just(Step::WinTrust),
    ]
}

/// What must be so, by the simplest account there is.
struct Model {
    eof_pages: u64,
    data: BTreeSet<u64>,
    /// At some time.
    released: BTreeSet<u64>,
    /// Pages that some mapping may show natively.
    native: BTreeSet<u64>,
    trusted: bool,
}

impl Model {
    /// Whether a survey may take the page for data: it comes shortly before data; or, on tmpfs, behind two pages with data in the same 2 MiB.
    fn may_be_passed_over(&self, page: u64, kind: HostKind) -> bool {
        const SMALLEST_HOLE: u64 = 4;
        let unit = page / PMD_PAGES * PMD_PAGES;
        let pairs = |first: u64| self.data.contains(&first) && self.data.contains(&(first + 1));
        self.data.range(page..page + SMALLEST_HOLE).next().is_some()
            || kind == HostKind::Tmpfs && (unit.saturating_sub(1)..page).any(pairs)
    }

    fn may_be_hole(&self, page: u64) -> bool {
        self.trusted
            && page < self.eof_pages
            && !self.native.contains(&page)
            && !self.data.contains(&page)
    }
}

fn apply(bench: &Bench, model: &mut Model, step: &Step) {
    match *step {
        Step::Write { page: index } => {
            let iomap = bench.begin(page(index), Intent::Write);
            assert!(iomap.range.contains(PageIndex(index)));
            model.native.extend(index..iomap.range.end.0);
            bench.write_page(index);
            model.data.insert(index);
            model.eof_pages = model.eof_pages.max(index + 1);
        }
        Step::NativeStore { page: index } => {
            if index < model.eof_pages && model.native.contains(&index) {
                let inside = (bench.host.size_bytes() - index * PAGE_BYTES).min(PAGE_BYTES);
                let bytes = vec![1; usize::try_from(inside).unwrap()];
                bench.file.write_all_at(&bytes, index * PAGE_BYTES).unwrap();
                model.data.insert(index);
            }
        }
        Step::Fault { start, length, intent } => {
            let iomap = bench.begin(pages(start, start + length), intent);
            for index in iomap.range.start.0..iomap.range.end.0 {
                match iomap.backing {
                    Backing::Hole if index < model.eof_pages => {
                        assert!(model.may_be_hole(index), "page {index} as a hole: {iomap:?}");
                    }
                    Backing::Mapped(_) => {
                        model.native.insert(index);
                    }
                    Backing::Hole | Backing::Unwritten | Backing::Other => {
                        assert_eq!(intent, Intent::Zero, "past the end: {iomap:?}");
                    }
                }
            }
        }
        Step::Punch { start, length } => {
            bench.host.free(pages(start, start + length)).unwrap();
            model.data.retain(|index| !(start..start + length).contains(index));
        }
        Step::Resize { bytes } => {
            bench.host.set_size(bytes).unwrap();
            model.eof_pages = bytes.div_ceil(PAGE_BYTES);
            let eof = model.eof_pages;
            model.data.retain(|&index| index < eof);
        }
        Step::Release { start, length } => {
            assert!(bench.host.release(pages(start, start + length)), "nothing is kept");
            model.native.retain(|index| !(start..start + length).contains(index));
            model.released.extend(start..start + length);
        }
        Step::Survey => {
            bench.survey();
            survey_found_all(bench, model);
        }
        Step::LoseTrust => {
            bench.host.distrust();
            model.trusted = false;
        }
        Step::WinTrust => {
            bench.host.trust();
            model.trusted = true;
        }
    }
    nothing_else_is_a_hole(bench, model);
}

fn nothing_else_is_a_hole(bench: &Bench, model: &Model) {
    for index in 0..PAGES + PMD_PAGES {
        if bench.host.hole_pages(page(index)) == 1 {
            assert!(model.may_be_hole(index), "page {index} is held to be a hole");
        }
    }
}

/// A survey misses no hole, but where the file system itself made data (some do that next to the end of a file that grows), and what it passes over.
fn survey_found_all(bench: &Bench, model: &Model) {
    for index in 0..model.eof_pages {
        let data = bench.io.seek_data(index * PAGE_BYTES).unwrap();
        let is_hole = data.is_none_or(|byte| byte >= (index + 1) * PAGE_BYTES);
        // What is looked at anew may be a small piece beside data, and that data go later.
        let may_be_missed = model.released.contains(&index)
            || model.may_be_passed_over(index, bench.host.kind())
            || data.is_some_and(|byte| byte < (index + 4) * PAGE_BYTES);
        let seen = bench.host.hole_pages(page(index)) == 1;
        assert!(
            !is_hole || seen || may_be_missed || !model.may_be_hole(index),
            "page {index} was missed"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn answers_agree_with_the_model(
        size in 0..=PAGES,
        steps in prop::collection::vec(step(), 1..60),
    ) {
        for place in places() {
            let bench = sparse(&place, size * PAGE_BYTES);
            let mut model = Model {
                eof_pages: size,
                data: BTreeSet::new(),
                native: BTreeSet::new(),
                released: BTreeSet::new(),
                trusted: true,
            };
            for step in &steps {
                apply(&bench, &mut model, step);
            }
            prop_assert!(bench.host.survey(everything()).is_ok());
        }
    }
}
