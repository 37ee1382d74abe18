//! What a setting's value can be: how it is read from text or TOML, checked against its bounds, and written again.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use ipnet::IpNet;
use tracing_subscriber::EnvFilter;

use super::{
    proxies::ProxySetting,
    units::{DURATION_UNITS, SIZE_UNITS, parse_duration, parse_size, write_in_units},
};
use crate::domain::egress::HostPattern;

/// What values a setting takes, with their bounds, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The path of a directory.
    Directory,
    /// The path of a file; the empty one stands for none.
    OptionalFile,
    /// An IP address and a port.
    Address,
    /// The same; empty for none.
    OptionalAddress,
    /// Networks in CIDR notation.
    Networks,
    /// The URL of an HTTP proxy; the empty one stands for what the environment says.
    Proxy,
    /// Names, addresses and networks, each with a port or without.
    Hosts,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Something that is on or off. Its flag may stand alone, and means that it is on.
    Switch,
    /// Which log lines are written, as `tracing` filters are.
    LogFilter,
    /// A span of time, to the millisecond.
    Duration {
        /// The shortest.
        min: Duration,
        /// The longest.
        max: Duration,
    },
    /// A size in bytes.
    Bytes {
        /// The smallest.
        min: u64,
        /// The largest.
        max: u64,
    },
    /// A number of things.
    Count {
        /// The lowest.
        min: u64,
        /// The highest.
        max: u64,
    },
}

/// A value as a source gives it, before it is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Raw {
    /// Text: a flag, an environment variable, or a TOML string.
    Text(String),
    /// A TOML integer.
    Integer(i64),
    /// A TOML boolean.
    Boolean(bool),
    /// TOML strings, or a flag given several times.
    List(Vec<String>),
    /// Something in TOML that no setting takes, such as a date: what it is called.
    Other(&'static str),
}

/// A checked value. Two of the same kind compare by size.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    /// A path.
    Path(PathBuf),
    /// No address.
    NoAddress,
    /// An IP address and a port.
    Address(SocketAddr),
    /// Networks, without host bits.
    Networks(Vec<IpNet>),
    /// A proxy; it is not shown how one asks it.
    Proxy(ProxySetting),
    /// Hosts.
    Hosts(Vec<HostPattern>),
    /// A word or a filter.
    Text(String),
    /// On or off.
    Switch(bool),
    /// A span of time, in whole milliseconds.
    Duration(Duration),
    /// A size in bytes.
    Bytes(u64),
    /// A number of things.
    Count(u64),
}

impl Kind {
    /// Checks what a source gives.
    ///
    /// # Errors
    ///
    /// What is wrong with it, to be put after the name of its source.
    pub fn read(self, raw: &Raw) -> Result<Value, String> {
        match (self, raw) {
            (Self::Networks, Raw::Text(text)) => read_networks(text.split(',')),
            (Self::Networks, Raw::List(items)) => read_networks(items.iter().map(String::as_str)),
            (Self::Hosts, Raw::Text(text)) => read_hosts(text.split(',')),
            (Self::Hosts, Raw::List(items)) => read_hosts(items.iter().map(String::as_str)),
            (Self::Count { min, max } | Self::Bytes { min, max }, Raw::Integer(number)) => {
                let number = u64::try_from(*number).map_err(|_| format!("{number} is negative"))?;
                self.number(number, min, max)
            }
            (Self::Switch, Raw::Boolean(on)) => Ok(Value::Switch(*on)),
            (_, Raw::Boolean(_)) => Err(format!("is a boolean, not {}", self.wanted())),
            (_, Raw::Text(text)) => self.read_text(text),
            (Self::Duration { .. }, Raw::Integer(number)) => {
                Err(format!("{number} has no unit: write \"{number}s\" or \"{number}ms\""))
            }
            (_, Raw::Integer(_)) => Err(format!("is an integer, not {}", self.wanted())),
            (_, Raw::List(_)) => Err(format!("is an array, not {}", self.wanted())),
            (_, Raw::Other(other)) => Err(format!("is a {other}, not {}", self.wanted())),
        }
    }

    fn read_text(self, text: &str) -> Result<Value, String> {
        match self {
            Self::Directory if text.is_empty() => Err("is empty".to_owned()),
            Self::Directory | Self::OptionalFile => Ok(Value::Path(text.into())),
            Self::OptionalAddress if text.is_empty() => Ok(Value::NoAddress),
            Self::Address | Self::OptionalAddress => text
                .parse()
                .map(Value::Address)
                .map_err(|_| format!("{text:?} is not an address such as 127.0.0.1:50051 or [::]:50051")),
            Self::Networks => read_networks(text.split(',')),
            Self::Proxy => ProxySetting::parse(text).map(Value::Proxy),
            Self::Hosts => read_hosts(text.split(',')),
            Self::Choice(words) if words.contains(&text) => Ok(Value::Text(text.to_owned())),
            Self::Choice(words) => Err(format!("{text:?} is not one of {}", words.join(", "))),
            Self::Switch => {
                text.parse().map(Value::Switch).map_err(|_| format!("{text:?} is neither true nor false"))
            }
            Self::LogFilter => read_log_filter(text),
            Self::Duration { min, max } => {
                let duration = parse_duration(text)?;
                let value = Value::Duration(duration);
                if min <= duration && duration <= max { Ok(value) } else { Err(self.out_of_bounds(&value)) }
            }
            Self::Bytes { min, max } => self.number(parse_size(text)?, min, max),
            Self::Count { min, max } => {
                let number = text.parse().map_err(|_| format!("{text:?} is not a whole number"))?;
                self.number(number, min, max)
            }
        }
    }

    fn number(self, number: u64, min: u64, max: u64) -> Result<Value, String> {
        let value =
            if matches!(self, Self::Bytes { .. }) { Value::Bytes(number) } else { Value::Count(number) };
        if (min..=max).contains(&number) { Ok(value) } else { Err(self.out_of_bounds(&value)) }
    }

    fn out_of_bounds(self, value: &Value) -> String {
        format!("{value} is not within {}", self.bounds())
    }

    fn wanted(self) -> &'static str {
        match self {
            Self::Networks | Self::Hosts => "an array of strings",
            Self::Switch => "true or false",
            Self::Count { .. } => "a whole number",
            Self::Bytes { .. } => "a size such as \"64KiB\"",
            Self::Duration { .. } => "a duration such as \"10s\"",
            _ => "a string",
        }
    }

    /// What stands for the value in the help of its flag.
    pub fn placeholder(self) -> &'static str {
        match self {
            Self::Directory => "DIRECTORY",
            Self::OptionalFile => "FILE",
            Self::Address | Self::OptionalAddress => "ADDRESS",
            Self::Networks => "CIDR",
            Self::Proxy => "URL",
            Self::Hosts => "HOST",
            Self::Choice(_) => "WORD",
            Self::Switch => "true|false",
            Self::LogFilter => "FILTER",
            Self::Duration { .. } => "DURATION",
            Self::Bytes { .. } => "SIZE",
            Self::Count { .. } => "COUNT",
        }
    }

    /// The values allowed, for people: `1s to 30s`.
    pub fn bounds(self) -> String {
        match self {
            Self::Directory => "a directory".to_owned(),
            Self::OptionalFile => "a file, or empty".to_owned(),
            Self::Address => "IP:port".to_owned(),
            Self::OptionalAddress => "IP:port, or empty".to_owned(),
            Self::Networks => "CIDRs or addresses".to_owned(),
            Self::Proxy => "http://user:password@host:port, none, or empty".to_owned(),
            Self::Hosts => "names, addresses or CIDRs, with or without :port, or *".to_owned(),
            Self::Choice(words) => words.join(", "),
            Self::Switch => "true, false".to_owned(),
            Self::LogFilter => "off, error, warn, info, debug, trace, or target=level,…".to_owned(),
            Self::Duration { min, max } => format!("{} to {}", Value::Duration(min), Value::Duration(max)),
            Self::Bytes { min, max } => format!("{} to {}", Value::Bytes(min), Value::Bytes(max)),
            Self::Count { min, max } => format!("{min} to {max}"),
        }
    }
}

impl Value {
    /// The value in TOML, as [`Kind::read`] reads it back.
    pub fn to_toml(&self) -> String {
        let quoted = |text: &str| toml::Value::from(text).to_string();
        match self {
            Self::Count(count) => count.to_string(),
            Self::Switch(on) => on.to_string(),
            Self::Networks(networks) => {
                let networks: Vec<_> = networks.iter().map(|network| quoted(&network.to_string())).collect();
                format!("[{}]", networks.join(", "))
            }
            Self::Hosts(hosts) => {
                let hosts: Vec<_> = hosts.iter().map(|host| quoted(&host.to_string())).collect();
                format!("[{}]", hosts.join(", "))
            }
            other => quoted(&other.to_string()),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.display().fmt(f),
            Self::NoAddress => Ok(()),
            Self::Address(address) => address.fmt(f),
            Self::Text(text) => f.write_str(text),
            Self::Count(count) => count.fmt(f),
            Self::Switch(on) => on.fmt(f),
            Self::Bytes(bytes) => write_in_units(f, u128::from(*bytes), &SIZE_UNITS),
            Self::Duration(duration) if duration.is_zero() => f.write_str("0s"),
            Self::Duration(duration) => write_in_units(f, duration.as_millis(), &DURATION_UNITS),
            Self::Networks(networks) => {
                let networks: Vec<_> = networks.iter().map(IpNet::to_string).collect();
                f.write_str(&networks.join(","))
            }
            Self::Proxy(proxy) => proxy.fmt(f),
            Self::Hosts(hosts) => {
                let hosts: Vec<_> = hosts.iter().map(HostPattern::to_string).collect();
                f.write_str(&hosts.join(","))
            }
        }
    }
}

/// Reads networks; empty items, as behind a last comma, count for nothing.
fn read_networks<'a>(items: impl Iterator<Item = &'a str>) -> Result<Value, String> {
    let (networks, wrong): (Vec<_>, Vec<_>) = items
        .map(str::trim)
        .filter(|item| !item.is_empty())
        .map(|item| parse_network(item).ok_or(item))
        .partition(Result::is_ok);
    if wrong.is_empty() {
        return Ok(Value::Networks(networks.into_iter().flatten().collect()));
    }
    let wrong: Vec<_> = wrong.into_iter().filter_map(Result::err).map(|item| format!("{item:?}")).collect();
    let verb = if wrong.len() == 1 { "is not a network" } else { "are not networks" };
    Err(format!("{} {verb} such as 10.0.0.0/8, ::1/128 or 192.0.2.7", wrong.join(", ")))
}

fn parse_network(item: &str) -> Option<IpNet> {
    let network = item.parse::<IpNet>().or_else(|_| item.parse::<IpAddr>().map(IpNet::from));
    network.ok().map(|network| network.trunc())
}

/// Reads hosts; empty items count for nothing.
fn read_hosts<'a>(items: impl Iterator<Item = &'a str>) -> Result<Value, String> {
    let mut hosts = Vec::new();
    for item in items.map(str::trim).filter(|item| !item.is_empty()) {
        let wrong =
            || format!("{item:?} is not a host such as example.com, example.com:8443, 10.0.0.0/8 or *");
        hosts.push(HostPattern::parse(item).ok_or_else(wrong)?);
    }
    Ok(Value::Hosts(hosts))
}

fn read_log_filter(text: &str) -> Result<Value, String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    for directive in text.split(',').map(str::trim) {
        // A filter takes a lone word that is no level for the name of a target, and then shows nothing else: a slip of
        // the pen would silence the log.
        let lone_word = directive.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if lone_word && !LEVELS.iter().any(|level| level.eq_ignore_ascii_case(directive)) {
            return Err(format!("{directive:?} is not one of {}, nor target=level", LEVELS.join(", ")));
        }
    }
    match EnvFilter::builder().parse(text) {
        Ok(_) => Ok(Value::Text(text.to_owned())),
        Err(error) => Err(format!("{text:?} is not a log filter: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: Kind = Kind::Duration { min: Duration::ZERO, max: Duration::from_hours(48) };
    const SIZE: Kind = Kind::Bytes { min: 0, max: u64::MAX };
    const COUNT: Kind = Kind::Count { min: 1, max: 50 };

    fn read(kind: Kind, text: &str) -> Result<String, String> {
        kind.read(&Raw::Text(text.to_owned())).map(|value| value.to_string())
    }

    #[test]
    fn values_are_written_in_the_largest_whole_unit() {
        let cases = [
            (TIME, "10s", "10s"),
            (TIME, "500ms", "500ms"),
            (TIME, "1500ms", "1500ms"),
            (TIME, "90s", "90s"),
            (TIME, "120s", "2m"),
            (TIME, "24h", "1d"),
            (TIME, "0m", "0s"),
            (SIZE, "0", "0B"),
            (SIZE, "1000", "1000B"),
            (SIZE, "65536", "64KiB"),
            (SIZE, "1024KiB", "1MiB"),
            (SIZE, "2GiB", "2GiB"),
            (SIZE, "3B", "3B"),
            (COUNT, "50", "50"),
            (Kind::Address, "[::1]:0", "[::1]:0"),
            (Kind::Networks, "127.0.0.1, fd00::1 ,10.1.2.3/8,", "127.0.0.1/32,fd00::1/128,10.0.0.0/8"),
            (Kind::Networks, "", ""),
            (Kind::LogFilter, "warn,tidings::delivery=debug", "warn,tidings::delivery=debug"),
            (Kind::OptionalFile, "", ""),
            (Kind::OptionalAddress, "", ""),
            (Kind::OptionalAddress, "[::1]:0", "[::1]:0"),
            (Kind::Proxy, "", ""),
            (Kind::Proxy, "none", "none"),
            (Kind::Proxy, "http://user:hunter2@proxy.example:3128", "http://***:***@proxy.example:3128"),
            (Kind::Hosts, ".Example.com, 10.1.2.3,*,", "example.com,10.1.2.3/32,*"),
            (Kind::Switch, "true", "true"),
        ];
        for (kind, text, expected) in cases {
            assert_eq!(read(kind, text).as_deref(), Ok(expected), "{text:?}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_value_is_said_with_the_value() {
        let cases = [
            (TIME, "10", r#""10" is not a duration such as"#),
            (TIME, "s", r#""s" is not a duration"#),
            (TIME, "1.5s", r#""1.5s" is not a duration"#),
            (TIME, "-1s", r#""-1s" is not a duration"#),
            (TIME, "1h30m", r#""1h30m" is not a duration"#),
            (TIME, "99999999999999999999s", "is not a duration"),
            (TIME, "9999999999999999999d", "is not a duration"),
            (TIME, "49h", "49h is not within 0s to 2d"),
            (SIZE, "64KB", r#""64KB" is not a size such as"#),
            (SIZE, "", r#""" is not a size"#),
            (SIZE, "18446744073709551615GiB", "is not a size"),
            (COUNT, "0", "0 is not within 1 to 50"),
            (COUNT, "51", "51 is not within 1 to 50"),
            (COUNT, "many", r#""many" is not a whole number"#),
            (Kind::Address, "localhost:1", r#""localhost:1" is not an address such as"#),
            (Kind::OptionalAddress, "8081", r#""8081" is not an address such as"#),
            (Kind::Networks, "10.0.0.0/8,ten,10.0.0.0/33", r#""ten", "10.0.0.0/33" are not networks"#),
            (Kind::Choice(&["text", "json"]), "xml", r#""xml" is not one of text, json"#),
            (Kind::LogFilter, "inof", r#""inof" is not one of off, error"#),
            (Kind::LogFilter, "", r#""" is not one of off"#),
            (Kind::LogFilter, "tidings=loud", r#""tidings=loud" is not a log filter"#),
            (Kind::Directory, "", "is empty"),
            (Kind::Proxy, "ftp://proxy.example", "is a proxy of the scheme ftp"),
            (Kind::Proxy, "http://***:***@proxy.example", "has *** for a password"),
            (Kind::Hosts, "a b", r#""a b" is not a host such as"#),
            (Kind::Switch, "yes", r#""yes" is neither true nor false"#),
        ];
        for (kind, text, expected) in cases {
            let problem = read(kind, text).expect_err(text);
            assert!(problem.contains(expected), "{text:?}: {problem}");
        }
    }

    #[test]
    fn toml_values_of_the_wrong_type_are_refused() {
        let cases = [
            (TIME, Raw::Integer(10), r#"10 has no unit: write "10s" or "10ms""#),
            (COUNT, Raw::Integer(-1), "-1 is negative"),
            (COUNT, Raw::List(vec![]), "is an array, not a whole number"),
            (Kind::Address, Raw::Integer(80), "is an integer, not a string"),
            (Kind::Networks, Raw::Integer(80), "is an integer, not an array of strings"),
            (SIZE, Raw::Boolean(true), "is a boolean, not a size such as \"64KiB\""),
            (SIZE, Raw::Other("date-time"), "is a date-time, not a size such as \"64KiB\""),
            (Kind::Switch, Raw::Integer(1), "is an integer, not true or false"),
        ];
        for (kind, raw, expected) in cases {
            assert_eq!(kind.read(&raw).expect_err(expected), expected);
        }
    }

    #[test]
    fn integers_are_sizes_and_counts() {
        assert_eq!(SIZE.read(&Raw::Integer(1024)), Ok(Value::Bytes(1024)));
        assert_eq!(COUNT.read(&Raw::Integer(7)), Ok(Value::Count(7)));
    }
}
