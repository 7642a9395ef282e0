//! A fault that finds an entry which knows its storage does not ask the file system again, and loses nothing by it.

use crate::rig::{Call, Rig, Spec, pages};
use udax_core::{Access, IoError, Served};
use udax_sim::{FsCall, MediaCall, Plan};

/// How often the file system was asked by faults so far.
fn asked(rig: &Rig) -> u64 {
    rig.file.calls(FsCall::BeginRead) + rig.file.calls(FsCall::BeginWrite)
}

#[test]
fn many_that_map_one_file_ask_once() {
    for spec in [Spec::shared(pages(0, 1024)).small(), Spec::shared(pages(0, 1024))] {
        let rig = Rig::new(1024);
        rig.fill(pages(0, 512), 7);
        let before = asked(&rig);
        for _ in 0..5 {
            assert_eq!(rig.map(spec.clone()).load(3), Ok(7));
        }
        assert_eq!(asked(&rig), before + 1, "five mappings, one question");
        let private = rig.private(pages(0, 1024));
        private.store(3, 9).expect("there is memory");
        assert_eq!(asked(&rig), before + 1, "a private copy asks no more than a load");
        assert_eq!((private.load(3), rig.byte(3)), (Ok(9), 7));
        rig.check_invariants();
    }
}

#[test]
fn a_load_leaves_clean_storage_clean_and_dirty_storage_dirty() {
    let rig = Rig::new(1024);
    rig.fill(pages(0, 512), 7);
    let (one, two) = (rig.small(pages(0, 1024)), rig.small(pages(0, 1024)));
    assert_eq!((one.load(3), two.load(3)), (Ok(7), Ok(7)));
    assert_eq!(rig.state(3), "pM", "nobody stored");
    one.store(3, 8).expect("there is storage");
    two.discard(pages(3, 1));
    assert_eq!((two.load(3), rig.state(3)), (Ok(8), "pM[D]".into()));
    rig.check_invariants();
}

/// A store has leave to go to storage that is dirty; for clean storage it asks, since it may have come to be shared meanwhile.
#[test]
fn a_store_asks_unless_the_entry_is_dirty() {
    let rig = Rig::new(1024);
    rig.fill(pages(0, 512), 7);
    let (one, two) = (rig.small(pages(0, 1024)), rig.small(pages(0, 1024)));
    assert_eq!(one.load(3), Ok(7));
    let before = asked(&rig);
    one.store(3, 8).expect("there is storage");
    assert_eq!(asked(&rig), before + 1, "the entry was clean");
    two.store(3, 9).expect("there is storage");
    assert_eq!(asked(&rig), before + 1, "the entry was dirty");
    rig.mapping.sync(pages(0, 1024)).expect("nothing fails");
    let clone = rig.fs.create(0);
    rig.fs.reflink(&rig.file, &clone);
    two.store(3, 10).expect("there is space");
    assert_eq!(
        (rig.byte(3), clone.contents()[3 * 4096]),
        (10, 9),
        "shared storage is not stored to"
    );
    rig.check_invariants();
}

/// A 2 MiB entry is dirty as a whole once one of its pages was stored to, and leave to store was given for that page alone.
#[test]
fn a_store_asks_though_another_page_made_its_2_mib_entry_dirty() {
    for through_another_mapping in [false, true] {
        let rig = Rig::new(1024);
        rig.fill(pages(0, 512), 7);
        let clone = rig.fs.create(0);
        rig.fs.reflink(&rig.file, &clone);
        let (one, two) =
            (rig.map(Spec::shared(pages(0, 1024))), rig.map(Spec::shared(pages(0, 1024))));
        assert_eq!(one.load(0), Ok(7));
        // From now on one of the pages is not shared any more.
        clone.make_unwritten(pages(1, 1)).expect("there is space");
        one.store(1, 8).expect("there is storage");
        assert_eq!((rig.state(0), rig.state(3)), ("hM[D]".into(), "hM[D]".into()), "one entry");
        // The first has a page table there, and stores to a page; the other could have 2 MiB at once.
        let vma = if through_another_mapping { two } else { one };
        vma.store(3, 9).expect("there is space");
        assert_eq!((rig.byte(3), clone.contents()[3 * 4096]), (9, 7), "{through_another_mapping}");
        rig.check_invariants();
    }
}

#[test]
fn a_synchronous_store_asks_whether_its_metadata_is_durable() {
    let rig = Rig::new(1024);
    let plain = rig.small(pages(0, 1024));
    let sync = rig.map(Spec::shared(pages(0, 1024)).small().synchronous());
    plain.store(3, 8).expect("there is space");
    rig.hooks.take_log();
    sync.store(3, 9).expect("there is storage");
    assert!(
        rig.hooks.take_log().iter().any(|call| matches!(call, Call::Commit(_))),
        "the storage was allocated, and that is not durable yet"
    );
}

#[test]
fn storage_that_an_entry_knows_is_still_looked_at_for_poison() {
    let rig = Rig::new(1024);
    rig.fill(pages(0, 512), 7);
    let (one, two) = (rig.small(pages(0, 1024)), rig.small(pages(0, 1024)));
    assert_eq!(one.load(3), Ok(7));
    rig.media.fail(MediaCall::DirectAccess, Plan::ONCE, IoError::from_errno(133));
    assert_eq!(two.fault(3, Access::Read).served, Served::Poisoned);
    assert_eq!(two.load(3), Ok(7));
}

/// What zeros an entry shows is not taken for an answer: a writer that has filled the hole may not have come to the entry yet.
#[test]
fn a_zero_entry_is_asked_about() {
    let rig = Rig::new(1024);
    let (one, two) = (rig.small(pages(0, 1024)), rig.small(pages(0, 1024)));
    assert_eq!(one.load(3), Ok(0));
    rig.fill(pages(3, 1), 7);
    assert_eq!(two.load(3), Ok(7));
}

/// Linux's first form of this engine allocated a node ahead of every insertion.
#[test]
fn no_node_is_allocated_unless_one_is_needed() {
    let rig = Rig::new(1024);
    let vma = rig.small(pages(0, 1024));
    assert_eq!(vma.load(0), Ok(0));
    // The leaf of the first 64 pages is all that there may be.
    rig.mapping.limit_index_nodes(Some(1));
    for index in 1..64 {
        assert_eq!(vma.load(index), Ok(0), "page {index} has its place in the leaf");
    }
    assert_eq!(vma.fault(64, Access::Read).served, Served::OutOfMemory, "page 64 has none");
    rig.mapping.limit_index_nodes(None);
    assert_eq!(vma.load(64), Ok(0));
    rig.check_invariants();
}
