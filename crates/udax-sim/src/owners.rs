//! Whose pages the frames hold, as the engine notes it (SEMANTICS I11).

use std::collections::BTreeMap;
use udax_core::{Frame, FrameRange, Owner};

struct Association {
    /// `None` once two files own the frame.
    owner: Option<Owner>,
    owners: u64,
}

/// The frames that are somebody's.
#[derive(Default)]
pub(crate) struct Owners(BTreeMap<u64, Association>);

impl Owners {
    /// The page that a frame holds: `None` for nobody's and for one that several files share.
    pub(crate) fn of(&self, frame: Frame) -> Option<Owner> {
        self.0.get(&frame.0).and_then(|association| association.owner)
    }

    /// How many frames are somebody's.
    pub(crate) fn frames(&self) -> u64 {
        self.0.len() as u64
    }

    pub(crate) fn note(&mut self, frames: FrameRange, owner: Option<Owner>) {
        for number in 0..frames.count {
            let frame = frames.start.plus(number).0;
            match owner {
                Some(mut owner) => {
                    owner.index = owner.index.plus(number);
                    let new = Association { owner: Some(owner), owners: 0 };
                    let association = self.0.entry(frame).or_insert(new);
                    association.owners += 1;
                    if association.owner != Some(owner) {
                        association.owner = None;
                    }
                }
                None => self.give_up(frame),
            }
        }
    }

    fn give_up(&mut self, frame: u64) {
        let association =
            self.0.get_mut(&frame).expect("a frame is given up once for each time it was taken");
        association.owners -= 1;
        if association.owners == 0 {
            self.0.remove(&frame);
        }
    }
}
