//! Bytes that are stored, and bytes that are durable: memory behind a write-back cache of 64-byte lines.

use crate::prng::Prng;
use std::collections::{BTreeMap, HashMap, HashSet};
use udax_core::{Frame, FrameRange, PAGE_BYTES};

/// Bytes in a cache line; a frame has 64 of them, one for each bit of a word.
const LINE_BYTES: usize = 64;
/// [`PAGE_BYTES`], to measure slices with.
pub(crate) const FRAME_BYTES: usize = 4096;
const _: () = assert!(FRAME_BYTES as u64 == PAGE_BYTES && FRAME_BYTES / LINE_BYTES == 64);

/// What a frame holds that was allocated but never written by the file that has it now.
pub(crate) const STALE_BYTE: u8 = 0xdb;

type Bytes = Box<[u8; FRAME_BYTES]>;

fn zeros() -> Bytes {
    Box::new([0; FRAME_BYTES])
}

/// Which unflushed cache lines reached the media by themselves before the power went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evicted {
    /// None.
    Nothing,
    /// All.
    Everything,
    /// Those that the seed picks.
    Some {
        /// The seed.
        seed: u64,
    },
}

impl Evicted {
    /// The lines of `frame` that reach the media.
    fn lines(self, frame: u64) -> u64 {
        match self {
            Self::Nothing => 0,
            Self::Everything => u64::MAX,
            Self::Some { seed } => Prng::new(seed ^ frame.rotate_left(32)).next(),
        }
    }
}

/// Where a run of bytes lies in one frame.
#[derive(Clone, Copy)]
pub(crate) struct Span {
    pub(crate) frame: Frame,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

impl Span {
    /// The part of `length` bytes from byte `offset` of `frame` on that lies in one frame.
    pub(crate) fn first(frame: Frame, offset: u64, length: usize) -> Self {
        let start = usize::try_from(offset % PAGE_BYTES).expect("a page offset fits");
        let frame = frame.plus(offset / PAGE_BYTES);
        Self { frame, start, end: (start + length).min(FRAME_BYTES) }
    }

    pub(crate) fn len(self) -> usize {
        self.end - self.start
    }

    pub(crate) fn is_whole(self) -> bool {
        self.len() == FRAME_BYTES
    }

    /// The lines that hold any of it.
    fn lines(self) -> u64 {
        if self.start == self.end {
            return 0;
        }
        let (first, last) = (self.start / LINE_BYTES, (self.end - 1) / LINE_BYTES);
        (u64::MAX << first) & (u64::MAX >> (63 - last))
    }

    /// The lines that hold nothing else.
    fn whole_lines(self) -> u64 {
        (0..64)
            .filter(|line| self.start <= line * LINE_BYTES && (line + 1) * LINE_BYTES <= self.end)
            .fold(0, |lines, line| lines | 1 << line)
    }
}

/// A frame of which some lines are not durable yet.
struct Dirty {
    lines: u64,
    /// `None`: zeros. A file that is written for the first time is not worth its size again.
    durable: Option<Bytes>,
}

/// All frames, sparse.
#[derive(Default)]
pub(crate) struct Cache {
    /// What loads see; a frame that is not there holds zeros, or stale bytes.
    stored: HashMap<u64, Bytes>,
    stale: HashSet<u64>,
    dirty: BTreeMap<u64, Dirty>,
}

impl Cache {
    /// Takes the bytes of a frame out; `None` if it holds zeros.
    fn take(&mut self, frame: u64) -> Option<Bytes> {
        let stale = || self.stale.contains(&frame).then(|| Box::new([STALE_BYTE; FRAME_BYTES]));
        self.stored.remove(&frame).or_else(stale)
    }

    pub(crate) fn read(&self, span: Span, into: &mut [u8]) {
        match self.stored.get(&span.frame.0) {
            Some(bytes) => into.copy_from_slice(&bytes[span.start..span.end]),
            None if self.stale.contains(&span.frame.0) => into.fill(STALE_BYTE),
            None => into.fill(0),
        }
    }

    /// A store by a CPU: it stays in the cache.
    pub(crate) fn store(&mut self, span: Span, from: &[u8]) {
        let frame = span.frame.0;
        let bytes = self.take(frame);
        let dirty =
            self.dirty.entry(frame).or_insert_with(|| Dirty { lines: 0, durable: bytes.clone() });
        dirty.lines |= span.lines();
        let mut bytes = bytes.unwrap_or_else(zeros);
        bytes[span.start..span.end].copy_from_slice(from);
        self.stored.insert(frame, bytes);
    }

    /// A store past the cache: exactly these bytes are durable at once, their neighbours in the line no more than before.
    pub(crate) fn store_durably(&mut self, span: Span, from: &[u8]) {
        let frame = span.frame.0;
        let mut bytes = self.take(frame).unwrap_or_else(zeros);
        bytes[span.start..span.end].copy_from_slice(from);
        self.stored.insert(frame, bytes);
        if let Some(dirty) = self.dirty.get_mut(&frame) {
            let durable = dirty.durable.get_or_insert_with(zeros);
            durable[span.start..span.end].copy_from_slice(from);
            dirty.lines &= !span.whole_lines();
            if dirty.lines == 0 {
                self.dirty.remove(&frame);
            }
        }
    }

    pub(crate) fn zero_durably(&mut self, span: Span) {
        if span.is_whole() {
            self.stored.remove(&span.frame.0);
            self.dirty.remove(&span.frame.0);
            self.stale.remove(&span.frame.0);
        } else {
            self.store_durably(span, &vec![0; span.len()]);
        }
    }

    /// The frames come to hold bytes that nobody may ever see.
    pub(crate) fn make_stale(&mut self, frames: FrameRange) {
        for frame in frames.start.0..frames.start.plus(frames.count).0 {
            self.stored.remove(&frame);
            self.dirty.remove(&frame);
            self.stale.insert(frame);
        }
    }

    pub(crate) fn flush(&mut self, frames: FrameRange) {
        let range = frames.start.0..frames.start.plus(frames.count).0;
        let flushed: Vec<u64> = self.dirty.range(range).map(|(frame, _)| *frame).collect();
        for frame in flushed {
            self.dirty.remove(&frame);
        }
    }

    pub(crate) fn is_dirty(&self, frames: FrameRange) -> bool {
        self.dirty.range(frames.start.0..frames.start.plus(frames.count).0).next().is_some()
    }

    /// What a power cut would leave of `span`.
    pub(crate) fn read_after_crash(&self, span: Span, evicted: Evicted, into: &mut [u8]) {
        self.read(span, into);
        let Some(dirty) = self.dirty.get(&span.frame.0) else { return };
        let lost = dirty.lines & !evicted.lines(span.frame.0);
        for (place, byte) in (span.start..span.end).zip(into) {
            if lost & (1 << (place / LINE_BYTES)) != 0 {
                *byte = dirty.durable.as_ref().map_or(0, |durable| durable[place]);
            }
        }
    }

    /// What a power cut would leave.
    pub(crate) fn image(&self, evicted: Evicted) -> Image {
        let mut frames = self.stored.clone();
        for (frame, dirty) in &self.dirty {
            let written_back = evicted.lines(*frame);
            let Some(bytes) = frames.get_mut(frame) else { continue };
            for line in (0..64).filter(|line| dirty.lines & !written_back & (1 << line) != 0) {
                let at = line * LINE_BYTES..(line + 1) * LINE_BYTES;
                match &dirty.durable {
                    Some(durable) => bytes[at.clone()].copy_from_slice(&durable[at]),
                    None => bytes[at].fill(0),
                }
            }
        }
        Image { frames, stale: self.stale.clone() }
    }
}

/// What is on the media after a power cut.
pub struct Image {
    frames: HashMap<u64, Bytes>,
    stale: HashSet<u64>,
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Image").field("frames", &self.frames.len()).finish_non_exhaustive()
    }
}

impl Image {
    /// The bytes from byte `offset` of `frame` on.
    pub fn read(&self, frame: Frame, offset: u64, into: &mut [u8]) {
        let mut done = 0;
        while done < into.len() {
            let span = Span::first(frame, offset + done as u64, into.len() - done);
            let part = &mut into[done..done + span.len()];
            match self.frames.get(&span.frame.0) {
                Some(bytes) => part.copy_from_slice(&bytes[span.start..span.end]),
                None if self.stale.contains(&span.frame.0) => part.fill(STALE_BYTE),
                None => part.fill(0),
            }
            done += span.len();
        }
    }
}
