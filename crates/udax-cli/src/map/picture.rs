//! A file on one screen.

use super::units::{Becomes, UnitRun};
use crate::size::human;
use udax_core::PMD_BYTES;

const COLUMNS: u64 = 64;
const LINES: u64 = 12;

const ZERO: char = '·';
const SOME: char = '▒';
const DATA: char = '█';

/// What the units of one cell have.
#[derive(Clone, Copy, Default)]
struct Cell {
    zero: bool,
    data: bool,
}

impl Cell {
    const fn see(&mut self, becomes: Becomes) {
        self.zero |= !matches!(becomes, Becomes::Data);
        self.data |= !becomes.is_zero();
    }

    const fn glyph(self) -> char {
        match (self.zero, self.data) {
            (_, false) => ZERO,
            (true, true) => SOME,
            (false, true) => DATA,
        }
    }
}

/// Lines of cells with a legend; `runs` are in order and without a gap, and there is at least one.
pub(crate) fn picture(runs: &[UnitRun]) -> String {
    let units = runs.last().map_or(0, |last| last.first_unit + last.units);
    let per_cell = units.div_ceil(COLUMNS * LINES).max(1);
    let mut cells = vec![Cell::default(); usize::try_from(units.div_ceil(per_cell)).unwrap_or(0)];
    for run in runs {
        let last = run.first_unit + run.units - 1;
        for cell in run.first_unit / per_cell..=last / per_cell {
            if let Some(cell) = usize::try_from(cell).ok().and_then(|at| cells.get_mut(at)) {
                cell.see(run.becomes);
            }
        }
    }
    let mut text = String::new();
    let mut start = 0;
    for line in cells.chunks(usize::try_from(COLUMNS).unwrap_or(64)) {
        text.push_str(&format!("{start:>#14x}  "));
        text.extend(line.iter().map(|cell| cell.glyph()));
        text.push('\n');
        start += COLUMNS * per_cell * PMD_BYTES;
    }
    let cell = human(per_cell * PMD_BYTES);
    format!("{text}{:16}{ZERO} zero page   {SOME} some data   {DATA} data   a cell is {cell}\n", "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(first_unit: u64, units: u64, becomes: Becomes) -> UnitRun {
        UnitRun { first_unit, units, length_bytes: units * PMD_BYTES, becomes, data_pages: 0 }
    }

    fn lines(runs: &[UnitRun]) -> Vec<String> {
        let drawn = picture(runs);
        let cells = |line: &str| line.trim_start().split_once("  ").map(|(_, c)| c.to_owned());
        let mut lines: Vec<String> = drawn.lines().filter_map(cells).collect();
        lines.pop();
        lines
    }

    #[test]
    fn each_unit_of_a_small_file_is_a_cell() {
        let runs =
            [run(0, 2, Becomes::ZeroHuge), run(2, 1, Becomes::Mixed), run(3, 1, Becomes::Data)];
        assert_eq!(lines(&runs), ["··▒█"]);
    }

    #[test]
    fn a_huge_file_fits_one_screen_and_a_cell_with_both_shows_it() {
        let all = COLUMNS * LINES * 1000;
        let runs = [run(0, 1500, Becomes::Data), run(1500, all - 1500, Becomes::ZeroHuge)];
        let lines = lines(&runs);
        assert_eq!(lines.len() as u64, LINES);
        assert!(lines[0].starts_with("█▒·"), "{}", lines[0]);
    }
}
