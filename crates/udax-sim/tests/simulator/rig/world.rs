//! The simulated world with a hook before and after every call that the engine makes of it: a test can act in between, on the
//! same thread, and can read off the order of the calls.

use std::sync::{Arc, Mutex, PoisonError};
use udax_core::{
    AddressSpace, Filesystem, Frame, FrameRange, InstallError, Intent, IoError, Iomap, Media,
    MediaAccess, Order, Owner, PageIndex, PageRange, Pmd, PrivateCopies, Rights, World,
    WriteTracking,
};
use udax_sim::{SimFile, SimMedia, SimPlatform, SimSpace};

/// One call that the engine makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Begin(PageRange, Intent),
    End(u64),
    SetSize(u64),
    Free(PageRange),
    Commit(PageRange),
    NoteStore,
    DirectAccess(FrameRange),
    Flush(FrameRange),
    Load(Frame),
    Store(Frame),
    Zero(Frame, u64, u64),
    FirstPinned(FrameRange),
    WaitUnpinned(Frame),
    Level(PageIndex),
    InstallStorage(PageRange, Frame, Rights),
    InstallZeros(PageRange, Order),
    InstallCopy(PageIndex),
    Unmap(PageRange, PrivateCopies),
    WriteProtect(PageRange, Frame),
    Split(PageIndex),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    Before,
    After,
}

struct Planted {
    when: When,
    wanted: Box<dyn Fn(&Call) -> bool + Send>,
    act: Box<dyn FnOnce() + Send>,
}

/// What was called, and what a test has planted into it.
#[derive(Default)]
pub struct Hooks {
    planted: Mutex<Vec<Planted>>,
    log: Mutex<Vec<Call>>,
}

impl Hooks {
    /// Does `act` once, before the first call from now on that `wanted` accepts. Nothing of the rig is locked meanwhile but what
    /// the engine itself holds.
    pub fn before(
        &self,
        wanted: impl Fn(&Call) -> bool + Send + 'static,
        act: impl FnOnce() + Send + 'static,
    ) {
        self.plant(When::Before, Box::new(wanted), Box::new(act));
    }

    /// The same after the call.
    pub fn after(
        &self,
        wanted: impl Fn(&Call) -> bool + Send + 'static,
        act: impl FnOnce() + Send + 'static,
    ) {
        self.plant(When::After, Box::new(wanted), Box::new(act));
    }

    fn plant(
        &self,
        when: When,
        wanted: Box<dyn Fn(&Call) -> bool + Send>,
        act: Box<dyn FnOnce() + Send>,
    ) {
        let planted = Planted { when, wanted, act };
        self.planted.lock().unwrap_or_else(PoisonError::into_inner).push(planted);
    }

    /// Whether everything that was planted has happened.
    pub fn all_done(&self) -> bool {
        self.planted.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// The calls since the last time, in order.
    pub fn take_log(&self) -> Vec<Call> {
        std::mem::take(&mut *self.log.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn fire(&self, when: When, call: &Call) {
        let found = {
            let mut planted = self.planted.lock().unwrap_or_else(PoisonError::into_inner);
            let place = planted.iter().position(|one| one.when == when && (one.wanted)(call));
            place.map(|place| planted.remove(place))
        };
        if let Some(planted) = found {
            (planted.act)();
        }
    }

    fn call<R>(&self, call: Call, act: impl FnOnce() -> R) -> R {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).push(call);
        self.fire(When::Before, &call);
        let answer = act();
        self.fire(When::After, &call);
        answer
    }
}

/// The world of the engine's tests.
pub struct Test;

impl World for Test {
    type Platform = SimPlatform;
    type Filesystem = File;
    type Media = Storage;
    type Space = Space;
}

/// A simulated file, with hooks.
pub struct File {
    pub sim: SimFile,
    pub hooks: Arc<Hooks>,
}

impl Filesystem for File {
    fn size_bytes(&self) -> u64 {
        self.sim.size_bytes()
    }

    fn iomap_begin(&self, range: PageRange, intent: Intent) -> Result<Iomap, IoError> {
        self.hooks.call(Call::Begin(range, intent), || self.sim.iomap_begin(range, intent))
    }

    fn iomap_end(&self, iomap: &Iomap, done: u64) -> Result<(), IoError> {
        self.hooks.call(Call::End(done), || self.sim.iomap_end(iomap, done))
    }

    fn set_size(&self, bytes: u64) -> Result<(), IoError> {
        self.hooks.call(Call::SetSize(bytes), || self.sim.set_size(bytes))
    }

    fn free(&self, range: PageRange) -> Result<(), IoError> {
        self.hooks.call(Call::Free(range), || self.sim.free(range))
    }

    fn commit(&self, range: PageRange) -> Result<(), IoError> {
        self.hooks.call(Call::Commit(range), || self.sim.commit(range))
    }

    fn note_store(&self) {
        self.hooks.call(Call::NoteStore, || self.sim.note_store());
    }
}

/// The simulated media, with hooks.
pub struct Storage {
    pub sim: SimMedia,
    pub hooks: Arc<Hooks>,
}

impl Media for Storage {
    fn direct_access(&self, frames: FrameRange, access: MediaAccess) -> Result<u64, IoError> {
        self.hooks.call(Call::DirectAccess(frames), || self.sim.direct_access(frames, access))
    }

    fn flush(&self, frames: FrameRange) -> Result<(), IoError> {
        self.hooks.call(Call::Flush(frames), || self.sim.flush(frames))
    }

    fn load(&self, frame: Frame, offset: u64, into: &mut [u8]) -> Result<usize, IoError> {
        self.hooks.call(Call::Load(frame), || self.sim.load(frame, offset, into))
    }

    fn store(&self, frame: Frame, offset: u64, from: &[u8]) -> Result<usize, IoError> {
        self.hooks.call(Call::Store(frame), || self.sim.store(frame, offset, from))
    }

    fn zero(&self, frame: Frame, offset: u64, length: u64) -> Result<(), IoError> {
        let call = Call::Zero(frame, offset, length);
        self.hooks.call(call, || self.sim.zero(frame, offset, length))
    }

    fn first_pinned(&self, frames: FrameRange) -> Option<Frame> {
        self.hooks.call(Call::FirstPinned(frames), || self.sim.first_pinned(frames))
    }

    fn wait_unpinned(&self, frame: Frame) {
        self.hooks.call(Call::WaitUnpinned(frame), || self.sim.wait_unpinned(frame));
    }

    fn associate(&self, frames: FrameRange, owner: Option<Owner>) {
        // Under the tree lock: no hook may act here.
        self.sim.associate(frames, owner);
    }
}

/// The simulated page tables of one VMA, with hooks.
#[derive(Clone)]
pub struct Space {
    pub sim: SimSpace,
    pub hooks: Arc<Hooks>,
}

impl AddressSpace for Space {
    fn pmd(&self, index: PageIndex) -> Pmd {
        self.hooks.call(Call::Level(index), || self.sim.pmd(index))
    }

    fn install_storage(
        &self,
        run: PageRange,
        frame: Frame,
        order: Order,
        rights: Rights,
    ) -> Result<Rights, InstallError> {
        self.hooks.call(Call::InstallStorage(run, frame, rights), || {
            self.sim.install_storage(run, frame, order, rights)
        })
    }

    fn install_zeros(&self, run: PageRange, order: Order) -> Result<(), InstallError> {
        self.hooks.call(Call::InstallZeros(run, order), || self.sim.install_zeros(run, order))
    }

    fn install_copy(&self, index: PageIndex, from: Option<Frame>) -> Result<(), InstallError> {
        self.hooks.call(Call::InstallCopy(index), || self.sim.install_copy(index, from))
    }

    fn unmap(&self, range: PageRange, copies: PrivateCopies) {
        self.hooks.call(Call::Unmap(range, copies), || self.sim.unmap(range, copies));
    }

    fn write_protect(&self, range: PageRange, frame: Frame) -> WriteTracking {
        let call = Call::WriteProtect(range, frame);
        self.hooks.call(call, || self.sim.write_protect(range, frame))
    }

    fn clear_pmd(&self, index: PageIndex) {
        self.hooks.call(Call::Split(index), || self.sim.clear_pmd(index));
    }
}
