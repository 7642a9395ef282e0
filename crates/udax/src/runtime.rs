//! The runtime: it takes files into service, and ends that; it hands faults to the engine, and lease breaks to whoever must know.
//!
//! Lock order: the table of files, then the registry, then the engine's locks (docs/concurrency.md). Program threads take them with all
//! signals blocked.

use crate::eligible::Refusal;
use crate::faults::SURVEY_LOOKUPS;
use crate::regions::{Region, Regions};
use crate::served::{FileKey, Proof, ServedFile};
use crate::tainted::Tainted;
use crate::world::HostWorld;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{
    Arc, Mutex, MutexGuard, OnceLock, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak,
};
use udax_core::{Dax, PAGE_BYTES, PageIndex, PageRange, Tracer};
use udax_linux::{
    Errno, FaultEvent, FileHandle, Handler, LeaseId, LinuxSpace, Service, Sharing, SignalsBlocked,
    StartError, Verdict, VmaArea, at_work, inject, inject::Point, unpoisoned,
};

/// What the table of files holds.
#[derive(Default)]
pub(crate) struct Files {
    pub(crate) served: BTreeMap<FileKey, Arc<ServedFile>>,
    pub(crate) tainted: Tainted,
    /// Why mappings were passed through, and how often.
    pub(crate) refused: BTreeMap<&'static str, u64>,
    /// Files whose service ended, for statistics: the first [`ENDED_LIMIT`] of them.
    pub(crate) ended: Vec<(String, &'static str)>,
}

/// So many files are served at a time. Each has two descriptors of ours, and before it is served all mappings of the process are looked through.
const FILE_LIMIT: usize = 1000;

/// A process that maps and unmaps files all its life must not grow by their names.
const ENDED_LIMIT: usize = 1000;

impl Files {
    fn note_end(&mut self, file: &ServedFile, why: &'static str) {
        if self.ended.len() < ENDED_LIMIT {
            self.ended.push((file.name.to_string(), why));
        }
    }
}

/// Everything that outlives a single call.
pub(crate) struct State {
    files: Mutex<Files>,
    regions: RwLock<Regions>,
    /// Held exclusively while opened storage is given back, and never waited for by who does that; shared by syncs.
    pub(crate) giving_back: RwLock<()>,
    /// For statistics.
    pub(crate) given_back_pages: AtomicU64,
    /// Nothing is given back: for tests that count.
    pub(crate) keeps_open: bool,
    /// For jobs that outlive a call.
    pub(crate) own: Weak<State>,
    pub(crate) dax: Arc<Dax<HostWorld>>,
    /// How many files are served: a look at it is all that most calls need.
    pub(crate) serving: AtomicUsize,
    /// Nothing is taken into service any more: a fork child, or a process that writes files in ways we cannot see.
    closed: AtomicBool,
    /// The process that this is the state of.
    pub(crate) process: u32,
}

/// The runtime of a process.
pub(crate) struct Runtime {
    pub(crate) state: Arc<State>,
    service: OnceLock<Result<Arc<Service>, String>>,
}

impl State {
    pub(crate) fn files(&self) -> MutexGuard<'_, Files> {
        unpoisoned(self.files.lock())
    }

    pub(crate) fn regions(&self) -> RwLockReadGuard<'_, Regions> {
        inject::die_holding(Point::Registry, || self.regions.write());
        unpoisoned(self.regions.read())
    }

    pub(crate) fn regions_mut(&self) -> RwLockWriteGuard<'_, Regions> {
        unpoisoned(self.regions.write())
    }

    /// Whether this is a forked child, which has no thread of the service.
    pub(crate) fn is_of_the_parent(&self) -> bool {
        self.process != std::process::id()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    pub(crate) fn is_serving(&self) -> bool {
        self.serving.load(Ordering::SeqCst) != 0
    }

    /// Ends the service of a file: the plain mapping goes into all its regions, and only then is the proof let go, whereupon whoever
    /// waited for that goes on. The caller holds the table of files.
    pub(crate) fn end_service(&self, files: &mut Files, key: FileKey, why: &'static str) {
        let Some(file) = files.served.remove(&key) else { return };
        let all = PageRange::from(PageIndex(0));
        let _at_work = at_work("the end of the service", &file.name, all);
        let mut regions = self.regions_mut();
        file.host.distrust();
        let taken = regions.take_file(&file);
        taken.iter().for_each(|region| region.vma.space.forget_strangers(region.vma.pages));
        // None becomes plain while another shows zeros. Faults meanwhile wait for the registry.
        if taken.len() > 1 {
            taken.iter().for_each(|region| region.vma.space.hold_back(region.vma.pages));
        }
        for region in taken {
            region.vma.space.plain_all();
            region.detach();
        }
        files.note_end(&file, why);
        drop(file.take_proof());
        // Its descriptors close before anybody goes on who takes the registry: what a last close does is for the program to see.
        drop(file);
        self.serving.fetch_sub(1, Ordering::SeqCst);
        drop(regions);
    }

    /// Ends the service of every file.
    pub(crate) fn end_all(&self, files: &mut Files, why: &'static str) {
        let keys: Vec<FileKey> = files.served.keys().copied().collect();
        for key in keys {
            self.end_service(files, key, why);
        }
    }

    /// Lets files go that no region maps any more.
    pub(crate) fn drop_unmapped(&self) {
        let mut files = self.files();
        let unmapped: Vec<FileKey> = {
            let regions = self.regions();
            let used: BTreeSet<FileKey> = regions.iter().map(|region| region.file.key).collect();
            files.served.keys().filter(|key| !used.contains(key)).copied().collect()
        };
        let mut gone = Vec::new();
        for key in unmapped {
            if let Some(file) = files.served.remove(&key) {
                files.note_end(&file, "unmapped");
                self.serving.fetch_sub(1, Ordering::SeqCst);
                drop(file.take_proof());
                gone.push(file);
            }
        }
        drop(files);
        // Its descriptors close before this returns: what a last close does is for the program to see. Whoever looks at what was opened in it is waited for.
        if let Some(file) = gone.iter().find(|file| file.opened().is_watched()) {
            file.handle.service().with_files(|| ());
        }
    }
}

impl Handler for State {
    fn fault(&self, event: FaultEvent) -> Verdict {
        self.serve_fault(event)
    }

    fn lease_broken(&self, lease: LeaseId) {
        let mut files = self.files();
        let broken = files.served.values().find(|file| file.holds_lease(lease));
        let broken = broken.map(|file| (file.key, Arc::clone(&file.name)));
        if let Some((key, name)) = broken {
            let _at_work = at_work("the break of a lease", &name, PageRange::from(PageIndex(0)));
            inject::pass(Point::LeaseThread);
            self.end_service(&mut files, key, "it was opened once more");
        }
    }
}

impl Runtime {
    pub(crate) fn new(tracer: Option<Arc<dyn Tracer>>) -> Self {
        Self::sharing(tracer, Tainted::default())
    }

    /// The same for a process of which another may have the descriptors that `tainted` are open by.
    pub(crate) fn sharing(tracer: Option<Arc<dyn Tracer>>, tainted: Tainted) -> Self {
        let state = Arc::new_cyclic(|own| State {
            own: Weak::clone(own),
            giving_back: RwLock::default(),
            given_back_pages: AtomicU64::new(0),
            keeps_open: std::env::var_os("UDAX_TEST_KEEP_OPEN").is_some_and(|value| value == "1"),
            files: Mutex::new(Files { tainted, ..Files::default() }),
            regions: RwLock::default(),
            dax: Dax::new(tracer),
            serving: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            process: std::process::id(),
        });
        Self { state, service: OnceLock::new() }
    }

    /// The service threads; started by the first call.
    pub(crate) fn service(&self) -> Result<&Arc<Service>, Refusal> {
        let started = self.service.get_or_init(|| {
            let handler: Arc<dyn Handler> = Arc::clone(&self.state) as Arc<dyn Handler>;
            Service::start(handler).map_err(|error: StartError| error.to_string())
        });
        started.as_ref().map_err(|why| Refusal::NoEngine(why.clone()))
    }

    /// The service threads, if they have been started.
    pub(crate) fn running(&self) -> Option<&Arc<Service>> {
        self.service.get().and_then(|started| started.as_ref().ok())
    }

    /// Puts a fresh plain mapping, `area` of the file behind descriptor `fd`, into service. If it is refused, the mapping stays as it
    /// is: plain, and right.
    pub(crate) fn adopt(&self, area: VmaArea, fd: i32, promise: Promise) -> Result<(), Refusal> {
        let _signals = SignalsBlocked::new();
        let state = &*self.state;
        if state.is_closed() {
            return Err(Refusal::Closed);
        }
        let info = udax_linux::file_info(fd).map_err(Refusal::Descriptor)?;
        let key = FileKey::of(&info);
        let mut files = state.files();
        let known = files.served.get(&key).cloned();
        // A mapping of a served file that is not served itself stores where no fault tells: its pages count as storage.
        let pass_through = |why: Refusal| {
            if let Some(file) = known.as_ref().filter(|_| area.sharing() == Sharing::Shared) {
                let _regions = state.regions();
                file.make_storage(area.pages());
            }
            Err(why)
        };
        if let Err(why) = crate::eligible::mapping(&area, &info) {
            return pass_through(why);
        }
        let file = match &known {
            // The description that its plain pieces are mapped with must be as good as this one.
            Some(file) if file.handle.info().access != info.access => {
                return pass_through(Refusal::OtherAccess);
            }
            Some(file) => Arc::clone(file),
            None => self.take_into_service(&mut files, fd, &area, promise)?,
        };
        let served = self.lay(&file, area);
        if served.is_err() && known.is_none() {
            // Registered above, so that writers saw it; nobody maps it.
            files.served.remove(&key);
            state.serving.fetch_sub(1, Ordering::SeqCst);
        }
        served.or_else(pass_through)
    }

    /// A file becomes served: proof first, then a look for those who already store to it unseen.
    fn take_into_service(
        &self,
        files: &mut Files,
        fd: i32,
        area: &VmaArea,
        promise: Promise,
    ) -> Result<Arc<ServedFile>, Refusal> {
        if files.served.len() >= FILE_LIMIT {
            return Err(Refusal::TooManyFiles);
        }
        let service = self.service()?;
        let handle = FileHandle::adopt(service, fd).map_err(Refusal::Descriptor)?;
        let key = FileKey::of(&handle.info());
        if !handle.can_probe() {
            return Err(Refusal::CannotProbe);
        }
        let proof = match promise {
            Promise::Exclusive => Proof::Promise,
            Promise::None if files.tainted.contains(key) => return Err(Refusal::SharedDescriptor),
            Promise::None => Proof::Lease(handle.take_lease().map_err(Refusal::Lease)?),
        };
        let name = crate::descriptors::name_of(fd);
        let file = ServedFile::new(&self.state.dax, handle, proof, name);
        files.served.insert(key, Arc::clone(&file));
        // Registered before the look (a writer publishes itself before it looks at `serving`): one of the two sees the other.
        self.state.serving.fetch_add(1, Ordering::SeqCst);
        let writer = crate::in_flight::is_written(service, key);
        if writer {
            files.served.remove(&key);
            self.state.serving.fetch_sub(1, Ordering::SeqCst);
            return Err(Refusal::WriteUnderWay);
        }
        // What nobody may write has no mapping either that stores.
        if !file.is_only_read() {
            let itself = area.address()..area.end();
            for pages in crate::descriptors::mapped_shared(service, key.ino, &itself) {
                file.host.keep(crate::served::whole_units(pages));
            }
        }
        Ok(file)
    }

    /// Lays traps over the part of the mapping in which holes are. From here on faults come.
    fn lay(&self, file: &Arc<ServedFile>, area: VmaArea) -> Result<(), Refusal> {
        let _at_work = at_work("mapping", &file.name, area.pages());
        let size = file.handle.size().map_err(Refusal::Descriptor)?;
        let in_file = PageRange::between(PageIndex(0), PageIndex(size.div_ceil(PAGE_BYTES)));
        // What lies past the end is plain: SIGBUS is the kernel's to give, and what comes to be there is stored unseen.
        file.host.keep(PageRange::between(in_file.end.max(area.pages().start), area.pages().end));
        let below_end = area.pages().intersect(in_file);
        let survey = file.handle.service().with_files(|| {
            inject::run_out_of_memory(Point::SurveyMemory);
            file.host.survey_within(below_end, SURVEY_LOOKUPS)
        });
        let survey = survey.map_err(Refusal::Survey)?;
        // Where the survey has not come to, there may be holes yet.
        if survey.hole_pages == 0 && survey.done.covers(below_end) {
            return Err(Refusal::NoHole);
        }
        let space = LinuxSpace::new(area, Arc::clone(&file.handle));
        let mut regions = self.state.regions_mut();
        let region = Region::attach(file, space);
        if let Err(errno) = lay_around_data(&region, below_end) {
            region.vma.space.plain_all();
            region.detach();
            return Err(Refusal::NoTraps(errno));
        }
        // Where the program maps anew without having told of the unmapping: what was known there is of the past.
        for gone in regions.carve(&region.addresses()) {
            let _ = gone.detach();
        }
        regions.insert(region);
        Ok(())
    }
}

/// Pieces of data that are left out when traps are laid; what comes behind is covered too, and costs a fault at its first touch.
const PIECES_LEFT_OUT: usize = 256;

/// Lays traps over `range`, but for the data that is known: that may be touched without a fault of ours.
fn lay_around_data(region: &Region, range: PageRange) -> Result<(), Errno> {
    let mut rest = range;
    for _ in 0..PIECES_LEFT_OUT {
        let Some(data) = region.file.host.assign_data(rest) else { break };
        region.file.take_zeros_off(data);
        region.vma.space.lay_traps(PageRange::between(rest.start, data.start))?;
        rest.start = data.end.min(rest.end);
    }
    region.vma.space.lay_traps(rest)
}

/// What the user promised about a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Promise {
    /// Nothing: the kernel must vouch for it.
    None,
    /// That no other process writes it while it is mapped.
    Exclusive,
}
