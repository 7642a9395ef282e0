//! SEMANTICS 1.5, cell by cell: what each event makes of each state of a page. The page is 3; the 2 MiB around it is 0..512.

use crate::rig::{Call, Mapped, Rig, Spec, page, pages};
use std::sync::{Arc, Mutex};
use udax_core::{Access, FaultResult, IoError, Order, Served, TraceEvent};
use udax_sim::{FsCall, Plan, Target};

const PAGE: u64 = 3;
const EIO: IoError = IoError::from_errno(5);

/// A row of the table; where a row stands for several events, each of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Row {
    PteReadHole,
    PteReadMapped,
    PteWriteHole,
    PteWriteMapped,
    PtePrivateWrite,
    PtePrivateWriteMapped,
    PteReadError,
    PteWriteError,
    PmdReadHole,
    PmdReadExtent,
    PmdWriteExtent,
    PmdUnsuitable,
    Sync,
    Truncate,
    Punch,
    ChangeLayout,
    Invalidate,
}

/// Brings page 3 into `state` through a VMA of its own, which is returned: "none", "pE" and so on; "[D]" for stored to.
fn set_up(rig: &Rig, state: &str) -> Arc<Mapped> {
    let whole = pages(0, 1024);
    let vma = match state.as_bytes()[0] {
        b'p' | b'n' => rig.small(whole),
        _ => rig.shared(whole),
    };
    match state {
        "none" => {}
        "pE" => {
            rig.file.fail(FsCall::BeginRead, Plan::ONCE, EIO);
            assert_eq!(vma.fault(PAGE, Access::Read).served, Served::BusError);
        }
        "pZ" | "hZ" => assert_eq!(vma.load(PAGE), Ok(0)),
        "pM" => {
            rig.fill(pages(PAGE, 1), 5);
            assert_eq!(vma.load(PAGE), Ok(5));
        }
        "hM" => {
            rig.fill(pages(0, 512), 5);
            assert_eq!(vma.load(PAGE), Ok(5));
        }
        "pM[D]" | "hM[D]" => {
            rig.fill(if state == "pM[D]" { pages(PAGE, 1) } else { pages(0, 512) }, 5);
            vma.store(PAGE, 6).expect("there is storage");
        }
        "hE" => empty_pmd(rig),
        _ => panic!("no such state: {state}"),
    }
    assert_eq!(rig.state(PAGE), state, "the scene is not set");
    rig.trace.take();
    vma
}

/// Leaves an empty 2 MiB entry: a 2 MiB fault takes it and then finds that a table has come to be (5.3, row 7).
fn empty_pmd(rig: &Rig) {
    let vma = rig.private(pages(0, 1024));
    let (other, mapping) = (Arc::clone(&vma), Arc::clone(&rig.mapping));
    rig.hooks.after(
        |call| matches!(call, Call::Level(_)),
        move || {
            other.fault(7, Access::Write);
            mapping.invalidate(pages(0, 512));
        },
    );
    assert_eq!(vma.fault(PAGE, Access::Read).served, Served::Retry);
}

/// Plays one cell: the state of page 3 behind it. For 2 MiB faults, before the 4 KiB fault that follows a fallback.
fn play(row: Row, state: &str) -> String {
    let rig = Rig::new(1024);
    let scene = set_up(&rig, state);
    let had_storage = state.contains('M');
    let seen = Arc::new(Mutex::new(None));
    let between = Arc::clone(&seen);
    let (looker, whole) = (Arc::clone(&rig), pages(0, 1024));
    let watch_fallback = || {
        rig.hooks.after(
            |call| matches!(call, Call::Split(_)),
            move || *between.lock().expect("one thread") = Some(looker.state(PAGE)),
        );
    };
    match row {
        Row::PteReadHole => assert_eq!(rig.small(whole).load(PAGE), Ok(0)),
        Row::PteReadMapped => {
            rig.fill(if had_storage { pages(0, 0) } else { pages(PAGE, 1) }, 5);
            assert_eq!(rig.small(whole).load(PAGE), Ok(5));
        }
        Row::PteWriteHole | Row::PteWriteMapped => {
            let filled = row == Row::PteWriteMapped && !had_storage;
            rig.fill(pages(PAGE, u64::from(filled)), 5);
            rig.small(whole).store(PAGE, 9).expect("there is space");
            assert_eq!(rig.byte(PAGE), 9);
        }
        Row::PtePrivateWrite | Row::PtePrivateWriteMapped => {
            let filled = row == Row::PtePrivateWriteMapped && !had_storage;
            rig.file.write_zeros(pages(PAGE, u64::from(filled))).expect("space");
            let vma = rig.map(Spec::private(whole));
            vma.store(PAGE, 9).expect("there is memory");
            assert_eq!(vma.translation(PAGE).map(|one| one.target), Some(Target::PrivateCopy));
            assert_eq!(rig.byte(PAGE), if had_storage { 5 } else { 0 });
        }
        Row::PteReadError | Row::PteWriteError => {
            rig.file.fail(FsCall::BeginRead, Plan::ONCE, EIO);
            rig.file.fail(FsCall::BeginWrite, Plan::ONCE, EIO);
            let access = if row == Row::PteReadError { Access::Read } else { Access::Write };
            // A fault that maps ahead asks whatever the entry knows.
            let vma = rig.map(Spec { ahead: 1, ..Spec::shared(whole).small() });
            assert_eq!(vma.fault(PAGE, access).served, Served::BusError);
        }
        Row::PmdReadHole | Row::PmdReadExtent | Row::PmdWriteExtent | Row::PmdUnsuitable => {
            match (row, had_storage) {
                (Row::PmdReadHole, _) => {}
                (Row::PmdUnsuitable, true) => rig.media.set_contiguous_limit(Some(8)),
                // Zeros, as what is refused goes on showing zeros.
                (Row::PmdUnsuitable, false) => rig.file.write_zeros(pages(7, 1)).expect("space"),
                _ => rig.file.write_zeros(pages(0, 512)).expect("space"),
            }
            watch_fallback();
            let access = if row == Row::PmdWriteExtent { Access::Write } else { Access::Read };
            let outcome = rig.shared(whole).fault(300, access);
            assert_eq!(outcome.served, Served::Installed);
        }
        Row::Sync => rig.mapping.sync(whole).expect("nothing fails"),
        Row::Truncate => rig.mapping.truncate(0).expect("nothing fails"),
        Row::Punch => rig.mapping.punch_hole(PAGE << 12, 4096).expect("nothing fails"),
        Row::ChangeLayout => {
            rig.mapping.change_layout(pages(PAGE, 1), |_| Ok(())).expect("nothing fails");
        }
        Row::Invalidate => {
            let busy = rig.mapping.invalidate(pages(PAGE, 1));
            assert_eq!(busy, u64::from(state.contains('D')));
        }
    }
    rig.check_invariants();
    check_neighbours(&rig, row, state, &scene);
    let fallback = seen.lock().expect("one thread").take();
    let fell_back = rig.trace.take().iter().any(|event| {
        matches!(event, TraceEvent::PmdFaultDone(_, result) if result.contains(FaultResult::FALLBACK))
    });
    fallback.filter(|_| fell_back).map_or_else(|| rig.state(PAGE), |before| before + "!")
}

/// "other 511: none" where a 2 MiB entry made way for a small one; and nobody else maps what was taken away.
fn check_neighbours(rig: &Rig, row: Row, state: &str, scene: &Mapped) {
    if rig.state(PAGE).starts_with('p')
        && state.starts_with('h')
        && !format!("{row:?}").starts_with("Pmd")
    {
        assert_eq!(
            (rig.state(0), rig.state(4), rig.state(511)),
            ("none".into(), "none".into(), "none".into())
        );
    }
    let gone = rig.state(PAGE) == "none" || (state.contains('Z') && rig.state(PAGE).contains('M'));
    if gone {
        assert_eq!(scene.translation(PAGE), None, "{row:?} on {state}: still mapped");
    }
    if let Some(one) = scene.translation(PAGE) {
        let large = one.order == Order::Pmd;
        assert!(!large || rig.entry(PAGE).is_some_and(|report| report.entry.order() == Order::Pmd));
    }
}

/// The cells of a row, "before>after"; "!" is a fallback. Missing are those that the table calls impossible, or no hole.
fn cells(row: Row) -> &'static str {
    match row {
        Row::PteReadHole => "none>pZ pE>pZ pZ>pZ hE>pZ hZ>pZ",
        Row::PteReadMapped => "none>pM pE>pM pZ>pM pM>pM hE>pM hZ>pM hM>hM",
        Row::PteWriteHole => "none>pM[D] pE>pM[D] pZ>pM[D] hE>pM[D] hZ>pM[D]",
        Row::PteWriteMapped => "none>pM[D] pE>pM[D] pZ>pM[D] pM>pM[D] hE>pM[D] hZ>pM[D] hM>hM[D]",
        Row::PtePrivateWrite | Row::PtePrivateWriteMapped => {
            "none>pE pE>pE pZ>pZ pM>pM hE>pE hZ>pE hM>hM"
        }
        Row::PteReadError | Row::PteWriteError => "none>pE pE>pE pZ>pZ pM>pM hE>pE hZ>pE hM>hM",
        Row::PmdReadHole => "none>hZ pE>pE! pZ>pZ! pM>pM! hE>hZ hZ>hZ",
        Row::PmdReadExtent => "none>hM pE>pE! pZ>pZ! pM>pM! hE>hM hZ>hM hM>hM",
        Row::PmdWriteExtent => "none>hM[D] pE>pE! pZ>pZ! pM>pM! hE>hM[D] hZ>hM[D] hM>hM[D]",
        Row::PmdUnsuitable => "none>hE! pE>pE! pZ>pZ! pM>pM! hE>hE! hZ>hZ! hM>hM!",
        Row::Sync => "none>none pE>pE pZ>pZ pM>pM pM[D]>pM hE>hE hZ>hZ hM>hM hM[D]>hM",
        Row::Truncate | Row::Punch | Row::ChangeLayout => {
            "none>none pE>none pZ>none pM>none pM[D]>none hE>none hZ>none hM>none hM[D]>none"
        }
        Row::Invalidate => {
            "none>none pE>none pZ>none pM>none pM[D]>pM[D] hE>none hZ>none hM>none hM[D]>hM[D]"
        }
    }
}

#[track_caller]
fn check(row: Row) {
    for cell in cells(row).split(' ') {
        let (before, after) = cell.split_once('>').expect("a cell has two states");
        assert_eq!(play(row, before), after, "{row:?} on {before}");
    }
}

#[test]
fn table_1_5_pte_read_fault_hole() {
    check(Row::PteReadHole);
}

#[test]
fn table_1_5_pte_read_fault_mapped() {
    check(Row::PteReadMapped);
}

#[test]
fn table_1_5_pte_shared_write_any() {
    check(Row::PteWriteHole);
    check(Row::PteWriteMapped);
}

#[test]
fn table_1_5_pte_private_write() {
    check(Row::PtePrivateWrite);
    check(Row::PtePrivateWriteMapped);
}

#[test]
fn table_1_5_pte_fault_fs_error() {
    check(Row::PteReadError);
    check(Row::PteWriteError);
}

#[test]
fn table_1_5_pmd_read_fault_2_mib_hole() {
    check(Row::PmdReadHole);
}

#[test]
fn table_1_5_pmd_read_fault_2_mib_extent() {
    check(Row::PmdReadExtent);
}

#[test]
fn table_1_5_pmd_shared_write_2_mib_extent() {
    check(Row::PmdWriteExtent);
}

#[test]
fn table_1_5_pmd_fault_extent_not_suitable() {
    check(Row::PmdUnsuitable);
}

#[test]
fn table_1_5_fsync() {
    check(Row::Sync);
}

#[test]
fn table_1_5_truncate_punch_layout_break() {
    check(Row::Truncate);
    check(Row::Punch);
    check(Row::ChangeLayout);
}

#[test]
fn table_1_5_invalidate_if_clean() {
    check(Row::Invalidate);
}

/// The cell "PTE read fault, hole, pM", which cannot be if I9 holds, and "PTE read fault, hole, hM": if a file system forgets
/// storage all the same, the storage stays in sight.
#[test]
fn table_1_5_impossible_cells_show_storage_rather_than_zeros() {
    // The entry alone is enough for a fault that asks for nothing ahead.
    for (state, ahead) in [("pM", 0), ("hM", 0), ("pM", 1), ("hM", 1)] {
        let rig = Rig::new(1024);
        set_up(&rig, state);
        rig.file.make_unwritten(pages(0, 512)).expect("there is space");
        let vma = rig.map(Spec { ahead, ..Spec::shared(pages(0, 1024)).small() });
        let outcome = vma.fault(PAGE, Access::Read);
        assert_eq!(outcome.served, Served::Installed);
        let target = vma.sim.translation(page(PAGE)).map(|one| one.target);
        assert!(matches!(target, Some(Target::Storage(_))), "{state}");
        assert_eq!(rig.state(PAGE), state);
    }
}
