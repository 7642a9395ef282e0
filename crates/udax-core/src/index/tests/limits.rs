//! No memory for nodes, at every step; and how much memory they take.

use super::*;

const PAGES: [u64; 8] = [0, 63, 511, 512, 4096, 1 << 24, 1 << 40, u64::MAX];

/// How many nodes the tree has after the step.
fn in_use_after(mut pair: Pair, step: Step) -> usize {
    pair.step(step).expect("there is memory");
    pair.index.spares.in_use()
}

fn built(steps: &[Step]) -> Pair {
    let mut pair = Pair::default();
    for step in steps {
        pair.step(*step).expect("there is memory");
    }
    pair
}

/// Every two of [`PAGES`]; some of them under Miri, which is a thousand times slower.
fn pairs() -> impl Iterator<Item = (u64, u64)> {
    let all = PAGES.iter().flat_map(|a| PAGES.iter().map(move |b| (*a, *b)));
    all.step_by(if cfg!(miri) { 31 } else { 1 })
}

#[test]
fn out_of_memory_at_any_node_changes_nothing() {
    for (before, page) in pairs() {
        for (first, order) in [Order::Pte, Order::Pmd]
            .iter()
            .flat_map(|a| [Order::Pte, Order::Pmd].into_iter().map(move |b| (*a, b)))
        {
            let base = [Step::Insert(before, first), Step::Set(before, Mark::Dirty)];
            let step = Step::Insert(page, order);
            let nodes = built(&base).index.spares.in_use();
            let needed = in_use_after(built(&base), step) - nodes;
            for spare in 0..needed {
                let mut pair = built(&base);
                pair.index.set_node_limit(Some(nodes + spare));
                let model = pair.model.clone();
                assert_eq!(pair.index.reserve(PageIndex(page), order), Err(OutOfMemory));
                assert_eq!(pair.step(step), Err(OutOfMemory), "{base:?} {step:?} {spare}");
                assert_eq!(pair.model, model);
                check(&pair.index, &pair.model, &PAGES);
            }
            let mut pair = built(&base);
            pair.index.set_node_limit(Some(nodes + needed));
            assert_eq!(pair.step(step), Ok(()), "{base:?} {step:?}");
            check(&pair.index, &pair.model, &PAGES);
        }
    }
}

#[test]
fn a_2_mib_entry_stays_when_there_is_no_memory_to_downgrade_it() {
    let mut pair = built(&[Step::Insert(512, Order::Pmd), Step::Set(512, Mark::Dirty)]);
    pair.index.set_node_limit(Some(0));
    assert_eq!(pair.step(Step::Exchange(600, Order::Pte)), Err(OutOfMemory));
    check(&pair.index, &pair.model, &[511, 512, 600, 1024]);
    pair.index.set_node_limit(None);
    assert_eq!(pair.step(Step::Exchange(600, Order::Pte)), Ok(()));
    check(&pair.index, &pair.model, &[511, 512, 600, 1024]);
}

#[test]
fn what_was_removed_can_be_put_back_without_memory() {
    for (other, page) in pairs() {
        let mut pair = built(&[Step::Insert(page, Order::Pmd), Step::Insert(other, Order::Pmd)]);
        pair.index.set_node_limit(Some(0));
        pair.remove(page);
        assert_eq!(pair.insert(page, Order::Pte), Err(InsertError::OutOfMemory));
        check(&pair.index, &pair.model, &PAGES);
        assert_eq!(pair.insert(page, Order::Pmd), Ok(()), "{other:#x} {page:#x}");
        check(&pair.index, &pair.model, &PAGES);
    }
}

#[test]
fn a_reserved_insert_needs_no_memory_even_after_removals() {
    for (other, page) in pairs() {
        for order in [Order::Pte, Order::Pmd] {
            let mut pair = built(&[Step::Insert(other, Order::Pmd), Step::Insert(700, Order::Pte)]);
            pair.index.reserve(PageIndex(page), order).expect("there is memory");
            check(&pair.index, &pair.model, &PAGES);
            pair.index.spares.limit = Some(0);
            for gone in [other, 700, page] {
                pair.remove(gone);
            }
            assert_eq!(pair.insert(page, order), Ok(()), "{other:#x} {page:#x} {order:?}");
            check(&pair.index, &pair.model, &PAGES);
        }
    }
}

#[test]
fn no_insert_needs_more_than_the_spares_that_are_kept() {
    let mut index = Index::new();
    index.insert(PageIndex(0), Entry::new(Order::Pte, Kind::Zero)).expect("it is free");
    let most = Need { leaves: 1, inners: INNER_SPARES };
    assert_eq!(index.needed(PageIndex(u64::MAX), Order::Pte), most);
    let entry = Entry::new(Order::Pte, Kind::Zero);
    assert_eq!(index.insert(PageIndex(u64::MAX), entry), Ok(()));
    assert_eq!(index.spares.in_use(), 2 + INNER_SPARES);
}

#[test]
fn an_emptied_index_has_no_node_in_the_tree() {
    let mut pair = Pair::default();
    let dense = if cfg!(miri) { 70 } else { 5000 };
    for page in (0..dense).chain(PAGES) {
        pair.step(Step::Insert(page, Order::Pte)).expect("there is memory");
    }
    for page in (0..dense).chain(PAGES).rev() {
        pair.remove(page);
    }
    assert_eq!(pair.index.spares.in_use(), 0);
    check(&pair.index, &pair.model, &PAGES);
}

#[test]
fn a_dense_index_takes_less_than_12_bytes_an_entry() {
    let mut index = Index::new();
    let pages = if cfg!(miri) { 1 << 11 } else { 1 << 15 };
    for page in 0..pages {
        index.insert(PageIndex(page), Entry::new(Order::Pte, Kind::Zero)).expect("it is free");
    }
    let mut bytes = 0;
    weigh(&index.root, &mut bytes);
    assert!((bytes as u64) < 12 * pages, "{bytes} bytes");
}

fn weigh(slot: &Slot, bytes: &mut usize) {
    match slot {
        Slot::Empty | Slot::Entry(_) => {}
        Slot::Leaf(leaf) => *bytes += size_of_val(&**leaf),
        Slot::Inner(inner) => {
            *bytes += size_of_val(&**inner);
            inner[0].slots.iter().for_each(|slot| weigh(slot, bytes));
        }
    }
}
