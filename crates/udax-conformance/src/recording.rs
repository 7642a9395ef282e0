//! What a machine answered, line by line: as Linux was recorded, and as the player answers.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Numbers of pages: one, or the first and the last of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Pages {
    /// One.
    One(u64),
    /// First and last.
    Range([u64; 2]),
}

/// One trace event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the names are those of the recordings")]
pub struct Event {
    pub ev: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub map: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub page: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ino: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sharing: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pgoff: Option<Pages>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_pgoff: Option<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outcome: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pglen: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
    /// What the player knows beside; Linux does not tell it.
    #[serde(skip)]
    pub beside: Beside,
}

/// What the player knows of one of its events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beside {
    /// It came while the file's layout was being changed.
    pub in_layout_change: bool,
    /// It belongs to a small store under a 2 MiB entry that made a read-only translation writable.
    pub upgrade_under_pmd: bool,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.ev)?;
        if let (Some(map), Some(page)) = (&self.map, self.page) {
            write!(f, " {map}:{page}")?;
        }
        if self.sharing.as_deref() == Some("private") {
            f.write_str(" private")?;
        }
        if !self.flags.is_empty() {
            write!(f, " {}", self.flags.join("|"))?;
        }
        match self.pgoff {
            Some(Pages::Range([first, last])) => write!(f, " {first:#x}-{last:#x}")?,
            Some(Pages::One(page)) if self.map.is_none() => write!(f, " {page:#x}")?,
            Some(Pages::One(_)) | None => {}
        }
        if let Some(pages) = self.pglen {
            write!(f, " pglen {pages:#x}")?;
        }
        if let Some(pages) = self.max_pgoff {
            write!(f, " max {pages:#x}")?;
        }
        if !self.outcome.is_empty() {
            write!(f, " -> {}", self.outcome.join("|"))?;
        }
        Ok(())
    }
}

/// One extent: page, place, pages, flags (L last, U unwritten).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are those of the recordings")]
pub struct Extent {
    pub l: u64,
    #[serde(default)]
    pub p: u64,
    pub n: u64,
    pub f: String,
}

/// A run of translations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are those of the recordings")]
pub struct PtRun {
    pub page: u64,
    pub n: u64,
    pub level: String,
    pub kind: String,
    pub flags: String,
}

/// A run of mapping entries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are those of the recordings")]
pub struct XaRun {
    pub page: u64,
    pub n: u64,
    pub order: u64,
    pub kind: String,
    #[serde(default)]
    pub marks: String,
}

/// What one line came to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are those of the recordings")]
pub struct Record {
    #[serde(default)]
    pub i: u64,
    #[serde(default)]
    pub cmd: String,
    pub ok: Option<bool>,
    pub err: Option<String>,
    pub code: Option<String>,
    pub minflt: Option<u64>,
    pub majflt: Option<u64>,
    pub val: Option<String>,
    pub byte: Option<String>,
    pub crc32: Option<String>,
    pub hex: Option<String>,
    pub n: Option<i64>,
    pub done: Option<u64>,
    pub nonzero: Option<u64>,
    pub size: Option<u64>,
    pub blocks512: Option<u64>,
    pub dax: Option<bool>,
    pub addr_mod_2m: Option<u64>,
    pub off_mod_2m: Option<u64>,
    pub child: Option<bool>,
    pub status: Option<i64>,
    pub events: Option<Vec<Event>>,
    pub counts: Option<BTreeMap<String, u64>>,
    pub runs: Option<Vec<Value>>,
    pub ext: Option<Vec<Extent>>,
    pub vma: Option<Vec<BTreeMap<String, Value>>>,
    /// Everything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
    /// What the player knows beside.
    #[serde(skip)]
    pub known: Known,
}

/// What the player knows of one of its answers; the rules look at it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is one circumstance, any of them at once")]
pub struct Known {
    /// Why this line says nothing that could be compared.
    pub not_compared: Option<String>,
    /// This crate does not know the operation.
    pub unknown: bool,
    /// It ran in a forked child.
    pub in_child: bool,
    /// So many of its faults made a small translation under a 2 MiB entry writable.
    pub upgrades_under_pmd: u64,
    /// So many 2 MiB translations to storage the mapping has.
    pub huge_storage: u64,
    /// The file's layout was changed since the events were looked at last.
    pub layout_changed: bool,
    /// Entries that were dirty when a layout change began: whether that flushed them is the file system's affair.
    pub unsure: BTreeSet<u64>,
    /// Pages under a 2 MiB entry.
    pub under_pmd: BTreeSet<u64>,
    /// A copy between a file and a mapping met a page that cannot be had.
    pub bad_buffer: bool,
    /// It looked at a page that was stored to behind the end of the file.
    pub past_end: bool,
}

impl Record {
    /// The answer as a recording would have it, without the line itself.
    #[must_use]
    pub fn told(&self) -> Value {
        let mut told = serde_json::to_value(self).unwrap_or_default();
        if let Some(fields) = told.as_object_mut() {
            fields.retain(|name, value| !["i", "cmd"].contains(&name.as_str()) && !value.is_null());
            if let Some(why) = &self.known.not_compared {
                fields.insert("not_compared".to_owned(), Value::from(why.as_str()));
            }
        }
        told
    }
}

/// A recording: answers by line number.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recording {
    /// By line of the script.
    pub lines: BTreeMap<u64, Record>,
}

impl Recording {
    /// Reads one JSON object a line; those without a line number frame the recording.
    ///
    /// # Errors
    /// A line that is no such object.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        let mut lines = BTreeMap::new();
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let record: Record = serde_json::from_str(line)?;
            if record.i > 0 {
                lines.insert(record.i, record);
            }
        }
        Ok(Self { lines })
    }
}
