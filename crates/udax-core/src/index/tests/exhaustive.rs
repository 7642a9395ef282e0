//! Every sequence of a few steps on a few pages.

use super::*;

/// Every step that there is on one of `pages`; PMD ones once for each 2 MiB.
fn steps_on(pages: &[u64], tags: &[(u64, u64)]) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut units = Vec::new();
    for &page in pages {
        steps.extend([Step::Insert(page, Order::Pte), Step::Exchange(page, Order::Pte)]);
        steps.extend([Step::Remove(page), Step::Replace(page), Step::Set(page, Mark::Dirty)]);
        steps.extend([Step::Clear(page, Mark::Dirty), Step::Set(page, Mark::ToWrite)]);
        let unit = PageIndex(page).align_down(Order::Pmd);
        if !units.contains(&unit) {
            units.push(unit);
            steps.extend([Step::Insert(page, Order::Pmd), Step::Exchange(page, Order::Pmd)]);
        }
    }
    steps.extend(tags.iter().map(|(start, end)| Step::Tag(*start, *end)));
    steps
}

/// Runs every sequence of `length` steps, with a check at its end; the shorter ones have their own turn.
fn every_sequence(steps: &[Step], length: u32, probes: &[u64]) {
    // Miri is a thousand times slower, and looks for something else.
    let stride = if cfg!(miri) { steps.len().pow(length) / 12 + 1 } else { 1 };
    for number in (0..steps.len().pow(length)).step_by(stride) {
        let digit = |place| steps[number / steps.len().pow(place) % steps.len()];
        let sequence: Vec<Step> = (0..length).map(digit).collect();
        let run = std::panic::catch_unwind(|| {
            let mut pair = Pair::default();
            for step in &sequence {
                pair.step(*step).expect("there is memory");
            }
            check(&pair.index, &pair.model, probes);
        });
        assert!(run.is_ok(), "by {sequence:?}");
    }
}

const BORDERS: [u64; 14] =
    [0, 1, 63, 64, 511, 512, 1023, 1024, 4095, 4096, 1 << 40, LAST_PMD - 1, LAST_PMD, u64::MAX];

#[test]
fn every_two_steps_at_every_border_agree_with_the_model() {
    let tags = [(0, u64::MAX), (1, 512), (511, 513), (LAST_PMD + 1, u64::MAX), (512, 512)];
    for length in 0..3 {
        every_sequence(&steps_on(&BORDERS, &tags), length, &BORDERS);
    }
}

#[test]
fn every_three_steps_around_2_mib_agree_with_the_model() {
    let pages = [0, 511, 512, 4096];
    let tags = [(0, u64::MAX), (1, 511), (512, 4096)];
    every_sequence(&steps_on(&pages, &tags), 3, &[0, 1, 511, 512, 1024, 4095, 4096]);
}

#[test]
fn every_five_steps_in_one_2_mib_agree_with_the_model() {
    let steps = [
        Step::Insert(70, Order::Pte),
        Step::Insert(0, Order::Pmd),
        Step::Exchange(70, Order::Pte),
        Step::Exchange(70, Order::Pmd),
        Step::Set(70, Mark::Dirty),
        Step::Clear(500, Mark::Dirty),
        Step::Replace(70),
        Step::Remove(70),
        Step::Tag(100, 200),
    ];
    for length in 3..6 {
        every_sequence(&steps, length, &[0, 70, 71, 511]);
    }
}

#[test]
fn a_2_mib_entry_is_found_from_each_of_its_pages() {
    for start in [0, 512, 4096 - 512, 1 << 30, LAST_PMD] {
        let mut pair = Pair::default();
        pair.step(Step::Insert(start, Order::Pmd)).expect("there is memory");
        pair.step(Step::Set(start + 300, Mark::Dirty)).expect("no memory is needed");
        for page in start..=start + (PMD_PAGES - 1) {
            assert_eq!(pair.index.get(PageIndex(page)), Some(pair.model.found(start)));
            assert!(pair.index.is_marked(PageIndex(page), Mark::Dirty));
        }
        check(&pair.index, &pair.model, &[start, start + 5, start.wrapping_sub(1)]);
    }
}

#[test]
fn a_4_kib_entry_anywhere_keeps_a_2_mib_one_out() {
    for page in (512..1024).step_by(if cfg!(miri) { 127 } else { 1 }) {
        let mut pair = Pair::default();
        assert_eq!(pair.insert(page, Order::Pte), Ok(()));
        assert_eq!(pair.insert(512, Order::Pmd), Err(InsertError::Occupied), "{page}");
        assert_eq!(pair.insert(0, Order::Pmd), Ok(()));
        assert_eq!(pair.insert(1024, Order::Pmd), Ok(()));
        check(&pair.index, &pair.model, &[0, 511, 512, page, 1024]);
    }
}

#[test]
fn marks_do_not_outlive_their_entry() {
    for order in [Order::Pte, Order::Pmd] {
        let mut pair = Pair::default();
        for step in [
            Step::Insert(512, order),
            Step::Set(512, Mark::Dirty),
            Step::Tag(0, 1024),
            Step::Remove(512),
            Step::Insert(512, order),
        ] {
            pair.step(step).expect("there is memory");
        }
        assert_eq!(pair.index.first_marked_in(PageRange::from(PageIndex(0)), Mark::Dirty), None);
        assert!(!pair.index.is_marked(PageIndex(512), Mark::ToWrite));
        check(&pair.index, &pair.model, &[0, 512, 1023]);
    }
}

#[test]
#[should_panic(expected = "multiple of 512")]
fn a_2_mib_entry_does_not_start_in_the_middle() {
    let _ = Index::new().insert(PageIndex(64), Entry::new(Order::Pmd, Kind::Zero));
}

#[test]
#[should_panic(expected = "keeps the order")]
fn replacing_does_not_change_the_order() {
    let mut index = Index::new();
    index.insert(PageIndex(0), Entry::new(Order::Pmd, Kind::Zero)).expect("it is free");
    index.replace(PageIndex(0), Entry::new(Order::Pte, Kind::Zero));
}

#[test]
#[should_panic(expected = "by its own start")]
fn replacing_takes_the_start_of_the_entry() {
    let mut index = Index::new();
    index.insert(PageIndex(0), Entry::new(Order::Pmd, Kind::Zero)).expect("it is free");
    index.replace(PageIndex(1), Entry::new(Order::Pmd, Kind::Zero));
}

#[test]
#[should_panic(expected = "entry to replace")]
fn replacing_nothing_is_refused() {
    Index::new().replace(PageIndex(0), Entry::new(Order::Pte, Kind::Zero));
}

#[test]
#[should_panic(expected = "only an entry can be marked")]
fn marking_nothing_is_refused() {
    Index::new().set_mark(PageIndex(0), Mark::Dirty);
}
