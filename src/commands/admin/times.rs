//! Times as people say them.

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};

use crate::{config::parse_duration, domain::time::UnixMicros};

const DAY_SECONDS: i64 = 86_400;

/// A time in an argument: a span from now, a day, or a point in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    /// Microseconds from now: before it in `--since`, after it in `--expires`.
    Span(i64),
    /// The beginning of a day in UTC, this many days before today.
    DaysAgo(i64),
    /// Microseconds since the epoch.
    At(i64),
}

impl When {
    /// Reads a time: `24h`, `today`, `2026-11-30`, `2026-11-30T18:00` (UTC) or RFC 3339.
    ///
    /// # Errors
    ///
    /// The text has another form.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        match text {
            "now" => return Ok(Self::Span(0)),
            "today" => return Ok(Self::DaysAgo(0)),
            "yesterday" => return Ok(Self::DaysAgo(1)),
            _ => {}
        }
        // A day is its beginning.
        let civil = || text.parse::<DateTime>().ok();
        let point = text.parse::<Timestamp>().ok();
        let point = point.or_else(|| Some(civil()?.to_zoned(TimeZone::UTC).ok()?.timestamp()));
        if let Some(point) = point {
            return Ok(Self::At(point.as_microsecond()));
        }
        let span = parse_duration(text).ok().and_then(|span| i64::try_from(span.as_micros()).ok());
        span.map(Self::Span).ok_or_else(|| {
            format!("{text:?} is not a time such as 24h, 7d, yesterday, 2026-11-30 or 2026-11-30T18:00:00Z")
        })
    }

    /// The time, where a span is one before now.
    pub(super) fn before(self, now: UnixMicros) -> prost_types::Timestamp {
        self.resolve(now, -1)
    }

    /// The time, where a span is one after now.
    pub(super) fn after(self, now: UnixMicros) -> prost_types::Timestamp {
        self.resolve(now, 1)
    }

    fn resolve(self, now: UnixMicros, direction: i64) -> prost_types::Timestamp {
        let micros = match self {
            Self::Span(span) => now.0.saturating_add(direction.saturating_mul(span)),
            Self::DaysAgo(days) => {
                let today = now.seconds().div_euclid(DAY_SECONDS);
                (today - days) * DAY_SECONDS * 1_000_000
            }
            Self::At(micros) => micros,
        };
        UnixMicros(micros).into()
    }
}

/// A time in output: RFC 3339 in UTC, to the second; a dash without one.
pub(super) fn shown(time: Option<&prost_types::Timestamp>) -> String {
    time.and_then(|time| Timestamp::from_second(time.seconds).ok())
        .map_or_else(|| "-".to_owned(), |time| time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-12-01T12:00:00Z.
    const NOW: UnixMicros = UnixMicros(1_796_126_400_000_000);

    #[test]
    fn a_time_is_read_as_people_say_it() {
        for (text, expected) in [
            ("24h", "2026-11-30T12:00:00Z"),
            ("7d", "2026-11-24T12:00:00Z"),
            ("now", "2026-12-01T12:00:00Z"),
            ("today", "2026-12-01T00:00:00Z"),
            ("yesterday", "2026-11-30T00:00:00Z"),
            ("2026-11-30", "2026-11-30T00:00:00Z"),
            ("2026-11-30T18:00", "2026-11-30T18:00:00Z"),
            ("2026-11-30T18:00:00+02:00", "2026-11-30T16:00:00Z"),
        ] {
            let time = When::parse(text).expect(text).before(NOW);
            assert_eq!(shown(Some(&time)), expected, "{text}");
        }
        let later = When::parse("30d").expect("a span").after(NOW);
        assert_eq!(shown(Some(&later)), "2026-12-31T12:00:00Z");
        for text in ["", "24", "tomorrow", "2026-13-01", "h"] {
            assert!(When::parse(text).expect_err(text).contains("is not a time such as"), "{text}");
        }
    }
}
