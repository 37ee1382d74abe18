//! Numbers with units, as people write them: durations and sizes.

use std::{fmt, time::Duration};

pub(super) const KIB: u64 = 1 << 10;
pub(super) const MIB: u64 = 1 << 20;
pub(super) const GIB: u64 = 1 << 30;

/// Units of sizes, the largest first.
pub(super) const SIZE_UNITS: [(&str, u64); 4] = [("GiB", GIB), ("MiB", MIB), ("KiB", KIB), ("B", 1)];

/// Units of durations in milliseconds, the largest first.
pub(super) const DURATION_UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Writes an amount in the largest unit that says it in whole numbers.
pub(super) fn write_in_units(f: &mut fmt::Formatter<'_>, amount: u128, units: &[(&str, u64)]) -> fmt::Result {
    let (name, unit) = units
        .iter()
        .find(|(_, unit)| amount >= u128::from(*unit) && amount.is_multiple_of(u128::from(*unit)))
        .or(units.last())
        .expect("no list of units is empty");
    write!(f, "{}{name}", amount / u128::from(*unit))
}

/// Reads a duration: a whole number and one of the units ms, s, m, h, d.
///
/// # Errors
///
/// What is wrong with it.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration such as 500ms, 10s, 5m, 6h or 1d");
    let (number, unit) = split_unit(text);
    let (_, milliseconds) = DURATION_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(*milliseconds).map(Duration::from_millis).ok_or_else(wrong)
}

/// Reads a size in bytes: a whole number, alone or with one of the units B, KiB, MiB, GiB.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is not a size such as 65536, 64KiB, 1MiB or 2GiB");
    let (number, unit) = split_unit(text);
    let unit = if unit.is_empty() { "B" } else { unit };
    let (_, bytes) = SIZE_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(*bytes).ok_or_else(wrong)
}

fn split_unit(text: &str) -> (&str, &str) {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    text.split_at(digits)
}
