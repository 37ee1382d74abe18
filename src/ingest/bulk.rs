//! How much a body comes to once it is taken apart. A part of two bytes becomes some hundred, and faults are told with whole paths:
//! both are bounded before anything is.

/// Most values in a body, over all its depths.
pub const PARTS_MAX: usize = 100_000;
/// Most bytes of the paths of all values together, each told as a fault would be.
pub const PATHS_BYTES_MAX: usize = 16 << 20;
/// What the path of an array's element has beyond the array's.
const INDEX_BYTES: usize = 8;
/// Deeper is refused by whoever reads it.
const DEPTH_MAX: usize = 128;

/// What a body comes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) parts: usize,
    pub(super) paths_bytes: usize,
}

/// Errors with the rule that the body breaks.
pub(super) fn check(body: &[u8]) -> Result<(), &'static str> {
    match count(body) {
        Some(Count { parts, .. }) if parts > PARTS_MAX => Err("must have at most 100000 values"),
        Some(Count { paths_bytes, .. }) if paths_bytes > PATHS_BYTES_MAX => {
            Err("must have at most 16777216 bytes of paths: its keys are too long, or too deep")
        }
        _ => Ok(()),
    }
}

/// Counts in one pass, without reading values. Of what is no JSON it counts something; `None` where it is too deep to be read.
pub(super) fn count(body: &[u8]) -> Option<Count> {
    let mut count = Count::default();
    // The lengths of the paths to the objects and arrays that are open, and to what is within the last.
    let (mut open, mut here) = (Vec::new(), 0_usize);
    let mut at = 0;
    while let Some(byte) = body.get(at) {
        let start = at;
        at += 1;
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' | b',' | b':' => {}
            b'{' | b'[' => {
                count.add(here);
                if open.len() >= DEPTH_MAX {
                    return None;
                }
                open.push(here);
                here += if *byte == b'[' { INDEX_BYTES } else { 0 };
            }
            b'}' | b']' => {
                open.pop();
                // What follows is an element of an array, or comes after its key.
                here = open.last().map_or(0, |base| base + INDEX_BYTES);
            }
            b'"' => {
                at = end_of_string(body, at);
                let next = body[at..].iter().find(|byte| !byte.is_ascii_whitespace());
                if next == Some(&b':') {
                    here = open.last().copied().unwrap_or_default() + (at - start);
                } else {
                    count.add(here);
                }
            }
            _ => {
                let rest = &body[at..];
                let ends = |byte: &u8| byte.is_ascii_whitespace() || b",:]}[{\"".contains(byte);
                at += rest.iter().position(ends).unwrap_or(rest.len());
                count.add(here);
            }
        }
    }
    Some(count)
}

impl Count {
    fn add(&mut self, path_bytes: usize) {
        self.parts += 1;
        self.paths_bytes = self.paths_bytes.saturating_add(path_bytes);
    }
}

/// Where the string ends whose first character is at `at`: behind its quotation mark.
fn end_of_string(body: &[u8], mut at: usize) -> usize {
    while let Some(byte) = body.get(at) {
        at += match byte {
            b'"' => return at + 1,
            b'\\' => 2,
            _ => 1,
        };
    }
    body.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(text: &str) -> (usize, usize) {
        let count = count(text.as_bytes()).unwrap();
        (count.parts, count.paths_bytes)
    }

    #[test]
    fn values_are_counted_over_all_depths_and_strings_are_not_looked_into() {
        for (text, parts, paths) in [
            ("", 0, 0),
            ("7", 1, 0),
            (r#""a,b:{[\"]}""#, 1, 0),
            (r#"{"a": 1, "b": [true, null, "x"]}"#, 6, 3 + 3 + 3 * (3 + INDEX_BYTES)),
            (r#"{"a": {"b": {}}}"#, 3, 3 + 6),
            ("[[],[]]", 3, 2 * INDEX_BYTES),
            (r#"{"a\"b": "\\"}"#, 2, 6),
        ] {
            assert_eq!(counted(text), (parts, paths), "{text}");
        }
        assert_eq!(count("[".repeat(DEPTH_MAX + 1).as_bytes()), None);
    }

    #[test]
    fn too_many_values_and_too_long_paths_are_refused() {
        let many = format!("[{}0]", "0,".repeat(PARTS_MAX - 2));
        assert_eq!(check(many.as_bytes()), Ok(()));
        let many = format!("[{}0]", "0,".repeat(PARTS_MAX - 1));
        assert!(check(many.as_bytes()).is_err());
        let deep = format!("{{\"{}\":[{}0]}}", "k".repeat(1000), "0,".repeat(20_000));
        assert!(check(deep.as_bytes()).is_err());
        assert_eq!(check(b"{\"a\": \"0,0,0,0,0"), Ok(()));
    }
}
