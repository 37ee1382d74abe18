//! The configuration as a whole: which source wins, what is said of it, and that no fault hides another.

use std::{ffi::OsString, fs, path::PathBuf};

use clap::Command;
use tempfile::TempDir;

use super::{
    table::{NOT_WITHOUT, Setting},
    *,
};

/// For every setting a value that is not its default, as a flag or a variable has it, and as TOML has it.
const SAMPLES: [(&str, &str, &str); SETTINGS.len()] = [
    ("data_dir", "/var/lib/tidings \"x\"", r#"'/var/lib/tidings "x"'"#),
    ("grpc_listen", "[::1]:1", r#""[::1]:1""#),
    ("admin_token_file", "admin.token", r#""admin.token""#),
    ("insecure", "true", "true"),
    ("grpc_reflection", "token", r#""token""#),
    ("grpc_health", "off", r#""off""#),
    ("access_tokens_max", "5", "5"),
    ("access_failures_per_minute_max", "7", "7"),
    ("access_failure_addresses_max", "9", "9"),
    ("http_listen", "0.0.0.0:2", r#""0.0.0.0:2""#),
    ("ingest_listen", "[::1]:3", r#""[::1]:3""#),
    ("ingest_sources_file", "sources.toml", r#""sources.toml""#),
    ("ingest_sources_reload_interval", "1m", r#""60s""#),
    ("ingest_signature_tolerance", "10m", r#""600s""#),
    ("ingest_body_bytes_max", "2MiB", r#""2MiB""#),
    ("ingest_header_bytes_max", "8KiB", "8192"),
    ("ingest_bytes_in_flight_max", "32MiB", r#""32MiB""#),
    ("ingest_requests_in_flight_max", "3", "3"),
    ("ingest_connections_max", "6", "6"),
    ("ingest_connections_per_address_max", "4", "4"),
    ("ingest_read_timeout", "2s", r#""2s""#),
    ("egress_allow", "127.0.0.0/8,::1/128", r#"["127.0.0.0/8", "::1"]"#),
    ("egress_deny", "10.1.0.0/16", r#"["10.1.0.0/16"]"#),
    ("egress_ca_file", "ca.pem", r#""ca.pem""#),
    ("egress_proxy", "http://proxy.example:3128", r#""proxy.example:3128""#),
    ("egress_no_proxy", "example.com,10.0.0.0/8", r#"[".example.com", "10.0.0.0/8"]"#),
    ("egress_tls_profiles_max", "1", "1"),
    ("secrets_key_file", "secrets.key", r#""secrets.key""#),
    ("log_format", "json", r#""json""#),
    ("log_level", "warn,tidings=debug", r#""warn,tidings=debug""#),
    ("drain_timeout", "1500ms", r#""1500ms""#),
    ("intake_threads", "1", "1"),
    ("delivery_threads", "3", "3"),
    ("event_bytes_max", "64KiB", "65_536"),
    ("publish_events_in_flight_max", "1000", "1000"),
    ("publish_bytes_in_flight_max", "2GiB", r#""2GiB""#),
    ("stream_events_in_flight_max", "7", "7"),
    ("grpc_message_bytes_max", "8MiB", r#""8MiB""#),
    ("grpc_header_bytes_max", "32KiB", "0x8000"),
    ("grpc_calls_in_flight_max", "1", "1"),
    ("grpc_streams_per_connection_max", "100", "100"),
    ("grpc_connections_max", "9", "9"),
    ("grpc_connections_per_address_max", "8", "8"),
    ("grpc_half_open_max", "4", "4"),
    ("grpc_handshake_timeout", "100ms", r#""100ms""#),
    ("grpc_idle_timeout", "1d", r#""24h""#),
    ("grpc_answer_timeout", "1s", r#""1s""#),
    ("grpc_unfinished_bytes_max", "64MiB", r#""64MiB""#),
    ("grpc_unread_bytes_max", "64MiB", r#""64MiB""#),
    ("grpc_tls_cert_file", "cert.pem", r#""cert.pem""#),
    ("grpc_tls_key_file", "key.pem", r#""key.pem""#),
    ("grpc_client_ca_file", "clients.pem", r#""clients.pem""#),
    ("grpc_tls_reload_interval", "1m", r#""60s""#),
    ("call_timeout", "2s", r#""2s""#),
    ("reads_in_flight_max", "2", "2"),
    ("tests_in_flight_max", "5", "5"),
    ("watches_max", "6", "6"),
    ("subscriptions_per_account_max", "3", "3"),
    ("delivery_timeout", "30s", r#""30s""#),
    ("connect_timeout", "100ms", r#""100ms""#),
    ("response_bytes_max", "1KiB", "1024"),
    ("max_in_flight", "256", r#""256""#),
    ("lane_window", "256", "256"),
    ("lane_windows_bytes_max", "1MiB", "1048576"),
    ("attempts_in_flight_max", "16", "16"),
    ("lane_order_keys_max", "7", "7"),
    ("lane_order_key_window", "9", "9"),
    ("lane_reads_in_flight_max", "4", "4"),
    ("idle_connection_timeout", "1h", r#""60m""#),
    ("idle_connections_per_endpoint_max", "0", "0"),
    ("idle_connections_max", "10", "10"),
    ("retry_max_attempts", "50", "50"),
    ("retry_min_backoff", "10ms", r#""10ms""#),
    ("retry_max_backoff", "7d", r#""7d""#),
    ("retry_after_max", "0s", r#""0s""#),
    ("pace_wait_max", "100ms", r#""100ms""#),
    ("backlog_per_subscription_max", "1000", "1000"),
    ("backlog_max", "60000000", "60000000"),
    ("suspend_after", "1h", r#""60m""#),
    ("suspend_attempts_min", "3", "3"),
    ("probe_interval_min", "5s", r#""5s""#),
    ("probe_interval_max", "2h", r#""2h""#),
    ("retention_age", "30d", r#""30d""#),
    ("retention_bytes_max", "1GiB", r#""1GiB""#),
    ("retention_interval", "1s", r#""1s""#),
    ("audit_bytes_max", "2MiB", r#""2MiB""#),
    ("store_cache_bytes", "1GiB", r#""1GiB""#),
];

fn flags(arguments: &[&str]) -> Flags {
    let command = Flags::add_to(Command::new("test").no_binary_name(true));
    Flags::from_matches(&command.try_get_matches_from(arguments).expect("the flags are known"))
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

/// Variables for the files without which the one of this key is of no use, and for what these need.
fn needed_by(key: &'static str) -> Vec<(OsString, OsString)> {
    let mut keys = vec![key];
    while let Some((_, more)) =
        NOT_WITHOUT.iter().find(|(one, other)| keys.contains(one) && !keys.contains(other))
    {
        keys.push(more);
    }
    let variable = |key: &&str| (Setting::by_key(key).expect(key).environment().into(), "needed.pem".into());
    keys[1..].iter().map(variable).collect()
}

fn faults_of(arguments: &[&str], variables: &[(&str, &str)]) -> Vec<String> {
    let faults = Config::load(&flags(arguments), environment(variables)).expect_err("something is wrong");
    faults.iter().map(ConfigFault::to_string).collect()
}

#[test]
fn without_any_source_the_defaults_are_in_force() {
    let (config, origins) = Config::load(&Flags::default(), []).expect("the defaults are sound");
    assert_eq!(config, Config::default());
    assert!(SETTINGS.iter().all(|setting| origins.of(setting.key) == Some(&Origin::Default)));
}

#[test]
fn every_setting_takes_effect_from_every_source() {
    for (key, text, toml) in SAMPLES {
        let setting = Setting::by_key(key).expect(key);
        let (_directory, path) = file(&format!("{key} = {toml}"));
        let path = path.to_str().expect("temporary paths are UTF-8");
        let from_flag = flags(&[&format!("--{}", setting.flag()), text]);
        let needed = needed_by(key);
        let mut from_environment = environment(&[(&setting.environment(), text)]);
        from_environment.extend(needed.clone());

        let cases = [
            (Config::load(&from_flag, needed.clone()), format!("flag --{}", setting.flag())),
            (
                Config::load(&Flags::default(), from_environment),
                format!("environment {}", setting.environment()),
            ),
            (Config::load(&flags(&["--config", path]), needed), format!("file {path} line 1 key {key}")),
        ];
        for (loaded, expected) in &cases {
            let (config, origins) = loaded.as_ref().expect(key);
            assert_ne!(config, &Config::default(), "{expected}");
            assert_eq!(&origins.of(key).expect(key).to_string(), expected);
        }
        let configs: Vec<_> = cases.iter().map(|(loaded, _)| &loaded.as_ref().expect(key).0).collect();
        assert!(configs.windows(2).all(|pair| pair[0] == pair[1]), "{key} differs by source");
    }
}

#[test]
fn a_stronger_source_replaces_a_weaker_one() {
    let (_directory, path) = file("max_in_flight = 1\nlane_window = 300\nretry_max_attempts = 3\n");
    let path = path.to_str().expect("temporary paths are UTF-8");
    let variables = environment(&[("TIDINGS_MAX_IN_FLIGHT", "2"), ("TIDINGS_LANE_WINDOW", "400")]);

    let (config, origins) = Config::load(&flags(&["--config", path, "--max-in-flight", "4"]), variables)
        .expect("every value is sound");

    assert_eq!((config.max_in_flight, config.lane_window, config.retry_max_attempts), (4, 400, 3));
    assert_eq!(origins.of("max_in_flight"), Some(&Origin::Flag("max-in-flight".to_owned())));
    assert_eq!(origins.of("lane_window"), Some(&Origin::Environment("TIDINGS_LANE_WINDOW".to_owned())));
    let in_file = Origin::File { path: path.into(), line: 3, key: Some("retry_max_attempts".to_owned()) };
    assert_eq!(origins.of("retry_max_attempts"), Some(&in_file));
}

#[test]
fn the_file_can_be_named_by_the_environment_and_a_flag_goes_before_that() {
    let (_one, first) = file("max_in_flight = 1");
    let (_two, second) = file("max_in_flight = 2");
    let variables = [(OsString::from("TIDINGS_CONFIG"), first.into_os_string())];

    let (config, _) = Config::load(&Flags::default(), variables.clone()).expect("the file is sound");
    assert_eq!(config.max_in_flight, 1);
    let named = flags(&["--config", second.to_str().expect("temporary paths are UTF-8")]);
    let (config, _) = Config::load(&named, variables).expect("the file is sound");
    assert_eq!(config.max_in_flight, 2);
}

#[test]
fn networks_add_up_within_a_source_and_replace_each_other_between_sources() {
    let arguments = ["--egress-allow", "10.0.0.0/8", "--egress-allow", "::1,192.0.2.7"];
    let variables = environment(&[("TIDINGS_EGRESS_ALLOW", "127.0.0.0/8")]);
    let (config, _) = Config::load(&flags(&arguments), variables).expect("every value is sound");
    let networks: Vec<_> = config.egress_allow.iter().map(IpNet::to_string).collect();
    assert_eq!(networks, ["10.0.0.0/8", "::1/128", "192.0.2.7/32"]);
}

#[test]
fn all_faults_of_all_sources_are_told_at_once() {
    let (_directory, path) =
        file("max_in_flight = 0\ngrpc_lisen = \"x\"\n\n[delivery]\ntimeout = 1\nretry_after_max = 7\n");
    let path = path.to_str().expect("temporary paths are UTF-8");
    let variables = [
        ("TIDINGS_MAX_IN_FLIGHT", "lots"),
        ("TIDINGS_LANE_WINDWO", "1"),
        ("TIDINGS_COLOUR", "red"),
        ("HOME", "/root"),
    ];
    let arguments =
        ["--config", path, "--grpc-listen", "nowhere", "--retry-min-backoff", "7h", "--max-in-flight", "3"];

    let mut faults = faults_of(&arguments, &variables);

    faults.sort();
    let unknown = "there is no such setting";
    let mut expected = vec![
        format!("environment TIDINGS_COLOUR: {unknown}; `tidings serve --help` lists them"),
        format!("environment TIDINGS_LANE_WINDWO: {unknown}; did you mean TIDINGS_LANE_WINDOW?"),
        r#"environment TIDINGS_MAX_IN_FLIGHT: "lots" is not a whole number"#.to_owned(),
        format!("file {path} line 1 key max_in_flight: 0 is not within 1 to 256"),
        format!("file {path} line 2 key grpc_lisen: {unknown}; did you mean grpc_listen?"),
        format!("file {path} line 4 key delivery: {unknown}; `tidings serve --help` lists them"),
        r#"flag --grpc-listen: "nowhere" is not an address such as 127.0.0.1:50051 or [::]:50051"#.to_owned(),
        "flag --retry-min-backoff: retry_min_backoff = 7h (flag --retry-min-backoff) is more than \
         retry_max_backoff = 6h (default): waits would shrink"
            .to_owned(),
    ];
    expected.sort();
    assert_eq!(faults, expected);
}

#[test]
fn a_line_that_is_no_toml_hides_no_other_fault() {
    let (_directory, path) = file("data_dir = tidings\nmax_in_flight = 0\nlane_window = = 3\n");
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
    let cases: [(&[&str], &str); 10] = [
        (
            &["--event-bytes-max", "3MiB", "--grpc-message-bytes-max", "2MiB"],
            "the largest event would not fit into a message",
        ),
        (&["--publish-bytes-in-flight-max", "1MiB"], "the largest batch would always be refused"),
        (&["--retry-max-backoff", "1s"], "flag --retry-max-backoff: retry_min_backoff = 5s (default)"),
        (
            &["--stream-events-in-flight-max", "2000", "--publish-events-in-flight-max", "1000"],
            "one stream could fill the whole gateway",
        ),
        (&["--backlog-max", "1000"], "what one subscription may be owed would not fit"),
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
        (&["--ingest-bytes-in-flight-max", "64KiB"], "the largest body would always be refused"),
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
    assert_eq!(faults[0].to_string(), "environment TIDINGS_DATA_DIR: is not UTF-8");
}

#[test]
fn a_key_comes_from_the_environment_or_a_file_and_is_shown_nowhere() {
    const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let (config, origins) =
        Config::load(&Flags::default(), environment(&[("TIDINGS_SECRETS_KEY", KEY)])).expect("it is a key");
    let keys = config.secrets_key.clone().expect("it was given");
    assert_eq!(keys.first().to_text().expose(), KEY);
    assert!(!format!("{config:?}").contains(KEY) && !origins.to_toml().contains(KEY));

    let both = faults_of(&["--secrets-key-file", "k"], &[("TIDINGS_SECRETS_KEY", KEY)]);
    assert_eq!(
        both,
        [
            "environment TIDINGS_SECRETS_KEY: cannot be given beside secrets_key_file = k (flag --secrets-key-file): \
          keys come from one place"
        ]
    );
    let wrong = faults_of(&[], &[("TIDINGS_SECRETS_KEY", "something-secret")]);
    assert_eq!(wrong.len(), 1);
    assert!(wrong[0].starts_with("environment TIDINGS_SECRETS_KEY: key 1 must be"), "{wrong:?}");
    assert!(!wrong[0].contains("something-secret"), "{wrong:?}");
}

#[test]
fn what_is_in_force_can_be_fed_back_as_a_file() {
    let variables: Vec<_> = SAMPLES
        .iter()
        .map(|(key, text, _)| (OsString::from(Setting::by_key(key).expect(key).environment()), text.into()))
        .collect();
    for variables in [Vec::new(), variables] {
        let (config, origins) = Config::load(&Flags::default(), variables).expect("every value is sound");
        let toml = origins.to_toml();
        let (_directory, path) = file(&toml);
        let path = path.to_str().expect("temporary paths are UTF-8");
        let (again, origins) = Config::load(&flags(&["--config", path]), []).expect(&toml);
        assert_eq!(again, config, "{toml}");
        let values = |toml: &str| -> Vec<String> {
            toml.lines()
                .map(|line| line.split("  # from").next().expect("there is a first").to_owned())
                .collect()
        };
        assert_eq!(values(&origins.to_toml()), values(&toml));
    }
}

#[test]
fn a_line_break_in_a_path_does_not_end_the_comment() {
    let directory = tempfile::tempdir().expect("there is room for a file");
    let path = directory.path().join("a\nb = 1");
    fs::write(&path, "max_in_flight = 1").expect("there is room for a file");
    let (_, origins) =
        Config::load(&flags(&["--config", path.to_str().expect("it is UTF-8")]), []).expect("it is sound");
    assert_eq!(origins.to_toml().lines().count(), SETTINGS.len());
}

#[test]
fn the_documentation_has_the_table_of_settings() {
    let document = include_str!("../../docs/settings.md");
    let (_, rest) = document.split_once("<!-- settings:begin -->\n").expect("the table's begin is marked");
    let (table, _) = rest.split_once("<!-- settings:end -->").expect("the table's end is marked");
    assert_eq!(table.trim(), settings_table().trim(), "docs/settings.md is out of date: run `just settings`");
}

#[test]
fn a_switch_is_on_by_its_flag_alone() {
    let cases: [(&[&str], bool); 4] = [
        (&[], false),
        (&["--insecure"], true),
        (&["--insecure", "false"], false),
        (&["--insecure", "--lane-window", "300"], true),
    ];
    for (arguments, on) in cases {
        let (config, _) = Config::load(&flags(arguments), []).expect("every value is sound");
        assert_eq!(config.insecure, on, "{arguments:?}");
    }
}

#[test]
fn the_administrators_token_comes_from_the_environment_and_is_never_shown() {
    let token = "0123456789abcdef0123456789abcdef";
    let variables = environment(&[("TIDINGS_ADMIN_TOKEN", token)]);
    let (config, origins) = Config::load(&Flags::default(), variables.clone()).expect("it is sound");
    assert_eq!(config.admin_token, Some(Secret::new(token)));
    assert!(!format!("{config:?}{}{origins:?}", origins.to_toml()).contains(token));

    let faults =
        Config::load(&flags(&["--admin-token-file", "f"]), variables).expect_err("there are two tokens");
    assert_eq!(faults.len(), 1, "{faults:?}");
    let told = faults[0].to_string();
    assert!(
        told.starts_with("flag --admin-token-file: there is an access token in the environment"),
        "{told}"
    );
}

#[test]
fn the_token_of_whoever_calls_a_gateway_is_no_setting_of_one() {
    let variables = environment(&[("TIDINGS_TOKEN", "tdg_word")]);
    let (config, _) = Config::load(&Flags::default(), variables).expect("it is left alone");
    assert_eq!(config.admin_token, None);
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
