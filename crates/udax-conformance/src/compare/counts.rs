//! Numbers of events, by kind and outcome.

use super::{Line, events};
use crate::recording::Event;
use crate::rules::Rule;
use std::collections::{BTreeMap, BTreeSet};

/// A recorded key without what counts do not tell alike: of the events that end nothing only whether they are of a store.
fn plain(key: &str) -> String {
    let (event, rest) = key.split_once('/').unwrap_or((key, ""));
    if event.starts_with("dax_writeback") {
        return event.to_owned();
    }
    let is_write = rest == "write" || rest.starts_with("write/");
    let outcome = rest.strip_prefix("write").unwrap_or(rest).trim_start_matches('/');
    let mut plain = event.to_owned();
    if is_write {
        plain.push_str("/write");
    }
    if event.ends_with("_done") && !outcome.is_empty() {
        plain.push('/');
        plain.push_str(outcome);
    }
    plain
}

fn key(event: &Event) -> String {
    let is_write = event.flags.iter().any(|flag| flag == "WRITE");
    let write = if is_write { "/write" } else { "" };
    plain(&format!("{}{write}/{}", event.ev, event.outcome.join("|")))
}

type Counts = BTreeMap<String, u64>;

fn at(counts: &Counts, key: &str) -> u64 {
    counts.get(key).copied().unwrap_or_default()
}

impl Line<'_> {
    pub(super) fn counts(&mut self) {
        let (Some(recorded), Some(events)) = (&self.expected.counts, &self.got.events) else {
            self.differ("counts", self.expected.counts.is_some(), self.got.counts.is_some());
            return;
        };
        let mut expected = Counts::new();
        for (key, count) in recorded {
            *expected.entry(plain(key)).or_insert(0) += count;
        }
        let mut got = Counts::new();
        for event in events::shown(self.rules, events) {
            *got.entry(key(&event)).or_insert(0) += 1;
        }
        self.forget_retries(&mut expected, &got);
        self.move_bus_errors(&mut expected, &got);
        self.forget_retried_copies(&mut expected, &got);
        self.forget_unasked(&expected, &mut got);
        self.move_majors(&expected, &mut got);
        let keys: BTreeSet<String> = expected.keys().chain(got.keys()).cloned().collect();
        for key in keys {
            let (theirs, ours) = (at(&expected, &key), at(&got, &key));
            if theirs == ours {
                continue;
            }
            let is_flush = key.starts_with("dax_writeback");
            let may_differ = is_flush
                && (self.got.known.layout_changed
                    && self.rules.allow(Rule::FlushBeforeLayoutChange)
                    || !self.got.known.unsure.is_empty()
                        && self.rules.allow(Rule::MarkAfterLayoutChange)
                    || theirs > ours && self.rules.allow(Rule::DirtyOnRead));
            if !may_differ {
                self.differ(&format!("counts of {key}"), theirs, ours);
            }
        }
    }

    /// Attempts that were made a second time: at most once each, and only those that fell back.
    fn forget_retries(&mut self, expected: &mut Counts, got: &Counts) {
        for write in ["", "/write"] {
            let (start, done) =
                (format!("dax_pmd_fault{write}"), format!("dax_pmd_fault_done{write}/FALLBACK"));
            let ours = at(got, &done);
            let more = at(expected, &done).saturating_sub(ours);
            let fits = more > 0 && more <= ours && at(expected, &start) >= more;
            if fits && self.rules.allow(Rule::VmaLockRetry) {
                *expected.entry(start).or_insert(0) -= more;
                *expected.entry(done).or_insert(0) -= more;
            }
        }
    }

    /// Failing accesses of the kernel's own that were tried again: whole attempts, each with its end.
    fn forget_retried_copies(&mut self, expected: &mut Counts, got: &Counts) {
        if !self.got.known.bad_buffer {
            return;
        }
        for write in ["", "/write"] {
            for (kind, end) in [("pmd", "SIGBUS"), ("pte", "SIGBUS"), ("pmd", "FALLBACK")] {
                let start = format!("dax_{kind}_fault{write}");
                let done = format!("dax_{kind}_fault_done{write}/{end}");
                let more = at(expected, &done).saturating_sub(at(got, &done));
                let fits = more > 0 && at(expected, &start) == at(got, &start) + more;
                if fits && self.rules.allow(Rule::CopyTriedAgain) {
                    *expected.entry(start).or_insert(0) -= more;
                    *expected.entry(done).or_insert(0) -= more;
                }
            }
        }
    }

    /// Attempts at private stores that XFS does not make.
    fn forget_unasked(&mut self, expected: &Counts, got: &mut Counts) {
        let (start, done) = ("dax_pmd_fault/write", "dax_pmd_fault_done/write/FALLBACK");
        let more = at(got, done).saturating_sub(at(expected, done));
        let fits = more > 0 && at(got, start) == at(expected, start) + more;
        if fits && self.rules.allow(Rule::PrivateStoreNotAsked) {
            *got.entry(start.to_owned()).or_insert(0) -= more;
            *got.entry(done.to_owned()).or_insert(0) -= more;
        }
    }

    /// 5.10 falls back beyond the end of the file, and the small fault has the SIGBUS.
    fn move_bus_errors(&mut self, expected: &mut Counts, got: &Counts) {
        for write in ["", "/write"] {
            let key = |kind: &str, end: &str| format!("dax_{kind}_fault_done{write}/{end}");
            let (huge, small) = (key("pmd", "SIGBUS"), key("pte", "SIGBUS"));
            let moved = at(got, &huge).saturating_sub(at(expected, &huge));
            let fits = moved > 0
                && at(expected, &key("pmd", "FALLBACK")) >= moved
                && at(expected, &small) >= moved;
            if fits && self.rules.allow(Rule::ColourBeforeEnd) {
                *expected.entry(huge).or_insert(0) += moved;
                *expected.entry(key("pmd", "FALLBACK")).or_insert(0) -= moved;
                *expected.entry(small).or_insert(0) -= moved;
                *expected.entry(format!("dax_pte_fault{write}")).or_insert(0) -= moved;
            }
        }
    }

    /// 5.10 does not trace that a small store allocated.
    fn move_majors(&mut self, expected: &Counts, got: &mut Counts) {
        let (major, minor) =
            ("dax_pte_fault_done/write/MAJOR|NOPAGE", "dax_pte_fault_done/write/NOPAGE");
        let moved = at(got, major).saturating_sub(at(expected, major));
        if moved > 0 && self.rules.allow(Rule::MajorNotTraced) {
            *got.entry(major.to_owned()).or_insert(0) -= moved;
            *got.entry(minor.to_owned()).or_insert(0) += moved;
        }
    }
}
