//! The ratios as a picture: every turn a dot, on a logarithmic axis, with the median and the goal.

use super::goal::Against;
use super::report::{Comparison, Row};
use anyhow::Context;
use std::fmt::Write;
use std::path::Path;

/// Where things are, in pixels.
const LABELS: f64 = 230.0;
const WIDTH: f64 = 640.0;
const MARGIN: f64 = 30.0;
const TOP: f64 = 70.0;
const LINE: f64 = 24.0;

/// The powers of ten that the axis shows at least.
const LEAST: (i32, i32) = (-1, 1);

/// Writes it to a file.
///
/// # Errors
/// If the file cannot be written.
pub(super) fn write(path: &Path, rows: &[Row], title: &str) -> anyhow::Result<()> {
    std::fs::write(path, svg(rows, title))
        .with_context(|| format!("cannot write the plot to {}", path.display()))
}

/// A logarithmic axis.
struct Axis {
    from: i32,
    to: i32,
}

impl Axis {
    /// Long enough for all ratios.
    fn of(comparisons: &[(String, &Comparison)]) -> Self {
        let (mut from, mut to) = (LEAST.0, LEAST.1);
        for (_, comparison) in comparisons {
            for &ratio in comparison.ratios.iter().chain(&comparison.goal_ratio()) {
                while ratio < 10_f64.powi(from) && from > -9 {
                    from -= 1;
                }
                while ratio > 10_f64.powi(to) && to < 9 {
                    to += 1;
                }
            }
        }
        Self { from, to }
    }

    /// Where a ratio is.
    fn x(&self, ratio: f64) -> f64 {
        let (from, to) = (f64::from(self.from), f64::from(self.to));
        let part = (ratio.max(1e-9).log10() - from) / (to - from);
        LABELS + part.clamp(0.0, 1.0) * WIDTH
    }
}

fn svg(rows: &[Row], title: &str) -> String {
    let comparisons: Vec<(String, &Comparison)> = rows
        .iter()
        .flat_map(|row| row.comparisons.iter().map(move |one| (label(row, one), one)))
        .collect();
    let axis = Axis::of(&comparisons);
    let bottom = comparisons.iter().fold(TOP, |y, _| y + LINE);
    let (width, height) = (LABELS + WIDTH + MARGIN, bottom + MARGIN);
    let mut out = String::new();
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n\
         <text x=\"10\" y=\"22\" font-size=\"15\">{}</text>\n\
         <text x=\"10\" y=\"42\" fill=\"#666\">udax / other: left of 1 is better. A dot is one turn, the bar the median, the triangle the goal.</text>",
        escaped(title)
    );
    for power in axis.from..=axis.to {
        let (x, name) = (axis.x(10_f64.powi(power)), 10_f64.powi(power));
        let colour = if power == 0 { "#888" } else { "#ddd" };
        let _ = writeln!(
            out,
            "<line x1=\"{x:.1}\" y1=\"{:.1}\" x2=\"{x:.1}\" y2=\"{bottom:.1}\" stroke=\"{colour}\"/>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#666\">{name}</text>",
            TOP - LINE / 2.0,
            bottom + 16.0
        );
    }
    let mut y = TOP;
    for (label, comparison) in &comparisons {
        line(&mut out, &axis, y, label, comparison);
        y += LINE;
    }
    out.push_str("</svg>\n");
    out
}

fn label(row: &Row, comparison: &Comparison) -> String {
    let against = match comparison.against {
        Against::Plain => row.pattern.other(),
        Against::Floor => "floor",
    };
    format!("{}: {} / {against}", row.pattern.name(), comparison.quantity.name())
}

fn line(out: &mut String, axis: &Axis, y: f64, label: &str, comparison: &Comparison) {
    let colour = if comparison.holds { "#2a7" } else { "#c33" };
    let _ = writeln!(out, "<text x=\"10\" y=\"{:.1}\">{}</text>", y + 4.0, escaped(label));
    for &ratio in &comparison.ratios {
        let x = axis.x(ratio);
        let _ = writeln!(
            out,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{colour}\" fill-opacity=\"0.45\"/>"
        );
    }
    let x = axis.x(comparison.ratio.median);
    let _ = writeln!(
        out,
        "<line x1=\"{x:.1}\" y1=\"{:.1}\" x2=\"{x:.1}\" y2=\"{:.1}\" stroke=\"{colour}\" stroke-width=\"2\"/>",
        y - 8.0,
        y + 8.0
    );
    if let Some(goal) = comparison.goal_ratio() {
        let (x, top) = (axis.x(goal), y - 10.0);
        let _ = writeln!(out, "<path d=\"M{:.1} {top:.1} h8 l-4 7 z\" fill=\"#447\"/>", x - 4.0);
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::super::goal::{AtMost, Quantity};
    use super::super::pattern::Pattern;
    use super::super::sample::Spread;
    use super::*;

    fn row(ratios: &[f64], goal: Option<f64>) -> Row {
        let ratio = Spread::of(ratios);
        let comparison = Comparison {
            quantity: Quantity::Time,
            against: Against::Plain,
            udax: 1.0,
            other: 1.0,
            ratios: ratios.to_vec(),
            ratio,
            goal: goal.map(AtMost::Ratio),
            holds: goal.is_none_or(|goal| ratio.median <= goal),
        };
        Row { pattern: Pattern::ReadHole, comparisons: vec![comparison], samples: Vec::new() }
    }

    #[test]
    fn every_turn_is_a_dot_and_the_axis_is_long_enough() {
        let rows = [row(&[0.004, 0.005, 0.02], Some(0.005)), row(&[2.0], None)];
        let picture = svg(&rows, "a < b");
        assert_eq!(picture.matches("<circle").count(), 4);
        assert_eq!(picture.matches("<path").count(), 1, "one goal");
        assert!(picture.contains("a &lt; b") && picture.contains("read-hole: time / plain"));
        let comparisons: Vec<_> = rows.iter().map(|r| (String::new(), &r.comparisons[0])).collect();
        let axis = Axis::of(&comparisons);
        assert_eq!((axis.from, axis.to), (-3, 1));
        assert!(axis.x(0.004) < axis.x(1.0) && axis.x(1.0) < axis.x(2.0));
    }
}
