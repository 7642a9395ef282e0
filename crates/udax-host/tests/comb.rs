//! A file with data in every eighth page, as far as it goes.

use std::sync::Arc;
use udax_core::{IoError, PAGE_BYTES, PageIndex, PageRange};
use udax_host::{HostFile, HostIo, HostKind};

const TEETH: u64 = 100_000;
const STEP_PAGES: u64 = 8;
const STEP: u64 = STEP_PAGES * PAGE_BYTES;

struct Comb;

impl HostIo for Comb {
    fn size_bytes(&self) -> Result<u64, IoError> {
        Ok(TEETH * STEP)
    }

    fn allocated_bytes(&self) -> Result<u64, IoError> {
        Ok(TEETH * PAGE_BYTES)
    }

    fn seek_data(&self, offset: u64) -> Result<Option<u64>, IoError> {
        let tooth = offset / STEP * STEP;
        let data = if offset - tooth < PAGE_BYTES { offset } else { tooth + STEP };
        Ok(Some(data).filter(|&data| data < TEETH * STEP))
    }

    fn seek_hole(&self, offset: u64) -> Result<Option<u64>, IoError> {
        let tooth = offset / STEP * STEP;
        Ok(Some(if offset - tooth < PAGE_BYTES { tooth + PAGE_BYTES } else { offset }))
    }

    fn read_at(&self, _: &mut [u8], _: u64) -> Result<usize, IoError> {
        Ok(0)
    }

    fn write_at(&self, _: &[u8], _: u64) -> Result<usize, IoError> {
        Ok(0)
    }

    fn punch(&self, _: u64, _: u64) -> Result<(), IoError> {
        Ok(())
    }

    fn set_size(&self, _: u64) -> Result<(), IoError> {
        Ok(())
    }

    fn sync(&self, _: u64, _: u64) -> Result<(), IoError> {
        Ok(())
    }
}

/// Survey after survey, and then one over all that is known: on the stack of a service thread.
#[test]
fn a_survey_of_what_is_known_needs_no_deep_stack() {
    let host = HostFile::new(Arc::new(Comb), HostKind::Ext);
    host.trust();
    let all = PageRange::between(PageIndex(0), PageIndex(TEETH * STEP_PAGES));
    let mut at = all.start;
    while at < all.end {
        let survey = host.survey_within(PageRange::between(at, all.end), 2048);
        at = survey.expect("it never fails").done.end;
    }
    let again = host.survey(all).expect("it never fails");
    assert_eq!((again.hole_pages, again.done), (TEETH * (STEP_PAGES - 1), all));
}
