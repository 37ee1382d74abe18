//! Valid and invalid sources files.

use super::*;

const PATH: &str = "0123456789abcdefABCD_-";

fn faults(text: &str) -> Vec<String> {
    let faults = Sources::parse(text).expect_err(text);
    for fault in &faults {
        assert!(!fault.contains("hunter2"), "{fault}");
    }
    faults
}

#[test]
fn sources_are_found_by_their_path_only() {
    let text = format!(
        "[[source]]\naccount = 1\npath = '{PATH}'\nsigning_secret = 'sixteen letters!'\nname = 'support'\n\
         [[source]]\naccount = 0x2\npath = '{PATH}2'\n"
    );
    let sources = Sources::parse(&text).unwrap();
    let found = |path: &str| sources.find(path).map(|source| (source.name.clone(), source.account.get()));
    assert_eq!(found(PATH), Some(("support".to_owned(), 1)));
    assert_eq!(found(&format!("{PATH}2")), Some(("account-2".to_owned(), 2)));
    for unknown in ["", &PATH[1..], &PATH.to_lowercase(), &format!("{PATH}3")] {
        assert_eq!(found(unknown), None, "{unknown}");
    }
    let secrets: Vec<_> =
        sources.iter().map(|source| source.signing_secret.as_ref().map(Secret::expose)).collect();
    assert_eq!(secrets, [Some("sixteen letters!"), None]);
}

#[test]
fn nothing_that_prints_sources_shows_a_secret() {
    let text = format!("source = [{{ account = 1, path = '{PATH}', signing_secret = 'sixteen letters!' }}]");
    let shown = format!("{:?}", Sources::parse(&text).unwrap());
    assert!(shown.contains("account-1") && !shown.contains(PATH) && !shown.contains("sixteen"), "{shown}");
}

#[test]
fn every_problem_is_reported_with_its_position_and_its_rule() {
    let long = "x".repeat(PATH_CHARS_MAX + 1);
    let head = format!("[[source]]\naccount = 1\npath = '{PATH}'\n");
    let cases = [
        (String::new(), "has no [[source]]"),
        ("source = []".to_owned(), "must have 1 to 10000 [[source]], and has 0"),
        ("[source]\naccount = 1".to_owned(), "line 1: source must be a list: write it as [[source]]"),
        ("source = [1]".to_owned(), "source 1 (line 1): must be a table"),
        (
            format!("sources = 1\n{head}"),
            "line 1: there is no key sources: sources are written as [[source]]",
        ),
        (format!("[[source]]\npath = '{PATH}'"), "source 1 (line 1): account is required"),
        ("[[source]]\naccount = 1".to_owned(), "source 1 (line 1): path is required"),
        (
            format!("[[source]]\naccount = 0\npath = '{PATH}'"),
            "source 1 (line 1): account must be a positive integer",
        ),
        (
            format!("[[source]]\naccount = '1'\npath = '{PATH}'"),
            "source 1 (line 1): account must be a positive integer",
        ),
        (
            "[[source]]\naccount = 1\npath = 'hunter2'".to_owned(),
            "source 1 (line 1): path must be 20 to 128 characters of",
        ),
        (format!("[[source]]\naccount = 1\npath = '{long}'"), "source 1 (line 1): path must be 20 to 128"),
        (
            "[[source]]\naccount = 1\npath = 'hunter2/hunter2/hunter2'".to_owned(),
            "source 1 (line 1): path must be 20",
        ),
        (
            format!("{head}signing_secret = 'hunter2'"),
            "source 1 (line 1): signing_secret must be 16 to 256 printable",
        ),
        (
            format!("{head}signing_secret = 7"),
            "source 1 (line 1): signing_secret must be 16 to 256 printable",
        ),
        (format!("{head}name = ''"), "source 1 (line 1): name must be 1 to 63 characters"),
        (format!("{head}secret = 'hunter2'"), "source 1 (line 1): secret is not a key of a source"),
        (format!("{head}hunter2_hunter2_hunter2_ = 1"), "source 1 (line 1): *** is not a key of a source"),
        (format!("{head}{head}name = 'b'"), "source 2 (line 4): path is that of source 1 (line 1), too"),
        (
            format!("{head}[[source]]\naccount = 1\npath = '{PATH}2'"),
            "source 2 (line 4): name account-1 is that of source 1",
        ),
        ("[[source]]\npath = hunter2".to_owned(), "line 2: "),
    ];
    for (text, expected) in cases {
        let faults = faults(&text);
        assert!(faults.iter().any(|fault| fault.starts_with(expected)), "{text}\n{faults:?}");
    }
}

#[test]
fn no_problem_hides_another() {
    let faults = faults("[[source]]\naccount = -1\npath = 'x'\nname = 'a b'\n[[source]]\n");
    assert_eq!(faults.len(), 5, "{faults:?}");
}
