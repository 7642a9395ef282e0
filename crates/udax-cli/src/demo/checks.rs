//! What must hold for the experiment to have succeeded.

use super::measure::Measured;
use super::report::human_time;
use super::stores::Stored;
use crate::size::human;
use serde::Serialize;
use udax_host::HostKind;

/// Memory that reading through udax may take at most, for each GiB begun: a mapping entry for every 2 MiB is kept.
const MEMORY_BYTES_PER_GIB: u64 = 128 << 10;
/// How many times faster udax must be on tmpfs.
const RATIO: f64 = 100.0;
/// Below this, fixed costs decide the time.
const RATIO_FROM_BYTES: u64 = 256 << 20;

/// Something that must hold.
#[derive(Debug, Serialize)]
pub(crate) struct Check {
    /// What.
    pub(crate) name: &'static str,
    /// Whether it does.
    pub(crate) passed: bool,
    /// What was found.
    pub(crate) detail: String,
}

/// How many times faster udax was.
pub(super) fn ratio(plain: &Measured, udax: &Measured) -> f64 {
    plain.time.as_secs_f64() / udax.time.as_secs_f64().max(1e-9)
}

/// All checks.
pub(super) fn all(
    kind: HostKind,
    size_bytes: u64,
    plain: &Measured,
    udax: &Measured,
    stored: &Stored,
) -> Vec<Check> {
    let allowed_bytes = MEMORY_BYTES_PER_GIB * size_bytes.div_ceil(1 << 30);
    let nonzero_bytes = plain.nonzero_bytes + udax.nonzero_bytes;
    let mut checks = vec![
        Check {
            name: "every byte read from the hole was zero",
            passed: nonzero_bytes == 0,
            detail: format!("{nonzero_bytes} were not"),
        },
        Check {
            name: "reading through udax took no memory to speak of",
            passed: udax.memory.rss_bytes < allowed_bytes,
            detail: format!("{}, allowed {}", human(udax.memory.rss_bytes), human(allowed_bytes)),
        },
        Check {
            name: "reading through udax took no storage",
            passed: udax.storage_bytes == 0,
            detail: human(udax.storage_bytes),
        },
    ];
    if kind == HostKind::Tmpfs && size_bytes >= RATIO_FROM_BYTES {
        checks.push(Check {
            name: "reading through udax took a hundredth of the time",
            passed: ratio(plain, udax) >= RATIO,
            detail: format!("{} against {}", human_time(udax.time), human_time(plain.time)),
        });
    }
    checks.push(Check {
        name: "the stored bytes are in the file, and nothing else",
        passed: stored.found_bytes == stored.bytes && stored.wrong_bytes == 0,
        detail: format!(
            "{} of {} found, {} wrong",
            stored.found_bytes, stored.bytes, stored.wrong_bytes
        ),
    });
    checks.push(Check {
        name: "the file is still sparse",
        passed: stored.storage_bytes <= size_bytes / 2,
        detail: format!(
            "{} of storage for {} stored pages",
            human(stored.storage_bytes),
            stored.pages
        ),
    });
    checks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::Memory;
    use std::time::Duration;

    const SIZE: u64 = 1 << 30;

    fn good() -> (Measured, Measured, Stored) {
        let timed =
            |micros| Measured { time: Duration::from_micros(micros), ..Measured::default() };
        let stored = Stored { pages: 1, bytes: 64, found_bytes: 64, ..Stored::default() };
        (timed(1_000_000), timed(5000), stored)
    }

    fn failed(kind: HostKind, plain: &Measured, udax: &Measured, stored: &Stored) -> usize {
        all(kind, SIZE, plain, udax, stored).iter().filter(|check| !check.passed).count()
    }

    #[test]
    fn each_broken_promise_fails_a_check() {
        let tmpfs = HostKind::Tmpfs;
        let (plain, udax, stored) = good();
        assert_eq!(failed(tmpfs, &plain, &udax, &stored), 0);
        type Breaking = fn(&mut Measured, &mut Stored);
        let breakings: [Breaking; 7] = [
            |udax, _| udax.nonzero_bytes = 1,
            |udax, _| udax.memory = Memory { rss_bytes: 128 << 10, ..Memory::default() },
            |udax, _| udax.storage_bytes = 4096,
            |udax, _| udax.time = Duration::from_millis(11),
            |_, stored| stored.found_bytes = 63,
            |_, stored| stored.wrong_bytes = 1,
            |_, stored| stored.storage_bytes = SIZE,
        ];
        for (number, breaking) in breakings.into_iter().enumerate() {
            let (plain, mut udax, mut stored) = good();
            breaking(&mut udax, &mut stored);
            assert_eq!(failed(tmpfs, &plain, &udax, &stored), 1, "breaking {number}");
        }
    }

    #[test]
    fn time_is_a_check_on_large_tmpfs_files_only() {
        let (plain, mut udax, stored) = good();
        udax.time = plain.time;
        assert_eq!(failed(HostKind::Ext, &plain, &udax, &stored), 0);
        assert!(all(HostKind::Tmpfs, 64 << 20, &plain, &udax, &stored).iter().all(|c| c.passed));
    }
}
