//! The lost wake-ups of SEMANTICS 2.4, S1 to S11, each with as many threads as it takes; and other meetings of three and four.

use udax_check::{Layout, Op, Start, Totals, Which, check};

const READ: Op = Op::Load(Which::Small, 0);
const READ_HUGE: Op = Op::Load(Which::Huge, 0);
const STORE: Op = Op::Store(Which::Small, 0);

/// Explores `ops` after each of `starts`.
fn after(starts: &[Start], ops: &[Op]) {
    let mut totals = Totals::new(&format!("{ops:?}"));
    for &start in starts {
        totals.add(check(start, ops, Layout::default()));
    }
}

#[test]
fn s1_and_s2_three_readers_of_one_hole() {
    after(&[Start::Hole, Start::SmallZeros, Start::HugeZeros], &[READ, READ, READ]);
    after(&[Start::Hole, Start::SmallZeros, Start::HugeZeros], &[READ, STORE, READ]);
}

#[test]
fn s3_a_2_mib_fault_and_two_of_4_kib() {
    after(&[Start::Hole, Start::SmallZeros], &[READ, READ_HUGE, READ]);
    after(&[Start::Hole, Start::HugeZeros], &[READ, READ_HUGE, Op::Load(Which::Small, 1)]);
    after(&[Start::Hole, Start::HugeZeros], &[STORE, READ_HUGE, Op::Store(Which::Small, 1)]);
}

#[test]
fn s4_three_pages_of_one_2_mib_zero_page() {
    after(&[Start::HugeZeros], &[READ, Op::Load(Which::Small, 1), Op::Load(Which::Small, 2)]);
}

#[test]
fn s5_a_downgrade_without_memory() {
    let layout = Layout { index_nodes: Some(2), ..Layout::default() };
    check(Start::HugeZeros, &[READ, READ], layout);
    check(Start::HugeZeros, &[READ, Op::Load(Which::Small, 1), READ_HUGE], layout);
}

#[test]
fn s6_three_who_delete_behind_one_who_holds() {
    let delete = Op::Invalidate(0);
    after(&[Start::Hole, Start::SmallClean], &[READ, delete, delete, delete]);
    after(&[Start::Hole, Start::SmallClean], &[READ, READ, delete, delete]);
    after(&[Start::HugeZeros, Start::HugeClean], &[READ_HUGE, READ, delete, delete]);
    // Of what a sync has just cleaned: zeros are locked before they go, storage is not.
    after(&[Start::SmallDirty, Start::HugeDirty], &[Op::Sync, delete, delete, delete]);
}

#[test]
fn s7_a_2_mib_fault_and_a_small_entry_further_on() {
    after(&[Start::Hole], &[Op::Load(Which::Small, 1), READ_HUGE]);
    after(&[Start::Hole], &[Op::Load(Which::Small, 1), READ_HUGE, READ_HUGE]);
}

#[test]
fn s8_one_who_looks_and_does_not_lock() {
    after(&[Start::SmallDirty, Start::HugeDirty], &[STORE, Op::Invalidate(0), READ]);
    after(&[Start::SmallDirty, Start::HugeDirty], &[Op::Sync, Op::Invalidate(0), STORE]);
    after(&[Start::SmallDirty, Start::HugeDirty], &[Op::Sync, Op::Sync, STORE]);
}

#[test]
fn s9_one_who_waits() {
    after(&[Start::Hole, Start::HugeZeros, Start::SmallDirty], &[STORE, STORE]);
}

#[test]
fn s10_one_who_may_not_come_back() {
    after(&[Start::SmallClean, Start::Hole], &[STORE, Op::MediaFailed(0), STORE]);
    after(&[Start::HugeClean, Start::HugeZeros], &[STORE, Op::MediaFailed(1), READ]);
}

#[test]
fn s11_two_pages_that_share_a_bucket() {
    let next = Op::Store(Which::Small, 1);
    after(&[Start::Hole, Start::SmallZeros], &[STORE, STORE, next, next]);
}

#[test]
fn w9_one_who_is_interrupted_among_those_who_wait() {
    let unless = Op::FaultUnless(Which::Small, 0);
    after(&[Start::Hole, Start::SmallZeros], &[STORE, unless, Op::Interrupt, STORE]);
    after(&[Start::HugeZeros, Start::HugeDirty], &[Op::Sync, unless, Op::Interrupt, STORE]);
}

#[test]
fn a_collapse_beside_those_who_hold_and_wait_for_small_entries() {
    after(&[Start::SmallInOne], &[Op::Collapse, Op::MediaFailed(0), Op::Sync, Op::Sync]);
    after(&[Start::SmallInOne], &[Op::Collapse, Op::StoreSync(Which::Small, 0), STORE]);
    after(&[Start::SmallInOne, Start::SmallZeros], &[Op::Collapse, READ_HUGE, STORE]);
    after(&[Start::SmallInOne], &[Op::Collapse, Op::Punch(1), Op::Sync]);
    after(&[Start::Scattered], &[Op::Collapse, Op::Sync, STORE]);
}

#[test]
fn a_store_its_sync_and_another_sync() {
    let starts = [Start::SmallDirty, Start::HugeDirty];
    after(&starts, &[Op::StoreSync(Which::Small, 0), Op::Sync, STORE]);
    after(&starts, &[Op::Sync, Op::Sync, Op::Store(Which::Huge, 0)]);
}

#[test]
fn a_write_into_a_hole_beside_two_faults_and_beside_a_punch() {
    let starts = [Start::Hole, Start::SmallZeros, Start::HugeZeros];
    after(&starts, &[Op::Write(0), READ, READ_HUGE]);
    after(&starts, &[Op::Write(0), Op::Punch(0), READ]);
}

#[test]
fn a_truncation_between_faults_and_a_sync() {
    let starts = [Start::SmallDirty, Start::HugeDirty];
    after(&starts, &[Op::Truncate(0), STORE, READ]);
    after(&starts, &[Op::Truncate(1), Op::Sync, Op::Store(Which::Huge, 1)]);
}
