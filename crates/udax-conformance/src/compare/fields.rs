//! Results, bytes, sizes, and the number of faults.

use super::Line;
use crate::rules::Rule;
use std::fmt::Debug;

/// What follows from other fields, or says what this comparison is not about.
const DERIVED: [&str; 16] = [
    "blksize",
    "daxmask",
    "pte",
    "pmd",
    "writable",
    "dirty",
    "zero",
    "hugezero",
    "entries",
    "empty",
    "pagecache",
    "resident",
    "extents",
    "same",
    "v",
    "mtime",
];

fn shown<T: Debug>(value: &Option<T>) -> String {
    value.as_ref().map_or_else(|| "-".to_owned(), |value| format!("{value:?}"))
}

impl Line<'_> {
    /// Whether the results agree, so that it makes sense to look further.
    pub(super) fn result(&mut self) -> bool {
        let (expected, got) = (self.expected, self.got);
        let mut agree = true;
        if expected.ok != got.ok || expected.err != got.err {
            let told = |record: &crate::recording::Record| match &record.err {
                Some(err) => err.clone(),
                None => format!("ok {}", shown(&record.ok)),
            };
            self.differ("result", told(expected), told(got));
            agree = false;
        }
        if expected.code != got.code {
            self.differ("code", shown(&expected.code), shown(&got.code));
            agree = false;
        }
        agree
    }

    /// One field, if it was recorded.
    fn same<T: PartialEq + Debug>(&mut self, field: &str, expected: &Option<T>, got: &Option<T>) {
        if expected.is_some() && expected != got {
            self.differ(field, shown(expected), shown(got));
        }
    }

    pub(super) fn bytes(&mut self) {
        let (expected, got) = (self.expected, self.got);
        let same = expected.val == got.val
            && expected.byte == got.byte
            && expected.crc32 == got.crc32
            && expected.hex == got.hex
            && expected.nonzero == got.nonzero;
        if !same && got.known.past_end && self.rules.allow(Rule::StoresPastEnd) {
            return;
        }
        self.same("val", &expected.val, &got.val);
        self.same("crc32", &expected.crc32, &got.crc32);
        self.same("hex", &expected.hex, &got.hex);
        self.same("nonzero", &expected.nonzero, &got.nonzero);
        self.same("done", &expected.done, &got.done);
        if expected.crc32.is_some()
            && expected.n != Some(0)
            && !expected.cmd.starts_with("hash")
            && expected.byte != got.byte
        {
            self.differ("byte", shown(&expected.byte), shown(&got.byte));
        }
        if expected.events.is_none() && expected.counts.is_none() {
            self.same("n", &expected.n, &got.n);
        }
    }

    /// Of the faults only the number is compared: which of them is major differs by kernel.
    pub(super) fn faults(&mut self) {
        let (Some(minor), Some(major)) = (self.expected.minflt, self.expected.majflt) else {
            return;
        };
        let (expected, got) = (minor + major, self.got.minflt.unwrap_or_default());
        if expected == got {
            return;
        }
        let known = &self.got.known;
        let (in_child, upgrades) = (known.in_child, known.upgrades_under_pmd);
        if upgrades > 0
            && expected + upgrades == got
            && self.rules.allow(Rule::MisalignedStaysWritable)
        {
            return;
        }
        // A page of the stack, one of the heap.
        if in_child && (got..=got + 3).contains(&expected) && self.rules.allow(Rule::ForkedStack) {
            return;
        }
        self.differ("minflt+majflt", expected, got);
    }

    pub(super) fn sizes(&mut self) {
        let (expected, got) = (self.expected, self.got);
        self.same("size", &expected.size, &got.size);
        self.same("dax", &expected.dax, &got.dax);
        self.same("addr_mod_2m", &expected.addr_mod_2m, &got.addr_mod_2m);
        self.same("off_mod_2m", &expected.off_mod_2m, &got.off_mod_2m);
        self.same("child", &expected.child, &got.child);
        self.same("status", &expected.status, &got.status);
        if expected.blocks512 != got.blocks512 {
            let more = expected
                .blocks512
                .unwrap_or_default()
                .checked_sub(got.blocks512.unwrap_or_default());
            // A block or two for the tree of extents.
            let few = more.is_some_and(|more| more <= 64 && more.is_multiple_of(8));
            if !(few && self.rules.allow(Rule::MetadataBlocks)) {
                self.same("blocks512", &expected.blocks512, &got.blocks512);
            }
        }
    }

    /// Fields that this crate does not know are told, not passed over.
    pub(super) fn rest(&mut self) {
        let unknown: Vec<&str> = self
            .expected
            .other
            .keys()
            .map(String::as_str)
            .filter(|field| !DERIVED.contains(field))
            .collect();
        if !unknown.is_empty() {
            let why = format!("fields that the comparison does not know: {}", unknown.join(", "));
            self.leave_out(&why);
        }
    }
}
