//! Files by name: making, opening, closing, and what a mount or a flag makes of them.

use super::{Answer, DaxMode, Failed, Player, done};
use crate::recording::Known;
use crate::script::OpenAs;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use udax_core::{Inode, Mapping, PageIndex, PageRange};
use udax_sim::{SimFile, SimWorld};

/// What all names and mappings of one file share.
pub(super) struct Node {
    pub(super) sim: SimFile,
    pub(super) mapping: Arc<Mapping<SimWorld>>,
    /// Last pages of the file, as they were, that were stored to behind its end.
    past_end: Mutex<BTreeSet<u64>>,
}

impl Node {
    fn past_end(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.past_end.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes up to `end` were stored to through a mapping.
    pub(super) fn note_store(&self, end: u64) {
        if end > udax_core::Filesystem::size_bytes(&self.sim) {
            self.past_end().insert((end - 1) / udax_core::PAGE_BYTES);
        }
    }

    /// The storage of these pages went, and what was in it.
    pub(super) fn forget_past_end(&self, range: PageRange) {
        self.past_end().retain(|page| !range.contains(PageIndex(*page)));
    }

    /// Whether there is any such page in `range`, for the rules.
    pub(super) fn looks_past_end(&self, range: PageRange) -> Known {
        let past_end = self.past_end().iter().any(|page| range.contains(PageIndex(*page)));
        Known { past_end, ..Known::default() }
    }

    /// Pages in the file, rounded up.
    pub(super) fn pages(&self) -> u64 {
        udax_core::Filesystem::size_bytes(&self.sim).div_ceil(udax_core::PAGE_BYTES)
    }
}

/// A file by its name in the script.
pub(super) struct File {
    pub(super) node: Arc<Node>,
    pub(super) open: Option<OpenAs>,
    /// Whether the file system still has the name; without, the script goes on naming the descriptor.
    named: bool,
    /// Whether it is a DAX file now.
    pub(super) is_dax: bool,
    /// Its flag, which counts once the inode is read in anew.
    pub(super) wants_dax: bool,
    /// Entries whose mark a layout change may have cleared or not.
    pub(super) unsure: BTreeSet<u64>,
}

impl Player<'_> {
    pub(super) fn file(&self, name: &str) -> Result<&File, Failed> {
        self.files.get(name).ok_or(Failed::NoSuchName)
    }

    pub(super) fn file_mut(&mut self, name: &str) -> Result<&mut File, Failed> {
        self.files.get_mut(name).ok_or(Failed::NoSuchName)
    }

    /// The file behind a descriptor that may read.
    pub(super) fn readable(&self, name: &str) -> Result<Arc<Node>, Failed> {
        let file = self.file(name)?;
        file.open.ok_or(Failed::Errno("EBADF"))?;
        Ok(Arc::clone(&file.node))
    }

    /// The file behind a descriptor that may write, or `errno`.
    pub(super) fn writable(
        &self,
        name: &str,
        errno: &'static str,
    ) -> Result<(Arc<Node>, OpenAs), Failed> {
        let file = self.file(name)?;
        let open = file.open.ok_or(Failed::Errno("EBADF"))?;
        if open.read_only {
            return Err(Failed::Errno(errno));
        }
        Ok((Arc::clone(&file.node), open))
    }

    fn dax_now(&self, wants_dax: bool) -> bool {
        match self.mode {
            DaxMode::Always => true,
            DaxMode::Never => false,
            DaxMode::Inode => wants_dax,
        }
    }

    pub(super) fn create(&mut self, name: &str, size: u64, open: OpenAs) -> Answer {
        if size > self.flavour.largest_file() {
            return Err(Failed::Errno("EFBIG"));
        }
        let is_dax = self.dax_now(false);
        self.inodes += 1;
        let sim = self.fs.create(size);
        let inode = Inode { dev: 0, ino: self.inodes };
        let media = self.fs.media().clone();
        let mapping = Mapping::new(&self.dax, inode, sim.clone(), media);
        let node = Arc::new(Node { sim, mapping, past_end: Mutex::default() });
        let (open, unsure) = (Some(open), BTreeSet::new());
        let file = File { node, open, named: true, is_dax, wants_dax: false, unsure };
        self.files.insert(name.to_owned(), file);
        done()
    }

    pub(super) fn open(&mut self, name: &str, open: OpenAs) -> Answer {
        self.named(name)?.open = Some(open);
        done()
    }

    pub(super) fn close(&mut self, name: &str) -> Answer {
        let file = self.file_mut(name)?;
        file.open.take().ok_or(Failed::Errno("EBADF"))?;
        if !file.named {
            self.drop_unnamed(name)?;
        } else if file.wants_dax != file.is_dax {
            // The kernel does not keep an inode whose flag waits to count.
            self.forget_inode(name);
        }
        done()
    }

    pub(super) fn unlink(&mut self, name: &str) -> Answer {
        self.named(name)?.named = false;
        self.drop_unnamed(name)?;
        done()
    }

    fn named(&mut self, name: &str) -> Result<&mut File, Failed> {
        let file = self.files.get_mut(name).filter(|file| file.named);
        file.ok_or(Failed::Errno("ENOENT"))
    }

    /// Gives the storage back, if neither name, descriptor nor mapping keeps it.
    fn drop_unnamed(&mut self, name: &str) -> Result<(), Failed> {
        let file = self.file(name)?;
        if !file.named && file.open.is_none() && !self.is_mapped(&file.node) {
            file.node.mapping.truncate(0)?;
            self.files.remove(name);
        }
        Ok(())
    }

    /// Reads the inode of a closed file in anew, if nothing keeps it.
    fn forget_inode(&mut self, name: &str) {
        let Some(file) = self.files.get(name) else { return };
        if file.open.is_some() || self.is_mapped(&file.node) {
            return;
        }
        let _ = file.node.mapping.sync(udax_core::PageRange::from(udax_core::PageIndex(0)));
        file.node.mapping.evict();
        let is_dax = self.dax_now(file.wants_dax);
        if let Some(file) = self.files.get_mut(name) {
            file.is_dax = is_dax;
            file.unsure.clear();
        }
    }

    pub(super) fn drop_caches(&mut self, what: u64) -> Answer {
        // The page cache (1) holds nothing of a DAX file that may go while its inode stays.
        if what & 2 != 0 {
            let names: Vec<String> = self.files.keys().cloned().collect();
            for name in names {
                self.forget_inode(&name);
            }
        }
        done()
    }

    pub(super) fn remount(&mut self, options: &str) -> Answer {
        self.mode = match options {
            "dax=always" | "dax" => DaxMode::Always,
            "dax=never" => DaxMode::Never,
            "dax=inode" => DaxMode::Inode,
            _ => return Err(Failed::NotCompared("no mount option but dax= is simulated")),
        };
        done()
    }

    pub(super) fn chattr(&mut self, name: &str, change: &str) -> Answer {
        let wants_dax = match change {
            "+x" => true,
            "-x" => false,
            _ => return Err(Failed::NotCompared("no flag but x is simulated")),
        };
        self.file_mut(name)?.wants_dax = wants_dax;
        done()
    }
}
