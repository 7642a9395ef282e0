//! What was served, what was passed through, and why: `udax run --stats`.

use crate::runtime::Runtime;
use std::fmt;
use std::sync::atomic::Ordering;
use udax_linux::{RunState, SignalsBlocked};

/// Counts of one process, now.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Statistics {
    /// How faults come to user space, by the name that `UDAX_ENGINE` takes; none if nothing was worth serving yet.
    pub engine: Option<&'static str>,
    /// What is in the way of a better one, if something is.
    pub why_not_better: Option<String>,
    /// The files that are served now.
    pub files: Vec<FileStatistics>,
    /// The files that were, and why that ended; the first thousand.
    pub ended: Vec<Ended>,
    /// Mappings that stayed plain, by reason.
    pub passed_through: Vec<PassedThrough>,
    /// Faults that came to user space.
    pub faults: u64,
    /// System calls made for them, and for mapping and unmapping; without those that only wait.
    pub calls: u64,
    /// Zero windows opened.
    pub windows_opened: u64,
    /// Pages in them.
    pub window_pages: u64,
    /// Plain mappings put in.
    pub plain_installs: u64,
    /// Pages in those.
    pub plain_pages: u64,
    /// Leases that others broke.
    pub lease_breaks: u64,
    /// Windows that the program had emptied, made anew.
    pub repairs: u64,
    /// Pages that stores had opened beyond what they touched, and that are holes like any other again.
    pub given_back_pages: u64,
    /// Stores that had missed the file and were saved. Anything but 0 is a bug, or somebody's doing outside.
    pub rescued_pages: u64,
}

/// One file that is served.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct FileStatistics {
    /// Its name when it was first mapped.
    pub path: String,
    /// Why its holes may be shown as zeros.
    pub proof: &'static str,
    /// Bytes mapped, over all its regions.
    pub mapped_bytes: u64,
    /// Of these, shown by the zero page.
    pub zero_bytes: u64,
    /// Of these, not touched yet.
    pub untouched_bytes: u64,
    /// Of these, the file's own pages.
    pub plain_bytes: u64,
    /// Faults that came to user space.
    pub faults: u64,
    /// Mapping entries in the engine.
    pub entries: u64,
}

/// One file that was served.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Ended {
    /// Its name when it was first mapped.
    pub path: String,
    /// Why its service ended.
    pub why: &'static str,
}

/// Mappings that stayed plain for one reason.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct PassedThrough {
    /// The reason.
    pub reason: &'static str,
    /// How many mappings.
    pub count: u64,
}

impl Statistics {
    pub(crate) fn of(runtime: &Runtime) -> Self {
        let _signals = SignalsBlocked::new();
        let mut all = Self { rescued_pages: crate::audit::rescued(), ..Self::default() };
        if let Some(service) = runtime.running() {
            let counts = service.stats().snapshot();
            all.engine = Some(service.engine().name());
            all.why_not_better = service.why_not_better().map(str::to_owned);
            all.faults = counts.faults;
            all.calls = udax_linux::calls_made();
            all.windows_opened = counts.windows_opened;
            all.window_pages = counts.window_pages;
            all.plain_installs = counts.plain_installs;
            all.plain_pages = counts.plain_pages;
            all.lease_breaks = counts.lease_breaks;
            all.repairs = counts.repairs;
            all.given_back_pages = runtime.state.given_back_pages.load(Ordering::Relaxed);
        }
        let files = runtime.state.files();
        let regions = runtime.state.regions();
        for file in files.served.values() {
            let mut of_file = FileStatistics {
                path: file.name.to_string(),
                proof: file.proof_name(),
                mapped_bytes: 0,
                zero_bytes: 0,
                untouched_bytes: 0,
                plain_bytes: 0,
                faults: file.faults.load(Ordering::Relaxed),
                entries: file.mapping.entries(),
            };
            let of_this = |region: &&crate::regions::Region| region.file.key == file.key;
            for run in regions.iter().filter(of_this).flat_map(|region| region.vma.space.runs()) {
                let bytes = run.pages.len() * udax_core::PAGE_BYTES;
                of_file.mapped_bytes += bytes;
                match run.state {
                    RunState::Trap => of_file.untouched_bytes += bytes,
                    RunState::Zero => of_file.zero_bytes += bytes,
                    RunState::Plain => of_file.plain_bytes += bytes,
                }
            }
            all.files.push(of_file);
        }
        let ended = files.ended.iter();
        all.ended = ended.map(|(path, why)| Ended { path: path.clone(), why }).collect();
        let refused = files.refused.iter();
        all.passed_through =
            refused.map(|(&reason, &count)| PassedThrough { reason, count }).collect();
        all
    }
}

/// Bytes as people read them.
fn human(bytes: u64) -> String {
    let (mut value, mut unit) = (bytes, "B");
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1024 || value % 1024 != 0 && value < 10 * 1024 {
            break;
        }
        value /= 1024;
        unit = next;
    }
    format!("{value} {unit}")
}

impl fmt::Display for Statistics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "udax: {} faults in user space by {}, {} zero windows ({}), {} plain installs ({}), {} leases broken",
            self.faults,
            self.engine.unwrap_or("no engine"),
            self.windows_opened,
            human(self.window_pages * udax_core::PAGE_BYTES),
            self.plain_installs,
            human(self.plain_pages * udax_core::PAGE_BYTES),
            self.lease_breaks,
        )?;
        if let Some(why) = &self.why_not_better {
            writeln!(f, "udax: by {}, since {why}", self.engine.unwrap_or("no engine"))?;
        }
        for file in &self.files {
            writeln!(
                f,
                "udax: served {}: {} mapped, {} zeros, {} untouched, {} plain ({})",
                file.path,
                human(file.mapped_bytes),
                human(file.zero_bytes),
                human(file.untouched_bytes),
                human(file.plain_bytes),
                file.proof,
            )?;
        }
        for ended in &self.ended {
            writeln!(f, "udax: served {} until: {}", ended.path, ended.why)?;
        }
        for passed in &self.passed_through {
            writeln!(f, "udax: {} mappings left plain: {}", passed.count, passed.reason)?;
        }
        if self.rescued_pages != 0 {
            writeln!(f, "udax: {} pages had missed the file and were saved", self.rescued_pages)?;
        }
        Ok(())
    }
}
