//! Splitting: which objects are found, on which line, and how malformed ones are skipped.

use proptest::{
    collection::{btree_map, vec},
    prelude::*,
    sample::select,
};
use serde_json::Value;

use super::{fuzz::Slowly, *};

fn all(input: impl Read) -> Vec<(u64, Result<String, String>)> {
    let text = |object| String::from_utf8(object).unwrap();
    fuzz::all(input).into_iter().map(|Found { line, object }| (line, object.map(text))).collect()
}

/// The objects, which do not depend on the size of reads.
#[track_caller]
fn found(text: &str) -> Vec<(u64, Result<String, String>)> {
    let expected = all(text.as_bytes());
    for size in [1, 2, 3, 7] {
        assert_eq!(all(Slowly(text.as_bytes(), size)), expected, "{size} at a time");
    }
    expected
}

fn lines(found: &[(u64, Result<String, String>)]) -> Vec<(u64, bool)> {
    found.iter().map(|(line, object)| (*line, object.is_ok())).collect()
}

#[test]
fn objects_are_found_on_one_line_over_several_lines_and_next_to_each_other() {
    let text = "\u{feff}\r\n{\"a\":1}\r\n\n  {\n  \"b\": [\n{}\n, {\"c\": \"}\\\"{\"}]\n}{} {\"d\":[[]]}\n";
    let found = found(text);
    let objects: Vec<_> = found.iter().map(|(line, object)| (*line, object.as_deref().unwrap())).collect();
    let pretty = "{\n  \"b\": [\n{}\n, {\"c\": \"}\\\"{\"}]\n}";
    assert_eq!(objects, [(2, "{\"a\":1}"), (4, pretty), (8, "{}"), (8, "{\"d\":[[]]}")]);
}

#[test]
fn an_empty_input_has_no_objects() {
    for text in ["", " \r\n\t\n", "\u{feff}"] {
        assert_eq!(found(text), []);
    }
}

#[test]
fn a_malformed_line_costs_no_other_line() {
    for broken in [
        "{\"a\":1",
        "{\"a\":",
        "{\"a\"",
        "{",
        "{\"a\":[",
        "{\"a\":[1,",
        "{\"a\":\"text",
        "{\"a\":\"text\\",
        "{\"a\":[1}",
        "{\"a\":{}]}",
        "nothing",
        "\"text\"",
        "}",
        "17",
    ] {
        let found = found(&format!("{{}}\n{broken}\n{{\"b\":2}}\n{{\"c\":{{}}}}\n{{}}\n"));
        let expected = [(1, true), (2, false), (3, true), (4, true), (5, true)];
        assert_eq!(lines(&found), expected, "{broken}: {found:?}");
    }
}

#[test]
fn a_malformed_object_names_the_line_at_which_reading_continues() {
    let found = found("{\n  \"a\": {\n    \"b\": 1]\n  },\n  \"c\": {\"d\": 1}\n}\n{}\n");
    assert_eq!(lines(&found), [(1, false), (7, true)]);
    let problem = found[0].1.as_ref().unwrap_err();
    assert!(problem.ends_with("; reading continues at line 7"), "{problem}");
}

#[test]
fn an_array_is_reported_and_its_elements_are_skipped() {
    let found = found("[\n  {\"a\": 1},\n  {\"b\": 2}\n]\n");
    assert_eq!(lines(&found), [(1, false)]);
    let problem = found[0].1.as_ref().unwrap_err();
    assert!(
        problem.contains("not an array") && problem.ends_with("no further object was found"),
        "{problem}"
    );
}

#[test]
fn an_incomplete_last_object_is_reported() {
    let found = found("{}\n{\n  \"a\": 1,\n");
    assert_eq!(lines(&found), [(1, true), (2, false)]);
    assert_eq!(found[1].1, Err("ends before it is complete; no further object was found".to_owned()));
}

#[test]
fn the_length_of_an_object_is_limited() {
    let text = |length: usize| format!("{{\"a\":\"{}\"}}", "x".repeat(length - 8));
    assert_eq!(text(OBJECT_BYTES_MAX).len(), OBJECT_BYTES_MAX);
    let input = format!("{}\n{}\n{{}}\n", text(OBJECT_BYTES_MAX), text(OBJECT_BYTES_MAX + 1));
    let found = all(input.as_bytes());
    assert_eq!(lines(&found), [(1, true), (2, false), (3, true)]);
    assert_eq!(found[1].1, Err("is longer than 1 MiB".to_owned()));
    // Without a closing brace.
    let found = all(format!("{}\n{{}}\n", "{\"a\":[".repeat(OBJECT_BYTES_MAX / 4)).as_bytes());
    assert_eq!(lines(&found), [(1, false), (2, true)]);
}

#[test]
fn memory_is_bounded_for_lines_of_any_length() {
    let mut objects = Objects::new(io::repeat(b'x').take(16 << 20));
    assert!(objects.next().unwrap().unwrap().object.is_err());
    assert!(objects.buffer.capacity() < 2 * OBJECT_BYTES_MAX, "{}", objects.buffer.capacity());
    let text = io::Read::chain(&b"{\"a\":\""[..], io::repeat(b'x').take(16 << 20));
    let mut objects = Objects::new(text);
    assert!(objects.next().unwrap().unwrap().object.is_err());
    assert!(objects.buffer.capacity() < 3 * OBJECT_BYTES_MAX, "{}", objects.buffer.capacity());
}

/// Objects of any shape.
fn any_object() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[{}\\[\\]\",:\\\\\n a]{0,6}".prop_map(Value::from),
    ];
    let value = leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            btree_map("[{}\"\\\\\n a]{0,3}", inner, 0..4).prop_map(|object| object.into_iter().collect()),
        ]
    });
    btree_map("[{}\"\\\\ a]{0,3}", value, 0..4).prop_map(|object| object.into_iter().collect())
}

proptest! {
    #[test]
    fn every_object_is_found_with_its_line_in_any_format_and_for_any_size_of_reads(
        objects in vec((any_object(), any::<bool>(), "[ \r\n\t]{0,4}"), 0..6),
        size in 1_usize..64,
    ) {
        let (mut text, mut expected) = (String::new(), Vec::new());
        for (object, is_pretty, space) in objects {
            let line = 1 + text.matches('\n').count() as u64;
            let object = if is_pretty { format!("{object:#}") } else { object.to_string() };
            text += &object;
            text += &space;
            expected.push((line, Ok(object)));
        }
        prop_assert_eq!(all(Slowly(text.as_bytes(), size)), expected);
    }

    #[test]
    fn the_size_of_reads_does_not_change_the_objects(
        size in 1_u8..16,
        text in vec(select(&b"{}[]\",:\\\n 1\xef\xbb\xbf"[..]), 0..80),
    ) {
        fuzz::objects(&[&[size][..], &text].concat());
    }
}
