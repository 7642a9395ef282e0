//! The program's own calls, in the order in which an interposed program's threads could make them.
#![expect(unsafe_code, reason = "mapping calls, and loads from what they return")]

mod common;

use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use udax::Errno;
use udax::program::{NativeCalls, Program, Settings, WriteAt};

const UNIT: usize = 2 << 20;
const READ_WRITE: i32 = 3;
const SHARED: i32 = 1;
const MAY_MOVE: i32 = 1;

fn sparse(directory: &std::path::Path) -> std::fs::File {
    let mut options = std::fs::OpenOptions::new();
    let file = options.read(true).write(true).create_new(true).open(directory.join("sparse"));
    let file = file.expect("the file can be made");
    file.set_len(8 * UNIT as u64).expect("a length");
    file
}

/// Of what no mapping has shown yet nothing is known: a look at it sees no data until the write has got there.
#[test]
fn a_write_under_way_is_not_taken_for_a_hole() {
    if common::cannot_serve() {
        return;
    }
    let dir = tempfile::tempdir_in("/dev/shm").expect("a directory in memory");
    let file = sparse(dir.path());
    // SAFETY: the calls below map a file of this test's own where the kernel chooses, and unmap nothing.
    let program = Program::new(unsafe { NativeCalls::new() }, Settings::default());
    let map = |first: usize| {
        let offset = i64::try_from(first * UNIT).expect("a small number");
        program.mmap(0, UNIT, READ_WRITE, SHARED, file.as_raw_fd(), offset).expect("mapped")
    };
    let byte_at = |address: usize| {
        // SAFETY: one of the addresses that `map` gave, which stay mapped.
        unsafe { std::ptr::with_exposed_provenance::<u8>(address).read_volatile() }
    };
    assert_eq!(byte_at(map(0)), 0);
    assert_eq!(program.statistics().files.len(), 1, "the test is about a served file");
    let offset = 4 * UNIT as u64;
    let call = program.writing(file.as_raw_fd(), WriteAt::Offset(offset), UNIT as u64);
    // Another thread comes in between: what it announced, the writer has not told the kernel yet.
    let other = map(4);
    assert_eq!(byte_at(other), 0);
    file.write_all_at(&vec![7; UNIT], offset).expect("written");
    drop(call);
    assert_eq!(byte_at(other), 7);
}

/// A mapping that is moved or resized shows its file natively, up to the middle of 2 MiB. The zeros that others show go as a whole: stores through those come
/// without a fault from then on, behind its end as well.
#[test]
fn zeros_that_go_beside_a_mapping_that_is_resized_hide_no_store() {
    if common::cannot_serve() {
        return;
    }
    let dir = tempfile::tempdir_in("/dev/shm").expect("a directory in memory");
    let file = sparse(dir.path());
    // SAFETY: the calls below map a file of this test's own where the kernel chooses, and move nothing that is used by its old address.
    let program = Program::new(unsafe { NativeCalls::new() }, Settings::default());
    let map =
        |length| program.mmap(0, length, READ_WRITE, SHARED, file.as_raw_fd(), 0).expect("mapped");
    let length = 2 * UNIT + UNIT / 2;
    let (stores, loads, resized) = (map(8 * UNIT), map(8 * UNIT), map(length));
    let at = |map: usize, offset: usize| std::ptr::with_exposed_provenance_mut::<u8>(map + offset);
    let behind = 2 * UNIT + UNIT / 4 * 3;
    // SAFETY: in a mapping that stays.
    assert_eq!(unsafe { at(stores, behind).read_volatile() }, 0);
    program.mremap(resized, length, UNIT, MAY_MOVE, 0).expect("resized");
    // SAFETY: in a mapping that stays, and no reference into it exists.
    unsafe { at(stores, behind).write_volatile(7) };
    // SAFETY: in a mapping that stays.
    assert_eq!(unsafe { at(loads, behind).read_volatile() }, 7, "an old zero");
}

/// A mapping is cut while its pages are looked at, as some may be given back: each part stays served, and faults in it are answered.
#[test]
fn a_mapping_that_is_cut_while_it_is_looked_at_stays_served() {
    const UNITS: usize = 32;
    const MAPPINGS: usize = 16;
    if common::cannot_serve() {
        return;
    }
    let dir = tempfile::tempdir_in("/dev/shm").expect("a directory in memory");
    let file = sparse(dir.path());
    let length = UNITS * UNIT;
    file.set_len(length as u64).expect("a length");
    // SAFETY: the calls below map a file of this test's own where the kernel chooses, and leave it there.
    let program = Program::new(unsafe { NativeCalls::new() }, Settings::default());
    let maps: Vec<usize> = (0..MAPPINGS)
        .map(|_| program.mmap(0, length, READ_WRITE, SHARED, file.as_raw_fd(), 0).expect("mapped"))
        .collect();
    for (round, map) in maps.iter().enumerate() {
        // Something new to be looked at, in every mapping.
        for (place, unit) in maps.iter().flat_map(|map| (0..UNITS).map(move |unit| (map, unit))) {
            let place = place + unit * UNIT + round * 4096;
            // SAFETY: in a mapping, to which there is no reference.
            unsafe { std::ptr::with_exposed_provenance_mut::<u8>(place).write_volatile(7) };
        }
        for page in 1..1000 {
            program.mprotect(map + page * 4096, 4096, READ_WRITE).expect("allowed");
        }
        let mapped_bytes: u64 = program.statistics().files.iter().map(|f| f.mapped_bytes).sum();
        assert_eq!(mapped_bytes, (MAPPINGS * length) as u64, "a part is not known any more");
    }
}

/// Events come on threads that do not have the program's descriptors, and the program may close and reuse whatever number is not its own.
#[test]
fn a_long_trace_is_whole_and_goes_nowhere_else() {
    const ROUNDS: usize = 300;
    if common::cannot_serve() {
        return;
    }
    let dir = tempfile::tempdir_in("/dev/shm").expect("a directory in memory");
    let (file, trace) = (sparse(dir.path()), dir.path().join("trace"));
    let settings = Settings { trace: Some(trace.clone()), ..Settings::default() };
    // SAFETY: the calls below map a file of this test's own where the kernel chooses, and unmap it again.
    let program = Program::new(unsafe { NativeCalls::new() }, settings);
    let bystander = tempfile::tempfile().expect("a file");
    for number in (3..1000).filter(|number| is_open_on(*number, &trace)) {
        // SAFETY: the number of a descriptor that this program has not opened: it may close any.
        unsafe { libc::dup2(bystander.as_raw_fd(), number) };
    }
    for round in 0..ROUNDS {
        let map = program.mmap(0, 8 * UNIT, READ_WRITE, SHARED, file.as_raw_fd(), 0);
        let map = map.expect("mapped");
        let at = std::ptr::with_exposed_provenance_mut::<u8>(map + round % 8 * UNIT);
        // SAFETY: in the mapping.
        assert_eq!(unsafe { at.read_volatile() }, 0);
        program.munmap(map, 8 * UNIT).expect("unmapped");
    }
    program.at_exit();
    let text = std::fs::read_to_string(&trace).expect("a trace");
    let is_of_a_fault = |line: &&str| line.starts_with("dax_pmd_fault_done");
    assert!(text.len() > 80 << 10, "it is not long: {} bytes", text.len());
    assert_eq!(text.lines().filter(is_of_a_fault).count(), ROUNDS, "{text:.300}");
    assert_eq!(bystander.metadata().expect("a length").len(), 0, "it is somebody else's file");
}

/// Whether this process has the file open by that number.
fn is_open_on(number: i32, path: &std::path::Path) -> bool {
    std::fs::read_link(format!("/proc/self/fd/{number}")).is_ok_and(|target| target == path)
}

/// Memory before a mapping of the file that is served: where it begins, and the second half of that.
fn memory_before_a_mapping(program: &Program, file: &std::fs::File) -> (usize, usize) {
    const PRIVATE: i32 = 2;
    const FIXED: i32 = 0x10;
    const ANONYMOUS: i32 = 0x20;
    let room = program.mmap(0, 5 * UNIT, 0, PRIVATE | ANONYMOUS, -1, 0).expect("room");
    let mapping = (room + UNIT).next_multiple_of(UNIT);
    let fixed = SHARED | FIXED;
    let mapped = program.mmap(mapping, 2 * UNIT, READ_WRITE, fixed, file.as_raw_fd(), 0);
    assert_eq!(mapped, Ok(mapping));
    program.mprotect(room, mapping - room, READ_WRITE).expect("allowed");
    assert_eq!(program.statistics().files.len(), 1, "the test is about a served file");
    (mapping - UNIT / 2, mapping + UNIT)
}

/// Whether the kernel may store there, as it does where the program may.
fn may_be_stored_to(address: usize) -> bool {
    let byte = [7_u8];
    let vector = |at: *const u8| libc::iovec { iov_base: at.cast_mut().cast(), iov_len: 1 };
    let (from, into) = (vector(byte.as_ptr()), vector(std::ptr::with_exposed_provenance(address)));
    let this = std::process::id().cast_signed();
    // SAFETY: one byte goes where the test has mapped something, or nowhere.
    let stored =
        unsafe { libc::process_vm_writev(this, &raw const from, 1, &raw const into, 1, 0) };
    stored == 1
}

/// The kernel refuses what ends behind the last address before it changes a thing.
#[test]
fn a_range_that_ends_behind_the_last_address_changes_nothing() {
    const DONTNEED: i32 = 4;
    if common::cannot_serve() {
        return;
    }
    let dir = tempfile::tempdir_in("/dev/shm").expect("a directory in memory");
    let file = sparse(dir.path());
    // SAFETY: the calls below change memory of this test's own.
    let program = Program::new(unsafe { NativeCalls::new() }, Settings::default());
    let (memory, mapping) = memory_before_a_mapping(&program, &file);
    for at in [memory, mapping] {
        // SAFETY: it is mapped, and there is no reference to it.
        unsafe { std::ptr::with_exposed_provenance_mut::<u8>(at).write_volatile(7) };
    }
    for length in [usize::MAX, usize::MAX - 4095, usize::MAX - 4096, usize::MAX - UNIT] {
        assert_eq!(program.madvise(memory, length, DONTNEED), Err(Errno::INVAL));
        // SAFETY: it is mapped.
        let byte = unsafe { std::ptr::with_exposed_provenance::<u8>(memory).read_volatile() };
        assert_eq!(byte, 7, "madvise of {length} bytes");
        assert_eq!(program.mprotect(memory, length, 1), Err(Errno::NOMEM));
        assert!(may_be_stored_to(memory) && may_be_stored_to(mapping), "mprotect of {length}");
        assert_eq!(program.munmap(memory, length), Err(Errno::INVAL));
        let unaligned = program.mmap(0, length, READ_WRITE, SHARED, file.as_raw_fd(), 1);
        assert_eq!(unaligned, Err(Errno::INVAL), "the kernel looks at the offset first");
    }
    assert_eq!(program.statistics().files.len(), 1, "it is served yet");
}

/// The kernel goes on behind what is not mapped, and says so in the end.
#[test]
fn advice_reaches_what_lies_behind_addresses_without_memory() {
    const DONTNEED: i32 = 4;
    if common::cannot_serve() {
        return;
    }
    let dir = tempfile::tempdir_in("/dev/shm").expect("a directory in memory");
    let file = sparse(dir.path());
    // SAFETY: the calls below change memory of this test's own.
    let program = Program::new(unsafe { NativeCalls::new() }, Settings::default());
    let (memory, second_half) = memory_before_a_mapping(&program, &file);
    let behind = second_half + UNIT;
    program.mprotect(behind, 4096, READ_WRITE).expect("allowed");
    let byte = std::ptr::with_exposed_provenance_mut::<u8>(behind);
    // SAFETY: it is mapped, and there is no reference to it.
    unsafe { byte.write_volatile(7) };
    program.munmap(memory, 4096).expect("unmapped");
    let advised = program.madvise(memory - 4096, behind + 2 * 4096 - memory, DONTNEED);
    assert_eq!(advised, Err(Errno::NOMEM));
    // SAFETY: it is mapped.
    assert_eq!(unsafe { byte.read_volatile() }, 0, "it was to be dropped");
}

/// mprotect(2) of no bytes is allowed, wherever it is, and does nothing.
#[test]
fn rights_for_no_bytes_are_given_in_the_middle_of_a_mapping() {
    if common::cannot_serve() {
        return;
    }
    let dir = tempfile::tempdir_in("/dev/shm").expect("a directory in memory");
    let file = sparse(dir.path());
    // SAFETY: the calls below change memory of this test's own.
    let program = Program::new(unsafe { NativeCalls::new() }, Settings::default());
    let map = program.mmap(0, 2 * UNIT, READ_WRITE, SHARED, file.as_raw_fd(), 0).expect("mapped");
    for at in [map, map + 4096, map + UNIT] {
        assert_eq!(program.mprotect(at, 0, 0), Ok(()));
        // SAFETY: it is mapped, and there is no reference to it.
        unsafe { std::ptr::with_exposed_provenance_mut::<u8>(at).write_volatile(7) };
    }
    let mapped_bytes: u64 = program.statistics().files.iter().map(|f| f.mapped_bytes).sum();
    assert_eq!(mapped_bytes, 2 * UNIT as u64);
}

/// mprotect(2) changes what lies before the first mapping that must not be stored to, and says so of that.
#[test]
fn what_lies_before_a_mapping_without_the_right_to_store_gets_it() {
    if common::cannot_serve() {
        return;
    }
    let dir = tempfile::tempdir_in("/dev/shm").expect("a directory in memory");
    drop(sparse(dir.path()));
    let file = std::fs::File::open(dir.path().join("sparse")).expect("opened");
    // SAFETY: the calls below change memory of this test's own.
    let program = Program::new(unsafe { NativeCalls::new() }, Settings::default());
    let room = program.mmap(0, 3 * UNIT, 0, 2 | 0x20, -1, 0).expect("room");
    let mapping = (room + 4096).next_multiple_of(UNIT);
    let mapped = program.mmap(mapping, UNIT, 1, SHARED | 0x10, file.as_raw_fd(), 0);
    assert_eq!(mapped, Ok(mapping));
    assert_eq!(program.statistics().files.len(), 1, "the test is about a served file");
    assert_eq!(program.mprotect(mapping + 1, 4096, READ_WRITE), Err(Errno::INVAL));
    let before = mapping - 4096;
    assert_eq!(program.mprotect(before, 2 * 4096, READ_WRITE), Err(Errno::ACCES));
    assert!(may_be_stored_to(before) && !may_be_stored_to(mapping));
}

/// A mapping of less than 2 MiB is the kernel's: what is stored there comes without a fault.
#[test]
fn who_stores_already_is_found_when_a_file_comes_into_service() {
    const SHARED: i32 = 1;
    if common::cannot_serve() {
        return;
    }
    let dir = tempfile::tempdir_in("/dev/shm").expect("a directory in memory");
    let file = sparse(dir.path());
    // SAFETY: the calls below change memory of this test's own.
    let program = Program::new(unsafe { NativeCalls::new() }, Settings::default());
    let map = |length, offset| {
        program.mmap(0, length, READ_WRITE, SHARED, file.as_raw_fd(), offset).expect("mapped")
    };
    let small = map(4096, UNIT as i64);
    assert!(program.statistics().files.is_empty());
    let shown = map(4 * UNIT, 0);
    assert_eq!(program.statistics().files.len(), 1, "the test is about a served file");
    // SAFETY: mapped, and there is no reference to it.
    let load = || unsafe { std::ptr::with_exposed_provenance::<u8>(shown + UNIT).read_volatile() };
    assert_eq!(load(), 0);
    // SAFETY: the same.
    unsafe { std::ptr::with_exposed_provenance_mut::<u8>(small).write_volatile(7) };
    assert_eq!(load(), 7, "an old zero");
}

/// A private mapping in parts is moved part by part. What fails when the last has gone is undone: the file cannot be mapped behind them.
#[test]
fn a_private_mapping_that_cannot_grow_stays_where_it_is() {
    const TEST: &str = "a_private_mapping_that_cannot_grow_stays_where_it_is";
    const PRIVATE: i32 = 2;
    const ANONYMOUS: i32 = 0x20;
    const NOREPLACE: i32 = 0x10_0000;
    if common::cannot_serve() {
        return;
    }
    let Some(dir) = std::env::var_os(common::CHILD) else {
        let dir = tempfile::tempdir_in("/dev/shm").expect("a directory in memory");
        let mut again = std::process::Command::new(std::env::current_exe().expect("its own path"));
        again.args([TEST, "--exact", "--nocapture", "--test-threads=1"]);
        again.env(common::CHILD, dir.path()).env("UDAX_TEST_FAIL", "map-again:later");
        let output = again.output().expect("runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        return;
    };
    let file = sparse(dir.as_ref());
    // SAFETY: the calls below change memory of this test's own.
    let program = Program::new(unsafe { NativeCalls::new() }, Settings::default());
    let length = 4 * UNIT;
    let at = program.mmap(0, length, READ_WRITE, PRIVATE, file.as_raw_fd(), 0).expect("mapped");
    assert_eq!(program.statistics().files.len(), 1, "the test is about a served file");
    let _ = program.mmap(at + length, 4096, 0, PRIVATE | ANONYMOUS | NOREPLACE, -1, 0);
    let load = |offset: usize| {
        // SAFETY: mapped, and there is no reference to it.
        unsafe { std::ptr::with_exposed_provenance::<u8>(at + offset).read_volatile() }
    };
    let store = |offset: usize, byte: u8| {
        // SAFETY: the same.
        unsafe { std::ptr::with_exposed_provenance_mut::<u8>(at + offset).write_volatile(byte) };
    };
    // A copy in each unit, so that none of them is mapped without any.
    for unit in 0..4_u8 {
        assert_eq!(load(usize::from(unit) * UNIT), 0);
        store(usize::from(unit) * UNIT + 5, unit + 1);
    }
    udax_linux::inject::now();
    let reserved = bytes_without_rights();
    for _ in 0..2 {
        let refused = program.mremap(at, length, 2 * length, MAY_MOVE, 0);
        assert_eq!(refused, Err(Errno::NOMEM));
        for unit in 0..4_u8 {
            assert_eq!(load(usize::from(unit) * UNIT + 5), unit + 1);
            store(usize::from(unit) * UNIT + 6, unit);
        }
    }
    let grown = bytes_without_rights().saturating_sub(reserved);
    assert!(grown < UNIT, "{grown} bytes are left where it was to go");
}

/// How much of this process's addresses is taken without any rights.
fn bytes_without_rights() -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("proc is mounted");
    let without = maps.lines().filter(|line| line.contains(" ---p "));
    without
        .map(|line| {
            let (start, rest) = line.split_once('-').expect("a range");
            let end = rest.split(' ').next().expect("its end");
            let parse = |text| usize::from_str_radix(text, 16).expect("a number");
            parse(end) - parse(start)
        })
        .sum()
}

/// Other threads may be using what is mapped, touched or not, and are to find either mapping, and nothing in between. Where nothing may be accessed nobody can.
#[test]
fn a_mapping_over_a_served_one_comes_in_one_act_unless_nobody_may_access_that() {
    const FIXED: i32 = 0x10;
    if common::cannot_serve() {
        return;
    }
    for (rights, is_served) in [(READ_WRITE, false), (1, false), (0, true)] {
        let dir = tempfile::tempdir_in("/dev/shm").expect("a directory in memory");
        let file = sparse(dir.path());
        let fd = file.as_raw_fd();
        // SAFETY: the calls below map a file of this test's own where the kernel chooses, and over that.
        let program = Program::new(unsafe { NativeCalls::new() }, Settings::default());
        let at = program.mmap(0, 4 * UNIT, READ_WRITE, SHARED, fd, 0).expect("mapped");
        assert_eq!(program.statistics().files.len(), 1, "the test is about a served file");
        program.mprotect(at, 4 * UNIT, rights).expect("allowed");
        let offset = i64::try_from(4 * UNIT).expect("a small number");
        let again = program.mmap(at, 4 * UNIT, READ_WRITE, SHARED | FIXED, fd, offset);
        assert_eq!(again, Ok(at));
        assert_eq!(program.statistics().files.len() == 1, is_served, "over rights {rights}");
    }
}
