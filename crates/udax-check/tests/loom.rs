//! Every operation against every other, under every schedule of two threads; and three threads under those with few preemptions.
//!
//! `UDAX_CHECK=all` lifts the bounds and prints what was explored (docs/testing.md).

use udax_check::{Layout, Op, Start, Totals, Which, check};

/// `op` against each operation, on the same page and on the next, after each start. Two on the same page meet but once.
fn against_everything(op: Op) {
    let same_page = Op::all(0);
    let own = same_page.iter().position(|other| *other == op).unwrap_or(0);
    let mut totals = Totals::new(&format!("{op:?}"));
    for start in Start::ALL {
        let next_page = Op::all(1).into_iter().filter(|other| !same_page.contains(other));
        for other in same_page[own..].iter().copied().chain(next_page) {
            totals.add(check(start, &[op, other], Layout::default()));
        }
    }
}

#[test]
fn a_load_of_4_kib_against_everything() {
    against_everything(Op::Load(Which::Small, 0));
}

#[test]
fn a_load_of_2_mib_against_everything() {
    against_everything(Op::Load(Which::Huge, 0));
}

#[test]
fn a_store_to_4_kib_against_everything() {
    against_everything(Op::Store(Which::Small, 0));
}

#[test]
fn a_store_to_2_mib_against_everything() {
    against_everything(Op::Store(Which::Huge, 0));
}

#[test]
fn a_store_and_its_sync_against_everything() {
    against_everything(Op::StoreSync(Which::Small, 0));
    against_everything(Op::StoreSync(Which::Huge, 0));
}

#[test]
fn a_sync_against_everything() {
    against_everything(Op::Sync);
}

#[test]
fn a_truncation_against_everything() {
    against_everything(Op::Truncate(0));
    against_everything(Op::Truncate(1));
}

#[test]
fn a_punched_page_against_everything() {
    against_everything(Op::Punch(0));
}

#[test]
fn a_punched_2_mib_against_everything() {
    against_everything(Op::PunchAll);
}

#[test]
fn a_write_against_everything() {
    against_everything(Op::Write(0));
}

#[test]
fn an_invalidation_against_everything() {
    against_everything(Op::Invalidate(0));
}

#[test]
fn a_revocation_against_everything() {
    against_everything(Op::Revoke);
}

#[test]
fn a_failing_media_against_everything() {
    against_everything(Op::MediaFailed(0));
}

#[test]
fn a_collapse_against_everything() {
    against_everything(Op::Collapse);
}
