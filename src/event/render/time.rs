//! Times as text, written without allocation.

use prost_types::Timestamp;
use serde::{Serialize, Serializer, ser::Error};

const DAY_SECONDS: i64 = 86_400;
/// 0001-01-01T00:00:00Z in unix seconds: the first time of the year 1.
pub(crate) const FIRST_SECOND: i64 = -62_135_596_800;
/// 9999-12-31T23:59:59Z in unix seconds.
pub(crate) const LAST_SECOND: i64 = 253_402_300_799;

/// A time as `2023-05-15T10:00:00.000Z`; truncated to milliseconds.
pub(super) struct Iso<'a>(pub(super) &'a Timestamp);

/// A time as `2020-03-03 13:05:57 UTC`; truncated to seconds.
pub(super) struct SampleTime<'a>(pub(super) &'a Timestamp);

impl Serialize for Iso<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = *b"0000-00-00T00:00:00.000Z";
        put_date_and_time(&mut text, self.0.seconds).ok_or_else(out_of_range)?;
        put(&mut text[20..23], i64::from(self.0.nanos / 1_000_000));
        serialize_ascii(&text, serializer)
    }
}

impl Serialize for SampleTime<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = *b"0000-00-00 00:00:00 UTC";
        put_date_and_time(&mut text, self.0.seconds).ok_or_else(out_of_range)?;
        serialize_ascii(&text, serializer)
    }
}

/// Whole seconds since the epoch, rounded down; 0 when unset.
pub(super) fn unix_seconds(time: Option<&Timestamp>) -> i64 {
    time.map_or(0, |time| time.seconds)
}

/// Seconds since the epoch with a fraction of microseconds; 0.0 when unset.
pub(super) fn unix_fraction(time: Option<&Timestamp>) -> f64 {
    #[expect(
        clippy::cast_precision_loss,
        reason = "seconds of the years 1 to 9999 are whole numbers of a float"
    )]
    time.map_or(0.0, |time| {
        // One division: adding seconds and fraction would round twice.
        let micros = time.seconds as f64 * 1e6 + f64::from(time.nanos / 1_000);
        micros / 1e6
    })
}

fn out_of_range<E: Error>() -> E {
    E::custom("a time is not in the years 1 to 9999")
}

fn serialize_ascii<S: Serializer>(text: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(str::from_utf8(text).expect("digits and punctuation are UTF-8"))
}

/// Writes the digits of date and time over those of `text`, whose first 19 bytes have the form
/// `0000-00-00T00:00:00`. `None` outside of the years 1 to 9999.
fn put_date_and_time(text: &mut [u8], unix_seconds: i64) -> Option<()> {
    if !(FIRST_SECOND..=LAST_SECOND).contains(&unix_seconds) {
        return None;
    }
    let (year, month, day) = date(unix_seconds.div_euclid(DAY_SECONDS));
    let second = unix_seconds.rem_euclid(DAY_SECONDS);
    put(&mut text[0..4], year);
    put(&mut text[5..7], month);
    put(&mut text[8..10], day);
    put(&mut text[11..13], second / 3600);
    put(&mut text[14..16], second / 60 % 60);
    put(&mut text[17..19], second % 60);
    Some(())
}

/// Year, month and day in the Gregorian calendar of a day counted from 1970-01-01, not before the year 0.
///
/// jiff's timestamps end a day before the year 9999 does, so this is our own. Years begin in March here: then
/// the leap day is the last of its year, and every five months have 153 days.
fn date(day: i64) -> (i64, i64, i64) {
    const ERA_DAYS: i64 = 146_097; // 400 years
    let day = day + 719_468; // from 0000-03-01
    let (era, day) = (day.div_euclid(ERA_DAYS), day.rem_euclid(ERA_DAYS));
    let year = (day - day / 1460 + day / 36_524 - day / (ERA_DAYS - 1)) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153; // 0 is March
    let day = day - (153 * month + 2) / 5;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + i64::from(month <= 2), month, day + 1)
}

/// Fills `digits` with `number`, zeros in front.
fn put(digits: &mut [u8], mut number: i64) {
    for digit in digits.iter_mut().rev() {
        *digit = b'0'
            + u8::try_from(number % 10).expect("times are not negative here, so the remainder is a digit");
        number /= 10;
    }
}

#[cfg(test)]
mod tests {
    use jiff::{SignedDuration, civil};
    use proptest::prelude::*;

    use super::*;

    fn iso(seconds: i64, nanos: i32) -> String {
        serde_json::to_string(&Iso(&Timestamp { seconds, nanos })).unwrap()
    }

    #[test]
    fn the_first_and_the_last_time_have_their_text() {
        assert_eq!(iso(FIRST_SECOND, 0), r#""0001-01-01T00:00:00.000Z""#);
        assert_eq!(iso(LAST_SECOND, 999_999_999), r#""9999-12-31T23:59:59.999Z""#);
        assert!(serde_json::to_string(&Iso(&Timestamp { seconds: LAST_SECOND + 1, nanos: 0 })).is_err());
    }

    #[test]
    fn a_time_before_the_epoch_is_rounded_down() {
        assert_eq!(iso(-1, 999_000_000), r#""1969-12-31T23:59:59.999Z""#);
    }

    #[test]
    fn the_sample_has_its_own_spelling() {
        let time = Timestamp { seconds: 1_583_240_757, nanos: 999_999_999 };
        assert_eq!(serde_json::to_string(&SampleTime(&time)).unwrap(), r#""2020-03-03 13:05:57 UTC""#);
    }

    proptest! {
        #[test]
        fn every_time_reads_as_jiff_writes_it(seconds in FIRST_SECOND..=LAST_SECOND, nanos in 0..1_000_000_000) {
            let epoch = civil::date(1970, 1, 1).at(0, 0, 0, 0);
            let time = epoch.checked_add(SignedDuration::new(seconds, 0)).unwrap();
            let expected = format!("\"{}.{:03}Z\"", time.strftime("%Y-%m-%dT%H:%M:%S"), nanos / 1_000_000);
            prop_assert_eq!(iso(seconds, nanos), expected);
        }
    }
}
