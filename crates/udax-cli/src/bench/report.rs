//! What a benchmark came to, as a table.

use super::Bench;
use super::goal::{Against, AtMost, Goal, Quantity};
use super::pattern::Pattern;
use super::sample::{Sample, Spread};
use super::way::Way;
use crate::output::table;
use crate::size::human;
use serde::Serialize;
use std::fmt::Write;
use udax_host::HostKind;

/// One pattern.
#[derive(Serialize)]
pub(crate) struct Row {
    pub(crate) pattern: Pattern,
    pub(crate) comparisons: Vec<Comparison>,
    pub(crate) samples: Vec<(Way, Sample)>,
}

/// Two ways beside each other.
#[derive(Serialize)]
pub(crate) struct Comparison {
    pub(crate) quantity: Quantity,
    pub(crate) against: Against,
    /// The medians of udax and of the other.
    pub(crate) udax: f64,
    pub(crate) other: f64,
    /// Of each turn, in order.
    pub(crate) ratios: Vec<f64>,
    pub(crate) ratio: Spread,
    pub(crate) goal: Option<AtMost>,
    pub(crate) holds: bool,
}

impl Row {
    pub(crate) fn new(pattern: Pattern, kind: HostKind, samples: Vec<(Way, Sample)>) -> Self {
        let goals: Vec<Goal> =
            pattern.goals().into_iter().filter(|goal| goal.is_for(kind)).collect();
        let mut comparisons: Vec<Comparison> = goals
            .iter()
            .map(|goal| compare(&samples, goal.quantity, goal.against, Some(goal.at_most)))
            .collect();
        let shown = goals.iter().any(|goal| goal.against == Against::Plain);
        if !shown {
            comparisons.push(compare(&samples, Quantity::Time, Against::Plain, None));
        }
        Self { pattern, comparisons, samples }
    }

    pub(crate) fn holds(&self) -> bool {
        self.comparisons.iter().all(|comparison| comparison.holds)
    }
}

impl Comparison {
    /// The goal as a ratio to the other.
    pub(super) fn goal_ratio(&self) -> Option<f64> {
        Some(match self.goal? {
            AtMost::Ratio(at_most) => at_most,
            AtMost::Value(at_most) => at_most / self.other.max(1.0),
        })
    }
}

fn compare(
    samples: &[(Way, Sample)],
    quantity: Quantity,
    against: Against,
    goal: Option<AtMost>,
) -> Comparison {
    let of = |wanted: Way| -> Vec<f64> {
        let own = samples.iter().filter(|(way, _)| *way == wanted);
        own.map(|(_, sample)| quantity.of(sample)).collect()
    };
    let other = of(match against {
        Against::Plain => Way::Plain,
        Against::Floor => Way::Floor,
    });
    let udax = of(Way::Udax);
    // What took nothing counts as one byte, or one nanosecond.
    let ratios: Vec<f64> = udax.iter().zip(&other).map(|(a, b)| a.max(1.0) / b.max(1.0)).collect();
    let ratio = Spread::of(&ratios);
    let udax = Spread::of(&udax).median;
    Comparison {
        quantity,
        against,
        udax,
        other: Spread::of(&other).median,
        holds: goal.is_none_or(|goal| match goal {
            AtMost::Ratio(at_most) => ratio.median <= at_most,
            AtMost::Value(at_most) => udax <= at_most,
        }),
        ratios,
        ratio,
        goal,
    }
}

/// The whole report.
pub(super) fn text(bench: &Bench) -> String {
    let mut rows = table(
        ["pattern", "what", "udax", "against", "", "ratio", "quartiles", "goal", ""],
        &[2, 4, 5, 6, 7],
    );
    for row in &bench.rows {
        for (number, comparison) in row.comparisons.iter().enumerate() {
            let name = if number == 0 { row.pattern.name() } else { String::new() };
            rows.add_row(cells(name, row.pattern.other(), comparison));
        }
    }
    let mut text = String::new();
    let missed = bench.rows.iter().flat_map(|row| &row.comparisons).filter(|c| !c.holds).count();
    let mut verdict = match missed {
        0 => "All goals hold.".to_owned(),
        1 => "One goal does not hold.".to_owned(),
        many => format!("{many} goals do not hold."),
    };
    for (pattern, why) in &bench.not_measured {
        let _ = writeln!(verdict, "\n{} is not measured: {why}.", pattern.name());
    }
    let _ = writeln!(
        text,
        "{} on {}, {}, medians of {} runs by turns\n\n{rows}\n\n{verdict}",
        bench.directory.display(),
        bench.file_system,
        human(bench.size_bytes),
        bench.runs
    );
    text
}

fn cells(name: String, other_name: &str, comparison: &Comparison) -> [String; 9] {
    let Comparison { quantity, against, udax, other, ratio, goal, holds, .. } = comparison;
    [
        name,
        quantity.name().to_owned(),
        value(*quantity, *udax),
        match against {
            Against::Plain => other_name.to_owned(),
            Against::Floor => "floor".to_owned(),
        },
        value(*quantity, *other),
        number(ratio.median),
        format!("{}..{}", number(ratio.lower_quartile), number(ratio.upper_quartile)),
        goal.map_or_else(String::new, |goal| match goal {
            AtMost::Ratio(at_most) => number(at_most),
            AtMost::Value(at_most) => value(*quantity, at_most),
        }),
        match goal {
            Some(_) if *holds => "holds".to_owned(),
            Some(_) => "MISSED".to_owned(),
            None => String::new(),
        },
    ]
}

/// Three digits that count.
fn number(value: f64) -> String {
    match value {
        0.0..0.1 => format!("{value:.4}"),
        0.1..10.0 => format!("{value:.2}"),
        _ => format!("{value:.0}"),
    }
}

fn value(quantity: Quantity, value: f64) -> String {
    match quantity {
        Quantity::Memory | Quantity::Storage => {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a number of bytes, which was one before"
            )]
            let bytes = value as u64;
            human(bytes)
        }
        Quantity::Instructions => format!("{value:.0}"),
        Quantity::Time | Quantity::Typical | Quantity::Tail => match value / 1e3 {
            micros @ 0.0..100.0 => format!("{micros:.1} us"),
            micros @ 100.0..100_000.0 => format!("{:.2} ms", micros / 1e3),
            micros => format!("{:.2} s", micros / 1e6),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(plain: [u64; 3], udax: [u64; 3]) -> Row {
        let sample = |nanos| Sample { nanos, ..Sample::default() };
        let turns = plain.into_iter().zip(udax);
        let samples = turns
            .flat_map(|(plain, udax)| [(Way::Plain, sample(plain)), (Way::Udax, sample(udax))])
            .collect();
        // Its one goal: at most 1.1 of plain in time.
        Row::new(Pattern::SyncRandom, HostKind::Tmpfs, samples)
    }

    #[test]
    fn a_ratio_is_udax_over_the_other_turn_by_turn() {
        let row = row([100, 200, 400], [50, 200, 800]);
        let [comparison] = &row.comparisons[..] else { panic!("one goal") };
        assert_eq!(comparison.ratios, [0.5, 1.0, 2.0]);
        assert_eq!(
            (comparison.ratio.median, comparison.udax, comparison.other),
            (1.0, 200.0, 200.0)
        );
        assert!(row.holds());
    }

    #[test]
    fn a_goal_is_missed_by_the_median_not_by_one_turn() {
        assert!(row([100; 3], [110, 900, 100]).holds());
        assert!(!row([100; 3], [111, 112, 100]).holds());
    }

    #[test]
    fn numbers_keep_the_digits_that_count() {
        let shown = [0.0043, 0.99, 1.1, 9.99, 28.6].map(number);
        assert_eq!(shown, ["0.0043", "0.99", "1.10", "9.99", "29"]);
    }
}
