//! Trace events: brought to the form that the followed kernel has, then held against each other in order.
//!
//! Glossary: a *group* is a writeback's events from dax_writeback_range to its done.

use super::Line;
use crate::flavour::Kernel;
use crate::recording::{Event, Pages};
use crate::rules::{Rule, Rules};

fn is_group_start(event: &Event) -> bool {
    event.ev == "dax_writeback_range"
}

/// Where the group that starts at `events[0]` ends.
fn group_length(events: &[Event]) -> usize {
    let end = events.iter().position(|event| event.ev == "dax_writeback_range_done");
    end.map_or(events.len(), |end| end + 1)
}

fn is_attempt(event: &Event) -> bool {
    event.ev == "dax_pmd_fault"
}

fn without_lock(event: &Event) -> Event {
    let mut event = event.clone();
    event.flags.retain(|flag| flag != "VMA_LOCK");
    event
}

fn fell_back(event: &Event) -> bool {
    event.ev == "dax_pmd_fault_done" && event.outcome == ["FALLBACK"]
}

/// What was recorded, as the followed kernel would have told it.
pub(super) fn followed(rules: &mut Rules, events: &[Event]) -> Vec<Event> {
    let mut told = Vec::with_capacity(events.len());
    let mut at = 0;
    while at < events.len() {
        let event = &events[at];
        if let [first, done, again, ..] = &events[at..]
            && is_attempt(first)
            && fell_back(done)
            && first.flags.iter().any(|flag| flag == "VMA_LOCK")
            && without_lock(first) == *again
            && rules.allow(Rule::VmaLockRetry)
        {
            at += 2;
            continue;
        }
        if let [first, done, small, small_done, ..] = &events[at..]
            && is_attempt(first)
            && fell_back(done)
            && is_beyond_end(first)
            && small.ev == "dax_pte_fault"
            && small_done.outcome == ["SIGBUS"]
            && rules.allow(Rule::ColourBeforeEnd)
        {
            told.push(first.clone());
            told.push(Event { outcome: small_done.outcome.clone(), ..done.clone() });
            at += 4;
            continue;
        }
        let plain = without_lock(event);
        if plain != *event {
            rules.allow(Rule::VmaLockFlag);
        }
        told.push(plain);
        at += 1;
    }
    told
}

/// Whether the whole 2 MiB of an attempt lies beyond the end of the file.
fn is_beyond_end(event: &Event) -> bool {
    match (event.pgoff, event.max_pgoff) {
        (Some(Pages::One(page)), Some(end)) => (page & !511) >= end,
        _ => false,
    }
}

/// What the engine told, without what the recorded kernel does not tell.
pub(super) fn shown(rules: &mut Rules, events: &[Event]) -> Vec<Event> {
    let is_insert =
        |event: &Event| event.ev.ends_with("_insert_mapping") || event.ev == "dax_insert_mapping";
    let hidden = rules.flavour.kernel != Kernel::V5_10;
    events
        .iter()
        .filter(|event| !(hidden && is_insert(event) && rules.allow(Rule::InsertEventsGone)))
        .cloned()
        .collect()
}

/// The number of the file, by which the two sides name it differently, is not compared; whose event it is the mapping says.
fn equal(rules: &mut Rules, expected: &Event, got: &Event) -> bool {
    let names = expected.map.is_none()
        || got.map.is_none()
        || (&expected.map, expected.page) == (&got.map, got.page);
    let rest = expected.ev == got.ev
        && names
        && expected.sharing == got.sharing
        && expected.flags == got.flags
        && expected.max_pgoff == got.max_pgoff
        && expected.pglen == got.pglen
        && expected.length == got.length;
    rest && equal_pages(rules, expected, got) && equal_outcome(rules, expected, got)
}

fn equal_pages(rules: &mut Rules, expected: &Event, got: &Event) -> bool {
    match (expected.pgoff, got.pgoff) {
        (Some(Pages::Range([first, last])), Some(Pages::Range([our_first, our_last])))
            if expected.ev == "dax_writeback_range_done" =>
        {
            last == our_last && (first == our_first || rules.allow(Rule::CursorInDoneEvent))
        }
        (expected, got) => expected == got,
    }
}

fn equal_outcome(rules: &mut Rules, expected: &Event, got: &Event) -> bool {
    if expected.outcome == got.outcome {
        return true;
    }
    let without: Vec<&String> = got.outcome.iter().filter(|flag| *flag != "MAJOR").collect();
    expected.outcome.iter().collect::<Vec<_>>() == without
        && expected.ev == "dax_pte_fault_done"
        && rules.allow(Rule::MajorNotTraced)
}

/// The two sides, as far as they have been held against each other.
struct Walk<'a> {
    expected: &'a [Event],
    got: &'a [Event],
}

impl Line<'_> {
    pub(super) fn events(&mut self) {
        let (Some(expected), Some(got)) = (&self.expected.events, &self.got.events) else {
            self.differ("events", self.expected.events.is_some(), self.got.events.is_some());
            return;
        };
        let expected = followed(self.rules, expected);
        let got = shown(self.rules, got);
        let mut walk = Walk { expected: &expected, got: &got };
        while !(walk.expected.is_empty() && walk.got.is_empty()) {
            if let ([theirs, ..], [ours, ..]) = (walk.expected, walk.got)
                && equal(self.rules, theirs, ours)
            {
                walk.expected = &walk.expected[1..];
                walk.got = &walk.got[1..];
            } else if !self.step_over(&mut walk) {
                let brief = |events: &[Event]| {
                    let words: Vec<String> = events.iter().take(4).map(Event::to_string).collect();
                    if words.is_empty() { "no more".to_owned() } else { words.join("; ") }
                };
                let number = expected.len() - walk.expected.len() + 1;
                let field = format!("event {number} of {}", expected.len());
                self.differ(&field, brief(walk.expected), brief(walk.got));
                return;
            }
        }
    }

    /// Passes over what a rule allows one side to have alone.
    fn step_over(&mut self, walk: &mut Walk<'_>) -> bool {
        let known = &self.got.known;
        if let [ours, ..] = walk.got {
            if ours.beside.upgrade_under_pmd && self.rules.allow(Rule::MisalignedStaysWritable) {
                walk.got = &walk.got[1..];
                return true;
            }
            let is_flush = ours.beside.in_layout_change && is_group_start(ours);
            if is_flush && self.rules.allow(Rule::FlushBeforeLayoutChange) {
                walk.got = &walk.got[group_length(walk.got)..];
                return true;
            }
            if let [attempt, done, ..] = walk.got
                && is_attempt(attempt)
                && fell_back(done)
                && attempt.sharing.as_deref() == Some("private")
                && attempt.flags == ["WRITE"]
                && self.rules.allow(Rule::PrivateStoreNotAsked)
            {
                walk.got = &walk.got[2..];
                return true;
            }
            if is_unsure(known, ours) && self.rules.allow(Rule::MarkAfterLayoutChange) {
                walk.got = &walk.got[1..];
                return true;
            }
        }
        let [theirs, ..] = walk.expected else { return false };
        if let [_, done, ..] = walk.expected
            && known.bad_buffer
            && done.outcome == ["SIGBUS"]
            && self.rules.allow(Rule::CopyTriedAgain)
        {
            walk.expected = &walk.expected[2..];
            return true;
        }
        if theirs.ev == "dax_writeback_one"
            && (is_unsure(known, theirs) && self.rules.allow(Rule::MarkAfterLayoutChange)
                || self.rules.allow(Rule::DirtyOnRead))
        {
            walk.expected = &walk.expected[1..];
            return true;
        }
        if is_group_start(theirs) {
            let group = &walk.expected[..group_length(walk.expected)];
            let may_be = known.layout_changed && self.rules.allow(Rule::FlushBeforeLayoutChange)
                || group.iter().any(|event| is_unsure(known, event))
                    && self.rules.allow(Rule::MarkAfterLayoutChange)
                || self.rules.allow(Rule::DirtyOnRead);
            if may_be {
                walk.expected = &walk.expected[group.len()..];
                return true;
            }
        }
        false
    }
}

/// A flush of an entry that a layout change may or may not have flushed before.
fn is_unsure(known: &crate::recording::Known, event: &Event) -> bool {
    let Some(Pages::One(page)) = event.pgoff else { return false };
    event.ev == "dax_writeback_one" && known.unsure.contains(&page)
}
