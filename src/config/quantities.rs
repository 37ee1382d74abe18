//! Parsers for the values of settings: durations, sizes and counts with their bounds, addresses, networks, names of
//! headers, origins of sites.

use std::{
    ffi::OsStr,
    fmt,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use clap::{
    Arg, Command,
    builder::{PossibleValue, TypedValueParser},
};
use http::{HeaderName, HeaderValue};
use ipnet::IpNet;

use url::Url;

use crate::domain::egress::HostPattern;

/// The units of one kind of quantity, the largest first, and how people write it.
struct Units {
    names: &'static [(&'static str, u64)],
    wanted: &'static str,
}

static COUNT: Units = Units { names: &[("", 1)], wanted: "a whole number" };
static SIZE: Units = Units {
    names: &[("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1), ("", 1)],
    wanted: "a size such as 65536, 64KiB, 1MiB or 2GiB",
};
static DURATION: Units = Units {
    names: &[("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)],
    wanted: "a duration such as 500ms, 10s, 5m, 6h or 1d",
};

impl Units {
    /// Reads a whole number with one of the units, in the smallest of them.
    fn read(&self, text: &str) -> Result<u64, String> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let unit = self.names.iter().find(|(name, _)| *name == unit);
        let amount =
            number.parse::<u64>().ok().zip(unit).and_then(|(number, (_, unit))| number.checked_mul(*unit));
        amount.ok_or_else(|| format!("{text:?} is not {}", self.wanted))
    }
}

/// Reads a duration: a whole number and one of the units ms, s, m, h, d.
///
/// # Errors
///
/// The text is not a duration.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("{text} has no unit: write \"{text}s\" or \"{text}ms\""));
    }
    DURATION.read(text).map(Duration::from_millis)
}

/// Parses a whole number with a unit, and keeps it within bounds, both included. The only "possible value"
/// that it names to clap is these bounds: `1s to 30s`.
pub struct Quantity<T> {
    read: fn(&str) -> Result<u64, String>,
    make: fn(u64) -> T,
    min: String,
    max: String,
}

/// A duration, to the millisecond, from `min` to `max`.
pub fn duration(min: &str, max: &str) -> Quantity<Duration> {
    let read = |text: &str| {
        parse_duration(text)?;
        DURATION.read(text)
    };
    Quantity { read, make: Duration::from_millis, min: min.to_owned(), max: max.to_owned() }
}

/// A size in bytes, from `min` to `max`.
pub fn bytes<T: TryFrom<u64>>(min: &str, max: &str) -> Quantity<T> {
    Quantity { read: |text| SIZE.read(text), make: number, min: min.to_owned(), max: max.to_owned() }
}

/// A number of things, from `min` to `max`.
pub fn count<T: TryFrom<u64>>(min: u64, max: u64) -> Quantity<T> {
    Quantity { read: |text| COUNT.read(text), make: number, min: min.to_string(), max: max.to_string() }
}

fn number<T: TryFrom<u64>>(number: u64) -> T {
    T::try_from(number).ok().expect("the bounds of a setting are within its type")
}

impl<T> Quantity<T> {
    fn parse(&self, text: &str) -> Result<T, String> {
        let bound =
            |bound: &str| (self.read)(bound).expect("the bounds of a setting are written as its values are");
        let amount = (self.read)(text)?;
        if amount < bound(&self.min) || amount > bound(&self.max) {
            return Err(format!("{text} is not within {self}"));
        }
        Ok((self.make)(amount))
    }
}

impl<T> fmt::Display for Quantity<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.min, self.max)
    }
}

impl<T> Clone for Quantity<T> {
    fn clone(&self) -> Self {
        Self { read: self.read, make: self.make, min: self.min.clone(), max: self.max.clone() }
    }
}

impl<T: Clone + Send + Sync + 'static> TypedValueParser for Quantity<T> {
    type Value = T;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<T, clap::Error> {
        // A function's error is the source of clap's, which is what load.rs shows.
        let quantity = self.clone();
        (move |text: &str| quantity.parse(text)).parse_ref(command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(std::iter::once(PossibleValue::new(self.to_string()))))
    }
}

/// An IP address with a port.
///
/// # Errors
///
/// The text is not an address.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("{text:?} is not an address such as 127.0.0.1:50051 or [::]:50051"))
}

/// The origin of a site, as browsers send it: a scheme, a host, and a port other than the scheme's own.
///
/// # Errors
///
/// The text is no such origin. `*` is none: it would let every site in that a user visits.
pub fn origin(text: &str) -> Result<HeaderValue, String> {
    if text == "*" {
        return Err(
            "\"*\" is every site that a user visits: name the sites, as https://app.example.com".to_owned()
        );
    }
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    let origin = url.map(|url| url.origin().ascii_serialization());
    // Browsers compare origins letter by letter, so that anything beyond one would never match.
    let origin = origin.filter(|origin| text.eq_ignore_ascii_case(origin));
    origin.and_then(|origin| HeaderValue::try_from(origin).ok()).ok_or_else(|| {
        format!("{text:?} is not an origin such as https://app.example.com or http://localhost:5173")
    })
}

/// A network in CIDR notation, without host bits, or a single address.
///
/// # Errors
///
/// The text is not a network.
pub fn network(text: &str) -> Result<IpNet, String> {
    let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    let wrong = |_| format!("{text:?} is not a network such as 10.0.0.0/8, ::1/128 or 192.0.2.7");
    network.map(|network| network.trunc()).map_err(wrong)
}

/// A name, an address or a network, with a port or without, or `*`.
///
/// # Errors
///
/// The text is not a host.
pub fn host(text: &str) -> Result<HostPattern, String> {
    let wrong = || format!("{text:?} is not a host such as example.com, example.com:8443, 10.0.0.0/8 or *");
    HostPattern::parse(text).ok_or_else(wrong)
}

/// The name of a header.
///
/// # Errors
///
/// The text is not one.
pub fn header_name(text: &str) -> Result<HeaderName, String> {
    text.parse().map_err(|_| format!("{text:?} is not the name of a header such as cookie"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_hours(24);

    #[test]
    fn quantities_are_whole_numbers_with_units() {
        let time = |text: &str| duration("0s", "2d").parse(text);
        let size = |text: &str| bytes::<u64>("0", "1024GiB").parse(text);
        for (text, expected) in
            [("10s", 10_000), ("1500ms", 1_500), ("2m", 120_000), ("24h", 86_400_000), ("0m", 0)]
        {
            assert_eq!(time(text), Ok(Duration::from_millis(expected)), "{text}");
        }
        assert_eq!(time("1d"), Ok(DAY));
        for (text, expected) in [
            ("0", 0),
            ("65536", 65_536),
            ("64KiB", 65_536),
            ("1024KiB", 1 << 20),
            ("2GiB", 2 << 30),
            ("3B", 3),
        ] {
            assert_eq!(size(text), Ok(expected), "{text}");
        }
        assert_eq!(count::<u16>(1, 50).parse("50"), Ok(50));
        assert_eq!(bytes::<usize>("1KiB", "3MiB").to_string(), "1KiB to 3MiB");
    }

    #[test]
    fn a_problem_is_described_with_the_value() {
        let time = |text: &str| duration("0s", "2d").parse(text).map(drop);
        let size = |text: &str| bytes::<u64>("0", "1024GiB").parse(text).map(drop);
        let number = |text: &str| count::<u64>(1, 50).parse(text).map(drop);
        let cases = [
            (time("10"), r#"10 has no unit: write "10s" or "10ms""#),
            (time(""), r#""" is not a duration such as"#),
            (time("s"), r#""s" is not a duration"#),
            (time("1.5s"), r#""1.5s" is not a duration"#),
            (time("-1s"), r#""-1s" is not a duration"#),
            (time("1h30m"), r#""1h30m" is not a duration"#),
            (time("99999999999999999999s"), "is not a duration"),
            (time("9999999999999999999d"), "is not a duration"),
            (time("49h"), "49h is not within 0s to 2d"),
            (size("64KB"), r#""64KB" is not a size such as"#),
            (size(""), r#""" is not a size"#),
            (size("18446744073709551615GiB"), "is not a size"),
            (number("0"), "0 is not within 1 to 50"),
            (number("51"), "51 is not within 1 to 50"),
            (number("-1"), r#""-1" is not a whole number"#),
            (number("many"), r#""many" is not a whole number"#),
            (address("localhost:1").map(drop), r#""localhost:1" is not an address such as"#),
            (address("8081").map(drop), r#""8081" is not an address such as"#),
            (network("10.0.0.0/33").map(drop), r#""10.0.0.0/33" is not a network"#),
            (host("a b").map(drop), r#""a b" is not a host such as"#),
            (origin("*").map(drop), "every site that a user visits"),
            (origin("app.example.com").map(drop), r#""app.example.com" is not an origin such as"#),
            (origin("https://app.example.com/").map(drop), "is not an origin"),
            (origin("https://app.example.com:443").map(drop), "is not an origin"),
            (origin("https://u@app.example.com").map(drop), "is not an origin"),
            (origin("ftp://app.example.com").map(drop), "is not an origin"),
            (origin("null").map(drop), "is not an origin"),
        ];
        for (result, expected) in cases {
            let problem = result.expect_err(expected);
            assert!(problem.contains(expected), "{expected}: {problem}");
        }
    }

    #[test]
    fn an_origin_is_as_browsers_send_it() {
        for (text, expected) in [
            ("https://App.Example.com", "https://app.example.com"),
            ("http://localhost:5173", "http://localhost:5173"),
            ("http://[::1]:5173", "http://[::1]:5173"),
        ] {
            assert_eq!(origin(text), Ok(HeaderValue::from_static(expected)), "{text}");
        }
    }

    #[test]
    fn networks_lose_their_host_bits() {
        for (text, expected) in
            [("127.0.0.1", "127.0.0.1/32"), ("fd00::1", "fd00::1/128"), ("10.1.2.3/8", "10.0.0.0/8")]
        {
            assert_eq!(network(text).map(|network| network.to_string()), Ok(expected.to_owned()));
        }
    }
}
