//! A rig around one file: the engine on the simulator, with a journal of all that is asked of the world, and hooks into it.
//!
//! Glossary: a *point* is a call that the engine makes to the world; its name is the trait's method, with what matters of the
//! arguments; a *hook* runs at a point, before or after the call, on the calling thread; a *map* is a VMA and its process.
#![allow(missing_docs, unreachable_pub, reason = "for tests")]

mod world;

pub use udax_sim::explore_then;
pub use world::{Points, TestWorld};

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use udax_core::{
    Access, Dax, Durability, Entry, EntryReport, Fault, FaultOutcome, FaultPlace, FaultResult,
    Frame, HugePages, Inode, Kind, Mapping, Order, PAGE_BYTES, PMD_PAGES, PageIndex, PageRange,
    Pmd, Served, Sharing, TraceEvent, Tracer, Vma,
};
use udax_sim::{
    AccessError, Congruence, FaultRequest, Machine, Process, Protection, SimFile, SimFs, SimMedia,
    SimThread, SimVma, Target, Translation, VmaLayout,
};
use world::{File, Space, Storage};

/// The inode of every rig's file: device 259:3.
pub const INODE: Inode = Inode { dev: 0x1_0303, ino: 0xc };

pub fn page(index: u64) -> PageIndex {
    PageIndex(index)
}

pub fn pages(start: u64, count: u64) -> PageRange {
    PageRange::new(PageIndex(start), count)
}

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps every trace event, and tells the journal their names.
struct Recorder {
    events: Mutex<Vec<TraceEvent>>,
    points: Arc<Points>,
}

impl Tracer for Recorder {
    fn event(&self, event: &TraceEvent) {
        lock(&self.events).push(*event);
        let brief = brief(event);
        self.points.note(brief.clone());
        self.points.reach(&brief);
    }
}

/// An event by its name without `dax_`, with its flags and its result: `pte_fault_done WRITE NOPAGE|MAJOR`.
pub fn brief(event: &TraceEvent) -> String {
    let mut text = event.name().trim_start_matches("dax_").to_owned();
    let mut add = |part: String| {
        if !part.is_empty() {
            text.push(' ');
            text.push_str(&part);
        }
    };
    let names = |result: &FaultResult| {
        result.iter_names().map(|(name, _)| name).collect::<Vec<_>>().join("|")
    };
    let flags = |place: &FaultPlace| {
        place.flags.iter_names().map(|(name, _)| name).collect::<Vec<_>>().join("|")
    };
    match event {
        TraceEvent::PmdFault(place) | TraceEvent::PteFault(place) => add(flags(place)),
        TraceEvent::PmdFaultDone(place, result)
        | TraceEvent::PteFaultDone(place, result)
        | TraceEvent::LoadHole(place, result)
        | TraceEvent::InsertPfnMkwrite(place, result)
        | TraceEvent::InsertPfnMkwriteNoEntry(place, result) => {
            add(flags(place));
            add(names(result));
        }
        TraceEvent::InsertMapping { write, .. } | TraceEvent::PmdInsertMapping { write, .. } => {
            add(if *write { "write" } else { "read" }.to_owned());
        }
        TraceEvent::PmdLoadHole { .. } | TraceEvent::PmdLoadHoleFallback { .. } => {}
        TraceEvent::WritebackRange { start, end, .. }
        | TraceEvent::WritebackRangeDone { start, end, .. } => {
            add(format!("{}-{}", start.0, end.0));
        }
        TraceEvent::WritebackOne { pgoff, pglen, .. } => add(format!("{} {pglen}", pgoff.0)),
    }
    text
}

/// How a mapping is to be.
#[derive(Clone, Copy)]
pub struct Shape {
    pub pages: PageRange,
    pub sharing: Sharing,
    pub durability: Durability,
    pub huge_pages: HugePages,
    pub congruence: Congruence,
    pub ahead: u64,
}

impl Shape {
    /// Shared, writable, congruent modulo 2 MiB.
    pub fn shared(start: u64, count: u64) -> Self {
        Self {
            pages: pages(start, count),
            sharing: Sharing::Shared,
            durability: Durability::AtSync,
            huge_pages: HugePages::Allowed,
            congruence: Congruence::Aligned,
            ahead: 0,
        }
    }

    pub fn private(start: u64, count: u64) -> Self {
        Self { sharing: Sharing::Private, ..Self::shared(start, count) }
    }

    /// Off by one page, so that no PMD can map it.
    pub fn misaligned(self) -> Self {
        Self { congruence: Congruence::OffBy(1), ..self }
    }

    pub fn sync(self) -> Self {
        Self { durability: Durability::MetadataFirst, ..self }
    }

    pub fn ahead(self, ahead: u64) -> Self {
        Self { ahead, ..self }
    }

    /// 4 KiB translations only, but at congruent addresses.
    pub fn small(self) -> Self {
        Self { huge_pages: HugePages::Never, ..self }
    }
}

/// One file and all that is around it.
pub struct Rig {
    pub mapping: Arc<Mapping<TestWorld>>,
    pub fs: Arc<SimFs>,
    pub file: SimFile,
    pub media: SimMedia,
    pub machine: Arc<Machine>,
    pub points: Arc<Points>,
    recorder: Arc<Recorder>,
    outcomes: Arc<Mutex<Vec<FaultOutcome>>>,
}

/// A VMA of the rig's file, in a process of its own.
#[derive(Clone)]
pub struct Map {
    pub process: Arc<Process>,
    pub sim: Arc<SimVma>,
    pub vma: Arc<Vma<TestWorld>>,
    pub cpu: SimThread,
}

impl Rig {
    /// A file that is one hole, on a 2 MiB aligned device of 16 MiB.
    pub fn new(size_bytes: u64) -> Self {
        Self::on(SimMedia::aligned(8 * PMD_PAGES), size_bytes)
    }

    pub fn on(media: SimMedia, size_bytes: u64) -> Self {
        let fs = SimFs::new(media.clone());
        let machine = Machine::new(media.clone(), 4);
        Self::of_file(fs.create(size_bytes), machine)
    }

    /// The rig of one more file.
    pub fn of_file(file: SimFile, machine: Arc<Machine>) -> Self {
        let points = Points::new();
        let recorder = Arc::new(Recorder { events: Mutex::default(), points: Arc::clone(&points) });
        let tracer: Arc<dyn Tracer> = Arc::<Recorder>::clone(&recorder);
        let dax = Dax::new(Some(tracer));
        let media = file.fs().media().clone();
        let mapping = Mapping::new(
            &dax,
            INODE,
            File { file: file.clone(), points: Arc::clone(&points) },
            Storage { media: media.clone(), points: Arc::clone(&points) },
        );
        let fs = Arc::clone(file.fs());
        Self { mapping, fs, file, media, machine, points, recorder, outcomes: Arc::default() }
    }

    /// A VMA in a new process.
    pub fn map(&self, shape: Shape) -> Map {
        self.map_in(&self.machine.process(), shape, 0)
    }

    /// A VMA in `process`, and a thread of it on `cpu`.
    pub fn map_in(&self, process: &Arc<Process>, shape: Shape, cpu: usize) -> Map {
        let layout = VmaLayout {
            pages: shape.pages,
            address_page: process.free_address(shape.pages, shape.congruence),
            sharing: shape.sharing,
            protection: Protection::ReadWrite,
        };
        let sim = process.map(layout);
        let vma = Arc::new(Vma {
            pages: shape.pages,
            address_page: layout.address_page,
            sharing: shape.sharing,
            durability: shape.durability,
            huge_pages: shape.huge_pages,
            space: Space { space: sim.space(), points: Arc::clone(&self.points) },
        });
        self.mapping.attach(Arc::clone(&vma));
        let (mapping, outcomes) = (Arc::clone(&self.mapping), Arc::clone(&self.outcomes));
        let handled = Arc::clone(&vma);
        sim.on_fault(move |request: FaultRequest| {
            let FaultRequest { index, access, translation_present } = request;
            let vma = &*handled;
            let ahead = shape.ahead;
            let outcome = mapping.fault(&Fault {
                translation_present,
                ahead,
                ..Fault::new(vma, index, access)
            });
            lock(&outcomes).push(outcome);
            answer(outcome.served)
        });
        Map { process: Arc::clone(process), sim, vma, cpu: process.thread(cpu) }
    }

    /// The outcomes of the faults since the last time this was asked.
    pub fn outcomes(&self) -> Vec<FaultOutcome> {
        std::mem::take(&mut *lock(&self.outcomes))
    }

    /// How the one fault since then was served.
    pub fn served(&self) -> Served {
        let outcomes = self.outcomes();
        assert_eq!(outcomes.len(), 1, "one access is one fault here: {outcomes:?}");
        outcomes[0].served
    }

    /// The events since the last time this was asked, in brief.
    pub fn events(&self) -> Vec<String> {
        self.full_events().iter().map(brief).collect()
    }

    pub fn full_events(&self) -> Vec<TraceEvent> {
        std::mem::take(&mut *lock(&self.recorder.events))
    }

    /// Forgets events, outcomes and journal.
    pub fn clear(&self) {
        let _ = (self.events(), self.outcomes(), self.points.journal());
    }

    /// All entries in brief: `5 zero-pte`, `0 data-pmd D`, with `L` if locked, `T` if tagged to write.
    pub fn entries(&self) -> Vec<String> {
        let all = self.mapping.entries_in(PageRange::from(PageIndex(0)));
        all.iter().map(entry_brief).collect()
    }

    pub fn entry(&self, index: u64) -> Option<Entry> {
        self.mapping.entries_in(pages(index, 1)).first().map(|report| report.entry)
    }

    pub fn frame(&self, index: u64) -> Frame {
        self.file.frame_of(page(index)).expect("the page has storage")
    }

    /// Asserts the invariants that can be seen from outside: I1, I5, I6, I7, I9, I11 and that nothing stays locked.
    #[track_caller]
    pub fn check(&self, maps: &[&Map]) {
        let entries = self.mapping.entries_in(PageRange::from(PageIndex(0)));
        let mut end = 0;
        let mut owned = 0;
        for report in &entries {
            assert!(report.start.0 >= end, "I1: {report:?} overlaps");
            assert!(!report.entry.is_locked(), "{report:?} stayed locked");
            assert!(
                report.entry.is_mapped() || !(report.dirty || report.to_write),
                "I5: {report:?} has a mark"
            );
            assert_eq!(report.start.align_down(report.entry.order()), report.start, "I1");
            end = report.start.0 + report.entry.order().pages();
            if let Some(frame) = report.entry.frame() {
                for n in 0..report.entry.order().pages() {
                    let owner = self.media.owner(frame.plus(n));
                    assert!(
                        owner.is_none_or(|owner| owner.index == report.start.plus(n)),
                        "I11: {report:?} page {n} is noted as {owner:?}"
                    );
                    owned += 1;
                }
            }
        }
        assert!(self.media.owned_frames() >= owned, "I11: fewer associations than storage");
        for map in maps {
            for translation in map.sim.translations() {
                check_translation(&entries, map, &translation);
            }
        }
    }

    /// A load of the first byte of a page.
    pub fn read(&self, map: &Map, index: u64) -> Result<u8, AccessError> {
        map.cpu.load_byte(&map.sim, page(index))
    }

    /// A store to the first byte of a page.
    pub fn write(&self, map: &Map, index: u64, byte: u8) -> Result<(), AccessError> {
        map.cpu.store_byte(&map.sim, page(index), byte)
    }

    /// One fault, past the machine: what the engine answers.
    pub fn fault(&self, map: &Map, index: u64, access: Access) -> FaultOutcome {
        let translation_present = map.sim.translation(page(index)).is_some();
        let fault = Fault::new(&map.vma, page(index), access);
        self.mapping.fault(&Fault { translation_present, ..fault })
    }
}

fn answer(served: Served) -> Result<(), AccessError> {
    match served {
        Served::Installed | Served::Retry | Served::Copied => Ok(()),
        Served::Fallback | Served::NeedsCommit { .. } | Served::Interrupted => {
            panic!("{served:?} never leaves the engine")
        }
        Served::BusError => Err(AccessError::BusError),
        Served::OutOfMemory => Err(AccessError::OutOfMemory),
        Served::Poisoned => Err(AccessError::Poisoned),
    }
}

fn check_translation(entries: &[EntryReport], map: &Map, translation: &Translation) {
    let Some(index) = translation.page else { return };
    if translation.target == Target::PrivateCopy {
        return;
    }
    let covering = entries
        .iter()
        .find(|report| PageRange::new(report.start, report.entry.order().pages()).contains(index));
    let report = covering.unwrap_or_else(|| panic!("I6: {translation:?} without an entry"));
    match translation.target {
        Target::ZeroPage => assert!(report.entry.is_zero(), "I9: {translation:?} over {report:?}"),
        Target::Storage(frame) => {
            let first = report.entry.frame();
            let frame_there = first.map(|first| first.plus(index.0 - report.start.0));
            assert_eq!(frame_there, Some(frame), "{translation:?} over {report:?}");
        }
        Target::PrivateCopy => {}
    }
    let shared = map.vma.sharing == Sharing::Shared;
    assert!(
        !(shared && (translation.writable || translation.dirty)) || report.dirty,
        "I7: {translation:?} over the clean {report:?}"
    );
    assert!(shared || !translation.writable, "a private VMA stores to storage: {translation:?}");
}

pub fn entry_brief(report: &EntryReport) -> String {
    let kind = match report.entry.kind() {
        Kind::Empty => "empty",
        Kind::Zero => "zero",
        Kind::Mapped(_) => "data",
    };
    let order = match report.entry.order() {
        Order::Pte => "pte",
        Order::Pmd => "pmd",
    };
    let mut marks = String::new();
    for (mark, set) in
        [('D', report.dirty), ('T', report.to_write), ('L', report.entry.is_locked())]
    {
        if set {
            marks.push(mark);
        }
    }
    format!("{} {kind}-{order} {marks}", report.start.0).trim_end().to_owned()
}

impl Map {
    /// The page tables in brief: `5 zero`, `0 storage-pmd W D`, `7 copy W D`.
    pub fn table(&self) -> Vec<String> {
        let all = self.sim.translations();
        all.iter()
            .map(|found| {
                let target = match found.target {
                    Target::ZeroPage => "zero",
                    Target::Storage(_) => "storage",
                    Target::PrivateCopy => "copy",
                };
                let order = if found.order == Order::Pmd { "-pmd" } else { "" };
                let writable = if found.writable { " W" } else { "" };
                let dirty = if found.dirty { " D" } else { "" };
                let index = found.page.map_or(0, |index| index.0);
                format!("{index} {target}{order}{writable}{dirty}")
            })
            .collect()
    }

    /// The page-table level around a page.
    pub fn pmd(&self, index: u64) -> Pmd {
        self.process.pmd_at(self.sim.address(page(index)) / PAGE_BYTES)
    }
}
