//! Trace events: taking the engine's, and telling them as the recordings do.

use super::{Answer, Player, done};
use crate::recording::{Beside, Event, Pages, Record};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use udax_core::{FaultFlags, FaultPlace, FaultResult, Order, TraceEvent, Tracer};

#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is one circumstance, any of them at once")]
struct State {
    on: bool,
    in_layout_change: bool,
    layout_changed: bool,
    bad_buffer: bool,
    upgrades_under_pmd: u64,
    events: Vec<(TraceEvent, Beside)>,
}

impl State {
    fn forget(&mut self) {
        self.events.clear();
        self.layout_changed = false;
        self.bad_buffer = false;
    }
}

/// Takes events while tracing is on.
#[derive(Default)]
pub(super) struct Recorder {
    state: Mutex<State>,
}

impl Recorder {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From here to the next call with `false` the layout of a file is being changed.
    pub(super) fn layout_change(&self, begins: bool) {
        let mut state = self.state();
        state.in_layout_change = begins;
        state.layout_changed = true;
    }

    /// A copy from or to a mapping met a page that cannot be had.
    pub(super) fn bad_buffer(&self) {
        self.state().bad_buffer = true;
    }

    pub(super) fn upgrades_under_pmd(&self) -> u64 {
        self.state().upgrades_under_pmd
    }
}

impl Tracer for Recorder {
    fn event(&self, event: &TraceEvent) {
        let mut state = self.state();
        let mut beside =
            Beside { in_layout_change: state.in_layout_change, upgrade_under_pmd: false };
        if let TraceEvent::InsertMapping { place, entry, write: true } = event
            && place.flags.contains(FaultFlags::MKWRITE)
            && entry.order() == Order::Pmd
        {
            state.upgrades_under_pmd += 1;
            beside.upgrade_under_pmd = true;
            if let Some((TraceEvent::PteFault(_), before)) = state.events.last_mut() {
                before.upgrade_under_pmd = true;
            }
        }
        if let (TraceEvent::PteFaultDone(..), Some((_, before))) = (event, state.events.last()) {
            beside.upgrade_under_pmd = before.upgrade_under_pmd;
        }
        if state.on {
            state.events.push((*event, beside));
        }
    }
}

fn flags(place: &FaultPlace) -> Vec<String> {
    place.flags.iter_names().map(|(name, _)| name.to_owned()).collect()
}

fn outcome(result: FaultResult) -> Vec<String> {
    result.iter_names().map(|(name, _)| name.to_owned()).collect()
}

/// What the key of an event is in a count.
fn key(event: &Event) -> String {
    let mut key = event.ev.clone();
    if event.flags.iter().any(|flag| flag == "WRITE") {
        key.push_str("/write");
    }
    if event.ev.ends_with("_done") && !event.outcome.is_empty() {
        key.push('/');
        key.push_str(&event.outcome.join("|"));
    }
    key
}

impl Player<'_> {
    pub(super) fn trace_start(&mut self) -> Answer {
        let mut state = self.recorder.state();
        state.on = true;
        state.forget();
        drop(state);
        done()
    }

    pub(super) fn trace_stop(&mut self) -> Answer {
        self.recorder.state().on = false;
        done()
    }

    pub(super) fn trace_clear(&mut self) -> Answer {
        let mut state = self.recorder.state();
        state.forget();
        drop(state);
        done()
    }

    /// The events since the last time, and a record that says what happened meanwhile.
    fn take_events(&self) -> Record {
        let mut record = Record { ok: Some(true), ..Record::default() };
        let events = {
            let mut state = self.recorder.state();
            record.known.layout_changed = state.layout_changed;
            record.known.bad_buffer = state.bad_buffer;
            let events = std::mem::take(&mut state.events);
            state.forget();
            events
        };
        for file in self.files.values() {
            record.known.unsure.extend(&file.unsure);
        }
        record.events =
            Some(events.iter().map(|(event, beside)| self.tell(event, *beside)).collect());
        record
    }

    pub(super) fn trace_dump(&mut self) -> Answer {
        Ok(self.take_events())
    }

    /// The events, too: what a kernel does not show is left out of the counts by the rules.
    pub(super) fn trace_count(&mut self) -> Answer {
        let mut record = self.take_events();
        let mut counts = BTreeMap::new();
        for event in record.events.iter().flatten() {
            *counts.entry(key(event)).or_insert(0) += 1;
        }
        record.counts = Some(counts);
        Ok(record)
    }

    fn tell(&self, event: &TraceEvent, beside: Beside) -> Event {
        let ev = event.name().to_owned();
        let blank = Event {
            ev,
            map: None,
            page: None,
            ino: None,
            sharing: None,
            flags: Vec::new(),
            pgoff: None,
            max_pgoff: None,
            outcome: Vec::new(),
            pglen: None,
            length: None,
            beside,
        };
        let at = |place: &FaultPlace| self.at(place, blank.clone());
        let huge = |place: &FaultPlace, outcome| Event {
            pgoff: Some(Pages::One(place.pgoff.0)),
            max_pgoff: Some(place.max_pgoff.0),
            flags: flags(place),
            outcome,
            ..at(place)
        };
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        match event {
            TraceEvent::PmdFault(place) => huge(place, Vec::new()),
            TraceEvent::PmdFaultDone(place, result) => huge(place, outcome(*result)),
            TraceEvent::PmdLoadHole { place, .. }
            | TraceEvent::PmdLoadHoleFallback { place, .. } => at(place),
            TraceEvent::PmdInsertMapping { place, length, write, .. } => {
                let flags = if *write { &["DEV", "MAP", "WRITE"][..] } else { &["DEV", "MAP"] };
                Event { length: Some(*length), flags: words(flags), ..at(place) }
            }
            TraceEvent::InsertMapping { place, write, .. } => {
                let flags = if *write { &["WRITE"][..] } else { &[] };
                Event { flags: words(flags), ..at(place) }
            }
            TraceEvent::PteFault(place) => {
                Event { pgoff: Some(Pages::One(place.pgoff.0)), flags: flags(place), ..at(place) }
            }
            TraceEvent::PteFaultDone(place, result)
            | TraceEvent::LoadHole(place, result)
            | TraceEvent::InsertPfnMkwrite(place, result)
            | TraceEvent::InsertPfnMkwriteNoEntry(place, result) => Event {
                pgoff: Some(Pages::One(place.pgoff.0)),
                flags: flags(place),
                outcome: outcome(*result),
                ..at(place)
            },
            TraceEvent::WritebackRange { inode, start, end }
            | TraceEvent::WritebackRangeDone { inode, start, end } => {
                Event { ino: Some(inode.ino), pgoff: Some(Pages::Range([start.0, end.0])), ..blank }
            }
            TraceEvent::WritebackOne { inode, pgoff, pglen } => Event {
                ino: Some(inode.ino),
                pgoff: Some(Pages::One(pgoff.0)),
                pglen: Some(*pglen),
                ..blank
            },
        }
    }

    /// Where a fault was, by the name that the mapping there has now.
    fn at(&self, place: &FaultPlace, blank: Event) -> Event {
        let found = self.here().maps.iter().find(|(_, map)| map.holds(place.address));
        let sharing = if place.shared { "shared" } else { "private" };
        Event {
            map: found.map(|(name, _)| name.split('#').next().unwrap_or(name).to_owned()),
            page: found.map(|(_, map)| map.file_page(place.address / udax_core::PAGE_BYTES)),
            ino: Some(place.inode.ino),
            sharing: Some(sharing.to_owned()),
            ..blank
        }
    }
}
