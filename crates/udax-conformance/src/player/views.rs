//! Looking at page tables, entries and extents, in the form of the recordings.

use super::{Answer, Failed, Player};
use crate::recording::{Extent, Record, XaRun};
use crate::script::{Place, Prot};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use udax_core::{
    Backing, Durability, HugePages, Kind, Order, PAGE_BYTES, PMD_PAGES, PageRange, Sharing,
};
use udax_sim::{Target, Translation};

use super::maps::{Map, Piece};
use super::sync::WHOLE;

fn level(order: Order) -> &'static str {
    match order {
        Order::Pte => "pte",
        Order::Pmd => "pmd",
    }
}

fn kind(translation: &Translation) -> &'static str {
    match (translation.target, translation.order) {
        (Target::ZeroPage, Order::Pte) => "zero",
        (Target::ZeroPage, Order::Pmd) => "hugezero",
        (Target::Storage(_), _) => "pmem",
        (Target::PrivateCopy, _) => "ram",
    }
}

fn flags(translation: &Translation, is_accessible: bool) -> String {
    let flag = |is_set: bool, letter: char| if is_set { letter } else { '-' };
    [
        flag(is_accessible, 'P'),
        flag(translation.writable, 'W'),
        flag(translation.accessed, 'A'),
        flag(translation.dirty, 'D'),
    ]
    .iter()
    .collect()
}

impl Player<'_> {
    fn translations(&self, map: &Map) -> Vec<(u64, Translation)> {
        let all = self.here().process.translations();
        let mine = all.into_iter().filter(|found| map.holds(found.address_page * PAGE_BYTES));
        mine.map(|found| (map.file_page(found.address_page), found)).collect()
    }

    pub(super) fn pt(&self, name: &str, place: Option<Place>) -> Answer {
        let map = self.map(name)?;
        let range = map.range(place);
        let mut runs: Vec<(u64, u64, Value)> = Vec::new();
        let mut record = Record { ok: Some(true), ..Record::default() };
        for (page, found) in self.translations(map) {
            let pages = found.order.pages();
            if page >= range.end.0 || page + pages <= range.start.0 {
                continue;
            }
            let prot = map
                .pieces
                .iter()
                .find(|piece| piece.layout.pages.contains(udax_core::PageIndex(page)));
            let is_accessible = prot.is_none_or(|piece| piece.traits.prot != Prot::None);
            let what = json!({
                "level": level(found.order), "kind": kind(&found), "flags": flags(&found, is_accessible),
            });
            match runs.last_mut() {
                Some((first, count, same)) if *same == what && *first + *count * pages == page => {
                    *count += 1;
                }
                _ => runs.push((page, 1, what)),
            }
        }
        let runs = runs.into_iter().map(|(page, n, mut what)| {
            what["page"] = json!(page);
            what["n"] = json!(n);
            what
        });
        record.runs = Some(runs.collect());
        for entry in map.node.mapping.entries_in(range) {
            if entry.entry.order() == Order::Pmd {
                record.known.under_pmd.extend(entry.start.0..entry.start.0 + PMD_PAGES);
            }
        }
        Ok(record)
    }

    pub(super) fn xa(&self, name: &str) -> Answer {
        let file = self.file(name)?;
        let mut runs: Vec<XaRun> = Vec::new();
        for report in file.node.mapping.entries_in(WHOLE) {
            let order = report.entry.order();
            let kind = match report.entry.kind() {
                Kind::Empty => "empty",
                Kind::Zero => "zero",
                Kind::Mapped(_) => "data",
            };
            let mut marks = String::new();
            if report.dirty {
                marks.push('D');
            }
            if report.to_write {
                marks.push('T');
            }
            let run = XaRun {
                page: report.start.0,
                n: 1,
                order: if order == Order::Pmd { 9 } else { 0 },
                kind: format!("{kind}-{}", level(order)),
                marks,
            };
            match runs.last_mut() {
                Some(last)
                    if last.kind == run.kind
                        && last.marks == run.marks
                        && last.page + last.n * order.pages() == run.page =>
                {
                    last.n += 1;
                }
                _ => runs.push(run),
            }
        }
        let mut record = Record { ok: Some(true), ..Record::default() };
        record.runs = Some(runs.iter().map(|run| json!(run)).collect());
        record.known.unsure.clone_from(&file.unsure);
        Ok(record)
    }

    pub(super) fn fiemap(&self, name: &str) -> Answer {
        let extents = self.file(name)?.node.sim.extents();
        let ext = extents.iter().map(|extent| Extent {
            l: extent.range.start.0,
            p: 0,
            n: extent.range.len(),
            f: if extent.backing == Backing::Unwritten { "U" } else { "" }.to_owned(),
        });
        Ok(Record { ok: Some(true), ext: Some(ext.collect()), ..Record::default() })
    }

    pub(super) fn mincore(&self, name: &str) -> Answer {
        let map = self.map(name)?;
        let range = map.range(None);
        if !map.covers(range) {
            return Err(Failed::Errno("ENOMEM"));
        }
        let mut runs: Vec<[u64; 3]> = Vec::new();
        let mut add = |page: u64, count: u64, resident: u64| match runs.last_mut() {
            _ if count == 0 => {}
            Some([_, length, same]) if *same == resident => *length += count,
            _ => runs.push([page, count, resident]),
        };
        let mut at = range.start.0;
        for (page, found) in self.translations(map) {
            add(at, page - at, 0);
            add(page, found.order.pages(), 1);
            at = page + found.order.pages();
        }
        add(at, range.end.0.saturating_sub(at), 0);
        let runs = runs.iter().map(|run| json!(run)).collect();
        Ok(Record { ok: Some(true), runs: Some(runs), ..Record::default() })
    }

    pub(super) fn smaps(&self, name: &str) -> Answer {
        let map = self.map(name)?;
        if !map.is_dax {
            return Err(Failed::NotCompared("the file is in the page cache: no DAX"));
        }
        let translations = self.translations(map);
        let mut record = Record { ok: Some(true), ..Record::default() };
        record.vma = Some(map.pieces.iter().map(|piece| one(map, piece, &translations)).collect());
        let is_huge = |found: &Translation| {
            found.order == Order::Pmd && matches!(found.target, Target::Storage(_))
        };
        record.known.huge_storage =
            translations.iter().filter(|(_, found)| is_huge(found)).count() as u64;
        Ok(record)
    }
}

fn one(map: &Map, piece: &Piece, translations: &[(u64, Translation)]) -> BTreeMap<String, Value> {
    let pages: PageRange = piece.layout.pages;
    let copies = translations.iter().filter(|(page, found)| {
        found.target == Target::PrivateCopy && (pages.start.0..pages.end.0).contains(page)
    });
    let copies_kib = copies.count() as u64 * 4;
    let prot = match piece.traits.prot {
        Prot::ReadOnly => "r--",
        Prot::ReadWrite => "rw-",
        Prot::WriteOnly => "-w-",
        Prot::None => "---",
    };
    let share = if map.sharing == Sharing::Shared { "s" } else { "p" };
    let fields = [
        ("off", json!((piece.layout.address_page - map.address_page) * PAGE_BYTES)),
        ("len", json!(pages.len() * PAGE_BYTES)),
        ("prot", json!(format!("{prot}{share}"))),
        ("pgoff", json!(pages.start.0)),
        ("Size", json!(pages.len() * 4)),
        ("Rss", json!(copies_kib)),
        ("Anonymous", json!(copies_kib)),
        ("Locked", json!(0)),
        ("Swap", json!(0)),
        ("AnonHugePages", json!(0)),
        ("ShmemPmdMapped", json!(0)),
        ("FilePmdMapped", json!(0)),
        ("VmFlags", json!(vm_flags(map, piece))),
    ];
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The flags of a VMA, in the kernel's order.
fn vm_flags(map: &Map, piece: &Piece) -> String {
    let is_shared = map.sharing == Sharing::Shared;
    let prot = piece.traits.prot;
    let flags = [
        ("rd", matches!(prot, Prot::ReadOnly | Prot::ReadWrite)),
        ("wr", matches!(prot, Prot::ReadWrite | Prot::WriteOnly)),
        // Of a file that may only be read, a shared mapping is one that nobody can tell from a private one.
        ("sh", is_shared && map.may_write),
        ("mr", true),
        ("mw", map.may_write),
        ("me", true),
        ("ms", is_shared),
        ("sr", piece.traits.reading == Some("sr")),
        ("rr", piece.traits.reading == Some("rr")),
        ("ac", !is_shared && piece.traits.is_accounted),
        ("sf", map.durability == Durability::MetadataFirst),
        ("sd", true),
        ("hg", piece.traits.huge_pages == HugePages::Allowed),
        ("nh", piece.traits.huge_pages == HugePages::Never),
    ];
    let set = flags.iter().filter(|(_, is_set)| *is_set).map(|(name, _)| *name);
    set.collect::<Vec<_>>().join(" ")
}
