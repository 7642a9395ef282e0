//! `udax demo`: the experiment that started it.

mod checks;
mod measure;
mod report;
mod stores;

use crate::output::{CannotWork, Verdict, print, print_json};
use crate::place::{self, Place};
use crate::progress::Progress;
use crate::size;
use checks::Check;
use measure::{Measured, measure};
use serde::Serialize;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use stores::Stored;
use udax::{MmapOptions, SharedMap};
use udax_core::PAGE_BYTES;
use udax_linux::{Mapped, Prot, Sharing};

/// Read a sparse file through a plain mapping and through udax, side by side, and check what udax promises.
#[derive(clap::Args)]
#[command(long_about = "\
Read a sparse file through a plain mapping and through udax, side by side, and check what udax promises.

It makes an empty file of the given size, reads every page of it through a plain mapping, and of a second one through udax. It \
prints what that cost: time, page faults, memory, storage, and the kernel's own account of the mapping (/proc/self/smaps). Then it \
stores to a few pages through udax, syncs, and checks by ordinary reads of a newly opened descriptor that the file holds exactly \
those bytes, and is still sparse.

The files have no name: nothing is left behind, however the command ends.")]
#[command(after_help = "\
Examples:
  udax demo                              1 GiB on tmpfs
  udax demo --size 4GiB --dir /var/tmp   on a disk
  udax demo --json | jq .checks          for a script

Exit codes: 0 all checks passed, 1 a check failed, 2 the command line is wrong or there is no room, 125 udax cannot work here.")]
pub(crate) struct DemoArgs {
    /// How large the file is: 64MiB, 1G, ... [default: 1GiB, or what there is room for]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    size: Option<u64>,
    /// Where the file is made [default: /dev/shm, or else the current directory]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// All that was found out.
#[derive(Serialize)]
struct Demo {
    directory: PathBuf,
    file_system: String,
    size_bytes: u64,
    pages: u64,
    plain: Measured,
    udax: Measured,
    /// Why holes may be shown as zeros.
    proof: Option<&'static str>,
    /// How many times faster udax was.
    ratio: f64,
    stored: Stored,
    checks: Vec<Check>,
    passed: bool,
}

/// Does the experiment, and prints it.
///
/// # Errors
/// `CannotWork` where faults cannot be served; anything else is a file that cannot be had.
pub(crate) fn demo(args: &DemoArgs) -> anyhow::Result<Verdict> {
    udax_linux::probe().engine().map_err(CannotWork)?;
    let place = Place::choose(args.dir.as_deref())?;
    let size_bytes = place.size_that_fits(args.size)?;
    let found = experiment(&place, size_bytes)?;
    if args.json {
        print_json(&found)?;
    } else {
        print(&report::text(&found))?;
    }
    Ok(if found.passed { Verdict::Fine } else { Verdict::Failed })
}

fn experiment(place: &Place, size_bytes: u64) -> anyhow::Result<Demo> {
    let progress = Progress::new(4);
    progress.step("warming up");
    // Whatever is there but once (threads, code, buffers) is not to count for one of the two.
    for _ in 0..2 {
        let _ = read_plainly(place, place::SMALLEST_BYTES)?;
        let (file, map) = serve(place, place::SMALLEST_BYTES)?;
        let _ = measure(&map, &file)?;
    }
    progress.step("reading through a plain mapping");
    let plain = read_plainly(place, size_bytes)?;
    progress.step("reading through udax");
    let (file, map) = serve(place, size_bytes)?;
    let udax = measure(&map, &file)?;
    let proof = map.report().proof;
    progress.step("storing, syncing and looking at the file");
    let stored = stores::store_and_look(&map, &file, size_bytes)?;
    drop(progress);
    let checks = checks::all(place.kind(), size_bytes, &plain, &udax, &stored);
    Ok(Demo {
        directory: place.directory().to_owned(),
        file_system: place.kind().to_string(),
        size_bytes,
        pages: size_bytes / PAGE_BYTES,
        ratio: checks::ratio(&plain, &udax),
        proof,
        passed: checks.iter().all(|check| check.passed),
        plain,
        udax,
        stored,
        checks,
    })
}

/// Reads a fresh file through the kernel's own mapping; what that has filled goes with it.
fn read_plainly(place: &Place, size_bytes: u64) -> anyhow::Result<Measured> {
    let file = place.make(size_bytes)?;
    let rights = Prot::from_bits(READ | WRITE);
    let length = usize::try_from(size_bytes)?;
    let map = Mapped::new(file.as_raw_fd(), 0, length, Sharing::Shared, rights, 0)
        .map_err(|errno| anyhow::anyhow!("cannot map {}: {errno}", size::human(size_bytes)))?;
    measure(&map, &file)
}

/// `PROT_READ` and `PROT_WRITE` of mmap(2).
const READ: i32 = 1;
const WRITE: i32 = 2;

/// Maps a fresh file through udax.
fn serve(place: &Place, size_bytes: u64) -> anyhow::Result<(File, SharedMap)> {
    let file = place.make(size_bytes)?;
    let map = MmapOptions::new().map_shared(&file)?;
    match map.report().plain_because {
        Some(why) => {
            let place = place.directory().display();
            Err(CannotWork(format!("a file in {place} gets a plain mapping: {why}")).into())
        }
        None => Ok((file, map)),
    }
}
