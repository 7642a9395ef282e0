//! Every script against every recording of it: Linux 5.10, 6.1 and 6.12, on ext4 and XFS.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use udax_conformance::compare::Comparison;
use udax_conformance::folder::{Pair, pairs};
use udax_conformance::rules::{TABLE, stale};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/conformance")
}

/// All recordings; each is played once, by whichever test wants it first.
fn recordings() -> &'static [(Pair, OnceLock<Comparison>)] {
    static ALL: OnceLock<Vec<(Pair, OnceLock<Comparison>)>> = OnceLock::new();
    ALL.get_or_init(|| {
        let found =
            pairs(&folder().join("scripts"), &folder()).expect("the recordings can be read");
        found.into_iter().map(|pair| (pair, OnceLock::new())).collect()
    })
}

fn played<'a>(pair: &Pair, comparison: &'a OnceLock<Comparison>) -> &'a Comparison {
    comparison.get_or_init(|| pair.play().expect("the recording can be played"))
}

fn check(script: &str) {
    let mut complaints = Vec::new();
    let mut count = 0;
    for (pair, comparison) in recordings().iter().filter(|(pair, _)| pair.name == script) {
        let comparison = played(pair, comparison);
        count += 1;
        assert!(comparison.lines > 5, "{}: next to nothing of {script} was compared", pair.flavour);
        for difference in &comparison.differences {
            complaints.push(format!("{}/{script} {difference}", pair.flavour));
        }
    }
    assert_eq!(count, 6, "{script}: three kernels on two file systems");
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

macro_rules! scripts {
    ($($behaviour:ident: $script:literal,)*) => {
        $(
            #[test]
            fn $behaviour() {
                check($script);
            }
        )*

        const SCRIPTS: &[&str] = &[$($script),*];
    };
}

scripts! {
    a_first_load_and_store: "00-smoke",
    aligned_holes_of_1_gib_take_one_fault_for_2_mib_and_no_storage: "01-hole-read-1g",
    misaligned_small_and_unwanted_holes_take_one_fault_a_page: "02-hole-read-misaligned",
    a_store_takes_the_zero_page_from_every_mapping: "03-read-then-write",
    stores_to_holes_allocate_a_page_or_2_mib: "04-write-hole",
    extents_that_are_unwritten_misaligned_or_split: "05-falloc-pmd",
    small_and_huge_entries_in_each_others_way: "06-fallback-downgrade",
    punching_zeroing_cutting_and_shifting_under_mappings: "07-punch-truncate",
    syncs_flush_what_is_dirty_and_make_stores_fault_again: "08-msync",
    private_mappings_copy_pages: "09-private",
    reads_and_writes_agree_with_mappings: "10-preadwrite",
    map_sync_makes_metadata_durable_before_the_store: "11-mapsync",
    resident_memory_is_copies_alone: "14-smaps",
}

#[test]
fn every_script_has_a_test_and_six_recordings() {
    let mut found: BTreeMap<&str, usize> = BTreeMap::new();
    for (pair, _) in recordings() {
        *found.entry(&pair.name).or_insert(0) += 1;
    }
    assert_eq!(found.keys().copied().collect::<Vec<_>>(), SCRIPTS);
    assert!(found.values().all(|count| *count == 6), "{found:?}");
}

#[test]
fn every_rule_is_of_use_or_says_that_it_is_for_recordings_that_are_not_here() {
    let mut applied = BTreeMap::new();
    for (pair, comparison) in recordings() {
        for (rule, count) in &played(pair, comparison).applied {
            *applied.entry(*rule).or_insert(0) += count;
        }
    }
    let stale: Vec<&str> = stale(&applied).iter().map(|entry| entry.name).collect();
    assert!(stale.is_empty(), "stale rules, take them out: {stale:?}");
}

#[test]
fn only_what_a_machine_alone_can_tell_is_left_out() {
    for (pair, comparison) in recordings() {
        for left_out in &played(pair, comparison).not_compared {
            let what = left_out.cmd.split(' ').next().unwrap_or_default();
            let is_machines = ["get", "set", "vmstat", "faults", "sleep"].contains(&what);
            assert!(is_machines, "{}/{}: {left_out:?}", pair.flavour, pair.name);
        }
    }
}

#[test]
fn the_documentation_lists_every_rule() {
    let path = folder().join("../../docs/conformance.md");
    let text = std::fs::read_to_string(path).expect("docs/conformance.md");
    for entry in TABLE {
        assert!(text.contains(&format!("| `{}` |", entry.name)), "{} is not in it", entry.name);
    }
    let listed = text.lines().filter(|line| line.starts_with("| `")).count();
    assert_eq!(listed, TABLE.len(), "it lists rules that there are no longer");
}
