//! The media: what is durable when, poison, limits, pins.

use udax_core::{
    Frame, FrameRange, IoError, IoErrorKind, Media as _, MediaAccess, Owner, PageIndex,
};
use udax_sim::{
    Evicted, MediaCall, MediaConfig, MediaEvent, Plan, Run, SimMedia, StoreBy, explore,
};

const ONE: FrameRange = FrameRange { start: Frame(3), count: 1 };

fn after_crash(media: &SimMedia, offset: u64, evicted: Evicted) -> u8 {
    let mut byte = [0];
    media.crash(evicted).read(Frame(3), offset, &mut byte);
    byte[0]
}

#[test]
fn a_cpu_store_is_durable_only_once_flushed() {
    let media = SimMedia::aligned(16);
    media.cpu_store(Frame(3), 100, &[7]).expect("no poison");
    assert!(media.unflushed(ONE));
    assert_eq!(after_crash(&media, 100, Evicted::Nothing), 0);
    assert_eq!(after_crash(&media, 100, Evicted::Everything), 7);
    media.flush(ONE).expect("alive");
    assert!(!media.unflushed(ONE));
    assert_eq!(after_crash(&media, 100, Evicted::Nothing), 7);
    let log = media.take_log();
    let store = MediaEvent::Store { frame: Frame(3), offset: 100, bytes: 1, by: StoreBy::Cpu };
    assert_eq!(log, [store, MediaEvent::Flush(ONE), MediaEvent::Fence]);
}

#[test]
fn a_media_store_is_durable_at_once_and_its_neighbours_in_the_line_are_not() {
    let media = SimMedia::aligned(16);
    media.cpu_store(Frame(3), 0, &[1, 1]).expect("no poison");
    assert_eq!(media.store(Frame(3), 1, &[2]), Ok(1));
    assert_eq!(after_crash(&media, 0, Evicted::Nothing), 0);
    assert_eq!(after_crash(&media, 1, Evicted::Nothing), 2);
    assert!(media.unflushed(ONE));
    let mut bytes = [0; 3];
    media.peek(Frame(3), 0, &mut bytes);
    assert_eq!(bytes, [1, 2, 0]);
}

#[test]
fn a_seed_decides_which_lines_a_power_cut_leaves() {
    let media = SimMedia::aligned(16);
    media.cpu_store(Frame(3), 0, &[9; 4096]).expect("no poison");
    let mut bytes = [0; 4096];
    media.crash(Evicted::Some { seed: 5 }).read(Frame(3), 0, &mut bytes);
    let lines: Vec<bool> =
        bytes.chunks(64).map(|line| line.iter().all(|byte| *byte == 9)).collect();
    let none = bytes.chunks(64).filter(|line| line.iter().all(|byte| *byte == 0)).count();
    let left = lines.iter().filter(|left| **left).count();
    assert_eq!(left + none, 64, "a line is left whole or not at all");
    assert!((10..54).contains(&left));
}

#[test]
fn poison_fails_ordinary_access_and_goes_by_whole_frames_alone() {
    let media = SimMedia::aligned(2048);
    let four = FrameRange { start: Frame(1), count: 4 };
    assert_eq!(media.direct_access(four, MediaAccess::Ordinary), Ok(2047), "all the rest");
    media.poison(Frame(3));
    let poisoned = media.direct_access(four, MediaAccess::Ordinary).expect_err("poison");
    assert_eq!(poisoned.kind, IoErrorKind::Poisoned);
    assert_eq!(media.direct_access(four, MediaAccess::Recovery), Ok(2));
    assert_eq!(media.direct_access(ONE, MediaAccess::Recovery), Ok(1));
    let good = FrameRange { start: Frame(4), count: 4 };
    assert_eq!(media.direct_access(good, MediaAccess::Ordinary), Ok(4), "no more than asked");
    assert!(media.load(Frame(3), 0, &mut [0; 8]).is_err());
    assert_eq!(media.load(Frame(2), 4090, &mut [0; 8]), Ok(6), "short, up to the bad frame");
    assert!(media.store(Frame(3), 0, &[0; 100]).is_err());
    media.zero(Frame(3), 0, 4095).expect("alive");
    assert!(media.is_poisoned(Frame(3)));
    assert_eq!(media.store(Frame(3), 0, &[1; 4096]), Ok(4096));
    assert!(!media.is_poisoned(Frame(3)));
    media.poison(Frame(3));
    media.zero(Frame(3), 0, 4096).expect("alive");
    assert!(!media.is_poisoned(Frame(3)));
}

#[test]
fn limits_a_dead_device_and_planned_failures() {
    let config = MediaConfig { first_frame: Frame(1), frames: 100, contiguous_limit: Some(8) };
    let media = SimMedia::new(config);
    let all = FrameRange { start: Frame(1), count: 100 };
    assert_eq!(media.direct_access(all, MediaAccess::Ordinary), Ok(8));
    assert_eq!(media.load(Frame(1), 10, &mut vec![0; 100_000]), Ok(8 * 4096 - 10));
    let outside = FrameRange { start: Frame(0), count: 1 };
    assert!(media.direct_access(outside, MediaAccess::Ordinary).is_err());
    media.fail(MediaCall::Flush, Plan::nth(2), IoError::from_errno(5));
    assert!(media.flush(all).is_ok());
    media.cpu_store(Frame(3), 0, &[1]).expect("no poison");
    assert!(media.flush(all).is_err());
    assert!(media.unflushed(ONE), "what was not flushed is still dirty");
    assert!(media.flush(all).is_ok());
    assert_eq!(media.calls(MediaCall::Flush), 3);
    media.set_alive(false);
    assert!(media.direct_access(all, MediaAccess::Ordinary).is_err());
    assert!(media.zero(Frame(1), 0, 1).is_err());
}

#[test]
fn whoever_waits_for_a_pinned_frame_is_woken_by_the_last_unpin() {
    explore(0..50, |run: &mut Run| {
        let media = SimMedia::aligned(16);
        media.pin(Frame(3));
        media.pin(Frame(3));
        assert_eq!(media.first_pinned(FrameRange { start: Frame(0), count: 16 }), Some(Frame(3)));
        assert_eq!(media.first_pinned(FrameRange { start: Frame(4), count: 9 }), None);
        let device = media.clone();
        run.spawn("truncate", move || {
            media.wait_unpinned(Frame(3));
            assert_eq!(media.first_pinned(ONE), None);
        });
        run.spawn("device", move || {
            device.unpin(Frame(3));
            device.unpin(Frame(3));
        });
    });
}

#[test]
fn frames_know_whose_page_they_hold() {
    let media = SimMedia::aligned(16);
    let owner = |mapping, index| Some(Owner { mapping, index: PageIndex(index) });
    let two = FrameRange { start: Frame(3), count: 2 };
    media.associate(two, owner(1, 10));
    assert_eq!((media.owner(Frame(4)), media.owned_frames()), (owner(1, 11), 2));
    media.associate(ONE, owner(2, 0));
    assert_eq!(media.owner(Frame(3)), None, "shared by two files");
    media.associate(ONE, None);
    media.associate(two, None);
    assert_eq!(media.owned_frames(), 0);
}

#[test]
#[should_panic(expected = "once for each time")]
fn giving_up_a_frame_twice_is_found() {
    SimMedia::aligned(16).associate(ONE, None);
}
