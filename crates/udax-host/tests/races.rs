//! What happens between a survey's look at the file and its learning, step by step; and what a fault must never do.

mod common;

use common::{everything, page, pages};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use udax_core::{Backing, Filesystem, Intent, IoError, PAGE_BYTES, PMD_PAGES, PageIndex};
use udax_host::{HostFile, HostIo, HostKind};

const UNITS: u64 = 4;
const SIZE_BYTES: u64 = UNITS * PMD_PAGES * PAGE_BYTES;

type Interruption = Box<dyn FnMut(&HostFile, u32) + Send>;

/// A file of holes only, on which somebody else acts after every look.
#[derive(Default)]
struct Interrupted {
    looks: AtomicU32,
    calls_that_wait: AtomicU32,
    other: Mutex<Option<(HostFile, Interruption)>>,
}

impl Interrupted {
    fn waits(&self) {
        self.calls_that_wait.fetch_add(1, Ordering::Relaxed);
    }
}

impl HostIo for Interrupted {
    fn size_bytes(&self) -> Result<u64, IoError> {
        Ok(SIZE_BYTES)
    }

    fn allocated_bytes(&self) -> Result<u64, IoError> {
        Ok(0)
    }

    fn seek_data(&self, _offset: u64) -> Result<Option<u64>, IoError> {
        self.waits();
        let look = self.looks.fetch_add(1, Ordering::Relaxed);
        if let Some((file, act)) = &mut *self.other.lock().unwrap() {
            act(file, look);
        }
        Ok(None)
    }

    fn seek_hole(&self, offset: u64) -> Result<Option<u64>, IoError> {
        self.waits();
        Ok(Some(offset))
    }

    fn read_at(&self, _into: &mut [u8], _offset: u64) -> Result<usize, IoError> {
        self.waits();
        Ok(0)
    }

    fn write_at(&self, from: &[u8], _offset: u64) -> Result<usize, IoError> {
        self.waits();
        Ok(from.len())
    }

    fn punch(&self, _offset: u64, _length_bytes: u64) -> Result<(), IoError> {
        self.waits();
        if let Some((file, act)) = &mut *self.other.lock().unwrap() {
            act(file, 0);
        }
        Ok(())
    }

    fn set_size(&self, _bytes: u64) -> Result<(), IoError> {
        self.waits();
        Ok(())
    }

    fn sync(&self, _offset: u64, _length_bytes: u64) -> Result<(), IoError> {
        self.waits();
        Ok(())
    }
}

/// The file, and `act` called with the number of the look after each.
fn interrupted(act: impl FnMut(&HostFile, u32) + Send + 'static) -> (HostFile, Arc<Interrupted>) {
    let io = Arc::new(Interrupted::default());
    let file = HostFile::new(io.clone(), HostKind::Tmpfs);
    file.trust();
    *io.other.lock().unwrap() = Some((file.clone(), Box::new(act)));
    (file, io)
}

#[test]
fn a_page_assigned_between_look_and_learning_is_no_hole() {
    let (file, io) = interrupted(|file, look| {
        if look == 0 {
            file.assign(page(PMD_PAGES + 3));
        }
    });
    assert_eq!(file.survey(everything()).unwrap().hole_pages, UNITS * PMD_PAGES - 1);
    assert_eq!(file.hole_pages(page(PMD_PAGES + 3)), 0);
    assert_eq!(io.looks.load(Ordering::Relaxed), 2, "it looked again");
}

#[test]
fn assigned_written_and_released_between_look_and_learning_is_looked_at_again() {
    // The look saw a hole; then somebody stored there and went. Only a second look can tell.
    let (file, io) = interrupted(|file, look| {
        if look == 0 {
            file.assign(page(0));
            assert!(file.release(everything()));
        }
    });
    file.survey(everything()).unwrap();
    assert_eq!(io.looks.load(Ordering::Relaxed), 2);
}

#[test]
fn a_survey_without_a_quiet_moment_gives_up_and_learns_nothing() {
    let (file, io) = interrupted(|file, _| assert!(file.release(everything())));
    let survey = file.survey(everything()).unwrap();
    assert_eq!((survey.hole_pages, survey.done), (0, everything()));
    assert!(io.looks.load(Ordering::Relaxed) <= 4 * u32::try_from(UNITS).unwrap());
}

#[test]
fn trust_lost_during_a_survey_ends_it() {
    let (file, io) = interrupted(|file, _| file.distrust());
    assert_eq!(file.survey(everything()).unwrap().hole_pages, 0);
    assert_eq!(io.looks.load(Ordering::Relaxed), 1);
}

#[test]
fn trust_lost_and_won_again_does_not_save_what_was_seen_before() {
    let (file, _) = interrupted(|file, _| {
        file.distrust();
        file.trust();
    });
    assert_eq!(file.survey(everything()).unwrap().hole_pages, 0);
    file.free(everything()).unwrap();
    assert_eq!(file.hole_pages(everything()), 0, "the punch began in another time of trust");
}

#[test]
fn a_fault_asks_nothing_that_waits_for_the_inode_lock() {
    let (file, io) = interrupted(|_, _| {});
    file.survey(pages(0, 2 * PMD_PAGES)).unwrap();
    io.calls_that_wait.store(0, Ordering::Relaxed);
    for intent in [Intent::Read, Intent::Zero, Intent::Write] {
        for unit in 0..UNITS + 1 {
            let iomap = file.iomap_begin(page(unit * PMD_PAGES), intent).unwrap();
            file.iomap_end(&iomap, 1).unwrap();
            file.note_store();
        }
    }
    file.assign(page(1));
    file.distrust();
    assert!(file.release(everything()));
    assert_eq!(file.hole_pages(everything()), 0);
    assert_eq!(io.calls_that_wait.load(Ordering::Relaxed), 0);
}

#[test]
fn what_is_known_is_not_looked_at_again() {
    let (file, io) = interrupted(|_, _| {});
    file.survey(everything()).unwrap();
    file.assign(page(PMD_PAGES));
    file.survey(everything()).unwrap();
    file.survey(pages(5, 700)).unwrap();
    assert_eq!(io.looks.load(Ordering::Relaxed), 1);
    let iomap = file.iomap_begin(page(0), Intent::Read).unwrap();
    assert_eq!((iomap.backing, iomap.range.end), (Backing::Hole, PageIndex(PMD_PAGES)));
}
