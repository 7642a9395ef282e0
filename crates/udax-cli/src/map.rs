//! `udax map`: how a file would be mapped, and why.

mod picture;
mod units;

use crate::output::{Verdict, print, print_json, table};
use crate::proc;
use crate::size::human;
use anyhow::{Context, bail};
use rustix::fd::AsFd;
use serde::Serialize;
use std::fmt::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use udax_core::{PAGE_BYTES, PMD_BYTES, PageIndex, PageRange};
use udax_host::{ExtentKind, FdIo, HostKind, SMALLEST_HOLE, extents};
use units::{UnitRun, Units};

/// How a file would be mapped: its extents, what each 2 MiB of it would be, and why not 2 MiB.
#[derive(clap::Args)]
#[command(long_about = "\
How a file would be mapped from its first byte to its last: the extents it has now, and what each 2 MiB unit of it would be.

A unit without any data is shown by the common 2 MiB zero page: reading it costs no memory. In a unit with data, holes of 16 KiB \
and more are shown by small zero pages; the rest is the file's own pages, as every other mapping shows them.

To look, the file is opened for reading. If another process writes it under udax just now, that process goes back to a plain \
mapping.")]
#[command(after_help = "\
Examples:
  udax map disk.img                        a picture and tables
  udax map --all disk.img                  every extent and every run of units
  udax map --json disk.img | jq .units     for a script")]
pub(crate) struct MapArgs {
    /// The file to look at.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Print JSON, with every extent and unit.
    #[arg(long)]
    json: bool,
    /// Print every row of the tables, however many there are.
    #[arg(long)]
    all: bool,
}

/// Rows of a table that are printed without `--all`.
const ROWS: usize = 24;

/// A file as it would be mapped.
#[derive(Serialize)]
struct Layout {
    file: PathBuf,
    file_system: String,
    size_bytes: u64,
    allocated_bytes: u64,
    /// How much of it would be shown by zero pages.
    zero_bytes: u64,
    /// Whether any would.
    served: bool,
    /// What keeps the whole file plain, or might.
    reasons: Vec<String>,
    unit_bytes: u64,
    extents: Vec<Span>,
    units: Vec<UnitRun>,
}

/// The kind of an extent that is one.
const HOLE: &str = "hole";

/// An extent in bytes.
#[derive(Serialize)]
struct Span {
    start: u64,
    length_bytes: u64,
    kind: &'static str,
}

/// Prints how the file would be mapped.
///
/// # Errors
/// If the file cannot be looked at, or standard output not be written.
pub(crate) fn map(args: &MapArgs) -> anyhow::Result<Verdict> {
    let layout = look(&args.file)?;
    if args.json {
        print_json(&layout)?;
    } else {
        print(&text(&layout, if args.all { usize::MAX } else { ROWS }))?;
    }
    Ok(Verdict::Fine)
}

fn look(path: &Path) -> anyhow::Result<Layout> {
    let cannot = |what: &str| format!("cannot {what} {}", path.display());
    let status = std::fs::metadata(path).with_context(|| cannot("look at"))?;
    if !status.is_file() {
        bail!("{} is not a regular file: only those have holes", path.display());
    }
    let file = std::fs::File::open(path).with_context(|| cannot("open"))?;
    let status = file.metadata().with_context(|| cannot("look at"))?;
    let kind = HostKind::of_fd(file.as_fd())
        .map_err(|error| anyhow::anyhow!("{}: {error}", cannot("tell the file system of")))?;
    let io = FdIo::new(file.into());
    let mut units = Units::new();
    let mut spans: Vec<Span> = Vec::new();
    for extent in extents(&io, PageRange::from(PageIndex(0))) {
        let extent =
            extent.map_err(|error| anyhow::anyhow!("{}: {error}", cannot("find the holes of")))?;
        units.add(extent);
        let end = extent.pages.end.byte().min(status.len());
        spans.push(Span {
            start: extent.pages.start.byte(),
            length_bytes: end.saturating_sub(extent.pages.start.byte()),
            kind: match extent.kind {
                ExtentKind::Data => "data",
                ExtentKind::Hole => HOLE,
            },
        });
    }
    let units = units.finish();
    let allocated_bytes = status.blocks() * 512;
    let zero_bytes = zero_bytes(&spans);
    let (served, mut reasons) = judge(kind, status.len(), allocated_bytes, zero_bytes);
    if served && !may_lease(&status) {
        reasons.push("it is another user's: a lease needs its owner, or CAP_LEASE".to_owned());
    }
    Ok(Layout {
        file: path.to_owned(),
        file_system: kind.to_string(),
        size_bytes: status.len(),
        allocated_bytes,
        zero_bytes,
        served: served && reasons.is_empty(),
        reasons,
        unit_bytes: PMD_BYTES,
        extents: spans,
        units,
    })
}

/// Whether a lease on the file can be had at all. Whether it is granted depends on who else has the file open.
fn may_lease(status: &std::fs::Metadata) -> bool {
    status.uid() == rustix::process::geteuid().as_raw() || proc::has_cap_lease()
}

/// The bytes of the holes that are large enough to be shown; the last one always is.
fn zero_bytes(spans: &[Span]) -> u64 {
    let is_last = |at: usize| at + 1 == spans.len();
    let is_shown = |(at, span): &(usize, &Span)| {
        span.kind == HOLE && (is_last(*at) || span.length_bytes >= SMALLEST_HOLE * PAGE_BYTES)
    };
    spans.iter().enumerate().filter(is_shown).map(|(_, span)| span.length_bytes).sum()
}

/// Whether any of the file would be shown by zero pages, and what keeps it from that.
fn judge(kind: HostKind, size: u64, allocated: u64, zero_bytes: u64) -> (bool, Vec<String>) {
    let mut reasons = Vec::new();
    if !kind.supported() {
        reasons.push(format!("{kind} is not one that is served: ext2/3/4, XFS, btrfs, tmpfs are"));
    }
    if size < PMD_BYTES {
        reasons.push("it is smaller than 2 MiB".to_owned());
    } else if size.saturating_sub(allocated) < PMD_BYTES {
        reasons.push("it is not sparse: nearly all of it has storage".to_owned());
    } else if zero_bytes == 0 {
        reasons.push("no hole of it is as large as 16 KiB".to_owned());
    }
    (reasons.is_empty(), reasons)
}

fn text(layout: &Layout, rows: usize) -> String {
    let mut text = format!(
        "{}: {} on {}, {} of storage\n",
        layout.file.display(),
        human(layout.size_bytes),
        layout.file_system,
        human(layout.allocated_bytes),
    );
    text.push_str(&summary(layout));
    if layout.units.is_empty() {
        return text;
    }
    text.push('\n');
    text.push_str(&picture::picture(&layout.units));
    let mut table_of_extents = table(["from", "to", "length", "extent"], &[0, 1, 2]);
    for span in layout.extents.iter().take(rows) {
        let end = span.start + span.length_bytes;
        let length = human(span.length_bytes);
        table_of_extents.add_row([hex(span.start), hex(end), length, span.kind.to_owned()]);
    }
    let _ = writeln!(text, "\nExtents\n{table_of_extents}");
    text.push_str(&left_out(layout.extents.len(), rows, "extents"));
    let mut table_of_units = table(["from", "units", "would be", "why not 2 MiB"], &[0, 1]);
    for run in layout.units.iter().take(rows) {
        let (becomes, why) = (run.becomes.words(), run.why());
        table_of_units.add_row([hex(run.start_bytes()), run.units.to_string(), becomes, why]);
    }
    let _ = writeln!(text, "\nUnits of 2 MiB\n{table_of_units}");
    text.push_str(&left_out(layout.units.len(), rows, "runs of units"));
    text
}

fn summary(layout: &Layout) -> String {
    let zeros = layout.zero_bytes;
    if layout.reasons.is_empty() {
        let own = layout.size_bytes.saturating_sub(zeros);
        return format!(
            "Would be served: {} by zero pages, {} by the file's own, if nobody else has it open.\n",
            human(zeros),
            human(own)
        );
    }
    format!("Would be mapped plainly, as without udax: {}.\n", layout.reasons.join("; "))
}

fn hex(bytes: u64) -> String {
    format!("{bytes:#x}")
}

fn left_out(all: usize, shown: usize, what: &str) -> String {
    match all.checked_sub(shown) {
        None | Some(0) => String::new(),
        Some(more) => format!("... and {more} more {what} (--all shows them)\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_for_a_plain_mapping_is_told() {
        let reason = |kind, size, allocated| {
            let (served, reasons) = judge(kind, size, allocated, 0);
            assert!(!served);
            reasons.join("; ")
        };
        assert!(reason(HostKind::Other(1), 4 << 20, 0).contains("file system 0x1"));
        assert!(reason(HostKind::Tmpfs, 4096, 0).contains("smaller"));
        assert!(reason(HostKind::Tmpfs, 4 << 20, 4 << 20).contains("not sparse"));
        assert!(reason(HostKind::Tmpfs, 4 << 20, 0).contains("no hole of it"));
    }
}
