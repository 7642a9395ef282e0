//! What a file of a mounted file system answers the engine, on tmpfs and on the disk.

mod common;

use common::{Bench, UNIT_BYTES, everything, page, pages, places, sparse};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use udax_core::{
    Backing, Filesystem, Frame, FrameRange, Intent, IoErrorKind, Media, MediaAccess, PMD_PAGES,
    PageIndex,
};
use udax_host::HostIo;

fn everywhere(check: impl Fn(&PathBuf)) {
    for place in places() {
        eprintln!("on {}", place.display());
        check(&place);
    }
}

fn read(bench: &Bench, start: u64, end: u64) -> (Backing, u64) {
    let iomap = bench.begin(pages(start, end), Intent::Read);
    (iomap.backing, iomap.range.end.0)
}

#[test]
fn a_hole_is_offered_up_to_the_page_with_data() {
    everywhere(|place| {
        let bench = sparse(place, 8 * UNIT_BYTES);
        bench.write_page(3 * PMD_PAGES + 77);
        assert_eq!(bench.survey(), 8 * PMD_PAGES - 1);
        let data = 3 * PMD_PAGES + 77;
        assert_eq!(read(&bench, 0, 1), (Backing::Hole, data));
        assert_eq!(read(&bench, 700, 701), (Backing::Hole, data));
        assert_eq!(read(&bench, data, data + 1), (Backing::Mapped(Frame(data)), data + 1));
        assert_eq!(read(&bench, data + 1, data + 2), (Backing::Hole, 8 * PMD_PAGES));
        assert_eq!(read(&bench, 4 * PMD_PAGES, 5 * PMD_PAGES), (Backing::Hole, 8 * PMD_PAGES));
    });
}

#[test]
fn the_last_unit_counts_up_to_the_last_page_of_the_file() {
    everywhere(|place| {
        let bench = sparse(place, UNIT_BYTES + 4097);
        assert_eq!(bench.survey(), PMD_PAGES + 2);
        assert_eq!(read(&bench, 0, 1), (Backing::Hole, PMD_PAGES + 2));
        assert_eq!(read(&bench, PMD_PAGES, 2 * PMD_PAGES), (Backing::Hole, PMD_PAGES + 2));
        let small = sparse(place, 5000);
        assert_eq!((small.survey(), read(&small, 0, 512)), (2, (Backing::Hole, 2)));
        let empty = sparse(place, 0);
        assert_eq!((empty.survey(), read(&empty, 0, 1)), (0, (Backing::Mapped(Frame(0)), 1)));
    });
}

#[test]
fn what_was_not_surveyed_is_mapped() {
    everywhere(|place| {
        let bench = sparse(place, 4 * UNIT_BYTES);
        bench.host.survey(pages(PMD_PAGES, 2 * PMD_PAGES)).unwrap();
        assert_eq!(read(&bench, 0, 1), (Backing::Mapped(Frame(0)), 1));
        assert_eq!(read(&bench, PMD_PAGES, PMD_PAGES + 1), (Backing::Hole, 2 * PMD_PAGES));
    });
}

#[test]
fn a_first_store_assigns_its_page_and_no_other() {
    everywhere(|place| {
        let bench = sparse(place, 4 * UNIT_BYTES);
        bench.survey();
        let first = bench.begin(page(PMD_PAGES + 9), Intent::Write);
        assert!(first.is_new);
        assert_eq!(first.range, page(PMD_PAGES + 9));
        let second = bench.begin(page(PMD_PAGES + 9), Intent::Write);
        assert!(!second.is_new, "assigned before");
        assert_eq!(read(&bench, 0, 1), (Backing::Hole, PMD_PAGES + 9));
        assert_eq!(read(&bench, PMD_PAGES + 10, PMD_PAGES + 11).0, Backing::Hole);
        assert_eq!(
            bench.file.metadata().unwrap().blocks(),
            0,
            "the host allocates, not the answer"
        );
        assert_eq!(bench.survey(), 4 * PMD_PAGES - 1, "a survey does not see the assignment away");
    });
}

#[test]
fn punched_storage_is_a_hole_again_unless_a_mapping_may_show_it() {
    everywhere(|place| {
        let bench = sparse(place, 4 * UNIT_BYTES);
        bench.write_page(0);
        bench.write_page(PMD_PAGES);
        bench.survey();
        assert_eq!(bench.begin(page(0), Intent::Read).range, page(0));
        bench.begin(page(PMD_PAGES), Intent::Read);
        assert!(bench.host.release(pages(PMD_PAGES, 2 * PMD_PAGES)));
        bench.host.survey(everything()).unwrap();

        bench.host.free(pages(0, 2 * PMD_PAGES)).unwrap();
        assert_eq!(bench.io.seek_data(0), Ok(None), "the storage was not given back");
        assert_eq!(read(&bench, 0, 1).0, Backing::Mapped(Frame(0)), "a mapping shows it");
        assert_eq!(read(&bench, PMD_PAGES, PMD_PAGES + 1), (Backing::Hole, 4 * PMD_PAGES));
        assert!(bench.host.release(everything()));
        assert_eq!(bench.survey(), 4 * PMD_PAGES);
    });
}

#[test]
fn a_hole_that_is_released_is_looked_at_again() {
    everywhere(|place| {
        let bench = sparse(place, 2 * UNIT_BYTES);
        bench.survey();
        assert!(bench.host.release(pages(0, PMD_PAGES)));
        assert!(!bench.host.knows(PageIndex(9)), "somebody may have stored there meanwhile");
        bench.write_page(9);
        assert_eq!(bench.survey(), 2 * PMD_PAGES - 1);
        assert_eq!(read(&bench, 9, 10), (Backing::Mapped(Frame(9)), 10));
    });
}

#[test]
fn what_is_kept_is_never_released() {
    everywhere(|place| {
        let bench = sparse(place, 2 * UNIT_BYTES);
        bench.survey();
        bench.begin(page(3), Intent::Write);
        bench.host.keep(page(100));
        assert!(bench.host.is_kept(page(100)) && !bench.host.is_kept(page(3)));
        assert!(!bench.host.release(pages(0, PMD_PAGES)), "page 100 is kept");
        assert_eq!(bench.survey(), 2 * PMD_PAGES - 2, "and nothing has changed");
        assert!(bench.host.release(pages(0, 100)));
        assert_eq!(bench.survey(), 2 * PMD_PAGES - 1);
    });
}

#[test]
fn data_is_told_once_and_is_storage_from_then_on() {
    everywhere(|place| {
        let bench = sparse(place, 2 * UNIT_BYTES);
        bench.write_page(70);
        bench.write_page(PMD_PAGES + 9);
        bench.survey();
        assert_eq!(bench.host.assign_data(everything()), Some(page(70)));
        let rest = pages(71, 2 * PMD_PAGES);
        assert_eq!(bench.host.assign_data(rest), Some(page(PMD_PAGES + 9)));
        bench.host.free(everything()).unwrap();
        assert_eq!(read(&bench, 70, 71).0, Backing::Mapped(Frame(70)), "a mapping shows it");
    });
}

/// Zeros may be shown of a known hole: a later survey that passes over it must not call it data, which may be mapped without a fault.
#[test]
fn a_known_hole_stays_one_when_a_survey_passes_over_it() {
    everywhere(|place| {
        let bench = sparse(place, UNIT_BYTES);
        bench.host.survey(pages(20, 40)).unwrap();
        for index in 10..20 {
            bench.write_page(index);
        }
        bench.survey();
        assert_eq!(bench.host.hole_pages(pages(20, 40)), 20);
        assert!(bench.host.hole_at(PageIndex(25)).is_some_and(|hole| hole.start.0 == 20));
        assert_eq!(bench.host.hole_at(PageIndex(15)), None, "it is data");
        let mut rest = everything();
        while let Some(data) = bench.host.assign_data(rest) {
            assert!(data.intersect(pages(20, 40)).is_empty(), "{data:?}");
            rest.start = data.end;
        }
        assert_eq!(bench.host.hole_pages(pages(20, 40)), 20);
    });
}

#[test]
fn all_but_known_holes_is_storage_when_it_is_told() {
    everywhere(|place| {
        let bench = sparse(place, 4 * UNIT_BYTES);
        bench.host.survey(pages(10, 20)).unwrap();
        bench.host.survey(pages(PMD_PAGES, 2 * PMD_PAGES)).unwrap();
        bench.host.assign(page(25));
        assert_eq!(bench.host.assign_but_holes(pages(0, 1000)), Some(pages(0, 10)));
        assert_eq!(bench.host.assign_but_holes(pages(10, 1000)), Some(pages(20, PMD_PAGES)));
        assert_eq!(bench.host.assign_but_holes(pages(PMD_PAGES, 1000)), None);
        assert_eq!(
            bench.host.assign_but_holes(pages(1000, 2000)).map(|run| run.start),
            Some(PageIndex(1024))
        );
        assert_eq!(read(&bench, 30, 31).0, Backing::Mapped(Frame(30)));
        assert_eq!(read(&bench, 15, 16).0, Backing::Hole);
    });
}

#[test]
fn truncation_cuts_holes_off_and_growth_adds_them() {
    everywhere(|place| {
        let bench = sparse(place, 2 * UNIT_BYTES);
        bench.survey();
        bench.host.set_size(5 * 4096 + 1).unwrap();
        assert_eq!(bench.host.size_bytes(), 5 * 4096 + 1);
        assert_eq!(bench.host.hole_pages(everything()), 6);
        bench.host.set_size(3 * UNIT_BYTES).unwrap();
        assert_eq!(read(&bench, 2, 3), (Backing::Hole, 3 * PMD_PAGES));

        // A unit that a mapping shows natively stays what it is through both.
        bench.begin(page(2 * PMD_PAGES), Intent::Write);
        bench.host.set_size(UNIT_BYTES).unwrap();
        bench.host.set_size(3 * UNIT_BYTES).unwrap();
        assert_eq!(bench.host.hole_pages(everything()), 3 * PMD_PAGES - 1);
    });
}

#[test]
fn growth_makes_no_hole_of_the_data_before_the_old_end() {
    everywhere(|place| {
        let bench = sparse(place, 3 * 4096 - 5);
        bench.write_page(1);
        bench.survey();
        bench.host.set_size(2 * UNIT_BYTES).unwrap();
        // A hole of one page before data is not worth a window.
        assert_eq!(read(&bench, 0, 1), (Backing::Mapped(Frame(0)), 2));
        assert_eq!(read(&bench, 3, 4), (Backing::Hole, 2 * PMD_PAGES));
    });
}

/// Small holes before data count as data, and on tmpfs what comes behind data that follow one another: until those go.
#[test]
fn what_was_passed_over_for_the_sake_of_data_is_looked_at_again_when_they_go() {
    everywhere(|place| {
        let bench = sparse(place, 2 * UNIT_BYTES);
        bench.write_page(2);
        (20..24).for_each(|index| bench.write_page(index));
        bench.survey();
        bench.host.free(pages(2, 3)).unwrap();
        bench.host.free(pages(20, 24)).unwrap();
        assert_eq!(bench.survey(), 2 * PMD_PAGES);

        let cut = sparse(place, 2 * UNIT_BYTES);
        cut.write_page(1);
        cut.survey();
        cut.host.set_size(2047).unwrap();
        assert_eq!(cut.survey(), 1);
    });
}

#[test]
fn data_that_went_piece_by_piece_is_found_by_the_next_survey() {
    everywhere(|place| {
        let bench = sparse(place, 2 * UNIT_BYTES);
        for index in [10, 30, PMD_PAGES + 5] {
            bench.write_page(index);
        }
        bench.survey();
        bench.host.free(pages(8, 20)).unwrap();
        assert_eq!(bench.survey(), 2 * PMD_PAGES - 2);
        bench.host.free(pages(25, 31)).unwrap();
        assert_eq!(bench.survey(), 2 * PMD_PAGES - 1);
        bench.host.set_size((PMD_PAGES + 3) * 4096).unwrap();
        assert_eq!(bench.survey(), PMD_PAGES + 3);
    });
}

#[test]
fn nothing_is_a_hole_without_trust() {
    everywhere(|place| {
        let bench = sparse(place, 4 * UNIT_BYTES);
        assert_eq!(bench.survey(), 4 * PMD_PAGES);
        bench.host.distrust();
        assert_eq!(read(&bench, 0, 1).0, Backing::Mapped(Frame(0)));
        assert_eq!(bench.survey(), 0);
        bench.host.free(everything()).unwrap();
        bench.host.set_size(6 * UNIT_BYTES).unwrap();
        assert_eq!(bench.host.hole_pages(everything()), 0, "an act of our own is no proof");
        bench.host.trust();
        assert_eq!(bench.host.hole_pages(everything()), 0, "trust alone knows nothing");
        assert_eq!(
            bench.survey(),
            6 * PMD_PAGES - 1,
            "all but the page that was answered as mapped"
        );
    });
}

#[test]
fn past_the_end_the_host_kernel_answers() {
    everywhere(|place| {
        let bench = sparse(place, 4096);
        bench.survey();
        assert_eq!(read(&bench, 600, 601), (Backing::Mapped(Frame(600)), 601));
        assert!(bench.begin(page(5000), Intent::Write).is_new);
        assert!(!bench.begin(page(5000), Intent::Write).is_new);
        assert_eq!(bench.begin(page(9000), Intent::Zero).backing, Backing::Hole);
        let last = bench.begin(common::everything().intersect(page(u64::MAX - 1)), Intent::Read);
        assert_eq!(last.range.len(), 1);
        let empty = bench.host.iomap_begin(pages(3, 3), Intent::Read).unwrap_err();
        assert_eq!(empty.kind, IoErrorKind::OutOfRange);
    });
}

#[test]
fn a_full_file_and_an_unsupported_one_have_no_holes() {
    everywhere(|place| {
        let bench = sparse(place, UNIT_BYTES);
        bench.file.write_all_at(&vec![1; 2 << 20], 0).unwrap();
        let survey = bench.host.survey(everything()).unwrap();
        assert_eq!((survey.hole_pages, survey.done), (0, everything()));
        let sparse = sparse(place, UNIT_BYTES);
        let other = udax_host::HostFile::new(sparse.io.clone(), udax_host::HostKind::Other(0x6969));
        other.trust();
        assert_eq!(other.survey(everything()).unwrap().hole_pages, 0);
    });
}

#[test]
fn storage_is_loaded_stored_and_zeroed_at_the_pages_own_offset() {
    everywhere(|place| {
        let bench = sparse(place, 3 * 4096 + 10);
        let run = FrameRange { start: Frame(1), count: 9 };
        assert_eq!(bench.host.direct_access(run, MediaAccess::Ordinary), Ok(9));
        assert_eq!(bench.host.store(Frame(2), 5, b"abcdef"), Ok(6));
        bench.host.zero(Frame(2), 7, 2).unwrap();
        let mut seen = [9; 8];
        assert_eq!(bench.host.load(Frame(2), 4, &mut seen), Ok(8));
        assert_eq!(&seen, b"\0ab\0\0ef\0");
        bench.host.zero(Frame(3), 0, 4096).unwrap();
        assert_eq!(bench.host.size_bytes(), 3 * 4096 + 10, "zeroing the tail made the file longer");
        bench.host.flush(run).unwrap();
        bench.host.commit(everything()).unwrap();
        let beyond = bench.host.load(Frame(u64::MAX), 0, &mut seen).unwrap_err();
        assert_eq!(beyond.kind, IoErrorKind::OutOfRange);
        assert_eq!(bench.host.first_pinned(run), None);
    });
}

#[test]
fn an_error_of_the_host_keeps_its_errno() {
    let bench = sparse(&PathBuf::from("/dev/shm"), 4096);
    let too_big = bench.host.set_size(u64::MAX).unwrap_err();
    assert_eq!((too_big.kind, too_big.errno), (IoErrorKind::OutOfRange, 22));
    assert_eq!(bench.host.size_bytes(), 4096);
    assert_eq!(PageIndex::of_byte(bench.host.size_bytes()), PageIndex(1));
}
