//! `udax-conformance play SCRIPTS RECORDINGS`: plays a folder of recordings, shows a table and the differences.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use udax_conformance::folder::{Pair, Unreadable, pairs};
use udax_conformance::rules::Rule;

const USAGE: &str = "usage: udax-conformance play SCRIPTS RECORDINGS [NAME]...

SCRIPTS holds NAME.txt, RECORDINGS holds linux-KERNEL/FS/NAME.jsonl; with names, only those are played.
Exit code: 0 all compared alike, 1 differences, 2 something could not be read.";

/// What a whole folder came to.
#[derive(Default)]
struct Total {
    lines: u64,
    differences: usize,
    not_compared: BTreeMap<String, u64>,
    applied: BTreeMap<Rule, u64>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [command, scripts, recordings, names @ ..] = arguments.as_slice() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    if command != "play" {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    }
    match play_folder(Path::new(scripts), Path::new(recordings), names) {
        Ok(total) if total.differences == 0 => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("udax-conformance: {error}");
            ExitCode::from(2)
        }
    }
}

fn play_folder(scripts: &Path, recordings: &Path, names: &[String]) -> Result<Total, Unreadable> {
    let wanted = |pair: &Pair| names.is_empty() || names.contains(&pair.name);
    let mut total = Total::default();
    println!(
        "{:<32} {:<16} {:>6} {:>12} {:>12}",
        "script", "recorded", "lines", "differences", "not compared"
    );
    for pair in pairs(scripts, recordings)?.iter().filter(|pair| wanted(pair)) {
        let comparison = pair.play()?;
        println!(
            "{:<32} {:<16} {:>6} {:>12} {:>12}",
            pair.name,
            pair.flavour.to_string(),
            comparison.lines,
            comparison.differences.len(),
            comparison.not_compared.len()
        );
        for difference in &comparison.differences {
            println!("{}/{} {difference}", pair.flavour, pair.name);
        }
        total.lines += comparison.lines;
        total.differences += comparison.differences.len();
        for left_out in &comparison.not_compared {
            let what = left_out.cmd.split(' ').next().unwrap_or_default();
            *total.not_compared.entry(format!("{what}: {}", left_out.why)).or_insert(0) += 1;
        }
        for (rule, count) in comparison.applied {
            *total.applied.entry(rule).or_insert(0) += count;
        }
    }
    println!("\nnot compared:");
    for (what, count) in &total.not_compared {
        println!("{count:>8}  {what}");
    }
    println!("differences allowed by rule (docs/conformance.md):");
    for (rule, count) in &total.applied {
        println!("{count:>8}  {}", rule.entry().name);
    }
    println!("{} lines compared, {} differences", total.lines, total.differences);
    Ok(total)
}
