//! Holding an answer against what was recorded, line by line and field by field.

mod counts;
mod events;
mod fields;
mod layouts;

use crate::flavour::Flavour;
use crate::recording::{Record, Recording};
use crate::rules::{Rule, Rules};
use std::collections::BTreeMap;
use std::fmt;

/// One difference that no rule allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The line of the script.
    pub line: u64,
    /// What it says.
    pub cmd: String,
    /// Where in the answer.
    pub field: String,
    /// What was recorded.
    pub expected: String,
    /// What the player answered.
    pub got: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "line {}: {}", self.line, self.cmd)?;
        writeln!(f, "    {}: Linux: {}", self.field, self.expected)?;
        write!(f, "    {}:  here: {}", self.field, self.got)
    }
}

/// A line, or a field of one, that was not compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotCompared {
    /// The line of the script.
    pub line: u64,
    /// What it says.
    pub cmd: String,
    /// Why.
    pub why: String,
}

/// What a comparison came to.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    /// Differences that no rule allows.
    pub differences: Vec<Difference>,
    /// How often each rule was of use.
    pub applied: BTreeMap<Rule, u64>,
    /// What was left out.
    pub not_compared: Vec<NotCompared>,
    /// Lines that were compared.
    pub lines: u64,
}

/// The comparison of one line, at work.
struct Line<'a> {
    rules: &'a mut Rules,
    expected: &'a Record,
    got: &'a Record,
    differences: Vec<Difference>,
    not_compared: Vec<NotCompared>,
}

/// Holds `got` against `expected`, which was recorded from `flavour`.
#[must_use]
pub fn compare(expected: &Recording, got: &Recording, flavour: Flavour) -> Comparison {
    let mut rules = Rules::new(flavour);
    let mut comparison = Comparison::default();
    for (number, answer) in &got.lines {
        let Some(recorded) = expected.lines.get(number) else {
            comparison.differences.push(missing(
                *number,
                answer,
                "nothing was recorded",
                "an answer",
            ));
            continue;
        };
        let mut line = Line {
            rules: &mut rules,
            expected: recorded,
            got: answer,
            differences: Vec::new(),
            not_compared: Vec::new(),
        };
        comparison.lines += u64::from(line.all());
        comparison.differences.append(&mut line.differences);
        comparison.not_compared.append(&mut line.not_compared);
    }
    for (number, recorded) in &expected.lines {
        if !got.lines.contains_key(number) {
            let difference = missing(*number, recorded, "an answer", "no such line in the script");
            comparison.differences.push(difference);
        }
    }
    comparison.applied = rules.applied().clone();
    comparison
}

fn missing(line: u64, record: &Record, expected: &str, got: &str) -> Difference {
    Difference {
        line,
        cmd: record.cmd.clone(),
        field: "line".to_owned(),
        expected: expected.to_owned(),
        got: got.to_owned(),
    }
}

impl Line<'_> {
    fn differ(&mut self, field: &str, expected: impl fmt::Display, got: impl fmt::Display) {
        self.differences.push(Difference {
            line: self.expected.i,
            cmd: self.expected.cmd.clone(),
            field: field.to_owned(),
            expected: expected.to_string(),
            got: got.to_string(),
        });
    }

    fn leave_out(&mut self, why: &str) {
        self.not_compared.push(NotCompared {
            line: self.expected.i,
            cmd: self.expected.cmd.clone(),
            why: why.to_owned(),
        });
    }

    /// Whether the line was compared.
    fn all(&mut self) -> bool {
        if self.expected.cmd != self.got.cmd {
            self.differ("cmd", &self.expected.cmd, &self.got.cmd);
            return false;
        }
        if self.got.known.unknown {
            self.differ("operation", "played", "unknown to the player");
            return false;
        }
        if let Some(why) = self.got.known.not_compared.clone() {
            self.leave_out(&why);
            return false;
        }
        if !self.result() {
            return true;
        }
        self.bytes();
        self.faults();
        self.sizes();
        match self.got.cmd.split(' ').next().unwrap_or_default() {
            "trace-dump" => self.events(),
            "trace-count" => self.counts(),
            "pt" => self.translations(),
            "xa" => self.entries(),
            "fiemap" => self.extents(),
            "mincore" => self.resident(),
            "pages" => self.pages(),
            "smaps" => self.smaps(),
            _ => {}
        }
        self.rest();
        true
    }
}
