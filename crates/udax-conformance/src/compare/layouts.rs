//! Page tables, mapping entries, extents, residency: runs of pages, compared by what each page has, not by where it is stored.

use super::Line;
use crate::recording::{PtRun, Record, XaRun};
use crate::rules::Rule;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// A run of equal pages: the first, the page after the last, what they have.
type Run<T> = (u64, u64, T);

/// Joins neighbours that have the same.
fn joined<T: PartialEq>(runs: impl Iterator<Item = Run<T>>) -> Vec<Run<T>> {
    let mut all: Vec<Run<T>> = Vec::new();
    for (start, end, what) in runs {
        match all.last_mut() {
            Some((_, last, same)) if *same == what && *last == start => *last = end,
            _ => all.push((start, end, what)),
        }
    }
    all
}

fn told<T: std::fmt::Debug>(runs: &[Run<T>]) -> String {
    let brief: Vec<String> =
        runs.iter().take(12).map(|(start, end, what)| format!("{start}..{end} {what:?}")).collect();
    let more = if runs.len() > 12 { ", ..." } else { "" };
    format!("[{}{more}]", brief.join(", "))
}

/// The runs of a record, as what they are; `None` if they are something else.
fn runs_of<T: DeserializeOwned>(record: &Record) -> Option<Vec<T>> {
    let runs = record.runs.clone().unwrap_or_default();
    runs.into_iter().map(|run| serde_json::from_value(run).ok()).collect()
}

/// What a translation has: level, kind, the first four flags (present, writable, accessed, dirty). The others say how Linux keeps
/// it (special, soft-dirty, device).
type Translation = (String, String, String);

fn translations(record: &Record) -> Option<Vec<Run<Translation>>> {
    let mut runs = runs_of::<PtRun>(record)?;
    runs.sort_by_key(|run| run.page);
    Some(joined(runs.into_iter().map(|run| {
        let pages = if run.level == "pmd" { 512 } else { 1 };
        let flags = run.flags.chars().take(4).collect();
        (run.page, run.page + run.n * pages, (run.level, run.kind, flags))
    })))
}

/// What an entry has: kind and marks.
type Mapped = (String, String);

fn entries(record: &Record) -> Option<Vec<Run<Mapped>>> {
    let runs = runs_of::<XaRun>(record)?;
    Some(joined(runs.into_iter().map(|run| {
        let pages = 1 << run.order;
        (run.page, run.page + run.n * pages, (run.kind, run.marks))
    })))
}

/// Page by page (2 MiB ones by their first), for what differs.
fn by_page<T: Clone>(runs: &[Run<T>], is_huge: impl Fn(&T) -> bool) -> BTreeMap<u64, T> {
    let mut pages = BTreeMap::new();
    for (start, end, what) in runs {
        let step = if is_huge(what) { 512 } else { 1 };
        let mut page = *start;
        while page < *end {
            pages.insert(page, what.clone());
            page += step;
        }
    }
    pages
}

impl Line<'_> {
    pub(super) fn translations(&mut self) {
        let (Some(expected), Some(got)) = (translations(self.expected), translations(self.got))
        else {
            self.differ("runs", "translations", "something else");
            return;
        };
        if expected == got {
            return;
        }
        let is_huge = |what: &Translation| what.0 == "pmd";
        let (theirs, ours) = (by_page(&expected, is_huge), by_page(&got, is_huge));
        let pages: BTreeSet<u64> = theirs.keys().chain(ours.keys()).copied().collect();
        let unlike = |page: &&u64| theirs.get(page) != ours.get(page);
        for page in pages.iter().filter(unlike) {
            let tracked = matches!(
                (theirs.get(page), ours.get(page)),
                (Some((level, kind, flags)), Some((our_level, our_kind, our_flags)))
                    if level == "pte" && level == our_level && kind == our_kind
                        && flags == "PWAD" && our_flags == "P-A-"
            );
            let is_under_pmd = self.got.known.under_pmd.contains(page);
            if !(tracked && is_under_pmd && self.rules.allow(Rule::MisalignedStaysWritable)) {
                self.differ("pt", told(&expected), told(&got));
                return;
            }
        }
    }

    pub(super) fn entries(&mut self) {
        let (Some(expected), Some(got)) = (entries(self.expected), entries(self.got)) else {
            self.differ("runs", "entries", "something else");
            return;
        };
        if expected == got {
            return;
        }
        let is_huge = |what: &Mapped| what.0.ends_with("pmd");
        let (theirs, ours) = (by_page(&expected, is_huge), by_page(&got, is_huge));
        let pages: BTreeSet<u64> = theirs.keys().chain(ours.keys()).copied().collect();
        for page in pages {
            if !self.entry_may_differ(page, theirs.get(&page), ours.get(&page)) {
                self.differ("xa", told(&expected), told(&got));
                return;
            }
        }
    }

    fn entry_may_differ(
        &mut self,
        page: u64,
        theirs: Option<&Mapped>,
        ours: Option<&Mapped>,
    ) -> bool {
        match (theirs, ours) {
            (theirs, ours) if theirs == ours => true,
            (Some((kind, marks)), Some((our_kind, our_marks))) if kind == our_kind => {
                let unsure = self.got.known.unsure.contains(&page)
                    && marks.replace('D', "") == our_marks.replace('D', "");
                (unsure && self.rules.allow(Rule::MarkAfterLayoutChange))
                    || (marks == "D"
                        && our_marks.is_empty()
                        && !kind.starts_with("empty")
                        && self.rules.allow(Rule::DirtyOnRead))
            }
            (Some((kind, _)), None) => {
                kind.starts_with("zero") && self.rules.allow(Rule::ZeroEntryLeft)
            }
            _ => false,
        }
    }

    /// Extents by their kind.
    pub(super) fn extents(&mut self) {
        let kinds = |record: &Record| {
            let extents = record.ext.as_ref()?.iter();
            Some(joined(extents.map(|extent| {
                let kind = extent.f.replace('L', "");
                (extent.l, extent.l + extent.n, kind)
            })))
        };
        let (expected, got) = (kinds(self.expected), kinds(self.got));
        if expected != got {
            let told = |runs: &Option<Vec<Run<String>>>| told(runs.as_deref().unwrap_or_default());
            self.differ("ext", told(&expected), told(&got));
        }
    }

    pub(super) fn resident(&mut self) {
        let runs = |record: &Record| {
            let runs = runs_of::<[u64; 3]>(record)?;
            Some(joined(runs.into_iter().map(|[page, count, is]| (page, page + count, is))))
        };
        let (expected, got) = (runs(self.expected), runs(self.got));
        if expected != got {
            let told = |runs: &Option<Vec<Run<u64>>>| told(runs.as_deref().unwrap_or_default());
            self.differ("mincore", told(&expected), told(&got));
        }
    }

    pub(super) fn pages(&mut self) {
        let runs = |record: &Record| {
            let runs = runs_of::<(u64, u64, String)>(record)?;
            Some(joined(runs.into_iter().map(|(page, count, held)| (page, page + count, held))))
        };
        let (expected, got) = (runs(self.expected), runs(self.got));
        if expected != got && !(self.got.known.past_end && self.rules.allow(Rule::StoresPastEnd)) {
            let told = |runs: &Option<Vec<Run<String>>>| told(runs.as_deref().unwrap_or_default());
            self.differ("pages", told(&expected), told(&got));
        }
    }

    /// One VMA after the other: place, rights, flags; of memory what is the program's own, and none besides.
    pub(super) fn smaps(&mut self) {
        let empty = Vec::new();
        let expected = self.expected.vma.as_ref().unwrap_or(&empty);
        let got = self.got.vma.as_ref().unwrap_or(&empty);
        if expected.len() != got.len() {
            self.differ("number of VMAs", expected.len(), got.len());
            return;
        }
        let huge_kib = 4 * self.got.known.huge_storage;
        for (theirs, ours) in expected.iter().zip(got) {
            for (field, our_value) in ours {
                let Some(value) = theirs.get(field) else { continue };
                if value != our_value
                    && !(field == "Rss" && self.counts_huge(value, our_value, huge_kib))
                {
                    self.differ(&format!("smaps {field}"), value, our_value);
                }
            }
            self.memory_adds_up(theirs);
        }
    }

    fn counts_huge(&mut self, theirs: &Value, ours: &Value, huge_kib: u64) -> bool {
        let (Some(theirs), Some(ours)) = (theirs.as_u64(), ours.as_u64()) else { return false };
        huge_kib > 0 && theirs == ours + huge_kib && self.rules.allow(Rule::HugeStorageInRss)
    }

    /// Pss is nothing exactly where Rss is; clean and dirty, shared and private make up Rss.
    fn memory_adds_up(&mut self, theirs: &BTreeMap<String, Value>) {
        let kib = |field: &str| theirs.get(field).and_then(Value::as_u64).unwrap_or_default();
        let parts =
            kib("Shared_Clean") + kib("Shared_Dirty") + kib("Private_Clean") + kib("Private_Dirty");
        let whole = kib("Rss");
        if parts != whole || (kib("Pss") == 0) != (whole == 0) {
            self.differ("smaps parts of Rss", parts, whole);
        }
    }
}
