//! The experiment for people to read.

use super::Demo;
use super::measure::Measured;
use crate::output::table;
use crate::size::human;
use std::fmt::Write;
use std::time::Duration;

/// Lines of smaps that are shown even if they are 0.
const USUAL: [&str; 9] = [
    "Size",
    "Rss",
    "Pss",
    "Shared_Clean",
    "Shared_Dirty",
    "Private_Clean",
    "Private_Dirty",
    "Referenced",
    "Anonymous",
];

/// All of it.
pub(super) fn text(demo: &Demo) -> String {
    let mut text = format!(
        "Reading a hole of {} on {} ({}): a load in each of {} pages\n\n",
        human(demo.size_bytes),
        demo.file_system,
        demo.directory.display(),
        demo.pages,
    );
    let _ = writeln!(text, "{}\n", costs(&demo.plain, &demo.udax));
    let _ = writeln!(text, "/proc/self/smaps of the mapping\n{}\n", smaps(&demo.plain, &demo.udax));
    let _ = writeln!(
        text,
        "Through udax it took 1/{:.0} of the time. Then {} bytes were stored to {} pages, and synced.\n",
        demo.ratio, demo.stored.bytes, demo.stored.pages
    );
    for check in &demo.checks {
        let sign = if check.passed { "ok    " } else { "FAILED" };
        let _ = writeln!(text, "{sign}  {} ({})", check.name, check.detail);
    }
    text
}

fn costs(plain: &Measured, udax: &Measured) -> comfy_table::Table {
    let mut rows = table(["reading every page", "plain mapping", "udax"], &[1, 2]);
    let mut row = |what: &str, of: fn(&Measured) -> String| {
        rows.add_row([what.to_owned(), of(plain), of(udax)]);
    };
    row("time", |m| human_time(m.time));
    row("page faults", |m| m.page_faults.to_string());
    row("  served in user space", |m| m.user_space_faults.to_string());
    row("memory, VmRSS", |m| grown(m.memory.rss_bytes));
    row("  RssAnon", |m| grown(m.memory.anonymous_bytes));
    row("  RssFile", |m| grown(m.memory.file_bytes));
    row("  RssShmem", |m| grown(m.memory.shmem_bytes));
    row("storage of the file", |m| grown(m.storage_bytes));
    rows
}

fn grown(bytes: u64) -> String {
    format!("+{}", human(bytes))
}

fn smaps(plain: &Measured, udax: &Measured) -> comfy_table::Table {
    let mut rows = table(["", "plain mapping", "udax"], &[1, 2]);
    rows.add_row(["VMAs".to_owned(), plain.smaps.vmas.to_string(), udax.smaps.vmas.to_string()]);
    for (name, _) in &plain.smaps.lines {
        let (a, b) = (plain.smaps.kib(name), udax.smaps.kib(name));
        if a != 0 || b != 0 || USUAL.contains(&name.as_str()) {
            rows.add_row([name.clone(), format!("{a} kB"), format!("{b} kB")]);
        }
    }
    rows
}

/// A time for people to read.
pub(super) fn human_time(time: Duration) -> String {
    let micros = time.as_micros();
    match micros {
        0..1000 => format!("{micros} us"),
        1000..10_000 => format!("{}.{:02} ms", micros / 1000, micros % 1000 / 10),
        10_000..10_000_000 => format!("{} ms", micros / 1000),
        _ => format!("{}.{} s", micros / 1_000_000, micros % 1_000_000 / 100_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_in_their_unit() {
        for (micros, text) in
            [(999, "999 us"), (2_350, "2.35 ms"), (1_200_000, "1200 ms"), (12_340_000, "12.3 s")]
        {
            assert_eq!(human_time(Duration::from_micros(micros)), text);
        }
    }
}
