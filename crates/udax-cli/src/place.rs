//! Where the files of the experiment are made, and how much fits there.

use crate::account;
use crate::output::CannotWork;
use crate::size::human;
use anyhow::{Context, bail};
use rustix::fd::AsFd;
use std::fs::File;
use std::path::{Path, PathBuf};
use udax_core::PAGE_BYTES;
use udax_host::HostKind;

/// Files below this have no hole worth a 2 MiB page.
pub(crate) const SMALLEST_BYTES: u64 = 4 << 20;
/// What is taken if nothing is said.
const USUAL_BYTES: u64 = 1 << 30;

/// A directory to make files in.
pub(crate) struct Place {
    directory: PathBuf,
    kind: HostKind,
}

impl Place {
    /// The directory that was asked for, or a usual one.
    ///
    /// # Errors
    /// If no file can be made there; `CannotWork` if files there are not served.
    pub(crate) fn choose(asked: Option<&Path>) -> anyhow::Result<Self> {
        let memory = Path::new("/dev/shm");
        let directory = match asked {
            Some(directory) => directory.to_owned(),
            None if tempfile::tempfile_in(memory).is_ok() => memory.to_owned(),
            None => std::env::current_dir().context("there is no current directory")?,
        };
        let file = nameless(&directory)?;
        let kind = HostKind::of_fd(file.as_fd()).map_err(|error| {
            anyhow::anyhow!("cannot tell the file system of {}: {error}", directory.display())
        })?;
        if !kind.supported() {
            let why = format!(
                "{} is on {kind}, and only ext2/3/4, XFS, btrfs and tmpfs are served (--dir names another)",
                directory.display()
            );
            return Err(CannotWork(why).into());
        }
        Ok(Self { directory, kind })
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) const fn kind(&self) -> HostKind {
        self.kind
    }

    /// An empty file of this size without a name: it is gone as soon as nobody has it, however this process ends.
    ///
    /// # Errors
    /// If it cannot be made, or not be that large.
    pub(crate) fn make(&self, size_bytes: u64) -> anyhow::Result<File> {
        let file = nameless(&self.directory)?;
        file.set_len(size_bytes).with_context(|| {
            format!("cannot make a file of {} in {}", human(size_bytes), self.directory.display())
        })?;
        Ok(file)
    }

    /// The size to use, in whole pages.
    ///
    /// # Errors
    /// If the size asked for is too small, or there is no room.
    pub(crate) fn size_that_fits(&self, asked: Option<u64>) -> anyhow::Result<u64> {
        fit(asked, self.room()?).with_context(|| {
            let there = self.directory.display();
            format!("cannot use {there}, where the plain mapping fills what it reads")
        })
    }

    /// How much the plain mapping may fill; `None` if that is no matter, because the page cache gives it back.
    fn room(&self) -> anyhow::Result<Option<u64>> {
        if self.kind != HostKind::Tmpfs {
            return Ok(None);
        }
        let status = rustix::fs::statvfs(&self.directory)
            .with_context(|| format!("cannot look at {}", self.directory.display()))?;
        let free = status.f_bavail.saturating_mul(status.f_frsize);
        // Not the last byte: others need memory too.
        let memory = account::available_memory().map_or(u64::MAX, |bytes| bytes / 4 * 3);
        Ok(Some(free.min(memory)))
    }
}

fn nameless(directory: &Path) -> anyhow::Result<File> {
    tempfile::tempfile_in(directory)
        .with_context(|| format!("cannot make a file in {}", directory.display()))
}

fn fit(asked: Option<u64>, room: Option<u64>) -> anyhow::Result<u64> {
    let fits = |bytes: u64| room.is_none_or(|room| bytes <= room);
    let Some(asked) = asked else {
        let halves = std::iter::successors(Some(USUAL_BYTES), |bytes| Some(bytes / 2));
        let mut sizes = halves.take_while(|&bytes| bytes >= SMALLEST_BYTES);
        return sizes.find(|&bytes| fits(bytes)).with_context(|| too_large(SMALLEST_BYTES, room));
    };
    if asked < SMALLEST_BYTES {
        bail!("{} is too small: take {} or more", human(asked), human(SMALLEST_BYTES));
    }
    let size = asked.checked_next_multiple_of(PAGE_BYTES).filter(|&bytes| bytes <= LARGEST_BYTES);
    let size = size.with_context(|| format!("{} is too large", human(asked)))?;
    if !fits(size) {
        bail!(too_large(size, room));
    }
    Ok(size)
}

/// More cannot be mapped by a process on some machines.
const LARGEST_BYTES: u64 = 1 << 45;

fn too_large(size: u64, room: Option<u64>) -> String {
    format!("{} does not fit, {} is free", human(size), human(room.unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_size_the_largest_that_fits_is_taken() {
        assert_eq!(fit(None, None).ok(), Some(1 << 30));
        assert_eq!(fit(None, Some(64 << 20)).ok(), Some(64 << 20));
        assert_eq!(fit(None, Some(100 << 20)).ok(), Some(64 << 20));
        assert!(fit(None, Some(1 << 20)).is_err());
    }

    #[test]
    fn a_size_that_was_asked_for_is_kept_or_refused() {
        assert_eq!(fit(Some((8 << 20) + 1), None).ok(), Some((8 << 20) + 4096));
        for (asked, room) in
            [(4096, None), (u64::MAX, None), (1 << 46, None), (8 << 20, Some(7 << 20))]
        {
            assert!(fit(Some(asked), room).is_err(), "{asked}");
        }
    }
}
