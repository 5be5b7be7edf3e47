//! Durations and sizes as a plan writes them: `"200ms"`, `"7d"`, `"64MiB"`.

use std::time::Duration;

/// Nanoseconds of each unit, largest first.
const DURATIONS: [(&str, u128); 6] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
];

/// Bytes of each unit, largest first.
const SIZES: [(&str, u128); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// A whole number and a unit; `None` for anything else and for what does not fit 64 bits of the
/// smallest unit.
fn parse(text: &str, units: &[(&str, u128)]) -> Option<u128> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let number = u128::from(number.parse::<u64>().ok()?);
    let unit = unit.trim_start_matches(' ');
    let &(_, scale) = units.iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(scale)
}

/// In the largest unit that divides it.
fn format(amount: u128, units: &[(&str, u128)]) -> String {
    let fits = |&&(_, scale): &&(&str, u128)| amount != 0 && amount.is_multiple_of(scale);
    let (unit, scale) = units.iter().find(fits).copied().unwrap_or(units[units.len() - 1]);
    format!("{}{unit}", amount / scale)
}

pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    let nanos = parse(text, &DURATIONS)?;
    u64::try_from(nanos).ok().map(Duration::from_nanos)
}

pub(super) fn format_duration(duration: Duration) -> String {
    match duration {
        Duration::ZERO => "0s".to_owned(),
        _ => format(duration.as_nanos(), &DURATIONS),
    }
}

pub(super) fn parse_size(text: &str) -> Option<u64> {
    parse(text, &SIZES).and_then(|bytes| u64::try_from(bytes).ok())
}

pub(super) fn format_size(bytes: u64) -> String {
    format(u128::from(bytes), &SIZES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_back_as_they_are_shown() {
        for text in ["200ms", "10s", "1h", "7d", "90s", "1m", "1500us", "0s", "25h"] {
            assert_eq!(format_duration(parse_duration(text).unwrap()), text);
        }
        assert_eq!(parse_duration("60 s"), Some(Duration::from_secs(60)));
        for bad in ["", "5", "s", "-1s", "1.5s", "1 week", "1S", "99999999999999d", "1s2", "１s"] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn sizes_read_back_as_they_are_shown() {
        for text in ["64MiB", "1GiB", "1025B", "3KiB", "0B"] {
            assert_eq!(format_size(parse_size(text).unwrap()), text);
        }
        for bad in ["", "5", "64MB", "64mib", "-1B", "99999999999999GiB"] {
            assert_eq!(parse_size(bad), None, "{bad}");
        }
    }
}
