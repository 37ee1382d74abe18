//! Properties of splitting that fuzzing checks.

use std::io::{self, Read};

use serde::de::IgnoredAny;

use super::{Found, Objects};

/// Checks an input. The first byte is the size of one read.
pub fn objects(data: &[u8]) {
    let Some((size, text)) = data.split_first() else { return };
    let found = all(text);
    assert_eq!(all(Slowly(text, usize::from(*size).max(1))), found);
    assert!(found.is_sorted_by_key(|found| found.line));
    for Found { line, object } in &found {
        assert!((1..=1 + breaks(text)).contains(line));
        let ends = object.as_ref().map(|object| object.first().zip(object.last()));
        assert!(ends.is_err() || ends == Ok(Some((&b'{', &b'}'))));
    }
    if let Some(expected) = read_as_json(text) {
        assert_eq!(found, expected);
    }
}

/// The objects as serde_json finds them, if the input is a sequence of objects.
fn read_as_json(text: &[u8]) -> Option<Vec<Found>> {
    let mut values = serde_json::Deserializer::from_slice(text).into_iter::<IgnoredAny>();
    let (mut found, mut end) = (Vec::new(), 0);
    while let Some(value) = values.next() {
        value.ok()?;
        let object = text[end..values.byte_offset()].trim_ascii_start();
        end = values.byte_offset();
        let line = 1 + breaks(&text[..end - object.len()]);
        found.push(Found { line, object: object.starts_with(b"{").then(|| Ok(object.to_vec()))? });
    }
    Some(found)
}

fn breaks(text: &[u8]) -> u64 {
    text.iter().filter(|byte| **byte == b'\n').count() as u64
}

/// All objects of the input.
pub(super) fn all(input: impl Read) -> Vec<Found> {
    let mut objects = Objects::new(input);
    std::iter::from_fn(|| objects.next().expect("memory can be read")).collect()
}

/// A reader that returns at most this many bytes at a time.
pub(super) struct Slowly<'a>(pub(super) &'a [u8], pub(super) usize);

impl Read for Slowly<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.0.len().min(self.1).min(buffer.len());
        let (now, later) = self.0.split_at(count);
        buffer[..count].copy_from_slice(now);
        self.0 = later;
        Ok(count)
    }
}
