//! `udax-conformance play SCRIPTS RECORDINGS`: plays a folder of recordings, shows a table and the differences.
//! `udax-conformance show SCRIPT [FLAVOUR]`: plays one script that need not have been recorded, shows what the simulator answers.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use udax_conformance::flavour::Flavour;
use udax_conformance::folder::{Pair, Unreadable, pairs, play_alone};
use udax_conformance::rules::Rule;

const USAGE: &str = "usage: udax-conformance play SCRIPTS RECORDINGS [NAME]...
       udax-conformance show SCRIPT [linux-KERNEL/FS]

SCRIPTS holds NAME.txt, RECORDINGS holds linux-KERNEL/FS/NAME.jsonl; with names, only those are played.
With show, SCRIPT is a file, played as on linux-6.12/ext4 if nothing else is said.
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
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments.as_slice() {
        ["play", scripts, recordings, names @ ..] => {
            play_folder(Path::new(scripts), Path::new(recordings), names)
                .map(|total| total.differences == 0)
        }
        ["show", script] => show(Path::new(script), "linux-6.12/ext4"),
        ["show", script, flavour] => show(Path::new(script), flavour),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("udax-conformance: {error}");
            ExitCode::from(2)
        }
    }
}

/// Whether the player knew every operation.
fn show(path: &Path, flavour: &str) -> Result<bool, Unreadable> {
    let flavour: Flavour =
        flavour.parse().map_err(|error| Unreadable::new(Path::new(flavour), &error))?;
    let recording = play_alone(path, flavour)?;
    for (number, record) in &recording.lines {
        println!("{number:>4}  {}\n      {}", record.cmd, record.told());
    }
    Ok(recording.lines.values().all(|record| !record.known.unknown))
}

fn play_folder(scripts: &Path, recordings: &Path, names: &[&str]) -> Result<Total, Unreadable> {
    let wanted = |pair: &Pair| names.is_empty() || names.contains(&pair.name.as_str());
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
