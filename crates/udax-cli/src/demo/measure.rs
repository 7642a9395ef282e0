//! Reading a mapping, and what that costs.

use crate::account::{self, Memory, Smaps};
use anyhow::Context;
use serde::Serialize;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};
use udax::SharedMap;
use udax_core::PAGE_BYTES;
use udax_linux::Mapped;

/// A mapping that can be read.
pub(super) trait Loads {
    /// Copies bytes out of it.
    fn load(&self, at: usize, into: &mut [u8]);
    /// The addresses of its bytes.
    fn addresses(&self) -> Range<usize>;
}

impl Loads for Mapped {
    fn load(&self, at: usize, into: &mut [u8]) {
        Self::load(self, at, into);
    }

    fn addresses(&self) -> Range<usize> {
        self.address()..self.address() + self.length_bytes()
    }
}

impl Loads for SharedMap {
    fn load(&self, at: usize, into: &mut [u8]) {
        Self::load(self, at, into);
    }

    fn addresses(&self) -> Range<usize> {
        Self::addresses(self)
    }
}

/// What reading every page cost.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Measured {
    /// How long it took.
    #[serde(rename = "time_us", serialize_with = "micros")]
    pub(crate) time: Duration,
    /// Page faults of the whole process.
    pub(crate) page_faults: u64,
    /// Of these, how many were served in user space.
    pub(crate) user_space_faults: u64,
    /// How much the memory of the process grew.
    pub(crate) memory: Memory,
    /// How much storage the file took more than before.
    pub(crate) storage_bytes: u64,
    /// Bytes that were read and were not zero.
    pub(crate) nonzero_bytes: u64,
    /// The kernel's account of the mapping.
    pub(crate) smaps: Smaps,
}

fn micros<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
}

/// Storage that a file takes.
pub(super) fn storage_bytes(file: &File) -> anyhow::Result<u64> {
    let status = file.metadata().context("cannot look at the file that was just made")?;
    Ok(status.blocks() * 512)
}

/// Reads eight bytes of every page of `map`, a mapping of `file`.
///
/// # Errors
/// If the kernel does not tell about this process.
pub(super) fn measure(map: &impl Loads, file: &File) -> anyhow::Result<Measured> {
    let storage = storage_bytes(file)?;
    let user_space_faults = udax::statistics().faults;
    let memory = Memory::now()?;
    let page_faults = account::page_faults()?;
    let begun = Instant::now();
    let nonzero_bytes = read_every_page(map);
    let time = begun.elapsed();
    Ok(Measured {
        time,
        page_faults: account::page_faults()?.saturating_sub(page_faults),
        memory: Memory::now()?.since(memory),
        user_space_faults: udax::statistics().faults.saturating_sub(user_space_faults),
        storage_bytes: storage_bytes(file)?.saturating_sub(storage),
        nonzero_bytes,
        smaps: Smaps::of(&map.addresses())?,
    })
}

/// How many of the bytes were not zero.
fn read_every_page(map: &impl Loads) -> u64 {
    let length = map.addresses().len();
    let page = usize::try_from(PAGE_BYTES).unwrap_or(4096);
    let mut nonzero_bytes = 0;
    for (number, start) in (0..length).step_by(page).enumerate() {
        let mut word = [0; 8];
        // Another place in every page, so that no cache line is spared.
        map.load(start + number * word.len() % page, &mut word);
        if word != [0; 8] {
            nonzero_bytes += word.iter().filter(|&&byte| byte != 0).count() as u64;
        }
    }
    nonzero_bytes
}
