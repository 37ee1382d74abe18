//! The documents: their links lead somewhere, and the tests and metrics that they name exist.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use tidings::{
    delivery::http::failure::ATTEMPT_ERRORS, domain::delivery::Outcome, gateway::reasons::REASONS,
    proto::v1::delivery_attempt::Outcome as WireOutcome,
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

/// A table between the comments `name:begin` and `name:end` of a document.
fn with_table(
    document: &str,
    name: &str,
    head: [&str; 4],
    rows: impl Iterator<Item = [String; 4]>,
) -> String {
    let (begin, end) = (format!("<!-- {name}:begin -->\n"), format!("<!-- {name}:end -->"));
    let (before, rest) = document.split_once(&begin).expect("the table begins");
    let (_, after) = rest.split_once(&end).expect("the table ends");
    let line = |cells: &[String]| {
        let cells: Vec<_> = cells.iter().filter(|cell| !cell.is_empty()).cloned().collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let head = head.map(str::to_owned);
    let rule = head.clone().map(|cell| if cell.is_empty() { cell } else { "---".to_owned() });
    let table: String = [head, rule].into_iter().chain(rows).map(|cells| line(&cells)).collect();
    format!("{before}{begin}{table}{end}{after}")
}

#[test]
fn the_document_of_errors_is_what_the_code_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/errors.md");
    let document = fs::read_to_string(&path).expect("it is UTF-8");
    let code = |text: &str| format!("`{text}`");
    let reasons = REASONS
        .iter()
        .map(|row| [code(row.name), row.codes.to_owned(), row.meaning.to_owned(), row.remedy.to_owned()]);
    let outcomes = Outcome::ALL.into_iter().map(|outcome| {
        let (meaning, remedy) = outcome.explanation();
        [code(wire(outcome).as_str_name()), meaning.to_owned(), remedy.to_owned(), String::new()]
    });
    let attempts = ATTEMPT_ERRORS.iter().map(|row| {
        [code(row.text), code(wire(row.outcome).as_str_name()), row.remedy.to_owned(), String::new()]
    });
    let made = with_table(&document, "reasons", ["reason", "code", "meaning", "what to do"], reasons);
    let made = with_table(&made, "outcomes", ["outcome", "meaning", "what to do", ""], outcomes);
    let made = with_table(&made, "attempts", ["text", "outcome", "what to do", ""], attempts);
    if std::env::var_os("WRITE_DOCUMENTS").is_some() {
        fs::write(&path, made).expect("it can be written");
    } else {
        assert!(document == made, "docs/errors.md is not what the code says: run `just errors`");
    }
}

/// An outcome as the contract has it.
fn wire(outcome: Outcome) -> WireOutcome {
    match outcome {
        Outcome::Ok => WireOutcome::Ok,
        Outcome::HttpStatus => WireOutcome::HttpStatus,
        Outcome::Timeout => WireOutcome::Timeout,
        Outcome::Connect => WireOutcome::Connect,
        Outcome::Io => WireOutcome::Io,
        Outcome::Blocked => WireOutcome::Blocked,
        Outcome::Damaged => WireOutcome::Damaged,
        Outcome::Expired => WireOutcome::Expired,
    }
}

#[test]
fn every_reason_in_the_code_is_in_the_list_and_every_one_of_the_list_is_in_the_code() {
    let mut used = BTreeSet::new();
    for (path, text) in sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")) {
        if path.ends_with("gateway/reasons.rs") {
            continue;
        }
        let text = text.split("#[cfg(test)]").next().expect("a text has a beginning").to_owned();
        let is_of_errors = ["GrpcError::new(", "HttpError::new(", "ErrorReport::new(", "fn reason("];
        let makes_errors = is_of_errors.iter().any(|made| text.contains(made));
        let words = text
            .split('"')
            .skip(1)
            .step_by(2)
            .filter(|word| !word.is_empty() && word.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'));
        for word in words {
            let is_known =
                REASONS.iter().any(|reason| reason.name == word) || word.starts_with("EVENT_TYPE_");
            assert!(
                is_known || !makes_errors || !word.contains('_'),
                "{word} of {} is not in the list",
                path.display()
            );
            used.insert(word.to_owned());
        }
    }
    for reason in REASONS {
        assert!(used.contains(reason.name), "nothing makes the error {}", reason.name);
        assert!(!reason.codes.is_empty() && !reason.meaning.is_empty() && !reason.remedy.is_empty());
    }
    let names: BTreeSet<_> = REASONS.iter().map(|reason| reason.name).collect();
    assert_eq!(names.len(), REASONS.len(), "a reason is listed twice");
}

/// The files of the program below a folder, with their text.
fn sources(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("it is readable").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push((path.clone(), fs::read_to_string(path).expect("it is UTF-8")));
        }
    }
    found
}
