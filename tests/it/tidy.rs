//! The shape of the source: imports point down, and every file begins with its subject.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// The parts that each part of the crate may name. `app` constructs, so it names them all; `main` is outside
/// and uses the crate like anybody else.
const LAYERS: [(&str, &[&str]); 24] = [
    ("proto", &[]),
    ("domain", &["proto"]),
    ("event", &["domain", "proto"]),
    ("config", &["domain"]),
    ("clock", &["domain"]),
    ("descriptors", &[]),
    ("metrics", &["domain", "event", "proto"]),
    ("store", &["domain", "event", "clock", "config", "descriptors", "metrics", "proto"]),
    ("limits", &[]),
    ("file_watch", &[]),
    ("log_throttle", &[]),
    ("http_host", &[]),
    (
        "gateway",
        &["domain", "event", "store", "clock", "config", "limits", "log_throttle", "metrics", "proto"],
    ),
    (
        "delivery",
        &[
            "domain",
            "event",
            "store",
            "clock",
            "config",
            "descriptors",
            "limits",
            "log_throttle",
            "metrics",
            "proto",
        ],
    ),
    ("listen", &["limits", "log_throttle"]),
    (
        "grpc",
        &[
            "gateway",
            "domain",
            "event",
            "config",
            "file_watch",
            "http_host",
            "limits",
            "listen",
            "log_throttle",
            "metrics",
            "proto",
        ],
    ),
    (
        "webhook_ingress",
        &[
            "clock",
            "config",
            "domain",
            "event",
            "file_watch",
            "gateway",
            "limits",
            "listen",
            "log_throttle",
            "metrics",
        ],
    ),
    // It gets the services as a value.
    ("console", &["config", "domain", "http_host", "limits", "listen", "metrics", "proto"]),
    ("shutdown", &[]),
    ("telemetry", &["config"]),
    ("ops", &["config", "limits", "listen", "metrics"]),
    (
        "app",
        &[
            "clock",
            "config",
            "console",
            "delivery",
            "descriptors",
            "domain",
            "event",
            "file_watch",
            "gateway",
            "grpc",
            "webhook_ingress",
            "metrics",
            "ops",
            "shutdown",
            "store",
            "telemetry",
        ],
    ),
    (
        "commands",
        &[
            "app",
            "clock",
            "config",
            "console",
            "domain",
            "event",
            "listen",
            "proto",
            "shutdown",
            "store",
            "telemetry",
        ],
    ),
    (
        "fuzzing",
        &[
            "app",
            "config",
            "delivery",
            "domain",
            "event",
            "grpc",
            "commands",
            "webhook_ingress",
            "proto",
            "store",
        ],
    ),
];

/// Files that belong to no part: the root that names them all, and the program.
const ROOTS: [&str; 2] = ["lib.rs", "main.rs"];

/// Every source file, by its path under `src`, with its text.
fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut folders, mut sources): (Vec<PathBuf>, _) = (vec![root.clone()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                sources.push((path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned(), text));
            }
        }
    }
    assert!(sources.len() > LAYERS.len(), "the sources were not found");
    sources.sort();
    sources
}

/// The part of the crate that a file belongs to: `grpc` for `grpc/page.rs` and for `grpc.rs`.
fn part(file: &str) -> &str {
    file.split('/').next().unwrap().trim_end_matches(".rs")
}

/// The parts that a file names after `crate::`, as a path or in braces.
fn named(text: &str) -> BTreeSet<String> {
    const ROOT: &str = "crate::";
    let code: String =
        text.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n");
    let mut named = BTreeSet::new();
    for (at, _) in code.match_indices(ROOT).filter(|(at, _)| !code[..*at].ends_with(is_of_a_name)) {
        let rest = &code[at + ROOT.len()..];
        match rest.strip_prefix('{') {
            Some(group) => named.extend(heads(group)),
            None => named.extend(head(rest)),
        }
    }
    named
}

fn is_of_a_name(character: char) -> bool {
    character.is_alphanumeric() || character == '_' || character == '$'
}

fn head(path: &str) -> Option<String> {
    let end = path.find(|character| !is_of_a_name(character)).unwrap_or(path.len());
    (end > 0).then(|| path[..end].to_owned())
}

/// The first names of the paths in a group whose brace was just opened: `a` and `c` of `a::{b, d}, c::e}`.
fn heads(group: &str) -> Vec<String> {
    let (mut heads, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, character) in group.char_indices() {
        let ends_path = depth == 0 && (character == ',' || character == '}');
        if ends_path {
            heads.extend(head(group[start..at].trim_start()));
            start = at + 1;
        }
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            _ => {}
        }
    }
    heads
}

#[test]
fn imports_point_down() {
    let mut faults = Vec::new();
    for (file, text) in sources().iter().filter(|(file, _)| !ROOTS.contains(&file.as_str())) {
        let part = part(file);
        let Some((_, may_name)) = LAYERS.iter().find(|(name, _)| *name == part) else {
            faults.push(format!("{file} belongs to {part}, which is not in the table"));
            continue;
        };
        for other in named(text).iter().filter(|other| *other != part && !may_name.contains(&other.as_str()))
        {
            faults.push(format!("{file} names {other}, and {part} may not"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_part_of_the_table_is_there() {
    let parts: BTreeSet<_> = sources()
        .iter()
        .filter(|(file, _)| !ROOTS.contains(&file.as_str()))
        .map(|(file, _)| part(file).to_owned())
        .collect();
    assert_eq!(parts, LAYERS.iter().map(|(name, _)| (*name).to_owned()).collect());
}

#[test]
fn every_file_opens_with_a_sentence_about_its_subject() {
    for (file, text) in sources() {
        let first = text.lines().next().unwrap_or_default();
        assert!(first.starts_with("//! ") && first.len() > "//! ".len(), "{file} opens with {first:?}");
    }
}

/// A blocking task holds the simulated time, for as long as the machine happens to take for it: the same seed is
/// then another history. `store::read_blocking` makes one only where the store is on a disk.
#[test]
fn what_the_simulation_runs_makes_no_blocking_task_of_its_own() {
    let simulated = ["domain", "event", "gateway", "delivery", "grpc"];
    for (file, text) in sources().iter().filter(|(file, _)| simulated.contains(&part(file))) {
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        let makes = code.filter(|line| line.contains("spawn_blocking") || line.contains("thread::spawn"));
        assert_eq!(makes.collect::<Vec<_>>(), Vec::<&str>::new(), "{file}: take store::read_blocking");
    }
}

#[test]
fn nothing_is_left_to_be_done() {
    for (file, text) in sources() {
        for left in ["todo!", "unimplemented!", "TODO", "FIXME", "XXX"] {
            assert!(!text.contains(left), "{file} has a {left}");
        }
    }
}

#[test]
fn names_are_found_as_paths_in_groups_and_nowhere_else() {
    let text = "use crate::{\n    a::{b, c::{d}},\n    e,\n};\nuse crate::f::g; // crate::h\npub(crate) fn x() { $crate::i; crate::j::k() }";
    let expected = ["a", "e", "f", "j"].map(str::to_owned);
    assert_eq!(named(text), expected.into());
}
