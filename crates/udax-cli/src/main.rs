//! The command `udax`.
#![forbid(unsafe_code)]

mod account;
mod output;
mod place;
mod proc;
mod progress;
mod size;

mod bench;
mod demo;
mod info;
mod map;
mod run;

use clap::{Parser, Subcommand};
use output::{CannotWork, Verdict};
use std::process::ExitCode;

/// Map any sparse file directly: loads from holes cost no memory, stores reach the file.
#[derive(Parser)]
#[command(name = "udax", version, max_term_width = 100, arg_required_else_help = true)]
#[command(long_about = "\
Map any sparse file directly: loads from holes cost no memory, stores reach the file.

On Linux, reading a hole of a sparse file through mmap fills it: tmpfs allocates a page of memory for every page read, ext4, \
XFS and btrfs fill the page cache with zeros. Under udax every hole shows one common zero page instead, and the first store to \
a hole gets the file's own storage. No change to the kernel or to the program is needed: `udax info` tells by what way faults are served here.

A mapping that udax cannot serve safely stays the kernel's own: always right, merely slow on holes.")]
#[command(after_help = "\
Examples:
  udax demo                          see the difference on this machine
  udax run -- python3 analyse.py     run any program with it
  udax map disk.img                  how a file would be mapped, and why
  udax info                          what this kernel and this user can do

Exit codes: 0 all is well, 1 a check failed, 2 the command line or a file named in it is wrong, 125 udax itself cannot work \
here. `udax run` ends as the program ends.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(run::RunArgs),
    Demo(demo::DemoArgs),
    Bench(bench::BenchArgs),
    Map(map::MapArgs),
    Info(info::InfoArgs),
}

fn main() -> ExitCode {
    let ended = match Cli::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Demo(args) => demo::demo(&args).map(code),
        Command::Bench(args) => bench::bench(&args).map(code),
        Command::Map(args) => map::map(&args).map(code),
        Command::Info(args) => info::info(&args).map(code),
    };
    ended.unwrap_or_else(|error| {
        eprintln!("udax: {error:#}");
        match error.downcast_ref::<CannotWork>() {
            Some(_) => code(Verdict::CannotWork),
            None => ExitCode::from(2),
        }
    })
}

fn code(verdict: Verdict) -> ExitCode {
    ExitCode::from(verdict.code())
}
