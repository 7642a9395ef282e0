//! Whatever is read as text or as bytes from outside: it is refused, or understood in the one way that it can be.
#![no_main]

#[allow(dead_code, unused_imports, reason = "the command's own files, of which this needs a part")]
#[path = "../../crates/udax-cli/src/account.rs"]
mod account;
#[path = "../../crates/udax-preload/src/control.rs"]
mod control;
#[allow(dead_code, reason = "the same")]
#[path = "../../crates/udax-cli/src/proc.rs"]
mod proc;
#[path = "../../crates/udax-cli/src/size.rs"]
mod size;

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt as _;
use udax::Engine;
use udax_conformance::flavour::Flavour;
use udax_conformance::recording::{Record, Recording};
use udax_conformance::script;
use udax_linux::fuzzing as linux;

/// What the texts are made of. An input is bytes as they are, or numbers of these words.
const WORDS: &[&str] = &[
    " ",
    "\n",
    ":",
    "-",
    "0",
    "1",
    "4096",
    "1000",
    "3000",
    "7f0000000000",
    "7f0000200000",
    "ffffffffffffffff",
    "18446744073709551615",
    "99999999999999999999",
    "rw-s",
    "r-xp",
    "---p",
    "---s",
    "00:1b",
    "42",
    "00400000",
    "/dev/shm/a b",
    "[stack]",
    "Rss:",
    "Size:",
    "KernelPageSize:",
    "VmRSS:",
    "RssAnon:",
    "CapEff:",
    "\t",
    "10000000",
    " kB\n",
    "7 (a ) b) S",
    "k",
    "K",
    "MiB",
    "kB",
    "GB",
    "E",
    "EiB",
    "T",
    ".5",
    "userfaultfd",
    "-user",
    "signals",
    "fault-thread",
    "-gone",
    "later",
    "mremap",
    "engine",
    "linux-",
    "5.10",
    "6.1",
    "6.12",
    "/ext4",
    "/xfs",
    "{",
    "}",
    "[",
    "]",
    ",",
    "\"",
    "\"i\":",
    "\"cmd\":",
    "\"ok\":true",
    "\"events\":",
    "\"ev\":\"dax_fault\"",
    "\"pgoff\":",
    "\"runs\":",
    "\"vma\":",
    "\"ext\":",
    "\"counts\":",
    "\"x\":",
    "null",
    "1e9",
    "create",
    "open",
    "close",
    "unlink",
    "truncate",
    "falloc",
    "pread",
    "pwrite",
    "pread_map",
    "pwrite_map",
    "mmap",
    "munmap",
    "mprotect",
    "mlock",
    "madvise",
    "read",
    "write",
    "touch",
    "fill",
    "msync",
    "fsync",
    "fork",
    "endfork",
    "pt",
    "xa",
    "hexdump",
    "fa",
    "ma",
    "0x10",
    "2h",
    "3p",
    "4k",
    "+",
    "1m",
    "ro",
    "rw",
    "wo",
    "none",
    "alloc",
    "punch",
    "zerokeep",
    "private",
    "shared",
    "sync",
];

fuzz_target!(|data: &[u8]| {
    bytes(data);
    let assembled;
    let text = match data.split_first() {
        Some((0, words)) => {
            assembled = words.iter().fold(String::new(), |text, &word| {
                text + WORDS.get(usize::from(word)).copied().unwrap_or("z")
            });
            assembled.as_str()
        }
        _ => match std::str::from_utf8(data) {
            Ok(text) => text,
            Err(_) => return,
        },
    };
    maps(text);
    sizes(text);
    accounts(text);
    names(text);
    scripts(text);
    recording(text);
});

/// What comes as a structure.
fn bytes(data: &[u8]) {
    let word = |at: usize| {
        data.get(at..at + 8).map(|bytes| u64::from_ne_bytes(bytes.try_into().expect("eight")))
    };
    if !data.is_empty() {
        const PAGE_FAULT: u8 = 0x12;
        let found = linux::message(data);
        assert_eq!(found.is_some(), data[0] == PAGE_FAULT);
        if let (Some((address, flags, thread)), 32..) = (found, data.len()) {
            assert_eq!((Some(address as u64), Some(flags)), (word(16), word(8)));
            assert!(thread == 0 || data[24..28] == thread.to_ne_bytes());
        }
    }
    if let Some(processor) = linux::stat(data) {
        let line = format!(" {processor} ");
        assert!(data.len() > line.len(), "a field among others");
    }
    // What the kernel gave, read by what has asked for it; and what a program gives, which may lie: that reads no less.
    let (found, _) = linux::beside(data);
    let given = control::descriptors_in(data);
    assert!(found.len() <= given.len() && given.len() <= data.len() / 4);
    assert_eq!(found, given[..found.len()]);
    // Written as the kernel writes them they are read as they were.
    let numbers: Vec<i32> = data
        .chunks_exact(4)
        .take(253)
        .map(|four| i32::from_ne_bytes(four.try_into().expect("four")))
        .collect();
    let mut beside = control_message(1, &numbers);
    beside.extend(control_message(2, &[7, 8, 9]));
    assert_eq!(linux::beside(&beside), (numbers.clone(), 7));
    assert_eq!(control::descriptors_in(&beside), numbers);
}

/// Of SOL_SOCKET: SCM_RIGHTS is 1, SCM_CREDENTIALS 2.
fn control_message(kind: i32, data: &[i32]) -> Vec<u8> {
    let length = 16 + 4 * data.len();
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend([1_i32, kind].iter().chain(data).flat_map(|number| number.to_ne_bytes()));
    bytes.resize(length.next_multiple_of(8), 0);
    bytes
}

/// The two readers of /proc/self/maps agree on every line, and on what they have understood, written anew.
fn maps(text: &str) {
    for line in text.lines() {
        let found = linux::maps_line(line);
        let Some((addresses, is_shared, may_be_stored_to, offset, ino)) = found.clone() else {
            assert_eq!(udax::fuzzing::maps::rights_in(line, 0x1000), None);
            assert!(!udax::fuzzing::maps::accessible_in(line, &(0..usize::MAX)));
            continue;
        };
        assert!(
            addresses.start < addresses.end
                && addresses.start % 4096 == 0
                && addresses.end % 4096 == 0
        );
        let Range { start, end } = addresses.clone();
        let pages = udax::fuzzing::maps::shared_pages(line, ino);
        assert_eq!(pages.is_some(), is_shared);
        if let Some(pages) = pages {
            assert_eq!((pages.start.0, pages.len()), (offset / 4096, (end - start) as u64 / 4096));
        }
        assert_eq!(udax::fuzzing::maps::shared_pages(line, ino ^ 1), None);
        let rights = udax::fuzzing::maps::rights_in(line, end - 1).expect("its own");
        assert_eq!(rights & 2 != 0, may_be_stored_to);
        assert_eq!(udax::fuzzing::maps::rights_in(line, end), None);
        let accessible = udax::fuzzing::maps::accessible_in(line, &(end - 1..end));
        assert!(accessible || rights == 0);
        assert!(!udax::fuzzing::maps::accessible_in(line, &(end..usize::MAX)));
        let letter = |bit: i32, letter: char| if rights & bit != 0 { letter } else { '-' };
        let mut anew =
            format!("{start:x}-{end:x} {}{}{}", letter(1, 'r'), letter(2, 'w'), letter(4, 'x'));
        let sharing = if is_shared { 's' } else { 'p' };
        write!(anew, "{sharing} {offset:08x} 00:1b {ino}      /a b (deleted)").expect("written");
        assert_eq!(linux::maps_line(&anew), found);
    }
}

fn sizes(text: &str) {
    if let Ok(bytes) = size::parse(text) {
        assert_eq!(size::parse(&bytes.to_string()).ok(), Some(bytes));
        let told = size::human(bytes);
        let (number, unit) = told.split_once(' ').expect("a number and a unit");
        match number.split_once('.') {
            None => assert_eq!(size::parse(&told).ok(), Some(bytes), "{told}"),
            Some((whole, tenth)) => {
                let one = u128::from(size::parse(&format!("1{unit}")).expect("a unit"));
                let (whole, tenth): (u128, u128) =
                    (whole.parse().expect("a number"), tenth.parse().expect("a digit"));
                let at_least = whole * one * 10 + tenth * one;
                let tenths = u128::from(bytes) * 10;
                assert!(tenth < 10 && at_least <= tenths && tenths < at_least + one, "{told}");
            }
        }
    }
}

fn accounts(text: &str) {
    let memory = account::Memory::of(text);
    assert_eq!(memory.since(memory), account::Memory::default());
    assert_eq!(memory.since(account::Memory::default()), memory);
    if let Some(faults) = account::faults_of(text) {
        assert!(
            account::faults_of(&format!("7 ({text}) S 1 2 3 4 5 6 {faults} 0 0 0")) == Some(faults)
        );
    }
    let _ = proc::lease_in(text);
    let all = account::Smaps::parse(text, &(0..usize::MAX));
    let (low, high) = (
        account::Smaps::parse(text, &(0..0x3000)),
        account::Smaps::parse(text, &(0x3000..usize::MAX)),
    );
    // Some stick out of both.
    assert!(low.vmas + high.vmas <= all.vmas && all.vmas <= text.lines().count() as u64);
    for (name, kib) in &all.lines {
        assert!(low.kib(name).saturating_add(high.kib(name)) <= *kib, "{name}");
    }
}

/// What is asked for by name.
fn names(text: &str) {
    if let Some(engine) = linux::engine(OsStr::from_bytes(text.as_bytes())) {
        assert_eq!(engine.name(), text);
        assert!(Engine::ALL.contains(&engine));
    }
    if let Some((name, from)) = linux::plan(text) {
        assert!(text.starts_with(name));
        assert_eq!(linux::plan(&format!("{name}:{from}")), Some((name, from)));
    }
    if let Ok(flavour) = text.parse::<Flavour>() {
        assert_eq!(flavour.to_string(), text);
    }
}

fn scripts(text: &str) {
    for word in text.split_whitespace() {
        if let Some(bytes) = script::bytes(word) {
            assert_eq!(script::bytes(&bytes.to_string()), Some(bytes));
            assert_eq!(script::bytes(&format!("{bytes:#x}")), Some(bytes));
        }
    }
    match script::parse(text) {
        Ok(lines) => {
            assert!(lines.is_sorted_by(|one, next| one.number < next.number));
            for line in lines {
                // By itself it means the same.
                let alone = script::parse(&line.text).expect("understood before");
                assert_eq!((alone.len(), &alone[0].op), (1, &line.op));
            }
        }
        Err(error) => assert!(
            text.lines()
                .nth(error.number as usize - 1)
                .is_some_and(|line| line.trim() == error.text)
        ),
    }
}

/// A recording is told as it was read.
fn recording(text: &str) {
    let Ok(recording) = Recording::parse(text) else { return };
    for (number, record) in &recording.lines {
        assert_eq!(*number, record.i);
        let written = serde_json::to_value(record).expect("written");
        if has_fraction(&written) {
            // Not every digit of those is kept.
            continue;
        }
        let again: Record = serde_json::from_str(&written.to_string()).expect("read again");
        assert_eq!(&again, record);
    }
}

fn has_fraction(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.is_f64(),
        Value::Array(values) => values.iter().any(has_fraction),
        Value::Object(fields) => fields.values().any(has_fraction),
        Value::Null | Value::Bool(_) | Value::String(_) => false,
    }
}
