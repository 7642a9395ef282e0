//! `udax bench`: udax beside the program's own mmap(2) and beside the floor, by turns.

mod engine;
mod goal;
mod pattern;
mod plot;
mod report;
mod sample;
mod way;
mod work;
mod worker;

use crate::output::{CannotWork, Verdict, print, print_json};
use crate::place::Place;
use crate::progress::Progress;
use crate::size;
use anyhow::{Context, bail};
use engine::Part;
use pattern::Pattern;
use report::Row;
use sample::Sample;
use serde::Serialize;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use way::Way;
use worker::Task;

/// Measure udax beside the program's own mmap and beside the best that the kernel could do.
#[derive(clap::Args)]
#[command(long_about = "\
Measure udax beside the program's own mmap and beside the best that the kernel could do.

Each pattern of access is run by turns, each time in a new process on a new file without a name: through the kernel's own mapping \
(plain), through udax, and on memory without a file (floor). A ratio is that of two neighbouring runs; shown are medians of all runs, \
with the quartiles of the ratio. A goal holds if the median of its ratio is no larger.

The engine alone (engine-...) is compared with what does the same work elsewhere: a lock, a map, and Linux's own DAX, whose instructions were counted once and for all. \
Instructions are counted by valgrind, if that is installed; they are the same in each run.")]
#[command(after_help = "\
Examples:
  udax bench                                  everything on tmpfs; some minutes
  udax bench --dir /var/tmp                   on a disk
  udax bench read-hole mixed --runs 15        two patterns
  udax bench engine-lock engine-memory        the engine alone
  udax bench --json > run.json                for a script, every single run included
  udax bench --svg run.svg                    how the ratios are distributed

Exit codes: 0 all goals hold, 1 one does not, 2 the command line is wrong or there is no room, 125 udax cannot work here.")]
pub(crate) struct BenchArgs {
    /// What to measure [default: all].
    #[arg(value_name = "PATTERN")]
    patterns: Vec<Pattern>,
    /// Where the files are made [default: /dev/shm, or else the current directory].
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// How large they are [default: 1GiB, or what there is room for].
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    size: Option<u64>,
    /// How many times each way has its turn.
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Write a plot of the ratios to a file.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// One run, for this command's own use.
    #[arg(long, hide = true, exclusive = true, value_name = "TASK")]
    task: Option<String>,
}

/// All that was measured.
#[derive(Serialize)]
struct Bench {
    directory: PathBuf,
    file_system: String,
    size_bytes: u64,
    runs: u32,
    rows: Vec<Row>,
    /// And why.
    not_measured: Vec<(Pattern, &'static str)>,
    holds: bool,
}

/// Measures, and prints it.
///
/// # Errors
/// `CannotWork` where faults cannot be served; anything else is a file that cannot be had.
pub(crate) fn bench(args: &BenchArgs) -> anyhow::Result<Verdict> {
    if let Some(task) = &args.task {
        worker::work(task)?;
        return Ok(Verdict::Fine);
    }
    udax_linux::probe().engine().map_err(CannotWork)?;
    let place = Place::choose(args.dir.as_deref())?;
    let size_bytes = place.size_that_fits(args.size)?;
    let patterns = if args.patterns.is_empty() { Pattern::all() } else { &args.patterns };
    let progress = Progress::new(patterns.len() as u64 * u64::from(args.runs));
    let (mut rows, mut not_measured) = (Vec::new(), Vec::new());
    for &pattern in patterns {
        if let Some(why) = pattern.part().and_then(Part::missing) {
            not_measured.push((pattern, why));
            continue;
        }
        let samples = by_turns(pattern, &place, size_bytes, args.runs, &progress)?;
        rows.push(Row::new(pattern, place.kind(), samples));
    }
    drop(progress);
    let found = Bench {
        directory: place.directory().to_owned(),
        file_system: place.kind().to_string(),
        size_bytes,
        runs: args.runs,
        holds: rows.iter().all(Row::holds),
        rows,
        not_measured,
    };
    if let Some(path) = &args.svg {
        let title = format!(
            "{} on {}, {}",
            found.directory.display(),
            found.file_system,
            size::human(size_bytes)
        );
        plot::write(path, &found.rows, &title)?;
    }
    if args.json {
        print_json(&found)?;
    } else {
        print(&report::text(&found))?;
    }
    Ok(if found.holds { Verdict::Fine } else { Verdict::Failed })
}

/// The samples of one pattern; those of one turn follow each other.
fn by_turns(
    pattern: Pattern,
    place: &Place,
    size_bytes: u64,
    runs: u32,
    progress: &Progress,
) -> anyhow::Result<Vec<(Way, Sample)>> {
    let mut samples = Vec::new();
    let runs = if pattern.part().is_some_and(Part::is_exact) { 1 } else { runs };
    for run in 0..runs {
        progress.step(pattern.name());
        for way in Way::ALL {
            if way == Way::Floor && !pattern.has_floor() {
                continue;
            }
            let directory = place.directory().to_owned();
            let task = Task { pattern, way, directory, size_bytes, seed: u64::from(run) };
            let sample = run_apart(&task)
                .with_context(|| format!("cannot measure {} ({way:?})", pattern.name()))?;
            samples.push((way, sample));
        }
    }
    Ok(samples)
}

/// One run in a process of its own.
fn run_apart(task: &Task) -> anyhow::Result<Sample> {
    let program = std::env::current_exe().context("cannot find this program's file")?;
    let output = Command::new(program)
        .args(["bench", "--task", &serde_json::to_string(task)?])
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start another process")?;
    if !output.status.success() {
        bail!("the process that measures ended with {}", output.status);
    }
    serde_json::from_slice(&output.stdout).context("the process that measures said nothing useful")
}
