//! The index of mapping entries beside a map from pages to entries.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use std::collections::BTreeMap;
use udax_core::internals::BareIndex;
use udax_core::{Entry, Frame, Kind, Order, PMD_PAGES, PageIndex, PageRange};

#[derive(Arbitrary, Debug)]
enum Op {
    InsertSmall(Place),
    InsertLarge(Place),
    Remove(Place),
    Mark(Place),
    Get(Place),
    Walk(Place, Place),
}

/// A page: near the start, where there is much, or anywhere.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Place {
    Near(u16),
    Far(u64),
}

impl Place {
    fn page(self) -> u64 {
        match self {
            Self::Near(page) => u64::from(page) % (4 * PMD_PAGES),
            // The last index stands for "no end".
            Self::Far(page) => page & (u64::MAX >> 12),
        }
    }
}

/// Starts to lengths.
type Model = BTreeMap<u64, u64>;

fn covering(model: &Model, page: u64) -> Option<u64> {
    let (&start, &pages) = model.range(..=page).next_back()?;
    (page < start + pages).then_some(start)
}

fn is_free(model: &Model, start: u64, pages: u64) -> bool {
    covering(model, start).is_none() && model.range(start..start + pages).next().is_none()
}

fuzz_target!(|ops: Vec<Op>| {
    let (mut index, mut model) = (BareIndex::default(), Model::new());
    for op in ops {
        match op {
            Op::InsertSmall(place) => insert(&mut index, &mut model, place, Order::Pte),
            Op::InsertLarge(place) => insert(&mut index, &mut model, place, Order::Pmd),
            Op::Remove(place) => {
                let found = covering(&model, place.page());
                assert_eq!(index.remove(PageIndex(place.page())), found.is_some());
                found.map(|start| model.remove(&start));
            }
            Op::Mark(place) => {
                if covering(&model, place.page()).is_some() {
                    index.mark_and_clear(PageIndex(place.page()));
                }
            }
            Op::Get(place) => check(&index, &model, place.page()),
            Op::Walk(one, two) => {
                let (start, end) = (one.page().min(two.page()), one.page().max(two.page()));
                let range = PageRange::between(PageIndex(start), PageIndex(end));
                let sticks_in =
                    covering(&model, start).filter(|&first| first < start && start < end);
                let inside = model.range(start..end).count() as u64;
                assert_eq!(index.walk(range), inside + u64::from(sticks_in.is_some()));
            }
        }
    }
    for (&start, &pages) in &model {
        check(&index, &model, start);
        check(&index, &model, start + pages - 1);
    }
});

fn insert(index: &mut BareIndex, model: &mut Model, place: Place, order: Order) {
    let start = PageIndex(place.page()).align_down(order);
    let entry = Entry::new(order, Kind::Mapped(Frame(start.0 % (1 << 40))));
    let is_free = is_free(model, start.0, order.pages());
    assert_eq!(index.insert(start, entry), is_free);
    if is_free {
        model.insert(start.0, order.pages());
    }
}

fn check(index: &BareIndex, model: &Model, page: u64) {
    let found = index.get(PageIndex(page));
    let expected = covering(model, page);
    assert_eq!(found.and_then(Entry::frame), expected.map(|start| Frame(start % (1 << 40))));
}
