//! The storage: frames behind a cache, with poison, pins, limits of its own, and a log of what was made durable when.

use crate::cache::{Cache, Evicted, FRAME_BYTES, Image, Span};
use crate::owners::Owners;
use crate::plan::{Failures, Plan};
use crate::platform::WaitQueue;
use crate::sched::yield_point;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use udax_core::{Frame, FrameRange, IoError, IoErrorKind, Media, MediaAccess, Owner, PAGE_BYTES};

const ENXIO: i32 = 6;
const EIO: i32 = 5;
const EHWPOISON: i32 = 133;

/// The shape of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MediaConfig {
    /// The number of its first frame. A multiple of 512 lets 2 MiB translations be; with any other, what is aligned on the
    /// device is not in memory (a misaligned partition).
    pub first_frame: Frame,
    /// How many frames it has.
    pub frames: u64,
    /// The most frames that it maps contiguously.
    pub contiguous_limit: Option<u64>,
}

/// The calls of [`Media`] that can be counted and made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediaCall {
    /// [`Media::direct_access`].
    DirectAccess,
    /// [`Media::flush`].
    Flush,
    /// [`Media::load`].
    Load,
    /// [`Media::store`].
    Store,
    /// [`Media::zero`].
    Zero,
}

/// Who stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreBy {
    /// A CPU, through its cache.
    Cpu,
    /// [`Media::store`], past the cache.
    Media,
}

/// What happened to the media, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediaEvent {
    /// Bytes of one frame were stored.
    Store {
        /// The frame.
        frame: Frame,
        /// Where in the frame.
        offset: u64,
        /// How many bytes.
        bytes: u64,
        /// By whom.
        by: StoreBy,
    },
    /// Bytes of one frame were zeroed, durably.
    Zero {
        /// The frame.
        frame: Frame,
        /// Where in the frame.
        offset: u64,
        /// How many bytes.
        bytes: u64,
    },
    /// The cache lines of frames were written back.
    Flush(FrameRange),
    /// What was written back before is durable.
    Fence,
    /// Poison was cleared.
    Cured(Frame),
}

struct State {
    cache: Cache,
    contiguous_limit: Option<u64>,
    alive: bool,
    poison: BTreeSet<u64>,
    pins: BTreeMap<u64, u64>,
    owners: Owners,
    log: Vec<MediaEvent>,
}

struct Device {
    config: MediaConfig,
    state: Mutex<State>,
    failures: Failures<MediaCall, IoError>,
    unpinned: WaitQueue,
}

/// The storage of the simulated world. A handle: its clones are the same storage.
#[derive(Clone)]
pub struct SimMedia {
    device: Arc<Device>,
}

impl std::fmt::Debug for SimMedia {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimMedia").field("config", &self.device.config).finish_non_exhaustive()
    }
}

const fn poisoned() -> IoError {
    IoError::from_errno(EHWPOISON)
}

impl SimMedia {
    /// A device of zeros.
    #[must_use]
    pub fn new(config: MediaConfig) -> Self {
        let state = State {
            cache: Cache::default(),
            contiguous_limit: config.contiguous_limit,
            alive: true,
            poison: BTreeSet::new(),
            pins: BTreeMap::new(),
            owners: Owners::default(),
            log: Vec::new(),
        };
        let device = Device {
            config,
            state: Mutex::new(state),
            failures: Failures::new(),
            unpinned: WaitQueue::new(),
        };
        Self { device: Arc::new(device) }
    }

    /// A 2 MiB aligned device of `frames` frames, without limits.
    #[must_use]
    pub fn aligned(frames: u64) -> Self {
        Self::new(MediaConfig { first_frame: Frame(0), frames, contiguous_limit: None })
    }

    /// The shape it was made with.
    #[must_use]
    pub fn config(&self) -> MediaConfig {
        self.device.config
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.device.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Loses the data of `frame`.
    pub fn poison(&self, frame: Frame) {
        self.state().poison.insert(frame.0);
    }

    /// Whether the data of `frame` is lost.
    #[must_use]
    pub fn is_poisoned(&self, frame: Frame) -> bool {
        self.state().poison.contains(&frame.0)
    }

    /// Clears the poison of `frame`, as if it had never been.
    pub fn cure(&self, frame: Frame) {
        self.state().poison.remove(&frame.0);
    }

    /// Takes the device away, or brings it back.
    pub fn set_alive(&self, alive: bool) {
        self.state().alive = alive;
    }

    /// Changes how many frames are mapped contiguously at most.
    pub fn set_contiguous_limit(&self, frames: Option<u64>) {
        self.state().contiguous_limit = frames;
    }

    /// A device takes a reference to `frame`, to write to it at any time.
    pub fn pin(&self, frame: Frame) {
        *self.state().pins.entry(frame.0).or_insert(0) += 1;
    }

    /// It gives one reference back, and the last one wakes who waits for that.
    ///
    /// # Panics
    /// If the frame is not pinned.
    pub fn unpin(&self, frame: Frame) {
        let mut state = self.state();
        let pins = state.pins.get_mut(&frame.0).expect("only a pinned frame is unpinned");
        *pins -= 1;
        if *pins > 0 {
            return;
        }
        state.pins.remove(&frame.0);
        drop(state);
        self.device.unpinned.notify_all();
    }

    /// Plans failures of `call`, in place of those planned before.
    pub fn fail(&self, call: MediaCall, plan: Plan, error: IoError) {
        self.device.failures.plan(call, plan, error);
    }

    /// How often `call` was called.
    #[must_use]
    pub fn calls(&self, call: MediaCall) -> u64 {
        self.device.failures.count(call)
    }

    /// What a load would see now from byte `offset` of `frame` on; poison does not matter, nothing is logged.
    pub fn peek(&self, frame: Frame, offset: u64, into: &mut [u8]) {
        let state = self.state();
        let mut done = 0;
        while done < into.len() {
            let span = Span::first(frame, offset + done as u64, into.len() - done);
            state.cache.read(span, &mut into[done..done + span.len()]);
            done += span.len();
        }
    }

    /// A load by a CPU, inside one frame.
    ///
    /// # Errors
    /// The poison of the frame.
    ///
    /// # Panics
    /// If it leaves the frame or the device.
    pub fn cpu_load(&self, frame: Frame, offset: u64, into: &mut [u8]) -> Result<(), IoError> {
        let state = self.state();
        let span = self.cpu_span(&state, frame, offset, into.len())?;
        state.cache.read(span, into);
        Ok(())
    }

    /// A store by a CPU, inside one frame: seen by all loads, durable once flushed.
    ///
    /// # Errors
    /// The poison of the frame.
    ///
    /// # Panics
    /// If it leaves the frame or the device.
    pub fn cpu_store(&self, frame: Frame, offset: u64, from: &[u8]) -> Result<(), IoError> {
        let mut state = self.state();
        let span = self.cpu_span(&state, frame, offset, from.len())?;
        state.cache.store(span, from);
        let bytes = from.len() as u64;
        state.log.push(MediaEvent::Store { frame, offset, bytes, by: StoreBy::Cpu });
        Ok(())
    }

    fn cpu_span(
        &self,
        state: &State,
        frame: Frame,
        offset: u64,
        bytes: usize,
    ) -> Result<Span, IoError> {
        assert!(
            self.holds(FrameRange { start: frame, count: 1 }),
            "{frame:?} is not on the device"
        );
        let span = Span::first(frame, offset, bytes);
        assert!(span.frame == frame && span.len() == bytes, "a CPU access stays in its page");
        if state.poison.contains(&frame.0) { Err(poisoned()) } else { Ok(span) }
    }

    /// Whether a power cut now could lose a store to `frames`.
    #[must_use]
    pub fn unflushed(&self, frames: FrameRange) -> bool {
        self.state().cache.is_dirty(frames)
    }

    /// What happened since the last time this was asked.
    #[must_use]
    pub fn take_log(&self) -> Vec<MediaEvent> {
        std::mem::take(&mut self.state().log)
    }

    /// What a power cut now would leave. The device itself goes on.
    #[must_use]
    pub fn crash(&self, evicted: Evicted) -> Image {
        self.state().cache.image(evicted)
    }

    /// What a power cut now would leave of bytes of one frame. Never gives the turn away.
    pub(crate) fn peek_after_crash(
        &self,
        frame: Frame,
        offset: u64,
        evicted: Evicted,
        into: &mut [u8],
    ) {
        self.state().cache.read_after_crash(Span::first(frame, offset, into.len()), evicted, into);
    }

    /// The page that `frame` is noted to hold: [`None`] for nobody's and for one that several files share.
    #[must_use]
    pub fn owner(&self, frame: Frame) -> Option<Owner> {
        self.state().owners.of(frame)
    }

    /// How many frames are noted as somebody's.
    #[must_use]
    pub fn owned_frames(&self) -> u64 {
        self.state().owners.frames()
    }

    /// The frames come to hold bytes that nobody may ever see: 0xdb.
    pub(crate) fn make_stale(&self, frames: FrameRange) {
        self.state().cache.make_stale(frames);
    }

    /// [`Media::zero`] of each of `frames`, for a file system that prepares storage; nobody else runs in between.
    pub(crate) fn zero_frames(&self, frames: FrameRange) -> Result<(), IoError> {
        yield_point();
        (0..frames.count)
            .try_for_each(|number| self.zero_now(frames.start.plus(number), 0, PAGE_BYTES))
    }

    fn zero_now(&self, frame: Frame, offset: u64, length: u64) -> Result<(), IoError> {
        self.device.failures.check(MediaCall::Zero)?;
        if offset.checked_add(length).is_none_or(|end| end > PAGE_BYTES) {
            return Err(IoError::from_errno(EIO));
        }
        let mut state = self.state();
        self.copyable(&state, frame, offset, usize::try_from(length).unwrap_or(0))?;
        let span = Span::first(frame, offset, usize::try_from(length).unwrap_or(0));
        if span.is_whole() && state.poison.remove(&frame.0) {
            state.log.push(MediaEvent::Cured(frame));
        }
        state.cache.zero_durably(span);
        state.log.push(MediaEvent::Zero { frame, offset, bytes: length });
        Ok(())
    }

    /// Stores inside one frame, durably, without a trace.
    pub(crate) fn poke(&self, frame: Frame, offset: u64, from: &[u8]) {
        self.state().cache.store_durably(Span::first(frame, offset, from.len()), from);
    }

    /// Zeroes a frame, durably, without a trace.
    pub(crate) fn poke_zeros(&self, frame: Frame) {
        self.state().cache.zero_durably(Span::first(frame, 0, FRAME_BYTES));
    }

    fn holds(&self, frames: FrameRange) -> bool {
        let end = self.device.config.first_frame.0 + self.device.config.frames;
        self.device.config.first_frame <= frames.start
            && frames.start.0.checked_add(frames.count).is_some_and(|last| last <= end)
    }

    /// How many bytes of a copy from byte `offset` of `frame` on one call does.
    fn copyable(
        &self,
        state: &State,
        frame: Frame,
        offset: u64,
        bytes: usize,
    ) -> Result<usize, IoError> {
        if !state.alive {
            return Err(IoError::from_errno(ENXIO));
        }
        let limit =
            state.contiguous_limit.unwrap_or(self.device.config.frames).saturating_mul(PAGE_BYTES);
        let granted = limit.saturating_sub(offset).min(bytes as u64);
        let frames = FrameRange { start: frame, count: (offset + granted).div_ceil(PAGE_BYTES) };
        if !self.holds(frames) {
            return Err(IoError::new(IoErrorKind::OutOfRange));
        }
        Ok(usize::try_from(granted).unwrap_or(bytes))
    }
}

impl Media for SimMedia {
    fn direct_access(&self, frames: FrameRange, access: MediaAccess) -> Result<u64, IoError> {
        yield_point();
        self.device.failures.check(MediaCall::DirectAccess)?;
        let state = self.state();
        if !state.alive {
            return Err(IoError::from_errno(ENXIO));
        }
        if frames.count == 0 || !self.holds(frames) {
            return Err(IoError::new(IoErrorKind::OutOfRange));
        }
        let rest = self.device.config.first_frame.0 + self.device.config.frames - frames.start.0;
        let limit = state.contiguous_limit.unwrap_or(u64::MAX).max(1);
        let asked = frames.start.0..frames.start.0 + frames.count;
        match (state.poison.range(asked).next(), access) {
            // Only a device that knows no bad frame at all answers with more than was asked for.
            (None, _) if state.poison.is_empty() => Ok(rest.min(limit)),
            (None, _) => Ok(frames.count.min(limit)),
            (Some(_), MediaAccess::Ordinary) => Err(poisoned()),
            (Some(&bad), MediaAccess::Recovery) => Ok((bad - frames.start.0).max(1).min(limit)),
        }
    }

    fn flush(&self, frames: FrameRange) -> Result<(), IoError> {
        yield_point();
        self.device.failures.check(MediaCall::Flush)?;
        let mut state = self.state();
        if !state.alive {
            return Err(IoError::from_errno(ENXIO));
        }
        state.cache.flush(frames);
        state.log.extend([MediaEvent::Flush(frames), MediaEvent::Fence]);
        drop(state);
        yield_point();
        Ok(())
    }

    fn load(&self, frame: Frame, offset: u64, into: &mut [u8]) -> Result<usize, IoError> {
        yield_point();
        self.device.failures.check(MediaCall::Load)?;
        let state = self.state();
        let bytes = self.copyable(&state, frame, offset, into.len())?;
        let mut done = 0;
        while done < bytes {
            let span = Span::first(frame, offset + done as u64, bytes - done);
            if state.poison.contains(&span.frame.0) {
                return if done == 0 { Err(poisoned()) } else { Ok(done) };
            }
            state.cache.read(span, &mut into[done..done + span.len()]);
            done += span.len();
        }
        Ok(done)
    }

    fn store(&self, frame: Frame, offset: u64, from: &[u8]) -> Result<usize, IoError> {
        yield_point();
        self.device.failures.check(MediaCall::Store)?;
        let mut state = self.state();
        let bytes = self.copyable(&state, frame, offset, from.len())?;
        let mut done = 0;
        while done < bytes {
            let span = Span::first(frame, offset + done as u64, bytes - done);
            if state.poison.contains(&span.frame.0) {
                // Only a whole frame can be made good again; part of one would hide that the rest is lost.
                if !span.is_whole() {
                    return if done == 0 { Err(poisoned()) } else { Ok(done) };
                }
                state.poison.remove(&span.frame.0);
                state.log.push(MediaEvent::Cured(span.frame));
            }
            state.cache.store_durably(span, &from[done..done + span.len()]);
            state.log.push(MediaEvent::Store {
                frame: span.frame,
                offset: span.start as u64,
                bytes: span.len() as u64,
                by: StoreBy::Media,
            });
            done += span.len();
        }
        Ok(done)
    }

    fn zero(&self, frame: Frame, offset: u64, length: u64) -> Result<(), IoError> {
        yield_point();
        self.zero_now(frame, offset, length)
    }

    fn first_pinned(&self, frames: FrameRange) -> Option<Frame> {
        let state = self.state();
        let range = frames.start.0..frames.start.plus(frames.count).0;
        state.pins.range(range).next().map(|(frame, _)| Frame(*frame))
    }

    fn wait_unpinned(&self, frame: Frame) {
        self.device.unpinned.wait_until(|| !self.state().pins.contains_key(&frame.0));
    }

    fn associate(&self, frames: FrameRange, owner: Option<Owner>) {
        self.state().owners.note(frames, owner);
    }
}
