//! The responses after which a delivery is not attempted again: statuses, and classes of them. Pure.

use http::StatusCode;

/// Lowest and highest status that can be in the set.
const STATUS_MIN: u16 = 300;
const STATUS_MAX: u16 = 599;
/// Statuses of a class that say "later": only their own entry gives up on them.
const LATER: [StatusCode; 3] =
    [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_EARLY, StatusCode::TOO_MANY_REQUESTS];

const WORDS: usize = (STATUS_MAX - STATUS_MIN + 1).div_ceil(64) as usize;

/// A set of statuses such as `404`, and of classes such as `4xx`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GiveUpStatuses {
    /// A bit for each status from [`STATUS_MIN`] on.
    statuses: [u64; WORDS],
    /// Whether the classes 3xx, 4xx and 5xx are in it.
    classes: [bool; 3],
}

impl GiveUpStatuses {
    /// The empty set.
    pub const NONE: Self = Self { statuses: [0; WORDS], classes: [false; 3] };

    /// Adds a status or a class, or returns the rule that the text breaks.
    pub fn insert(&mut self, text: &str) -> Result<(), &'static str> {
        const UNKNOWN: &str =
            "must be a status from 300 to 599 such as \"404\", or a class: \"3xx\", \"4xx\", \"5xx\"";
        const REPEATED: &str = "is repeated: each status and class may be named once";
        let (bit, is_new) = match text {
            "3xx" | "4xx" | "5xx" => {
                let class = &mut self.classes[usize::from(text.as_bytes()[0] - b'3')];
                return if std::mem::replace(class, true) { Err(REPEATED) } else { Ok(()) };
            }
            "410" => return Err("must not be 410: it suspends the subscription, and its deliveries wait"),
            _ => {
                let is_number = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
                let status = is_number.then(|| text.parse().ok()).flatten().ok_or(UNKNOWN)?;
                let bit = Self::bit(status).ok_or(UNKNOWN)?;
                (bit, !self.has(bit))
            }
        };
        self.statuses[bit / 64] |= 1 << (bit % 64);
        if is_new { Ok(()) } else { Err(REPEATED) }
    }

    /// Whether a delivery is given up after this status. Classes do not have 408, 425 and 429, which ask to come
    /// back, nor 410.
    pub fn contains(&self, status: u16) -> bool {
        let Some(bit) = Self::bit(status) else { return false };
        let is_left_out = LATER.iter().chain(&[StatusCode::GONE]).any(|later| later.as_u16() == status);
        self.has(bit) || !is_left_out && self.classes[usize::from(status / 100 - 3)]
    }

    /// The texts that make this set: statuses in ascending order, then classes.
    pub fn texts(&self) -> Vec<String> {
        let statuses = (STATUS_MIN..=STATUS_MAX).filter(|status| self.has(usize::from(status - STATUS_MIN)));
        let classes = ["3xx", "4xx", "5xx"].into_iter().zip(self.classes).filter(|(_, is_in)| *is_in);
        statuses.map(|status| status.to_string()).chain(classes.map(|(text, _)| text.to_owned())).collect()
    }

    fn bit(status: u16) -> Option<usize> {
        (STATUS_MIN..=STATUS_MAX).contains(&status).then(|| usize::from(status - STATUS_MIN))
    }

    fn has(&self, bit: usize) -> bool {
        (self.statuses[bit / 64] >> (bit % 64)) & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(texts: &[&str]) -> GiveUpStatuses {
        let mut set = GiveUpStatuses::NONE;
        texts.iter().for_each(|text| set.insert(text).unwrap());
        set
    }

    #[test]
    fn a_class_has_its_statuses_but_those_that_ask_to_come_back_and_410() {
        let of_class = set(&["4xx"]);
        for status in 0..1000 {
            let expected = (400..500).contains(&status) && ![408, 410, 425, 429].contains(&status);
            assert_eq!(of_class.contains(status), expected, "{status}");
        }
        let listed = set(&["4xx", "429", "503"]);
        assert!([429, 503, 404].into_iter().all(|status| listed.contains(status)));
        assert!([408, 425, 410, 500, 200].into_iter().all(|status| !listed.contains(status)));
        assert!(!(0..=u16::MAX).any(|status| GiveUpStatuses::NONE.contains(status)));
    }

    #[test]
    fn a_set_is_written_as_it_is_read() {
        let texts = ["300", "404", "599", "3xx", "5xx"];
        assert_eq!(set(&["5xx", "599", "3xx", "404", "300"]).texts(), texts);
        assert_eq!(set(&texts).texts(), texts);
    }

    #[test]
    fn other_texts_are_refused() {
        let mut set = set(&["404", "4xx"]);
        for text in
            ["", "200", "2xx", "1xx", "600", "6xx", "4XX", "40x", "0404", "+404", " 404", "44", "4xxx"]
        {
            assert!(set.insert(text).unwrap_err().starts_with("must be a status"), "{text:?}");
        }
        for text in ["404", "4xx"] {
            assert!(set.insert(text).unwrap_err().starts_with("is repeated"));
        }
        assert!(set.insert("410").unwrap_err().contains("suspends"));
    }
}
