//! Sizes as people read them.

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
