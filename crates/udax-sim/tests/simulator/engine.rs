//! The engine in the simulated world: that they fit. What the engine promises is tested with the engine.

use std::sync::Arc;
use udax_core::{
    Dax, Durability, FrameRange, HugePages, Inode, Mapping, Order, PageIndex, PageRange, Sharing,
};
use udax_sim::{
    AccessError, Congruence, Evicted, Machine, Process, Protection, SimFile, SimFs, SimMedia,
    SimThread, SimVma, SimWorld, Target, VmaLayout, explore,
};

const MIB_4: u64 = 4 << 20;

struct Scene {
    file: SimFile,
    mapping: Arc<Mapping<SimWorld>>,
    process: Arc<Process>,
}

fn scene(size: u64) -> Scene {
    let media = SimMedia::aligned(8192);
    let file = SimFs::new(media.clone()).create(size);
    let process = Machine::new(media.clone(), 2).process();
    let dax = Dax::new(None);
    let mapping = Mapping::new(&dax, Inode::default(), file.clone(), media);
    Scene { file, mapping, process }
}

impl Scene {
    fn map(&self, sharing: Sharing, congruence: Congruence) -> Arc<SimVma> {
        let pages = PageRange::new(PageIndex(0), 1024);
        let vma = self.process.map(VmaLayout {
            pages,
            address_page: self.process.free_address(pages, congruence),
            sharing,
            protection: Protection::ReadWrite,
        });
        vma.serve(&self.mapping, Durability::AtSync, HugePages::Allowed);
        vma
    }

    fn cpu(&self, number: usize) -> SimThread {
        self.process.thread(number)
    }
}

#[test]
fn a_hole_is_one_zero_page_until_a_store() {
    let scene = scene(MIB_4);
    let (aligned, off) = (
        scene.map(Sharing::Shared, Congruence::Aligned),
        scene.map(Sharing::Shared, Congruence::OffBy(1)),
    );
    let cpu = scene.cpu(0);
    assert_eq!(cpu.load_byte(&aligned, PageIndex(3)), Ok(0));
    let huge = aligned.translation(PageIndex(3)).expect("installed");
    assert_eq!((huge.target, huge.order), (Target::ZeroPage, Order::Pmd));
    assert_eq!(scene.file.fs().allocated_pages(), 0);
    cpu.store_byte(&off, PageIndex(600), 7).expect("space");
    assert_eq!(scene.cpu(1).load_byte(&aligned, PageIndex(600)), Ok(7));
    assert_eq!(scene.file.contents()[600 * 4096], 7);
}

#[test]
fn what_was_synced_outlives_a_power_cut() {
    let scene = scene(MIB_4);
    let vma = scene.map(Sharing::Shared, Congruence::Aligned);
    scene.cpu(0).store_byte(&vma, PageIndex(5), 9).expect("space");
    assert_eq!(scene.file.contents_after_crash(Evicted::Nothing)[5 * 4096], 0);
    scene.mapping.sync(PageRange::from(PageIndex(0))).expect("nothing fails");
    assert_eq!(scene.file.contents_after_crash(Evicted::Nothing)[5 * 4096], 9);
    let all = scene.file.fs().media().config();
    assert!(
        !scene
            .file
            .fs()
            .media()
            .unflushed(FrameRange { start: all.first_frame, count: all.frames })
    );
    assert!(scene.process.translations().iter().all(|found| !found.writable && !found.dirty));
}

#[test]
fn past_the_end_there_is_a_signal_and_a_private_store_leaves_the_file_alone() {
    let scene = scene(4096 * 2);
    let vma = scene.map(Sharing::Private, Congruence::Aligned);
    let cpu = scene.cpu(0);
    assert_eq!(cpu.load_byte(&vma, PageIndex(2)), Err(AccessError::BusError));
    cpu.store_byte(&vma, PageIndex(1), 3).expect("memory");
    assert_eq!((cpu.load_byte(&vma, PageIndex(1)), scene.file.contents()[4096]), (Ok(3), 0));
}

#[test]
fn stores_meet_a_sync_and_a_punch_under_many_schedules() {
    explore(0..100, |run| {
        let scene = scene(MIB_4);
        let aligned = scene.map(Sharing::Shared, Congruence::Aligned);
        let off = scene.map(Sharing::Shared, Congruence::OffBy(3));
        for (number, vma) in [aligned, off].into_iter().enumerate() {
            let cpu = scene.cpu(number);
            run.spawn("storer", move || {
                for page in [0, 1, 512] {
                    cpu.store_byte(&vma, PageIndex(page), 5).expect("space");
                    let seen = cpu.load_byte(&vma, PageIndex(page)).expect("in the file");
                    assert!(seen == 5 || seen == 0, "page {page} holds {seen:#x}");
                }
            });
        }
        let (syncer, puncher) = (Arc::clone(&scene.mapping), Arc::clone(&scene.mapping));
        run.spawn("syncer", move || {
            syncer.sync(PageRange::from(PageIndex(0))).expect("nothing fails");
        });
        run.spawn("puncher", move || puncher.punch_hole(0, 8192).expect("nothing fails"));
    });
}
