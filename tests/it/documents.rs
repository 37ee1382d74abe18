//! The documents: their links lead somewhere, and the tests and metrics that they name exist.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// The documents at the root, and all of `docs/`, by their paths, with their text outside of blocks of code.
fn documents() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = [root.to_owned(), root.join("docs")].into_iter().flat_map(|folder| {
        fs::read_dir(folder).expect("the folder is there").map(|entry| entry.expect("it is readable").path())
    });
    let documents: Vec<_> = files
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .map(|path| (path.clone(), prose(&fs::read_to_string(path).expect("it is UTF-8"))))
        .collect();
    assert!(documents.len() >= 14, "{}", documents.len());
    documents
}

/// The text without blocks of code.
fn prose(document: &str) -> String {
    document.split("```").step_by(2).collect()
}

/// The anchors of a document's headings, as GitHub makes them.
fn anchors(document: &str) -> BTreeSet<String> {
    let headings = document.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let text = line.trim_start_matches('#').trim().to_lowercase();
            text.chars()
                .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
                .map(|c| if c == ' ' { '-' } else { c })
                .collect()
        })
        .collect()
}

/// The targets of a document's links.
fn links(document: &str) -> impl Iterator<Item = &str> {
    document.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target)
}

/// The words of a document that are set as code.
fn code_words(document: &str) -> impl Iterator<Item = &str> {
    document.split('`').skip(1).step_by(2)
}

#[test]
fn every_link_leads_to_a_file_and_a_heading() {
    let mut broken = Vec::new();
    let mut count = 0;
    for (path, text) in documents() {
        for target in links(&text).filter(|target| !target.contains("://")) {
            count += 1;
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let file = if file.is_empty() {
                path.clone()
            } else {
                path.parent().expect("it is in a folder").join(file)
            };
            let heading_is_there = || {
                anchor.is_empty()
                    || anchors(&prose(&fs::read_to_string(&file).expect("it is UTF-8"))).contains(anchor)
            };
            if !file.exists() || !heading_is_there() {
                broken.push(format!("{}: {target}", path.display()));
            }
        }
    }
    assert!(count > 80, "{count} links were found");
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn every_metric_that_a_document_names_exists() {
    let table = include_str!("../../docs/metrics.md");
    let names: BTreeSet<_> =
        table.lines().filter(|line| line.starts_with("| `")).flat_map(code_words).collect();
    for (path, text) in documents() {
        for word in code_words(&text).filter(|word| word.starts_with("tidings_")) {
            let name = word.split('{').next().expect("there is a first part");
            assert!(names.contains(name), "{}: {word}", path.display());
        }
    }
}

/// Words with at least this many underscores are names of tests, unless they are names of metrics.
const TEST_NAME_UNDERSCORES_MIN: usize = 5;

#[test]
fn every_test_that_a_document_names_exists() {
    let mut functions = String::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![root.join("src"), root.join("tests")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("the folder is there") {
            let path = entry.expect("it is readable").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(path).expect("it is UTF-8");
                functions
                    .extend(text.lines().filter(|line| line.contains("fn ")).flat_map(|line| [line, "\n"]));
            }
        }
    }
    let mut count = 0;
    for (path, text) in documents() {
        let is_name = |word: &&str| {
            word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
                && word.matches('_').count() >= TEST_NAME_UNDERSCORES_MIN
                && !word.starts_with("tidings_")
        };
        for word in code_words(&text).filter(is_name) {
            count += 1;
            assert!(functions.contains(&format!("fn {word}(")), "{}: {word}", path.display());
        }
    }
    assert!(count >= 15, "{count} names of tests were found");
}
