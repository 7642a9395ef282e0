//! The thread of the devices, and of bad luck. It waits for nobody, so whatever it holds up goes on in time.

use super::config::{Config, Trouble};
use super::history::Certainty;
use super::model::Cell;
use super::report::Counts;
use super::scene::{Scene, lock};
use super::trouble::Reason;
use std::sync::Arc;
use udax_core::{Frame, IoError, Media as _, PageIndex};
use udax_sim::{
    Evicted, FsCall, HugeZero, MediaCall, Plan, Prng, Target, note, steps, yield_point,
};

const FS_CALLS: [FsCall; 7] = [
    FsCall::BeginRead,
    FsCall::BeginWrite,
    FsCall::BeginZero,
    FsCall::End,
    FsCall::SetSize,
    FsCall::Free,
    FsCall::Commit,
];
const MEDIA_CALLS: [MediaCall; 5] =
    [MediaCall::DirectAccess, MediaCall::Flush, MediaCall::Load, MediaCall::Store, MediaCall::Zero];
/// EIO, ENOMEM, ENOSPC, EHWPOISON.
const ERRNOS: [i32; 4] = [5, 12, 28, 133];
/// A plan by which nothing fails.
const NEVER: Plan = Plan { after: 0, times: 0 };

/// Something that is going on, and has to be ended.
enum Going {
    Trouble(Trouble),
    Pin { frame: Frame, file: usize, page: PageIndex },
}

/// The thread.
pub struct Device {
    scene: Arc<Scene>,
    number: usize,
    prng: Prng,
    stored: u64,
    /// With the round in which it ends.
    going: Vec<(u64, Going)>,
}

impl Device {
    pub fn new(scene: &Arc<Scene>, number: usize) -> Self {
        let prng = Prng::new(scene.config.seed ^ 0xD0D0);
        Self { scene: Arc::clone(scene), number, prng, stored: 0, going: Vec::new() }
    }

    /// Until the run has had its turns.
    pub fn run(mut self) {
        note("devices and bad luck");
        let troubles = self.scene.config.troubles.clone();
        let mut round = 0;
        while steps() < self.scene.config.steps {
            round += 1;
            for _ in 0..1 + self.prng.below(24) {
                yield_point();
            }
            self.end_those_due(round);
            if let Some(trouble) = troubles.get(self.prng.place(troubles.len())) {
                self.begin(*trouble, round);
            }
        }
        self.end_those_due(u64::MAX);
    }

    fn say(&self, what: &str) {
        self.scene.trail.begin(self.number, format!("{:>6} {what}", steps()));
    }

    fn arm(&self, reason: Reason) {
        let now = self.scene.model().tick();
        lock(&self.scene.excuses).arm(reason, now);
    }

    fn disarm(&self, reason: Reason) {
        let now = self.scene.model().tick();
        lock(&self.scene.excuses).disarm(reason, now);
    }

    fn is_going(&self, trouble: Trouble) -> bool {
        self.going
            .iter()
            .any(|(_, going)| matches!(going, Going::Trouble(what) if *what == trouble))
    }

    fn begin(&mut self, trouble: Trouble, round: u64) {
        if trouble == Trouble::Pins {
            return self.pin(round);
        }
        if trouble == Trouble::PowerCut {
            return self.cut_power();
        }
        if trouble == Trouble::Signals {
            return self.signal();
        }
        if self.is_going(trouble) || !self.prng.chance(1, 6) {
            return;
        }
        self.say(&format!("{trouble:?} begins"));
        let scene = Arc::clone(&self.scene);
        match trouble {
            Trouble::Memory => {
                self.arm(Reason::Memory);
                self.short_of_memory();
            }
            Trouble::Calls => {
                self.arm(Reason::Calls);
                self.fail_calls();
            }
            Trouble::Space => {
                self.arm(Reason::Space);
                let spare = [0, 1, 3, 600][self.prng.place(4)];
                scene.fs.set_capacity(Some(scene.fs.allocated_pages() + spare));
            }
            Trouble::Freeze => scene.fs.freeze(),
            Trouble::Journal => scene.fs.hold_journal(),
            Trouble::HugeZero => scene.machine.set_huge_zero(HugeZero::Unavailable),
            Trouble::Placement => scene.fs.set_placement(Config::draw_placement(&mut self.prng)),
            Trouble::Pins | Trouble::Signals | Trouble::PowerCut => {}
        }
        let due = round + 1 + self.prng.below(12);
        self.going.push((due, Going::Trouble(trouble)));
    }

    fn end_those_due(&mut self, round: u64) {
        let all = std::mem::take(&mut self.going);
        let (due, rest): (Vec<_>, Vec<_>) = all.into_iter().partition(|(due, _)| *due <= round);
        self.going = rest;
        for (_, going) in due {
            match going {
                Going::Trouble(trouble) => self.end(trouble),
                Going::Pin { frame, file, page } => self.unpin(frame, file, page),
            }
        }
    }

    fn end(&self, trouble: Trouble) {
        let scene = &self.scene;
        self.say(&format!("{trouble:?} ends"));
        match trouble {
            Trouble::Memory => {
                scene.machine.fail_table_allocation(NEVER);
                scene.machine.fail_copy_allocation(NEVER);
                for file in &scene.files {
                    file.mapping().limit_index_nodes(None);
                }
                self.disarm(Reason::Memory);
            }
            Trouble::Calls => {
                let none = IoError::from_errno(5);
                for file in &scene.files {
                    FS_CALLS.iter().for_each(|call| file.sim.fail(*call, NEVER, none));
                }
                let media = scene.machine.media();
                MEDIA_CALLS.iter().for_each(|call| media.fail(*call, NEVER, none));
                self.disarm(Reason::Calls);
            }
            Trouble::Space => {
                scene.fs.set_capacity(None);
                self.disarm(Reason::Space);
            }
            Trouble::Freeze => scene.fs.thaw(),
            Trouble::Journal => scene.fs.release_journal(),
            Trouble::HugeZero => scene.machine.set_huge_zero(HugeZero::Available),
            Trouble::Placement => scene.fs.set_placement(scene.config.placement),
            Trouble::Pins | Trouble::Signals | Trouble::PowerCut => {}
        }
    }

    fn any_plan(&mut self) -> Plan {
        Plan { after: self.prng.below(4), times: 1 + self.prng.below(3) }
    }

    fn short_of_memory(&mut self) {
        let plan = self.any_plan();
        match self.prng.below(3) {
            0 => self.scene.machine.fail_table_allocation(plan),
            1 => self.scene.machine.fail_copy_allocation(plan),
            _ => {
                let file = &self.scene.files[self.prng.place(self.scene.files.len())];
                let nodes = usize::try_from(self.prng.below(5)).unwrap_or(0);
                file.mapping().limit_index_nodes(Some(nodes));
            }
        }
    }

    fn fail_calls(&mut self) {
        let error = IoError::from_errno(ERRNOS[self.prng.place(ERRNOS.len())]);
        let plan = self.any_plan();
        if self.prng.chance(1, 2) {
            let file = self.prng.place(self.scene.files.len());
            let call = FS_CALLS[self.prng.place(FS_CALLS.len())];
            self.say(&format!("file {file}: {call:?} fails by {plan:?}: {error}"));
            self.scene.files[file].sim.fail(call, plan, error);
        } else {
            let call = MEDIA_CALLS[self.prng.place(MEDIA_CALLS.len())];
            self.say(&format!("media: {call:?} fails by {plan:?}: {error}"));
            self.scene.machine.media().fail(call, plan, error);
        }
    }

    /// A signal for all who fault in one area. It stays until one of them has met it.
    fn signal(&mut self) {
        let areas = lock(&self.scene.areas);
        let Some(area) = areas.get(self.prng.place(areas.len())).cloned() else { return };
        drop(areas);
        self.say(&format!("signals area {}", area.number));
        area.interrupt.request();
    }

    /// Pins the storage of a page that is mapped for stores, as a device does that is to write there: without asking anybody,
    /// as long as the translation is there.
    fn pin(&mut self, round: u64) {
        let areas = lock(&self.scene.areas);
        let Some(area) = areas.get(self.prng.place(areas.len())).cloned() else { return };
        drop(areas);
        let page =
            PageIndex(self.scene.config.pages[self.prng.place(self.scene.config.pages.len())]);
        if !area.is_shared() || !area.pages().contains(page) {
            return;
        }
        let Some(translation) = area.sim.translation(page) else { return };
        let (Target::Storage(first), Some(start), true) =
            (translation.target, translation.page, translation.writable)
        else {
            return;
        };
        let frame = first.plus(page.0 - start.0);
        self.scene.machine.media().pin(frame);
        self.say(&format!("pins {frame:?} of file {} page {page}", area.file));
        let due = round + 1 + self.prng.below(16);
        self.going.push((due, Going::Pin { frame, file: area.file, page }));
    }

    /// The device writes, and lets go.
    fn unpin(&mut self, frame: Frame, file: usize, page: PageIndex) {
        let cells: Vec<Cell> =
            self.scene.cells().into_iter().filter(|cell| cell.page == page).collect();
        let cell = cells[self.prng.place(cells.len())];
        self.stored += 1;
        let value = ((self.number as u64 + 1) << 32) | self.stored;
        self.say(&format!("stores {value:#x} to {frame:?}, file {file} page {page}, lets go"));
        let range = (cell.offset, cell.offset + super::model::CELL_BYTES);
        let writes = self.scene.model().begin_writes(file, range, |_| value);
        let media = self.scene.machine.media();
        let stored = media.store(frame, cell.in_page(), &value.to_le_bytes());
        let certainty = if stored == Ok(8) { Certainty::Done } else { Certainty::Never };
        self.scene.model().end_writes(file, writes, certainty);
        media.unpin(frame);
    }

    fn cut_power(&mut self) {
        let seed = self.prng.next();
        self.scene.check_power_cut(seed);
    }
}

impl Scene {
    /// What a power cut now would leave of every file, with the caches lost, written back, or some of both.
    pub fn check_power_cut(&self, seed: u64) {
        let mut model = self.model();
        let now = model.tick();
        for (number, file) in self.files.iter().enumerate() {
            let known = &model.files[number];
            let size = file.sim.size_after_crash();
            assert!(
                known.size.survives(size, known.committed, now, false),
                "after a power cut file {number} would be {size:#x} long, may be {:#x?}",
                known.size.values(known.committed, now)
            );
            for evicted in [Evicted::Nothing, Evicted::Everything, Evicted::Some { seed }] {
                let inside = model.cells.iter().filter(|cell| cell.lies_in(0, size));
                for cell in inside {
                    let mut bytes = [0; 8];
                    file.sim.byte_run_after_crash(cell.offset, evicted, &mut bytes);
                    let (value, synced) = (u64::from_le_bytes(bytes), known.synced[cell.place]);
                    let register = &known.cells[cell.number];
                    assert!(
                        register.survives(value, synced, now, evicted == Evicted::Everything),
                        "after a power cut ({evicted:?}) file {number} page {} byte {} would be {value:#x}, may be {:#x?}",
                        cell.page,
                        cell.in_page(),
                        register.values(synced, now)
                    );
                }
            }
        }
        drop(model);
        // Of no further use, and it grows.
        drop(self.machine.media().take_log());
        Counts::add(&self.counts.power_cuts);
    }
}
