//! What the kernel tells of this process under /proc: its memory, its faults, its mappings.

use anyhow::Context;
use serde::Serialize;
use std::ops::Range;

fn text_of(path: &str) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))
}

/// The number behind `name:` in lines of the form `name:   123 kB`.
fn field(text: &str, name: &str) -> Option<u64> {
    let behind = |line: &str| line.strip_prefix(name)?.strip_prefix(':').map(str::to_owned);
    let value = text.lines().find_map(behind)?;
    value.split_whitespace().next()?.parse().ok()
}

/// The memory that this process has, in bytes, as `/proc/self/status` tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Memory {
    /// All of it.
    pub(crate) rss_bytes: u64,
    /// Its own.
    pub(crate) anonymous_bytes: u64,
    /// Pages of files.
    pub(crate) file_bytes: u64,
    /// Pages of tmpfs files and of shared memory.
    pub(crate) shmem_bytes: u64,
    /// Page tables.
    #[serde(skip)]
    pub(crate) table_bytes: u64,
}

impl Memory {
    /// Now.
    ///
    /// # Errors
    /// If there is no /proc.
    pub(crate) fn now() -> anyhow::Result<Self> {
        Ok(Self::of(&text_of("/proc/self/status")?))
    }

    /// From the text of status.
    pub(crate) fn of(status: &str) -> Self {
        let bytes = |name| field(status, name).unwrap_or(0).saturating_mul(1024);
        Self {
            rss_bytes: bytes("VmRSS"),
            anonymous_bytes: bytes("RssAnon"),
            file_bytes: bytes("RssFile"),
            shmem_bytes: bytes("RssShmem"),
            table_bytes: bytes("VmPTE"),
        }
    }

    /// What came since `before`; what went counts as nothing.
    pub(crate) const fn since(self, before: Self) -> Self {
        Self {
            rss_bytes: self.rss_bytes.saturating_sub(before.rss_bytes),
            anonymous_bytes: self.anonymous_bytes.saturating_sub(before.anonymous_bytes),
            file_bytes: self.file_bytes.saturating_sub(before.file_bytes),
            shmem_bytes: self.shmem_bytes.saturating_sub(before.shmem_bytes),
            table_bytes: self.table_bytes.saturating_sub(before.table_bytes),
        }
    }
}

/// Page faults of this process so far, of all its threads: the minor and major ones of getrusage(2).
///
/// # Errors
/// If `/proc/self/stat` cannot be read or understood.
pub(crate) fn page_faults() -> anyhow::Result<u64> {
    faults_of(&text_of("/proc/self/stat")?).context("cannot understand /proc/self/stat")
}

/// How many VMAs this process has.
///
/// # Errors
/// If there is no /proc.
pub(crate) fn vmas() -> anyhow::Result<u64> {
    Ok(text_of("/proc/self/maps")?.lines().count() as u64)
}

/// The minor and major faults in a line of stat.
pub(crate) fn faults_of(stat: &str) -> Option<u64> {
    // The second field is a name in brackets that may hold anything, spaces too: count from its end.
    let (_, fields) = stat.rsplit_once(')')?;
    let number = |at: usize| fields.split_whitespace().nth(at)?.parse::<u64>().ok();
    number(7)?.checked_add(number(9)?)
}

/// Memory that could be had without swapping, in bytes; `None` if the kernel does not tell.
pub(crate) fn available_memory() -> Option<u64> {
    Some(field(&text_of("/proc/meminfo").ok()?, "MemAvailable")?.saturating_mul(1024))
}

/// The lines of `/proc/self/smaps` for some addresses, added up over the VMAs there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Smaps {
    /// How many VMAs.
    pub(crate) vmas: u64,
    /// Each line's name and its sum in KiB, in the kernel's order.
    #[serde(rename = "kib", serialize_with = "as_map")]
    pub(crate) lines: Vec<(String, u64)>,
}

fn as_map<S: serde::Serializer>(lines: &[(String, u64)], to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(lines.iter().map(|(name, kib)| (name, kib)))
}

impl Smaps {
    /// Of the VMAs that lie in `addresses`.
    ///
    /// # Errors
    /// If `/proc/self/smaps` cannot be read.
    pub(crate) fn of(addresses: &Range<usize>) -> anyhow::Result<Self> {
        Ok(Self::parse(&text_of("/proc/self/smaps")?, addresses))
    }

    /// One line's sum in KiB; 0 if there is no such line.
    pub(crate) fn kib(&self, name: &str) -> u64 {
        self.lines.iter().find(|(known, _)| known == name).map_or(0, |(_, kib)| *kib)
    }

    /// Of the VMAs in a text that lie in `addresses`.
    pub(crate) fn parse(text: &str, addresses: &Range<usize>) -> Self {
        let mut sum = Self::default();
        let mut inside = false;
        for line in text.lines() {
            if let Some(vma) = addresses_of(line) {
                inside = vma.start >= addresses.start && vma.end <= addresses.end;
                sum.vmas += u64::from(inside);
            } else if inside {
                sum.add(line);
            }
        }
        sum
    }

    fn add(&mut self, line: &str) {
        let Some((name, value)) = line.split_once(':') else { return };
        let kib = value.trim().strip_suffix(" kB").and_then(|number| number.parse::<u64>().ok());
        // Page sizes do not add up.
        let Some(kib) = kib.filter(|_| !name.ends_with("PageSize")) else { return };
        match self.lines.iter_mut().find(|(known, _)| known == name) {
            Some((_, total)) => *total = total.saturating_add(kib),
            None => self.lines.push((name.to_owned(), kib)),
        }
    }
}

/// The addresses in a line that begins a VMA: `7f00-8f00 rw-p ...`.
fn addresses_of(line: &str) -> Option<Range<usize>> {
    let (start, end) = line.split_whitespace().next()?.split_once('-')?;
    let number = |text| usize::from_str_radix(text, 16).ok();
    let addresses = number(start)?..number(end)?;
    (!addresses.is_empty()).then_some(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
1000-3000 rw-s 00000000 00:1b 7      /dev/shm/a (deleted)
Size:                  8 kB
KernelPageSize:        4 kB
Rss:                   4 kB
VmFlags: rd wr sh
3000-4000 rw-p 00000000 00:00 0
Size:                  4 kB
Rss:                   4 kB
Anonymous:             4 kB
9000-a000 r--p 00000000 00:00 0      [heap]
Size:                  4 kB
Rss:                   4 kB
";

    #[test]
    fn smaps_are_summed_over_the_vmas_in_the_range_only() {
        let found = Smaps::parse(SMAPS, &(0x1000..0x4000));
        assert_eq!(found.vmas, 2);
        assert_eq!((found.kib("Size"), found.kib("Rss"), found.kib("Anonymous")), (12, 8, 4));
        assert_eq!(found.kib("KernelPageSize"), 0);
    }

    #[test]
    fn a_line_of_no_addresses_begins_no_vma() {
        for addresses in ["3000-1000", "3000-3000", "-", "-3000"] {
            let found = Smaps::parse(&format!("{addresses} rw-p 0 0:0 0\n"), &(0..usize::MAX));
            assert_eq!(found.vmas, 0, "{addresses}");
        }
    }

    #[test]
    fn memory_is_read_from_status_and_growth_never_negative() {
        let status =
            "Name:\tx\nVmRSS:\t  12 kB\nRssAnon:\t 4 kB\nRssFile:\t 8 kB\nRssShmem:\t0 kB\n";
        let memory = Memory::of(status);
        assert_eq!((memory.rss_bytes, memory.anonymous_bytes), (12 << 10, 4 << 10));
        assert_eq!(Memory::default().since(memory), Memory::default());
    }

    #[test]
    fn numbers_that_are_too_large_are_as_large_as_can_be() {
        let most = u64::MAX;
        assert_eq!(Memory::of(&format!("VmRSS: {most} kB\n")).rss_bytes, most);
        let vma = format!("1000-2000 rw-p 0 0:0 0\nRss: {most} kB\n");
        assert_eq!(Smaps::parse(&vma.repeat(2), &(0..usize::MAX)).kib("Rss"), most);
        assert_eq!(faults_of(&format!("7 (a) S 1 2 3 4 5 6 {most} 0 {most} 0")), None);
    }

    #[test]
    fn faults_are_found_behind_a_name_with_spaces_and_brackets() {
        let stat = "7 (a ) b) S 1 2 3 4 5 6 100 0 20 0 7 8 9";
        assert_eq!(faults_of(stat), Some(120));
        assert!(page_faults().unwrap() > 0);
    }
}
