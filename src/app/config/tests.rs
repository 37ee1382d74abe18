//! The configuration as a whole: which source wins, how it is shown, and that no fault hides another.

use std::{ffi::OsString, fs, path::PathBuf};

use clap::{Arg, ArgAction, Command};
use tempfile::TempDir;

use super::*;
use crate::{
    config::{CONFIG_FILE_BYTES_MAX, ConfigFault, Source, settings_table},
    domain::secret::Secret,
};

/// A setting as clap has it.
struct Setting {
    key: String,
    flag: String,
    variable: String,
    /// A value that is not its default, as a flag or a variable has it.
    sample: String,
    /// The same as TOML has it.
    toml: String,
}

/// Every setting, with a sample that its declaration allows.
fn settings() -> Vec<Setting> {
    let command = Config::augment_args(Command::new("test"));
    let settings: Vec<_> = command.get_arguments().map(setting).collect();
    assert!(settings.len() > 40, "the settings were not found");
    settings
}

fn setting(arg: &Arg) -> Setting {
    let key = arg.get_id().to_string();
    let default = arg.get_default_values().first().map(|value| value.to_str().unwrap().to_owned());
    let placeholder = arg.get_value_names().unwrap()[0].as_str();
    let values = arg.get_value_parser().possible_values().into_iter().flatten();
    let values: Vec<_> = values.map(|value| value.get_name().to_owned()).collect();
    let other = |values: &[&str]| {
        values.iter().find(|value| default.as_deref() != Some(value)).expect(&key).to_string()
    };
    let sample = match placeholder {
        // One of the bounds, such as those of `1s to 30s`, in the case of a backlog the one that fits the
        // other.
        "COUNT" | "SIZE" | "DURATION" => {
            let (min, max) = values[0].split_once(" to ").unwrap();
            if key.contains("max") && key != "backlog_per_subscription_max" {
                other(&[max, min])
            } else {
                other(&[min, max])
            }
        }
        "WORD" | "true|false" => other(&values.iter().map(String::as_str).collect::<Vec<_>>()),
        "DIRECTORY" => "/var/lib/tidings \"x\"".to_owned(),
        "FILE" => "file.pem".to_owned(),
        "ADDRESS" => format!("[::1]:{}", key.bytes().map(u16::from).sum::<u16>()),
        "CIDR" => "127.0.0.0/8,::1/128".to_owned(),
        "HOST" => "example.com,10.0.0.0/8".to_owned(),
        "NAME" => "cookie,x-forwarded-for".to_owned(),
        "URL" => "http://proxy.example:3128".to_owned(),
        "ORIGIN" => "https://app.example.com,http://localhost:5173".to_owned(),
        "SUBJECT" => r"CN=a\;b\, c,O=Acme -> publish accounts/-; CN=d -> read manage accounts/7".to_owned(),
        "FILTER" => "warn,tidings=debug".to_owned(),
        other => panic!("{key} takes a {other}: give it a sample"),
    };
    let quoted = |text: &str| toml::Value::from(text).to_string();
    let toml = match arg.get_action() {
        ArgAction::Append => {
            let separator = if placeholder == "SUBJECT" { "; " } else { "," };
            format!("[{}]", sample.split(separator).map(quoted).collect::<Vec<_>>().join(", "))
        }
        _ if ["COUNT", "true|false"].contains(&placeholder) => sample.clone(),
        _ => quoted(&sample),
    };
    let variable = format!("TIDINGS_{}", key.to_ascii_uppercase());
    Setting { flag: arg.get_long().unwrap().to_owned(), key, variable, sample, toml }
}

/// Variables for the settings that the one of this key needs.
fn needed_by(key: &str) -> Vec<(OsString, OsString)> {
    let needed: &[&str] = match key {
        "grpc_tls_cert_file" => &["GRPC_TLS_KEY_FILE"],
        "grpc_tls_key_file" => &["GRPC_TLS_CERT_FILE"],
        "grpc_client_ca_file" => &["GRPC_TLS_CERT_FILE", "GRPC_TLS_KEY_FILE"],
        "grpc_client_subjects" => &["GRPC_CLIENT_CA_FILE", "GRPC_TLS_CERT_FILE", "GRPC_TLS_KEY_FILE"],
        "console_tls_cert_file" => &["CONSOLE_TLS_KEY_FILE"],
        "console_tls_key_file" => &["CONSOLE_TLS_CERT_FILE"],
        "ingest_listen" => &["INGEST_SOURCES_FILE"],
        _ => &[],
    };
    needed.iter().map(|name| (format!("TIDINGS_{name}").into(), "needed.pem".into())).collect()
}

/// All settings of a configuration, to be compared.
fn shown(config: &Config) -> String {
    format!("{config:?}")
}

fn flags(arguments: &[&str]) -> Flags {
    let command = Flags::add_to::<Config>(Command::new("test").no_binary_name(true));
    Flags::from_matches::<Config>(&command.try_get_matches_from(arguments).expect("the flags are known"))
}

fn environment(variables: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    variables.iter().map(|(name, value)| (name.into(), value.into())).collect()
}

/// A configuration file that is there as long as the directory is.
fn file(text: &str) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("there is room for a file");
    let path = directory.path().join("tidings.toml");
    fs::write(&path, text).expect("there is room for a file");
    (directory, path)
}

fn faults_of(arguments: &[&str], variables: &[(&str, &str)]) -> Vec<String> {
    let wrong = Config::load(&flags(arguments), environment(variables)).expect_err("something is wrong");
    wrong.faults.iter().map(ConfigFault::to_string).collect()
}

#[test]
fn without_any_source_the_defaults_are_in_force() {
    let (config, resolved) = Config::load(&Flags::default(), []).expect("the defaults are sound");
    assert_eq!(shown(&config), shown(&Config::default()));
    for setting in settings() {
        assert_eq!(resolved.source(&setting.key), Some(&Source::Default), "{}", setting.key);
    }
}

#[test]
fn every_setting_takes_effect_from_every_source() {
    for Setting { key, flag, variable, sample, toml } in settings() {
        let (_directory, path) = file(&format!("{key} = {toml}"));
        let path = path.to_str().expect("temporary paths are UTF-8");
        let needed = needed_by(&key);
        let mut from_environment = environment(&[(&variable, &sample)]);
        from_environment.extend(needed.clone());

        let from_flag = flags(&[&format!("--{flag}"), &sample]);
        let cases = [
            (Config::load(&from_flag, needed.clone()), format!("flag --{flag}")),
            (Config::load(&Flags::default(), from_environment), format!("environment {variable}")),
            (Config::load(&flags(&["--config", path]), needed), format!("file {path} line 1 key {key}")),
        ];
        let mut configs = Vec::new();
        for (loaded, expected) in cases {
            let (config, resolved) = loaded.expect(&key);
            assert_ne!(shown(&config), shown(&Config::default()), "{expected}");
            assert_eq!(resolved.source(&key).expect(&key).to_string(), expected);
            configs.push(shown(&config));
        }
        assert!(configs.windows(2).all(|pair| pair[0] == pair[1]), "{key} differs by source");
    }
}

#[test]
fn a_stronger_source_replaces_a_weaker_one() {
    let (_directory, path) = file("max_in_flight = 1\nlane_order_keys_max = 300\nretry_max_attempts = 3\n");
    let path = path.to_str().expect("temporary paths are UTF-8");
    let variables = environment(&[("TIDINGS_MAX_IN_FLIGHT", "2"), ("TIDINGS_LANE_ORDER_KEYS_MAX", "400")]);

    let (config, resolved) = Config::load(&flags(&["--config", path, "--max-in-flight", "4"]), variables)
        .expect("every value is sound");

    let dispatch = config.dispatch;
    assert_eq!(
        (dispatch.max_in_flight, dispatch.lane_order_keys_max, dispatch.retry.retry_max_attempts),
        (4, 400, 3)
    );
    assert_eq!(resolved.source("max_in_flight"), Some(&Source::Flag("max-in-flight".to_owned())));
    let variable = Source::Environment("TIDINGS_LANE_ORDER_KEYS_MAX".to_owned());
    assert_eq!(resolved.source("lane_order_keys_max"), Some(&variable));
    let in_file = Source::File { path: path.into(), line: 3, key: Some("retry_max_attempts".to_owned()) };
    assert_eq!(resolved.source("retry_max_attempts"), Some(&in_file));
}

#[test]
fn the_file_can_be_named_by_the_environment_and_a_flag_goes_before_that() {
    let (_one, first) = file("max_in_flight = 1");
    let (_two, second) = file("max_in_flight = 2");
    let variables = [(OsString::from("TIDINGS_CONFIG"), first.into_os_string())];

    let (config, _) = Config::load(&Flags::default(), variables.clone()).expect("the file is sound");
    assert_eq!(config.dispatch.max_in_flight, 1);
    let named = flags(&["--config", second.to_str().expect("temporary paths are UTF-8")]);
    let (config, _) = Config::load(&named, variables).expect("the file is sound");
    assert_eq!(config.dispatch.max_in_flight, 2);
}

#[test]
fn networks_add_up_within_a_source_and_replace_each_other_between_sources() {
    let arguments = ["--egress-allow", "10.0.0.0/8", "--egress-allow", "::1,192.0.2.7"];
    let variables = environment(&[("TIDINGS_EGRESS_ALLOW", "127.0.0.0/8")]);
    let (config, _) = Config::load(&flags(&arguments), variables).expect("every value is sound");
    let networks: Vec<_> = config.egress.egress_allow.iter().map(ToString::to_string).collect();
    assert_eq!(networks, ["10.0.0.0/8", "::1/128", "192.0.2.7/32"]);
}

#[test]
fn all_faults_of_all_sources_are_told_at_once() {
    let (_directory, path) =
        file("max_in_flight = 0\ngrpc_lisen = \"x\"\n\n[delivery]\ntimeout = 1\nretry_after_max = 7\n");
    let path = path.to_str().expect("temporary paths are UTF-8");
    let variables = [("TIDINGS_MAX_IN_FLIGHT", "lots"), ("HOME", "/root")];
    let arguments =
        ["--config", path, "--grpc-listen", "nowhere", "--retry-min-backoff", "7h", "--max-in-flight", "3"];

    let mut faults = faults_of(&arguments, &variables);

    faults.sort();
    let unknown = "there is no such setting";
    let mut expected = vec![
        r#"environment TIDINGS_MAX_IN_FLIGHT: "lots" is not a whole number"#.to_owned(),
        format!("file {path} line 1 key max_in_flight: 0 is not within 1 to 256"),
        format!("file {path} line 2 key grpc_lisen: {unknown}; did you mean grpc_listen?"),
        format!("file {path} line 4 key delivery: {unknown}; did you mean delivery_timeout?"),
        r#"flag --grpc-listen: "nowhere" is not an address such as 127.0.0.1:50051 or [::]:50051"#.to_owned(),
        "flag --retry-min-backoff: retry_min_backoff = 7h (flag --retry-min-backoff) is more than \
         retry_max_backoff = 6h (default): waits would shrink"
            .to_owned(),
    ];
    expected.sort();
    assert_eq!(faults, expected);
}

#[test]
fn an_unknown_variable_is_a_warning_with_the_nearest_name() {
    let variables = [("TIDINGS_LANE_ORDER_KESY_MAX", "1"), ("TIDINGS_BANANA", "red"), ("BANANA", "red")];
    let expected = [
        "environment TIDINGS_BANANA: there is no such setting; `tidings serve --help` lists them",
        "environment TIDINGS_LANE_ORDER_KESY_MAX: there is no such setting; did you mean \
         TIDINGS_LANE_ORDER_KEYS_MAX?",
    ];
    let (config, resolved) =
        Config::load(&Flags::default(), environment(&variables)).expect("nothing is wrong");
    assert_eq!(shown(&config), shown(&Config::default()));
    let warnings: Vec<_> = resolved.warnings().iter().map(ToString::to_string).collect();
    assert_eq!(warnings, expected);

    let wrong =
        Config::load(&flags(&["--threads", "many"]), environment(&variables)).expect_err("of threads");
    assert_eq!(wrong.warnings.iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
}

#[test]
fn only_a_near_name_is_suggested() {
    for (key, near) in [
        ("grpc_lisen", Some("grpc_listen")),
        ("grpc-listen", Some("grpc_listen")),
        ("weather", None),
        ("timeout", None),
        (&"x".repeat(1000), None),
    ] {
        let resolved = ResolvedSettings::read_text::<Config>("x".as_ref(), &format!("{key} = 1"));
        let message = Config::resolve(resolved, &[]).expect_err(key).to_string();
        match near {
            Some(near) => assert!(message.ends_with(&format!("did you mean {near}?")), "{message}"),
            None => assert!(message.ends_with("lists them"), "{message}"),
        }
    }
}

#[test]
fn toml_values_of_the_wrong_type_are_refused() {
    let cases = [
        ("delivery_timeout = 10", r#"10 has no unit: write "10s" or "10ms""#),
        ("max_in_flight = -1", r#""-1" is not a whole number"#),
        ("max_in_flight = []", "is an array, not a whole number"),
        ("max_in_flight = 99999999999999999999", "is a number past 64 bits, not a whole number"),
        ("grpc_listen = 80", "is an integer, not a string"),
        ("egress_allow = 80", "is an integer, not an array of strings"),
        ("egress_allow = ['10.0.0.0/8', 1]", "is a mixed array, not an array of strings"),
        ("event_bytes_max = true", "is a boolean, not a size such as \"64KiB\""),
        ("event_bytes_max = 1979-05-27", "is a datetime, not a size such as \"64KiB\""),
        ("insecure = 1", "is an integer, not true or false"),
        ("insecure = 'yes'", r#""yes" is not one of true, false"#),
        ("log_format = 'xml'", r#""xml" is not one of text, json"#),
        ("data_dir = ''", "is empty"),
        ("egress_proxy = 'ftp://proxy.example'", "is a proxy of the scheme ftp"),
        ("egress_proxy = 'http://***:***@proxy.example'", "has *** for a password"),
    ];
    for (text, expected) in cases {
        let resolved = ResolvedSettings::read_text::<Config>("x".as_ref(), text);
        let wrong = Config::resolve(resolved, &[]).expect_err(text);
        assert_eq!(wrong.faults.len(), 1, "{text}");
        assert!(wrong.faults[0].problem.starts_with(expected), "{text}: {}", wrong.faults[0]);
    }
}

#[test]
fn lists_are_shown_in_their_normal_form_and_a_proxy_without_its_password() {
    let arguments = [
        "--egress-allow",
        "127.0.0.1, fd00::1 ,10.1.2.3/8,",
        "--egress-no-proxy",
        ".Example.com, 10.1.2.3,*,",
        "--egress-proxy",
        "http://user:hunter2@proxy.example:3128",
    ];
    let (_, resolved) = Config::load(&flags(&arguments), []).expect("every value is sound");
    let toml = resolved.to_toml();
    for line in [
        r#"egress_allow = ["127.0.0.1/32", "fd00::1/128", "10.0.0.0/8"]"#,
        r#"egress_no_proxy = ["example.com", "10.1.2.3/32", "*"]"#,
        r#"egress_proxy = "http://***:***@proxy.example:3128""#,
    ] {
        assert!(toml.lines().any(|shown| shown.starts_with(line)), "{line}: {toml}");
    }
    assert!(!format!("{resolved:?}").contains("hunter2"));
}

#[test]
fn a_line_that_is_no_toml_hides_no_other_fault() {
    let (_directory, path) = file("data_dir = tidings\nmax_in_flight = 0\nlane_order_keys_max = = 3\n");
    let path = path.to_str().expect("temporary paths are UTF-8");
    let faults = faults_of(&["--config", path], &[]);
    let at =
        |line| faults.iter().filter(|fault| fault.starts_with(&format!("file {path} line {line}"))).count();
    assert!(at(1) >= 1 && at(3) >= 1, "{faults:#?}");
    assert_eq!(at(2), 1, "{faults:#?}");
    assert!(faults.contains(&format!("file {path} line 2 key max_in_flight: 0 is not within 1 to 256")));
}

#[test]
fn a_key_given_twice_is_a_fault() {
    let (_directory, path) = file("max_in_flight = 1\nmax_in_flight = 2\n");
    let faults = faults_of(&["--config", path.to_str().expect("temporary paths are UTF-8")], &[]);
    assert_eq!(faults.len(), 1, "{faults:#?}");
    assert!(faults[0].contains("line 2: duplicate key"), "{faults:#?}");
}

#[test]
fn a_file_that_cannot_be_read_is_a_fault_of_whoever_names_it() {
    let faults = faults_of(&["--config", "/nowhere/x.toml"], &[]);
    assert!(faults[0].starts_with("flag --config: cannot read /nowhere/x.toml: "), "{faults:?}");
    let faults = faults_of(&[], &[("TIDINGS_CONFIG", "/")]);
    assert!(faults[0].starts_with("environment TIDINGS_CONFIG: cannot read /: "), "{faults:?}");
    let (_directory, path) =
        file(&"#".repeat(usize::try_from(CONFIG_FILE_BYTES_MAX).expect("it is small") + 1));
    let faults = faults_of(&["--config", path.to_str().expect("temporary paths are UTF-8")], &[]);
    assert!(faults[0].ends_with("it is larger than 1048576 bytes"), "{faults:?}");
}

#[test]
fn values_that_contradict_each_other_are_refused() {
    let subject_twice = [
        "--grpc-client-subjects",
        r"CN=a -> read accounts/7; CN=b\;c -> read accounts/7",
        "--grpc-client-subjects",
        "CN=a -> publish accounts/-",
        "--grpc-client-ca-file=x",
        "--grpc-tls-cert-file=x",
        "--grpc-tls-key-file=x",
    ];
    let cases: [(&[&str], &str); 9] = [
        (&subject_twice, r#"flag --grpc-client-subjects: "CN=a" is there twice"#),
        (
            &["--grpc-client-subjects", "CN=a -> read accounts/-"],
            "(flag --grpc-client-subjects) needs grpc_client_ca_file, which is not set",
        ),
        (
            &["--grpc-client-subjects", "CN=a, O=b -> read accounts/-"],
            r#"flag --grpc-client-subjects: "CN=a, O=b -> read accounts/-" has " O=b" in its subject"#,
        ),
        (&["--retry-max-backoff", "1s"], "flag --retry-max-backoff: retry_min_backoff = 5s (default)"),
        (&["--backlog-max", "1000"], "the backlog of one subscription would not fit"),
        (
            &["--http-listen", "127.0.0.1:50051"],
            "flag --http-listen: grpc_listen = 127.0.0.1:50051 (default) and",
        ),
        (&["--grpc-listen", "0.0.0.0:8080"], "cannot both be bound"),
        (
            &["--ingest-listen", "127.0.0.1:8080", "--ingest-sources-file", "x"],
            "http_listen = 127.0.0.1:8080 (default) and ingest_listen = 127.0.0.1:8080",
        ),
        (
            &["--ingest-listen", "127.0.0.1:8081"],
            "flag --ingest-listen: ingest_listen = 127.0.0.1:8081 (flag --ingest-listen) needs ingest_sources_file",
        ),
    ];
    for (arguments, expected) in cases {
        let faults = faults_of(arguments, &[]);
        assert!(faults.len() == 1 && faults[0].contains(expected), "{arguments:?}: {faults:?}");
    }
}

#[test]
fn two_listeners_may_both_take_any_port() {
    let arguments = ["--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"];
    assert!(Config::load(&flags(&arguments), []).is_ok());
}

#[test]
fn what_kubernetes_adds_for_a_service_of_our_name_is_no_fault() {
    let variables = environment(&[
        ("TIDINGS_SERVICE_HOST", "10.0.0.1"),
        ("TIDINGS_SERVICE_PORT", "50051"),
        ("TIDINGS_SERVICE_PORT_GRPC", "50051"),
        ("TIDINGS_PORT", "tcp://10.0.0.1:50051"),
        ("TIDINGS_PORT_50051_TCP", "tcp://10.0.0.1:50051"),
        ("TIDINGS_PORT_50051_TCP_ADDR", "10.0.0.1"),
        ("TIDINGS_GRPC_PORT_50051_TCP_PROTO", "tcp"),
    ]);
    assert!(Config::load(&Flags::default(), variables).is_ok());
}

#[cfg(unix)]
#[test]
fn a_variable_that_is_not_utf8_is_a_fault() {
    use std::os::unix::ffi::OsStringExt;
    let variables = [(OsString::from("TIDINGS_DATA_DIR"), OsString::from_vec(vec![0xff]))];
    let faults = Config::load(&Flags::default(), variables).expect_err("the value is not UTF-8");
    assert_eq!(faults.faults[0].to_string(), "environment TIDINGS_DATA_DIR: is not UTF-8");
}

#[test]
fn a_key_comes_from_the_environment_or_a_file_and_is_shown_nowhere() {
    const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let (config, resolved) =
        Config::load(&Flags::default(), environment(&[("TIDINGS_SECRETS_KEY", KEY)])).expect("it is a key");
    let keys = config.secrets.secrets_key.clone().expect("it was given");
    assert_eq!(keys.first().to_text().expose(), KEY);
    assert!(!format!("{config:?}").contains(KEY) && !resolved.to_toml().contains(KEY));

    let both = faults_of(&["--secrets-key-file", "k"], &[("TIDINGS_SECRETS_KEY", KEY)]);
    assert_eq!(
        both,
        [
            "flag --secrets-key-file: secrets_key_file = k (flag --secrets-key-file) cannot be given together with \
             TIDINGS_SECRETS_KEY: remove one of them"
        ]
    );
    let wrong = faults_of(&[], &[("TIDINGS_SECRETS_KEY", "something-secret")]);
    assert_eq!(wrong.len(), 1);
    assert!(wrong[0].starts_with("environment TIDINGS_SECRETS_KEY: key 1 must be"), "{wrong:?}");
    assert!(!wrong[0].contains("something-secret"), "{wrong:?}");
}

#[test]
fn what_is_in_force_can_be_fed_back_as_a_file() {
    let variables: Vec<_> = settings()
        .into_iter()
        .map(|setting| (OsString::from(setting.variable), OsString::from(setting.sample)))
        .collect();
    for variables in [Vec::new(), variables] {
        let (config, resolved) = Config::load(&Flags::default(), variables).expect("every value is sound");
        let toml = resolved.to_toml();
        let (_directory, path) = file(&toml);
        let path = path.to_str().expect("temporary paths are UTF-8");
        let (again, resolved) = Config::load(&flags(&["--config", path]), []).expect(&toml);
        assert_eq!(shown(&again), shown(&config), "{toml}");
        let values = |toml: &str| -> Vec<String> {
            toml.lines()
                .map(|line| line.split("  # from").next().expect("there is a first").to_owned())
                .collect()
        };
        assert_eq!(values(&resolved.to_toml()), values(&toml));
    }
}

#[test]
fn a_line_break_in_a_path_does_not_end_the_comment() {
    let directory = tempfile::tempdir().expect("there is room for a file");
    let path = directory.path().join("a\nb = 1");
    fs::write(&path, "max_in_flight = 1").expect("there is room for a file");
    let (_, resolved) =
        Config::load(&flags(&["--config", path.to_str().expect("it is UTF-8")]), []).expect("it is sound");
    assert_eq!(resolved.to_toml().lines().count(), settings().len());
}

#[test]
fn the_documentation_has_the_table_of_settings() {
    let document = include_str!("../../../docs/settings.md");
    let (_, rest) = document.split_once("<!-- settings:begin -->\n").expect("the table's begin is marked");
    let (table, _) = rest.split_once("<!-- settings:end -->").expect("the table's end is marked");
    assert!(
        table.trim() == settings_table::<Config>().trim(),
        "docs/settings.md is out of date: run `just settings`"
    );
}

#[test]
fn a_switch_is_on_by_its_flag_alone() {
    let cases: [(&[&str], bool); 4] = [
        (&[], false),
        (&["--insecure"], true),
        (&["--insecure", "false"], false),
        (&["--insecure", "--threads", "3"], true),
    ];
    for (arguments, on) in cases {
        let (config, _) = Config::load(&flags(arguments), []).expect("every value is sound");
        assert_eq!(config.access.insecure, on, "{arguments:?}");
    }
}

#[test]
fn the_administrators_token_comes_from_the_environment_and_is_never_shown() {
    let token = "0123456789abcdef0123456789abcdef";
    let variables = environment(&[("TIDINGS_ADMIN_TOKEN", token)]);
    let (config, resolved) = Config::load(&Flags::default(), variables.clone()).expect("it is sound");
    assert_eq!(config.secrets.admin_token, Some(Secret::new(token)));
    assert!(!format!("{config:?}{}{resolved:?}", resolved.to_toml()).contains(token));

    let faults =
        Config::load(&flags(&["--admin-token-file", "f"]), variables).expect_err("there are two tokens");
    assert_eq!(faults.faults.len(), 1, "{faults:?}");
    let message = faults.faults[0].to_string();
    assert!(
        message.ends_with("cannot be given together with TIDINGS_ADMIN_TOKEN: remove one of them"),
        "{message}"
    );
}

#[test]
fn the_token_of_whoever_calls_a_gateway_is_no_setting_of_one() {
    let variables = environment(&[("TIDINGS_TOKEN", "tdg_word")]);
    let (config, _) = Config::load(&Flags::default(), variables).expect("it is left alone");
    assert_eq!(config.secrets.admin_token, None);
}

#[test]
fn a_token_that_is_none_is_a_fault_that_does_not_tell_it() {
    for wrong in ["", "hunter2hunter2", "hunter2 hunter2 hunter2 hunter2 hunter2"] {
        let faults = faults_of(&[], &[("TIDINGS_ADMIN_TOKEN", wrong)]);
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(
            faults[0].starts_with("environment TIDINGS_ADMIN_TOKEN: it must have 32 to 256"),
            "{faults:?}"
        );
        assert!(!faults[0].contains("hunter2"), "{faults:?}");
    }
}

#[test]
fn a_file_that_is_of_no_use_without_another_is_a_fault_of_whoever_named_it() {
    let faults = faults_of(&["--grpc-tls-cert-file", "c.pem"], &[("TIDINGS_GRPC_CLIENT_CA_FILE", "a.pem")]);
    let expected = "flag --grpc-tls-cert-file: grpc_tls_cert_file = c.pem (flag --grpc-tls-cert-file) needs \
                    grpc_tls_key_file, which is not set";
    assert_eq!(faults, [expected]);
    let faults =
        faults_of(&[], &[("TIDINGS_GRPC_CLIENT_CA_FILE", "a.pem"), ("TIDINGS_GRPC_TLS_KEY_FILE", "k.pem")]);
    assert_eq!(faults.len(), 2, "{faults:?}");
    assert!(
        faults.iter().all(|fault| fault.ends_with("needs grpc_tls_cert_file, which is not set")),
        "{faults:?}"
    );
}
