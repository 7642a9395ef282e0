//! The machine under torture: files, processes, mappings, and the model of what must be seen.

use super::config::Config;
use super::model::{Cell, Model};
use super::report::{Counts, Trail};
use super::trouble::Excuses;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use udax_core::{
    Dax, Durability, Fault, Frame, HugePages, Inode, Interrupt, IoError, Mapping, PageRange,
    Served, Sharing, Vma,
};
use udax_sim::{
    AccessError, Machine, MediaConfig, Process, SharedLock, SimFile, SimFs, SimMedia, SimPlatform,
    SimVma, SimWorld,
};

/// Frames of the device: more than all files can ever need, so that space is short only where it is made so.
const FRAMES: u64 = 1 << 22;

/// Locks a mutex that nobody holds over a turn.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file, with the lock that the engine leaves to its caller: writes, truncation and the like take it alone.
pub struct File {
    pub sim: SimFile,
    pub inode: SharedLock,
    mapping: Mutex<Arc<Mapping<SimWorld>>>,
    number: u64,
}

impl File {
    /// The engine's side, as it is now. Eviction changes it, with the inode lock held alone.
    pub fn mapping(&self) -> Arc<Mapping<SimWorld>> {
        Arc::clone(&lock(&self.mapping))
    }
}

/// One VMA.
pub struct Area {
    /// Its number in the model.
    pub number: usize,
    pub file: usize,
    pub process: Arc<Process>,
    pub sim: Arc<SimVma>,
    pub vma: Arc<Vma<SimWorld>>,
    pub mapping: Arc<Mapping<SimWorld>>,
    /// Ends the waits of the threads that fault here.
    pub interrupt: Arc<Interrupt<SimPlatform>>,
}

impl Area {
    pub fn pages(&self) -> PageRange {
        self.vma.pages
    }

    pub fn is_shared(&self) -> bool {
        self.vma.sharing == Sharing::Shared
    }
}

/// A VMA that the engine serves.
pub struct ServedVma {
    file: usize,
    sim: Arc<SimVma>,
    vma: Arc<Vma<SimWorld>>,
    mapping: Arc<Mapping<SimWorld>>,
    interrupt: Arc<Interrupt<SimPlatform>>,
}

/// Everything.
pub struct Scene {
    pub config: Config,
    pub machine: Arc<Machine>,
    pub fs: Arc<SimFs>,
    pub dax: Arc<Dax<SimWorld>>,
    pub files: Vec<File>,
    pub processes: Mutex<Vec<Arc<Process>>>,
    /// Those that nobody is unmapping.
    pub areas: Mutex<Vec<Arc<Area>>>,
    pub model: Mutex<Model>,
    pub excuses: Mutex<Excuses>,
    pub poisoned: Mutex<Vec<Frame>>,
    pub trail: Trail,
    pub counts: Counts,
}

impl Scene {
    /// As `config` says; nothing is mapped.
    pub fn new(config: Config) -> Arc<Self> {
        let media = SimMedia::new(MediaConfig {
            first_frame: Frame(config.first_frame),
            frames: FRAMES,
            contiguous_limit: config.contiguous_limit,
        });
        let fs = SimFs::new(media.clone());
        fs.set_placement(config.placement);
        fs.set_freed(config.freed);
        let machine = Machine::new(media, config.cpus);
        let dax = Dax::with_wait_buckets(None, config.wait_bits);
        let file = |(number, size): (u64, &u64)| {
            let sim = fs.create(*size);
            let mapping = Mutex::new(mapping_of(&dax, &sim, number));
            File { sim, inode: SharedLock::new(), mapping, number }
        };
        let files = (1..).zip(&config.sizes).map(file).collect();
        let processes = (0..config.processes).map(|_| machine.process()).collect();
        Arc::new(Self {
            model: Mutex::new(Model::new(&config.pages, &config.sizes)),
            trail: Trail::new(config.workers + 1),
            config,
            machine,
            fs,
            dax,
            files,
            processes: Mutex::new(processes),
            areas: Mutex::default(),
            excuses: Mutex::default(),
            poisoned: Mutex::default(),
            counts: Counts::default(),
        })
    }

    /// The model. Nobody may give the turn away with it held.
    pub fn model(&self) -> MutexGuard<'_, Model> {
        lock(&self.model)
    }

    /// All cells of a file.
    pub fn cells(&self) -> Vec<Cell> {
        self.model().cells.clone()
    }

    /// Gives a file that has been evicted a new mapping.
    pub fn renew(&self, file: usize) {
        let file = &self.files[file];
        *lock(&file.mapping) = mapping_of(&self.dax, &file.sim, file.number);
    }

    /// Lets the engine serve the faults of a VMA, and others use it, as area `number` of the model.
    pub fn serve(
        &self,
        (sim, process): (&Arc<SimVma>, &Arc<Process>),
        (file, number): (usize, usize),
        durability: Durability,
        huge_pages: HugePages,
    ) -> Arc<Area> {
        let served = self.attach(sim, file, durability, huge_pages);
        self.publish(served, process, number)
    }

    /// Lets others use a VMA that is served.
    pub fn publish(&self, served: ServedVma, process: &Arc<Process>, number: usize) -> Arc<Area> {
        let ServedVma { file, sim, vma, mapping, interrupt } = served;
        let process = Arc::clone(process);
        let area = Arc::new(Area { number, file, process, sim, vma, mapping, interrupt });
        lock(&self.areas).push(Arc::clone(&area));
        area
    }

    /// Lets the engine serve the faults of a VMA.
    pub fn attach(
        &self,
        sim: &Arc<SimVma>,
        file: usize,
        durability: Durability,
        huge_pages: HugePages,
    ) -> ServedVma {
        let (layout, mapping) = (sim.layout(), self.files[file].mapping());
        let vma = Arc::new(Vma {
            pages: layout.pages,
            address_page: layout.address_page,
            sharing: layout.sharing,
            durability,
            huge_pages,
            space: sim.space(),
        });
        mapping.attach(Arc::clone(&vma));
        let (served, by, ahead) = (Arc::clone(&vma), Arc::clone(&mapping), self.config.ahead);
        let interrupt = Arc::new(Interrupt::new());
        let signal = Arc::clone(&interrupt);
        sim.on_fault(move |request| {
            let outcome = by.fault(&Fault {
                vma: &served,
                index: request.index,
                access: request.access,
                translation_present: request.translation_present,
                ahead,
                interrupt: Some(&signal),
            });
            match outcome.served {
                Served::Installed | Served::Retry | Served::Copied => Ok(()),
                // The signal's handler runs, and the access is made again.
                Served::Interrupted => {
                    signal.clear();
                    Ok(())
                }
                Served::BusError => Err(AccessError::BusError),
                Served::Poisoned => Err(AccessError::Poisoned),
                Served::OutOfMemory => Err(AccessError::OutOfMemory),
                Served::Fallback | Served::NeedsCommit { .. } => {
                    panic!("{request:?} was left unfinished: {outcome:?}")
                }
            }
        });
        ServedVma { file, sim: Arc::clone(sim), vma, mapping, interrupt }
    }

    /// munmap. The caller has taken the area off the list, so nobody else does it, and holds the inode lock, shared at least.
    pub fn unmap(&self, area: &Area) {
        let rights = self.model().begin_rights(area.number, area.pages(), super::model::NO_RIGHTS);
        area.process.unmap(area.vma.address_page, area.pages().len());
        area.mapping.detach(&area.vma);
        self.model().end_rights(area.number, rights);
    }

    /// Takes an area that `is_wanted` off the list.
    pub fn take_area(&self, is_wanted: impl Fn(&Area) -> bool) -> Option<Arc<Area>> {
        let mut areas = lock(&self.areas);
        let place = areas.iter().position(|area| is_wanted(area))?;
        Some(areas.remove(place))
    }
}

fn mapping_of(dax: &Arc<Dax<SimWorld>>, file: &SimFile, ino: u64) -> Arc<Mapping<SimWorld>> {
    let inode = Inode { dev: 0x801, ino };
    Mapping::new(dax, inode, file.clone(), file.fs().media().clone())
}

/// An error in few words.
pub fn words<T: std::fmt::Debug>(result: &Result<T, IoError>) -> String {
    match result {
        Ok(value) => format!("{value:?}"),
        Err(error) => error.to_string(),
    }
}
