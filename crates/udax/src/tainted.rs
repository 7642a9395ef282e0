//! Files of which another process may have a descriptor of ours, or we one of its: no lease tells of its stores.

use crate::served::FileKey;
use std::collections::BTreeSet;

/// Which they are.
#[derive(Debug, Default)]
pub(crate) struct Tainted {
    files: BTreeSet<FileKey>,
    /// Once it could not be told what was open, as the program had no descriptor left to look with: it may be any.
    any: bool,
}

impl Tainted {
    pub(crate) fn insert(&mut self, key: FileKey) {
        self.files.insert(key);
    }

    pub(crate) fn contains(&self, key: FileKey) -> bool {
        self.any || self.files.contains(&key)
    }

    /// Adds what is open for writing now.
    pub(crate) fn add_open(&mut self) {
        match crate::descriptors::open_files() {
            Ok(open) => {
                let written = open.into_iter().filter(|open| open.can_write);
                self.files.extend(written.map(|open| open.key));
            }
            Err(_) => self.any = true,
        }
    }
}
