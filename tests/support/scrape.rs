//! `/metrics` of a gateway, read as strictly as the format is written down.

use std::collections::{BTreeMap, BTreeSet};

use super::{eventually, exchange, process::TidingsProcess};

/// The metrics at one moment.
#[derive(Debug)]
pub struct Scrape {
    pub families: BTreeMap<String, Family>,
    /// By name and labels, as the text has them.
    pub samples: BTreeMap<String, f64>,
}

/// The description of the series of one name.
#[derive(Debug, Default)]
pub struct Family {
    pub help: String,
    pub kind: String,
    pub labels: BTreeSet<String>,
}

impl Scrape {
    pub async fn of(gateway: &TidingsProcess) -> Self {
        let response = exchange(gateway.http, b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let response = String::from_utf8(response).unwrap();
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
        Self::read(body)
    }

    /// The value of a series now.
    pub async fn value_of(gateway: &TidingsProcess, series: &str) -> f64 {
        Self::of(gateway).await.value(series)
    }

    /// Waits until `wanted` accepts the metrics.
    pub async fn when(gateway: &TidingsProcess, what: &str, wanted: impl Fn(&Self) -> bool) -> Self {
        eventually(what, async || Self::of(gateway).await, wanted).await
    }

    /// Waits until each of these series has its value.
    pub async fn reaches(gateway: &TidingsProcess, wanted: &[(&str, f64)]) -> Self {
        let is_there = |scrape: &Self| wanted.iter().all(|(series, value)| scrape.value(series) == *value);
        Self::when(gateway, &format!("{wanted:?}"), is_there).await
    }

    /// How many connections of gRPC were closed for this reason, once there are `least`: each is closed
    /// before it is counted.
    pub async fn closed(gateway: &TidingsProcess, reason: &str, least: f64) -> f64 {
        Self::when(gateway, "closed", |scrape| scrape.closed_for(reason) >= least).await.closed_for(reason)
    }

    /// Connections of gRPC clients that were closed for this reason.
    pub fn closed_for(&self, reason: &str) -> f64 {
        self.value(&format!("tidings_grpc_connections_closed_total{{reason=\"{reason}\"}}"))
    }

    fn read(text: &str) -> Self {
        assert!(text.ends_with('\n'), "the last line has no end");
        let mut scrape = Self { families: BTreeMap::new(), samples: BTreeMap::new() };
        let mut current = String::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap();
                let family = Family { help: help.to_owned(), ..Family::default() };
                assert!(scrape.families.insert(name.to_owned(), family).is_none(), "{name} is there twice");
                name.clone_into(&mut current);
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert_eq!(name, current, "the type follows the help");
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                kind.clone_into(&mut scrape.families.get_mut(name).unwrap().kind);
            } else {
                scrape.read_sample(&current, line);
            }
        }
        scrape
    }

    fn read_sample(&mut self, current: &str, line: &str) {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let value: f64 = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let family = self.families.get_mut(current).unwrap();
        let suffix = name.strip_prefix(current).unwrap_or_else(|| panic!("{line} is below {current}"));
        match family.kind.as_str() {
            "histogram" => assert!(["_bucket", "_sum", "_count"].contains(&suffix), "{line}"),
            kind => assert!(["counter", "gauge"].contains(&kind) && suffix.is_empty(), "{line}"),
        }
        assert!(value.is_finite() && value >= 0.0, "{line}");
        let labels = labels.strip_suffix('}').unwrap_or_else(|| panic!("no end of the labels: {line}"));
        for label in labels.split(',').filter(|label| !label.is_empty()) {
            let (name, value) = label.split_once('=').unwrap();
            let quoted = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
            let plain = quoted.is_some_and(|value| !value.is_empty() && !value.contains(['"', '\\']));
            assert!(is_name(name) && plain, "{line}");
            family.labels.insert(name.to_owned());
        }
        assert!(self.samples.insert(series.to_owned(), value).is_none(), "{series} is there twice");
    }

    #[track_caller]
    pub fn value(&self, series: &str) -> f64 {
        *self.samples.get(series).unwrap_or_else(|| panic!("no {series} in {:#?}", self.samples.keys()))
    }

    /// The sum of the series of this name, with any labels.
    #[track_caller]
    pub fn sum(&self, name: &str) -> f64 {
        assert!(self.families.contains_key(name), "there is no {name}");
        let of_name = |series: &str| series.split('{').next() == Some(name);
        self.samples.iter().filter(|(series, _)| of_name(series)).map(|(_, value)| value).sum()
    }

    /// The series of a name that are not 0, by the value of their label.
    pub fn counted(&self, name: &str) -> BTreeMap<String, f64> {
        assert!(self.families.contains_key(name), "there is no {name}");
        let labelled = self.samples.iter().filter_map(|(series, value)| {
            let (_, label) = series.strip_prefix(name)?.strip_prefix('{')?.split_once('=')?;
            Some((label.trim_end_matches('}').trim_matches('"').to_owned(), *value))
        });
        labelled.filter(|(_, value)| *value > 0.0).collect()
    }

    /// Made, replayed, owed, settled and dropped deliveries must add up.
    #[track_caller]
    pub fn assert_adds_up(&self) {
        let made =
            self.sum("tidings_deliveries_created_total") + self.sum("tidings_deliveries_reopened_total");
        let gone =
            self.sum("tidings_deliveries_settled_total") + self.sum("tidings_deliveries_dropped_total");
        assert_eq!(made, gone + self.sum("tidings_deliveries_owed"), "{:#?}", self.samples);
    }

    /// Buckets never fall, and the last is the count.
    pub fn assert_histograms_add_up(&self) {
        for (name, _) in self.families.iter().filter(|(_, family)| family.kind == "histogram") {
            let bound = |series: &str| {
                let bound = series.strip_prefix(name)?.strip_prefix("_bucket{le=\"")?.strip_suffix("\"}")?;
                Some(bound.parse::<f64>().unwrap())
            };
            let mut buckets: Vec<_> =
                self.samples.iter().filter_map(|(s, v)| Some((bound(s)?, *v))).collect();
            buckets.sort_unstable_by(|one, other| one.0.total_cmp(&other.0));
            assert!(
                buckets.is_sorted_by(|one, other| one.0 < other.0 && one.1 <= other.1),
                "{name} {buckets:?}"
            );
            assert_eq!(buckets.last(), Some(&(f64::INFINITY, self.value(&format!("{name}_count")))));
        }
    }
}

/// Whether a name is in lower case, with words of letters and digits.
pub fn is_name(name: &str) -> bool {
    let is_word = |word: &str| word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.split('_').all(|word| !word.is_empty() && is_word(word))
}
