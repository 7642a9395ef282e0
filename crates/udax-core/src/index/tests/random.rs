//! Long random sequences; a failure prints the shortest one that still fails.

use super::*;

/// Pages that crowd a few places, so that steps meet.
fn page() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 0..2048_u64,
        2 => 3584..4608_u64,
        1 => (0..64_u64).prop_map(|page| (1 << 24) + 64 * page),
        1 => (0..64_u32).prop_map(|shift| 1 << shift),
        1 => (0..1024_u64).prop_map(|page| u64::MAX - page),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let order = prop_oneof![3 => Just(Order::Pte), 1 => Just(Order::Pmd)];
    let mark = prop_oneof![Just(Mark::Dirty), Just(Mark::ToWrite)];
    prop_oneof![
        6 => (page(), order.clone()).prop_map(|(page, order)| Step::Insert(page, order)),
        2 => (page(), order).prop_map(|(page, order)| Step::Exchange(page, order)),
        2 => page().prop_map(Step::Replace),
        4 => page().prop_map(Step::Remove),
        3 => (page(), mark.clone()).prop_map(|(page, mark)| Step::Set(page, mark)),
        2 => (page(), mark).prop_map(|(page, mark)| Step::Clear(page, mark)),
        1 => (page(), page()).prop_map(|(start, end)| Step::Tag(start, end)),
    ]
}

/// Steps in a sequence. Miri is a thousand times slower.
const LONGEST: usize = if cfg!(miri) { 20 } else { 400 };

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 2 } else { 128 }, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn long_sequences_agree_with_the_model(
        steps in prop::collection::vec(step(), 0..LONGEST),
        probes in prop::collection::vec(page(), 8),
    ) {
        let mut pair = Pair::default();
        for step in steps {
            pair.step(step).expect("there is memory");
            check(&pair.index, &pair.model, &probes);
        }
    }

    #[test]
    fn a_step_without_memory_changes_nothing(
        steps in prop::collection::vec((step(), 0..4_usize), 0..LONGEST / 2),
        probes in prop::collection::vec(page(), 8),
    ) {
        let mut pair = Pair::default();
        for (step, more) in steps {
            pair.index.set_node_limit(Some(pair.index.spares.in_use() + more));
            let before = pair.model.clone();
            if pair.step(step).is_err() {
                prop_assert_eq!(&before, &pair.model);
            }
            check(&pair.index, &pair.model, &probes);
        }
    }
}
