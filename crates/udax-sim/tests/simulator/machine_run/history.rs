//! What a load may return, when stores overlap it and one another.
//!
//! Time is counted in *ticks*, one for each beginning and each end of an operation. A *register* is something that is read and
//! written whole: eight bytes of a file, its length, the rights on a page. A write that began after another had ended, and had itself ended before
//! the read began, hides that other one from the read; nothing else is certain.

/// A moment.
pub type Tick = u64;
/// The end of what is still under way.
pub const OPEN: Tick = Tick::MAX;

/// Whether a write has happened, now that the operation has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certainty {
    Done,
    /// The operation failed on its way: the value may be there, at no certain moment.
    Maybe,
    Never,
}

#[derive(Clone, Debug)]
struct Write {
    begin: Tick,
    end: Tick,
    /// One of these. None yet: the operation is still finding out, and whatever is seen meanwhile goes.
    values: Vec<u64>,
    certainty: Certainty,
    /// The metadata that leads to it was durable before it was made (MAP_SYNC).
    metadata_first: bool,
}

/// A handle on a write under way.
#[derive(Clone, Copy, Debug)]
pub struct WriteId(usize);

/// All that was ever written to one place.
#[derive(Clone, Debug)]
pub struct Register {
    writes: Vec<Write>,
}

impl Register {
    /// A place that holds `value` from the start.
    pub fn new(value: u64) -> Self {
        let first = Write {
            begin: 0,
            end: 0,
            values: vec![value],
            certainty: Certainty::Done,
            metadata_first: false,
        };
        Self { writes: vec![first] }
    }

    /// A write of `value` begins.
    pub fn begin(&mut self, now: Tick, value: u64) -> WriteId {
        self.begin_unknown(now);
        let id = WriteId(self.writes.len() - 1);
        self.settle(id, vec![value]);
        id
    }

    /// A write of which it is not yet known what it writes.
    pub fn begin_unknown(&mut self, now: Tick) -> WriteId {
        self.writes.push(Write {
            begin: now,
            end: OPEN,
            values: Vec::new(),
            certainty: Certainty::Maybe,
            metadata_first: false,
        });
        WriteId(self.writes.len() - 1)
    }

    /// It is one of `values` that is written.
    pub fn settle(&mut self, id: WriteId, values: Vec<u64>) {
        self.writes[id.0].values = values;
    }

    /// It may have been `value` as well.
    pub fn settle_also(&mut self, id: WriteId, value: u64) {
        self.writes[id.0].values.push(value);
    }

    /// The operation ends.
    pub fn end(&mut self, id: WriteId, now: Tick, certainty: Certainty) {
        self.writes[id.0].end = now;
        self.writes[id.0].certainty = certainty;
    }

    /// As [`end`](Self::end), of a store that waited for its metadata.
    pub fn end_metadata_first(&mut self, id: WriteId, now: Tick) {
        self.end(id, now, Certainty::Done);
        self.writes[id.0].metadata_first = true;
    }

    /// The last beginning of a write that is over for certain at `before`: what ended before that cannot be seen any more.
    fn bound(&self, before: Tick, counts: impl Fn(&Write) -> bool) -> Tick {
        let over = |write: &&Write| {
            write.certainty == Certainty::Done && write.end < before && counts(write)
        };
        self.writes.iter().filter(over).map(|write| write.begin).max().unwrap_or(0)
    }

    fn seen(&self, bound: Tick, to: Tick) -> impl Iterator<Item = &Write> {
        self.writes.iter().filter(move |write| {
            write.certainty != Certainty::Never && write.begin <= to && write.end >= bound
        })
    }

    /// Whether a read between `from` and `to` may see something of which `is_so`.
    pub fn may_be(&self, from: Tick, to: Tick, is_so: impl Fn(u64) -> bool) -> bool {
        self.seen(self.bound(from, |_| true), to).any(|write| {
            (write.values.is_empty() && write.end == OPEN)
                || write.values.iter().copied().any(&is_so)
        })
    }

    /// Whether a read between `from` and `to` may see `value`.
    pub fn allows(&self, value: u64, from: Tick, to: Tick) -> bool {
        self.may_be(from, to, |possible| possible == value)
    }

    /// Whether `value` may be what a power cut at `now` leaves of what was synced last at `synced`. With the caches written back
    /// (`lines_kept`), a store that waited for its metadata counts as synced.
    pub fn survives(&self, value: u64, synced: Tick, now: Tick, lines_kept: bool) -> bool {
        let mut bound = self.bound(synced, |_| true);
        if lines_kept {
            bound = bound.max(self.bound(now, |write| write.metadata_first));
        }
        self.seen(bound, now).any(|write| write.values.is_empty() || write.values.contains(&value))
    }

    /// A register that began as a copy of this one, made between `from` and `to`.
    pub fn fork(&self, from: Tick, to: Tick) -> Self {
        let mut copy = Self::new(0);
        copy.settle(WriteId(0), self.values(from, to));
        copy
    }

    /// Everything that a read between `from` and `to` may see.
    pub fn values(&self, from: Tick, to: Tick) -> Vec<u64> {
        let seen = self.seen(self.bound(from, |_| true), to);
        let mut values: Vec<u64> = seen.flat_map(|write| write.values.iter().copied()).collect();
        values.sort_unstable();
        values.dedup();
        values
    }
}

/// Where the bytes of a private mapping came from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    /// The file, as it is when looked at: there is no copy.
    File,
    /// A store to this very place.
    Own(u64),
    /// A copy of the page, when one of these was in the file.
    Copy(Vec<u64>),
    /// A store somewhere in the page is under way, and may have copied it since.
    Copying,
    /// It turned out that nothing happened.
    Nothing,
}

/// Which earlier events an event ends, once it is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ends {
    None,
    /// The page has a copy of its own.
    Views,
    All,
    /// Itself: only what overlaps it can have seen it.
    Itself,
}

#[derive(Clone, Debug)]
struct Event {
    begin: Tick,
    end: Tick,
    source: Source,
    ends: Ends,
}

/// A handle on an event under way.
#[derive(Clone, Copy, Debug)]
pub struct EventId(usize);

/// A place in a private mapping.
#[derive(Clone, Debug)]
pub struct PrivateCell {
    events: Vec<Event>,
}

impl PrivateCell {
    /// It shows the file.
    pub fn new(now: Tick) -> Self {
        let event = Event { begin: now, end: now, source: Source::File, ends: Ends::All };
        Self { events: vec![event] }
    }

    fn push(&mut self, begin: Tick, end: Tick, source: Source) -> EventId {
        self.events.push(Event { begin, end, source, ends: Ends::None });
        EventId(self.events.len() - 1)
    }

    fn visible(&self, from: Tick, to: Tick) -> impl Iterator<Item = &Event> {
        let bound = |kinds: &[Ends]| {
            let over = |event: &&Event| event.end < from && kinds.contains(&event.ends);
            self.events.iter().filter(over).map(|event| event.begin).max().unwrap_or(0)
        };
        let (all, views) = (bound(&[Ends::All]), bound(&[Ends::All, Ends::Views]));
        self.events.iter().filter(move |event| {
            let bound = match (&event.source, event.ends) {
                (_, Ends::Itself) => from,
                (Source::File, _) => views,
                _ => all,
            };
            event.begin <= to && event.end >= bound && event.source != Source::Nothing
        })
    }

    /// Whether the page may have no copy at some moment.
    fn may_show_file(&self, from: Tick, to: Tick) -> bool {
        self.visible(from, to).any(|event| event.source == Source::File)
    }

    /// Whether a load between `from` and `to` may see `value`, with `file` behind the mapping.
    pub fn allows(&self, value: u64, from: Tick, to: Tick, file: &Register) -> bool {
        self.visible(from, to).any(|event| match &event.source {
            Source::File => file.allows(value, from, to),
            Source::Own(own) => *own == value,
            Source::Copy(values) => values.contains(&value),
            Source::Copying => {
                self.may_show_file(event.begin, to) && file.allows(value, event.begin, to)
            }
            Source::Nothing => false,
        })
    }

    /// What a load between `from` and `to` may see, for a report.
    pub fn describe(&self, from: Tick, to: Tick) -> String {
        let visible: Vec<_> = self.visible(from, to).collect();
        format!(", the private mapping {visible:x?}")
    }

    /// A store to this place begins.
    pub fn begin_store(&mut self, now: Tick, value: u64) -> EventId {
        self.push(now, OPEN, Source::Own(value))
    }

    /// A store somewhere in the page begins.
    pub fn begin_copy(&mut self, now: Tick) -> EventId {
        self.push(now, OPEN, Source::Copying)
    }

    /// The store to this place ends.
    pub fn end_store(&mut self, id: EventId, now: Tick, stored: bool) {
        let event = &mut self.events[id.0];
        event.end = now;
        event.ends = Ends::All;
        if !stored {
            (event.source, event.ends) = (Source::Nothing, Ends::None);
        }
    }

    /// The store somewhere in the page ends. If it was `stored`, the page has a copy for certain; if it was stored `here`, nothing
    /// that was copied is left.
    pub fn end_copy(
        &mut self,
        id: EventId,
        now: Tick,
        (stored, here): (bool, bool),
        file: &Register,
    ) {
        let begin = self.events[id.0].begin;
        let copied = self.may_show_file(begin, now);
        let event = &mut self.events[id.0];
        event.end = now;
        event.source = if copied { Source::Copy(file.values(begin, now)) } else { Source::Nothing };
        event.ends = match (copied && stored, here) {
            (true, true) => Ends::Itself,
            (true, false) => Ends::Views,
            (false, _) => Ends::None,
        };
    }

    /// The copy, if there is one, is about to go.
    pub fn begin_drop(&mut self, now: Tick) -> EventId {
        self.push(now, OPEN, Source::File)
    }

    /// It is gone, or may be.
    pub fn end_drop(&mut self, id: EventId, now: Tick, certainty: Certainty) {
        let event = &mut self.events[id.0];
        event.end = now;
        match certainty {
            Certainty::Done => event.ends = Ends::All,
            Certainty::Maybe => {}
            Certainty::Never => event.source = Source::Nothing,
        }
    }

    /// The same place in a child that was forked between `from` and `to`.
    pub fn fork(&self, from: Tick, to: Tick, file: &Register) -> Self {
        let inherited = self.visible(from, to).map(|event| {
            let source = match &event.source {
                Source::Own(value) => Source::Copy(vec![*value]),
                Source::Copying if self.may_show_file(event.begin, to) => {
                    Source::Copy(file.values(event.begin, to))
                }
                Source::Copying => Source::Nothing,
                Source::File | Source::Copy(_) | Source::Nothing => event.source.clone(),
            };
            Event { begin: from, end: to, source, ends: Ends::None }
        });
        Self { events: inherited.collect() }
    }
}
