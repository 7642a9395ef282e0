//! The rig of the engine's tests: one file with its mapping, processes that map it, and what can be looked at from outside.

#![allow(missing_docs, unreachable_pub, reason = "for tests")]

pub mod invariants;
pub mod threads;
mod world;

pub use world::{Call, File, Hooks, Space, Storage, Test};

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use udax_core::{
    Access, Dax, Durability, EntryReport, Fault, FaultOutcome, Frame, HugePages, Inode, Kind,
    Mapping, Order, PAGE_BYTES, PageIndex, PageRange, Served, Sharing, TraceEvent, Tracer, Vma,
};
use udax_sim::{
    AccessError, Congruence, Machine, MediaConfig, Process, Protection, SimFile, SimFs, SimMedia,
    SimThread, SimVma, Translation, VmaLayout,
};

/// `count` pages from `start`.
pub fn pages(start: u64, count: u64) -> PageRange {
    PageRange::new(PageIndex(start), count)
}

/// Page `index`.
pub fn page(index: u64) -> PageIndex {
    PageIndex(index)
}

/// The events of an engine, in order.
#[derive(Default)]
pub struct Trace(Mutex<Vec<TraceEvent>>);

impl Trace {
    /// What happened since the last time.
    pub fn take(&self) -> Vec<TraceEvent> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The names of what happened since the last time.
    pub fn names(&self) -> Vec<&'static str> {
        self.take().iter().map(TraceEvent::name).collect()
    }
}

impl Tracer for Trace {
    fn event(&self, event: &TraceEvent) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(*event);
    }
}

/// How a rig is made.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// The file's length.
    pub bytes: u64,
    /// Frames of the device.
    pub frames: u64,
    /// Its first frame.
    pub first_frame: u64,
    /// `2^bits` wait buckets. Few, so that keys meet.
    pub wait_bits: u32,
    /// CPUs of the machine.
    pub cpus: usize,
}

impl Default for Setup {
    fn default() -> Self {
        Self { bytes: 1024 * PAGE_BYTES, frames: 8192, first_frame: 0, wait_bits: 4, cpus: 8 }
    }
}

/// A file, its mapping, and the machine.
pub struct Rig {
    pub media: SimMedia,
    pub fs: Arc<SimFs>,
    pub machine: Arc<Machine>,
    pub dax: Arc<Dax<Test>>,
    pub file: SimFile,
    pub mapping: Arc<Mapping<Test>>,
    pub trace: Arc<Trace>,
    pub hooks: Arc<Hooks>,
    /// No other file's entries are on the media.
    alone: AtomicBool,
    mapped: Mutex<Vec<Arc<Mapped>>>,
}

/// What a VMA is to be.
#[derive(Clone)]
pub struct Spec {
    pub pages: PageRange,
    pub sharing: Sharing,
    pub durability: Durability,
    pub huge_pages: HugePages,
    pub congruence: Congruence,
    pub protection: Protection,
    /// Pages that each fault asks for behind its unit.
    pub ahead: u64,
    /// Where to map it; a process of its own if none.
    pub process: Option<Arc<Process>>,
}

impl Spec {
    /// A shared, writable VMA of `pages` in a process of its own; 2 MiB translations may be.
    pub fn shared(pages: PageRange) -> Self {
        Self {
            pages,
            sharing: Sharing::Shared,
            durability: Durability::AtSync,
            huge_pages: HugePages::Allowed,
            congruence: Congruence::Aligned,
            protection: Protection::ReadWrite,
            ahead: 0,
            process: None,
        }
    }

    /// The same, private.
    pub fn private(pages: PageRange) -> Self {
        Self { sharing: Sharing::Private, ..Self::shared(pages) }
    }

    /// With 4 KiB translations only.
    pub fn small(self) -> Self {
        Self { huge_pages: HugePages::Never, ..self }
    }

    /// With `MAP_SYNC`.
    pub fn synchronous(self) -> Self {
        Self { durability: Durability::MetadataFirst, ..self }
    }

    /// In that process.
    pub fn within(self, process: &Arc<Process>) -> Self {
        Self { process: Some(Arc::clone(process)), ..self }
    }
}

/// One VMA of a rig: the machine's side and the engine's.
pub struct Mapped {
    pub process: Arc<Process>,
    pub sim: Arc<SimVma>,
    pub vma: Arc<Vma<Test>>,
    pub mapping: Arc<Mapping<Test>>,
    ahead: u64,
    served: Mutex<Vec<FaultOutcome>>,
}

impl Mapped {
    /// Serves one fault directly, as the machine would.
    pub fn fault(&self, index: u64, access: Access) -> FaultOutcome {
        let (vma, index) = (&*self.vma, page(index));
        let translation_present = self.sim.translation(index).is_some();
        let fault =
            Fault { translation_present, ahead: self.ahead, ..Fault::new(vma, index, access) };
        let outcome = self.mapping.fault(&fault);
        self.served.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
        outcome
    }

    /// How the faults since the last time ended.
    pub fn served(&self) -> Vec<FaultOutcome> {
        std::mem::take(&mut *self.served.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A thread of the process.
    pub fn thread(&self, cpu: usize) -> SimThread {
        self.process.thread(cpu)
    }

    /// Loads the first byte of a page, on CPU 0.
    pub fn load(&self, index: u64) -> Result<u8, AccessError> {
        self.thread(0).load_byte(&self.sim, page(index))
    }

    /// Stores the first byte of a page, on CPU 0.
    pub fn store(&self, index: u64, byte: u8) -> Result<(), AccessError> {
        self.thread(0).store_byte(&self.sim, page(index), byte)
    }

    /// The translation that serves a page.
    pub fn translation(&self, index: u64) -> Option<Translation> {
        self.sim.translation(page(index))
    }

    /// munmap of the whole VMA.
    pub fn unmap(&self) {
        let layout = self.sim.layout();
        self.process.unmap(layout.address_page, layout.pages.len());
        self.mapping.detach(&self.vma);
    }

    /// `MADV_DONTNEED` of some pages.
    pub fn discard(&self, range: PageRange) {
        let first = self.sim.address(range.start) / PAGE_BYTES;
        self.process.discard(first, range.len());
    }
}

impl Rig {
    /// A rig with a sparse file of `count` pages on an aligned device.
    pub fn new(count: u64) -> Arc<Self> {
        Self::with(Setup { bytes: count * PAGE_BYTES, ..Setup::default() })
    }

    /// A rig as `setup` says.
    pub fn with(setup: Setup) -> Arc<Self> {
        let media = SimMedia::new(MediaConfig {
            first_frame: Frame(setup.first_frame),
            frames: setup.frames,
            contiguous_limit: None,
        });
        let fs = SimFs::new(media.clone());
        let trace = Arc::new(Trace::default());
        let tracer: Arc<dyn Tracer> = Arc::<Trace>::clone(&trace);
        let dax = Dax::with_wait_buckets(Some(tracer), setup.wait_bits);
        let machine = Machine::new(media.clone(), setup.cpus);
        let file = fs.create(setup.bytes);
        Arc::new(Self::around(machine, dax, trace, file, 1))
    }

    /// Another file of the same file system, machine and engine.
    pub fn second(&self, file: SimFile) -> Arc<Self> {
        let (machine, dax) = (Arc::clone(&self.machine), Arc::clone(&self.dax));
        self.alone.store(false, Ordering::Relaxed);
        Arc::new(Self::around(machine, dax, Arc::clone(&self.trace), file, 2))
    }

    fn around(
        machine: Arc<Machine>,
        dax: Arc<Dax<Test>>,
        trace: Arc<Trace>,
        file: SimFile,
        ino: u64,
    ) -> Self {
        let hooks = Arc::new(Hooks::default());
        let media = machine.media().clone();
        let mapping = Mapping::new(
            &dax,
            Inode { dev: 0x801, ino },
            File { sim: file.clone(), hooks: Arc::clone(&hooks) },
            Storage { sim: media.clone(), hooks: Arc::clone(&hooks) },
        );
        let (fs, mapped) = (Arc::clone(file.fs()), Mutex::default());
        let alone = AtomicBool::new(ino == 1);
        Self { media, fs, machine, dax, file, mapping, trace, hooks, alone, mapped }
    }

    /// Maps some of the file.
    pub fn map(&self, spec: Spec) -> Arc<Mapped> {
        let process = spec.process.unwrap_or_else(|| self.machine.process());
        let sim = process.map(VmaLayout {
            pages: spec.pages,
            address_page: process.free_address(spec.pages, spec.congruence),
            sharing: spec.sharing,
            protection: spec.protection,
        });
        let mapped = self.attach(process, sim, spec.durability, spec.huge_pages, spec.ahead);
        self.mapped.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&mapped));
        mapped
    }

    /// Serves the faults of a VMA that is there already, as of a child.
    pub fn attach(
        &self,
        process: Arc<Process>,
        sim: Arc<SimVma>,
        durability: Durability,
        huge_pages: HugePages,
        ahead: u64,
    ) -> Arc<Mapped> {
        let layout = sim.layout();
        let vma = Arc::new(Vma {
            pages: layout.pages,
            address_page: layout.address_page,
            sharing: layout.sharing,
            durability,
            huge_pages,
            space: Space { sim: sim.space(), hooks: Arc::clone(&self.hooks) },
        });
        self.mapping.attach(Arc::clone(&vma));
        let mapping = Arc::clone(&self.mapping);
        let mapped =
            Arc::new(Mapped { process, sim, vma, mapping, ahead, served: Mutex::default() });
        let handler = Arc::downgrade(&mapped);
        mapped.sim.on_fault(move |request| {
            let mapped = handler.upgrade().ok_or(AccessError::BusError)?;
            match mapped.fault(request.index.0, request.access).served {
                Served::Installed | Served::Retry | Served::Copied => Ok(()),
                Served::BusError => Err(AccessError::BusError),
                Served::Poisoned => Err(AccessError::Poisoned),
                Served::OutOfMemory => Err(AccessError::OutOfMemory),
                Served::Fallback | Served::NeedsCommit { .. } | Served::Interrupted => {
                    panic!("the engine ended a fault half-way")
                }
            }
        });
        mapped
    }

    /// A shared VMA of `range` in a process of its own.
    pub fn shared(&self, range: PageRange) -> Arc<Mapped> {
        self.map(Spec::shared(range))
    }

    /// The same with 4 KiB translations only.
    pub fn small(&self, range: PageRange) -> Arc<Mapped> {
        self.map(Spec::shared(range).small())
    }

    /// A private VMA of `range` in a process of its own.
    pub fn private(&self, range: PageRange) -> Arc<Mapped> {
        self.map(Spec::private(range))
    }

    /// The VMAs.
    pub fn mapped(&self) -> Vec<Arc<Mapped>> {
        self.mapped.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Gives `range` written storage that holds `byte` in every page's first byte. Before it is mapped.
    pub fn fill(&self, range: PageRange, byte: u8) {
        self.file.write_zeros(range).expect("there is space");
        for index in range.start.0..range.end.0 {
            self.file.poke(index * PAGE_BYTES, &[byte]);
        }
    }

    /// All entries.
    pub fn entries(&self) -> Vec<EntryReport> {
        self.mapping.entries_in(PageRange::from(page(0)))
    }

    /// Whether the media has no other file's entries to account for.
    fn is_alone(&self) -> bool {
        self.alone.load(Ordering::Relaxed)
    }

    /// Asserts the invariants. No call of the engine may be under way.
    #[track_caller]
    pub fn check_invariants(&self) {
        let broken = self.broken_invariants();
        assert!(broken.is_empty(), "invariants are broken:\n{}", broken.join("\n"));
    }

    /// What is broken, each with its number; for tests that expect it.
    pub fn broken_invariants(&self) -> Vec<String> {
        let mapped = self.mapped();
        let vmas = mapped.iter().map(|mapped| (Arc::clone(&mapped.sim), mapped.vma.sharing));
        let look = invariants::Look {
            mapping: &self.mapping,
            media: &self.media,
            file: &self.file,
            vmas: vmas.collect(),
            alone: self.is_alone(),
        };
        look.broken()
    }

    /// The entry that covers a page.
    pub fn entry(&self, index: u64) -> Option<EntryReport> {
        self.mapping.entries_in(pages(index, 1)).first().copied()
    }

    /// The state of a page in the words of SEMANTICS 1.5: "none", "pE", "pZ", "pM", "hE", "hZ", "hM", with "[D]" for a dirty mark.
    pub fn state(&self, index: u64) -> String {
        let Some(report) = self.entry(index) else { return "none".into() };
        let size = match report.entry.order() {
            Order::Pte => 'p',
            Order::Pmd => 'h',
        };
        let kind = match report.entry.kind() {
            Kind::Empty => 'E',
            Kind::Zero => 'Z',
            Kind::Mapped(_) => 'M',
        };
        format!("{size}{kind}{}", if report.dirty { "[D]" } else { "" })
    }

    /// The first byte of a page in the file.
    pub fn byte(&self, index: u64) -> u8 {
        let Some(frame) = self.file.frame_of(page(index)) else { return 0 };
        let mut byte = [0];
        self.media.peek(frame, 0, &mut byte);
        byte[0]
    }
}
