//! Sizes as people write them.

use anyhow::{Context, bail};

/// Bytes in one of each unit, by the letter that names it.
const LETTERS: [(char, u32); 6] = [('k', 1), ('m', 2), ('g', 3), ('t', 4), ('p', 5), ('e', 6)];

/// Bytes from `1GiB`, `64M`, `4k` (powers of 1024), `10MB` (powers of 1000) or a plain number of bytes.
///
/// # Errors
/// Says what is wrong with the text.
pub(crate) fn parse(text: &str) -> anyhow::Result<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        bail!("a size begins with a number, as in 64MiB");
    }
    let number: u64 = number.parse().context("the number is too large")?;
    let factor = factor(&unit.trim().to_ascii_lowercase())?;
    number.checked_mul(factor).context("a file cannot be that large")
}

fn factor(unit: &str) -> anyhow::Result<u64> {
    let Some(letter) = unit.chars().next().filter(|&letter| letter != 'b') else {
        return if unit.len() <= 1 { Ok(1) } else { unknown(unit) };
    };
    let Some((_, power)) = LETTERS.into_iter().find(|&(known, _)| known == letter) else {
        return unknown(unit);
    };
    match unit.get(1..) {
        Some("" | "ib") => Ok(1024_u64.pow(power)),
        Some("b") => Ok(1000_u64.pow(power)),
        _ => unknown(unit),
    }
}

fn unknown(unit: &str) -> anyhow::Result<u64> {
    bail!("{unit:?} is no unit: use k, M, G, T (powers of 1024), or kB, MB, GB, TB (of 1000)")
}

/// Bytes for people to read: exact where one unit says it all, else with one decimal.
pub(crate) fn human(bytes: u64) -> String {
    const NAMES: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut power = 0;
    while power + 1 < NAMES.len() && bytes >> (10 * (power + 1)) != 0 {
        power += 1;
    }
    let (shift, name) = (10 * power, NAMES[power]);
    let (whole, rest) = (bytes >> shift, bytes & ((1 << shift) - 1));
    if rest == 0 {
        return format!("{whole} {name}");
    }
    // Rounded down, so that nothing looks like more than it is. `rest` is below 2^60: times ten is in range.
    format!("{whole}.{} {name}", (rest * 10) >> shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        let cases = [
            ("512", 512),
            ("512B", 512),
            ("4k", 4096),
            ("4KiB", 4096),
            ("64M", 64 << 20),
            ("64 MiB", 64 << 20),
            ("1GiB", 1 << 30),
            ("1gb", 1_000_000_000),
            ("2T", 2 << 40),
        ];
        for (text, bytes) in cases {
            assert_eq!(parse(text).ok(), Some(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused_with_a_reason() {
        for text in ["", "GiB", "1.5G", "-4k", "4x", "4kk", "4bb", "99999999999999999999", "99EiB"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(format!("{:#}", parse("4x").unwrap_err()).contains("\"x\" is no unit"));
    }

    #[test]
    fn sizes_are_shown_exactly_or_rounded_down() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (4096, "4 KiB"),
            (1536, "1.5 KiB"),
            ((1 << 30) - 1, "1023.9 MiB"),
            (1 << 30, "1 GiB"),
            (u64::MAX, "15.9 EiB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(human(bytes), text);
        }
    }
}
