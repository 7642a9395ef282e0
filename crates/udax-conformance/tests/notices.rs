//! A comparison notices: recordings that were altered in one place are told from what they were.

use std::path::{Path, PathBuf};
use udax_conformance::compare::{Comparison, compare};
use udax_conformance::flavour::Flavour;
use udax_conformance::player::play;
use udax_conformance::recording::{Record, Recording};
use udax_conformance::script::parse;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/conformance")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).expect("a file of the recordings")
}

/// Plays `script` against the recording of `flavour` after `alter` has been at its line `line`.
fn altered(script: &str, flavour: &str, line: u64, alter: impl Fn(&mut Record)) -> Comparison {
    let flavour: Flavour = flavour.parse().expect("a kernel and a file system");
    let lines =
        parse(&read(&folder().join("scripts").join(format!("{script}.txt")))).expect("reads");
    let text = read(&folder().join(flavour.to_string()).join(format!("{script}.jsonl")));
    let recorded = Recording::parse(&text).expect("a recording");
    let answers = play(&lines, flavour, &recorded);
    let plain = compare(&recorded, &answers, flavour);
    assert!(plain.differences.is_empty(), "unaltered: {:?}", plain.differences);
    let mut changed = recorded.clone();
    alter(changed.lines.get_mut(&line).expect("the line was recorded"));
    assert_ne!(changed, recorded, "the alteration alters something");
    compare(&changed, &answers, flavour)
}

/// The altered line is told, and no other.
#[track_caller]
fn noticed(script: &str, flavour: &str, line: u64, field: &str, alter: impl Fn(&mut Record)) {
    let comparison = altered(script, flavour, line, alter);
    let told: Vec<(u64, &str)> =
        comparison.differences.iter().map(|found| (found.line, found.field.as_str())).collect();
    assert!(!told.is_empty(), "the alteration was not noticed");
    for (number, name) in told {
        assert!(number == line && name.contains(field), "told of line {number}, {name}");
    }
}

#[test]
fn a_dropped_event() {
    noticed("03-read-then-write", "linux-5.10/ext4", 11, "event", |record| {
        record.events.as_mut().expect("events").remove(1);
    });
    noticed("08-msync", "linux-6.12/xfs", 14, "event", |record| {
        record.events.as_mut().expect("events").remove(5);
    });
}

#[test]
fn an_event_more() {
    noticed("03-read-then-write", "linux-6.12/ext4", 11, "event", |record| {
        let events = record.events.as_mut().expect("events");
        let again = events[0].clone();
        events.push(again);
    });
}

#[test]
fn events_in_another_order() {
    noticed("08-msync", "linux-5.10/xfs", 14, "event", |record| {
        record.events.as_mut().expect("events").swap(3, 4);
    });
}

#[test]
fn another_outcome() {
    noticed("03-read-then-write", "linux-6.12/ext4", 11, "event", |record| {
        let events = record.events.as_mut().expect("events");
        events[1].outcome = vec!["NOPAGE".to_owned()];
    });
    noticed("09-private", "linux-5.10/ext4", 14, "event", |record| {
        record.events.as_mut().expect("events")[1].outcome = vec!["NOPAGE".to_owned()];
    });
}

#[test]
fn another_flag_of_a_fault() {
    noticed("03-read-then-write", "linux-6.1/xfs", 11, "event", |record| {
        record.events.as_mut().expect("events")[0].flags = vec!["WRITE".to_owned()];
    });
}

#[test]
fn another_number_of_events() {
    noticed("04-write-hole", "linux-6.1/ext4", 15, "counts", |record| {
        *record
            .counts
            .as_mut()
            .expect("counts")
            .entry("dax_pte_fault/write".to_owned())
            .or_insert(0) -= 1;
    });
}

/// One field of the first run.
fn set(record: &mut Record, field: &str, value: &str) {
    record.runs.as_mut().expect("runs")[0][field] = value.into();
}

#[test]
fn another_mark() {
    noticed("03-read-then-write", "linux-5.10/ext4", 13, "xa", |record| set(record, "marks", ""));
    noticed("08-msync", "linux-6.12/ext4", 29, "xa", |record| set(record, "marks", "D"));
    noticed("08-msync", "linux-6.1/ext4", 21, "xa", |record| set(record, "marks", ""));
}

#[test]
fn another_kind_of_entry() {
    noticed("09-private", "linux-6.1/xfs", 36, "xa", |record| {
        record.runs.as_mut().expect("runs")[1]["kind"] = "zero-pte".into();
    });
}

#[test]
fn an_entry_that_is_gone_and_one_that_is_left() {
    noticed("06-fallback-downgrade", "linux-5.10/ext4", 32, "xa", |record| {
        record.runs.as_mut().expect("runs").pop();
    });
    noticed("06-fallback-downgrade", "linux-5.10/ext4", 66, "xa", |record| {
        let left =
            serde_json::json!({"page": 0, "n": 1, "order": 9, "kind": "zero-pmd", "marks": ""});
        record.runs.as_mut().expect("runs").push(left);
    });
}

#[test]
fn another_right_of_a_translation() {
    noticed("08-msync", "linux-6.12/xfs", 15, "pt", |record| set(record, "flags", "PWA-sSv"));
    noticed("08-msync", "linux-5.10/xfs", 10, "pt", |record| set(record, "flags", "P-ADsSv"));
}

#[test]
fn another_size_or_kind_of_a_translation() {
    noticed("03-read-then-write", "linux-6.12/xfs", 24, "pt", |record| set(record, "kind", "pmem"));
    noticed("04-write-hole", "linux-6.12/xfs", 26, "pt", |record| set(record, "level", "pte"));
}

#[test]
fn another_byte() {
    noticed("03-read-then-write", "linux-6.12/xfs", 14, "val", |record| {
        record.val = Some("ab".to_owned());
    });
    noticed("10-preadwrite", "linux-6.12/xfs", 48, "crc32", |record| {
        record.crc32 = Some("00000000".to_owned());
    });
    noticed("07-punch-truncate", "linux-6.1/xfs", 33, "hex", |record| {
        record.hex = record.hex.as_ref().map(|hex| hex.replacen("11", "12", 1));
    });
}

#[test]
fn another_number_of_faults() {
    noticed("03-read-then-write", "linux-6.1/ext4", 10, "minflt", |record| record.minflt = Some(1));
}

#[test]
fn another_result() {
    noticed("02-hole-read-misaligned", "linux-6.12/ext4", 44, "result", |record| {
        record.err = Some("SIGSEGV".to_owned());
    });
    noticed("11-mapsync", "linux-5.10/ext4", 43, "result", |record| {
        (record.ok, record.err) = (Some(true), None);
    });
}

#[test]
fn another_extent_or_size() {
    noticed("05-falloc-pmd", "linux-5.10/xfs", 10, "ext", |record| {
        record.ext.as_mut().expect("extents")[1].f.clear();
    });
    noticed("05-falloc-pmd", "linux-5.10/xfs", 88, "ext", |record| {
        record.ext.as_mut().expect("extents")[0].n += 1;
    });
    noticed("07-punch-truncate", "linux-6.12/ext4", 98, "size", |record| record.size = Some(0));
}

#[test]
fn other_residency_and_memory() {
    noticed("14-smaps", "linux-6.12/ext4", 11, "mincore", |record| {
        record.runs.as_mut().expect("runs")[0][1] = 99.into();
    });
    noticed("14-smaps", "linux-6.12/ext4", 44, "smaps", |record| {
        let vma = &mut record.vma.as_mut().expect("a VMA")[0];
        vma.insert("Anonymous".to_owned(), 24.into());
    });
}

#[test]
fn a_line_more_or_fewer_and_another_command() {
    noticed("04-write-hole", "linux-5.10/ext4", 8, "cmd", |record| record.cmd.push('x'));
    let flavour: Flavour = "linux-5.10/ext4".parse().expect("a flavour");
    let text = read(&folder().join("linux-5.10/ext4/04-write-hole.jsonl"));
    let recorded = Recording::parse(&text).expect("a recording");
    let mut shorter = recorded.clone();
    shorter.lines.remove(&8);
    for (expected, got) in [(&shorter, &recorded), (&recorded, &shorter)] {
        let found = compare(expected, got, flavour).differences;
        let missing = found.iter().filter(|difference| difference.field == "line");
        assert_eq!(missing.map(|difference| difference.line).collect::<Vec<_>>(), [8]);
    }
}

#[test]
fn what_cannot_be_played_is_told() {
    let lines = parse("frobnicate f 1\nsleep 20\nseek f").expect("reads");
    let text = r#"{"i":1,"cmd":"frobnicate f 1","ok":true}
{"i":2,"cmd":"sleep 20"}
{"i":3,"cmd":"seek f","ok":true,"segments":[]}"#;
    let recorded = Recording::parse(text).expect("a recording");
    let flavour: Flavour = "linux-6.12/xfs".parse().expect("a flavour");
    let comparison = compare(&recorded, &play(&lines, flavour, &recorded), flavour);
    assert_eq!(comparison.differences.len(), 1, "an unknown operation is a failure");
    assert_eq!((comparison.differences[0].line, comparison.not_compared.len()), (1, 2));
}
