//! Numbers of a JSON text as they are written, and whether they come out again as the same number.

use crate::event::render::number_text;

/// The numbers of a valid JSON text, in their order.
pub(super) struct Numbers<'t>(&'t [u8]);

impl<'t> Numbers<'t> {
    /// Those of `json`.
    pub(super) fn of(json: &'t [u8]) -> Self {
        Self(json)
    }
}

impl<'t> Iterator for Numbers<'t> {
    type Item = &'t str;

    fn next(&mut self) -> Option<&'t str> {
        loop {
            let start = self.0.iter().position(|byte| is_start(*byte) || *byte == b'"')?;
            let rest = &self.0[start..];
            let is_string = rest[0] == b'"';
            let end =
                if is_string { string_len(rest) } else { rest.iter().take_while(|b| is_part(**b)).count() };
            self.0 = &rest[end..];
            if !is_string {
                return str::from_utf8(&rest[..end]).ok();
            }
        }
    }
}

/// Bytes of the string at the beginning of `json`, with its quotes.
fn string_len(json: &[u8]) -> usize {
    let mut escaped = false;
    let inner = json[1..].iter().take_while(|byte| {
        let ends = **byte == b'"' && !escaped;
        escaped = **byte == b'\\' && !escaped;
        !ends
    });
    (inner.count() + 2).min(json.len())
}

fn is_start(byte: u8) -> bool {
    byte.is_ascii_digit() || byte == b'-'
}

fn is_part(byte: u8) -> bool {
    is_start(byte) || b".eE+".contains(&byte)
}

/// Whether a number that is written so and read as `number` comes out as the same number.
pub(super) fn comes_out(written: &str, number: f64) -> bool {
    Decimal::of(written) == Decimal::of(&number_text(number))
}

/// A number with all its digits: `digits` times ten to the power of `exponent`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Decimal {
    is_negative: bool,
    /// Without zeros at the beginning and at the end.
    digits: String,
    exponent: i64,
}

impl Decimal {
    /// The number that is written so in JSON.
    pub(super) fn of(written: &str) -> Self {
        let (is_negative, unsigned) = match written.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, written),
        };
        let (mantissa, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = format!("{whole}{fraction}");
        let trimmed = digits.trim_end_matches('0');
        let zeros = length(digits.len() - trimmed.len());
        let digits = trimmed.trim_start_matches('0').to_owned();
        if digits.is_empty() {
            return Self { is_negative: false, digits, exponent: 0 };
        }
        let far = if exponent.starts_with('-') { i64::MIN / 2 } else { i64::MAX / 2 };
        let exponent = exponent.parse().unwrap_or(far).clamp(i64::MIN / 2, i64::MAX / 2);
        Self { is_negative, digits, exponent: exponent - length(fraction.len()) + zeros }
    }
}

fn length(length: usize) -> i64 {
    i64::try_from(length).expect("a body is shorter")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_outside_of_strings() {
        let text = r#"{"a1":-1.5e+3,"b":["2\"3\\",4],"c":{"\\":5},"d":true,"e":0}"#;
        assert_eq!(Numbers::of(text.as_bytes()).collect::<Vec<_>>(), ["-1.5e+3", "4", "5", "0"]);
        assert_eq!(Numbers::of(b"\"1\"").next(), None);
    }

    #[test]
    fn spellings_of_one_number_are_equal_and_others_are_not() {
        for (one, other) in [
            ("100", "1e2"),
            ("1.0", "1"),
            ("-0", "0.00e7"),
            ("0.001", "1E-3"),
            ("12.50", "125e-1"),
            ("1e+21", "1000000000000000000000"),
            ("0e99999999999999999999", "0"),
        ] {
            assert_eq!(Decimal::of(one), Decimal::of(other));
        }
        for (one, other) in [
            ("1", "-1"),
            ("18446744073709551617", "18446744073709551616"),
            ("0.10000000000000000001", "0.1"),
            ("1e99999999999999999999", "1e-99999999999999999999"),
        ] {
            assert_ne!(Decimal::of(one), Decimal::of(other));
        }
    }

    #[test]
    fn a_number_comes_out_if_a_float_has_all_its_digits() {
        for (written, comes) in [
            ("0.8144278719272577", true),
            ("2.0", true),
            ("1e300", true),
            ("18446744073709551616", true),
            ("18446744073709551617", false),
            ("5511999999999999999999", false),
            ("0.81442787192725771", false),
            ("1e-400", false),
        ] {
            assert_eq!(comes_out(written, written.parse().unwrap()), comes, "{written}");
        }
    }
}
