use std::{fs, net::TcpListener};

use clap::{Args, Command};
use tidings::{app::Config, config::settings_table};

use crate::support::process::{run, tidings};

#[tokio::test]
async fn the_version_is_printed() {
    let ended = run(tidings(&["--version"])).await;
    assert_eq!((ended.code, &*ended.stdout), (Some(0), concat!("tidings ", env!("CARGO_PKG_VERSION"), "\n")));
}

/// Every setting, as an argument of a command.
fn settings() -> Command {
    Config::augment_args(Command::new("settings"))
}

#[tokio::test]
async fn help_names_every_setting_in_its_spellings_with_its_default() {
    let ended = run(tidings(&["serve", "--help"])).await;
    assert_eq!(ended.code, Some(0));
    let help: String = ended.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    for setting in settings().get_arguments() {
        let default = setting.get_default_values().first().map_or("unset", |text| text.to_str().unwrap());
        let (flag, key) = (setting.get_long().unwrap(), setting.get_id().as_str());
        // A switch may stand alone.
        let shown = [format!("--{flag} <"), format!("--{flag} [<")];
        assert!(shown.iter().any(|shown| help.contains(shown)), "{help}");
        let end = format!("[default: {default}] [env: TIDINGS_{}]", key.to_ascii_uppercase());
        assert!(help.contains(&end), "{end}: {help}");
    }
}

#[tokio::test]
async fn wrong_usage_ends_with_64() {
    let cases: [&[&str]; 7] = [
        &[],
        &["fly"],
        &["serve", "--grpc-lisen", "127.0.0.1:0"],
        &["serve", "--data-dir"],
        &["serve", "--data-dir", "a", "--data-dir", "b"],
        &["receive", "--every", "3"],
        &["receive", "--status", "100"],
    ];
    for arguments in cases {
        let ended = run(tidings(arguments)).await;
        assert_eq!(ended.code, Some(64), "{arguments:?}: {}", ended.stderr);
        assert!(!ended.stderr.is_empty() && ended.stdout.is_empty(), "{arguments:?}");
    }
}

#[tokio::test]
async fn all_errors_of_a_configuration_are_printed_before_anything_is_touched() {
    let directory = tempfile::tempdir().expect("there is room");
    let (data, file) = (directory.path().join("data"), directory.path().join("tidings.toml"));
    fs::write(&file, "lane_order_keys_max = \"wide\"\nweather = 1\n").expect("there is room");
    let (data, file) = (data.to_str().expect("it is UTF-8"), file.to_str().expect("it is UTF-8"));
    // Binding the address would fail, and end the program with another code.
    let taken = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    let taken = taken.local_addr().expect("it is bound").to_string();

    let arguments =
        ["serve", "--config", file, "--data-dir", data, "--grpc-listen", &taken, "--delivery-timeout", "1h"];
    let mut command = tidings(&arguments);
    command.env("TIDINGS_MAX_IN_FLIGHT", "0").env("TIDINGS_GRPC_LISEN", "x");
    let ended = run(command).await;

    assert_eq!(ended.code, Some(64), "{}", ended.stderr);
    let mut lines: Vec<_> = ended.stderr.lines().collect();
    assert_eq!(lines.remove(0), "tidings: the configuration has 4 faults:");
    lines.sort_unstable();
    let expected = [
        "  environment TIDINGS_MAX_IN_FLIGHT: 0 is not within 1 to 256".to_owned(),
        format!("  file {file} line 1 key lane_order_keys_max: \"wide\" is not a whole number"),
        format!(
            "  file {file} line 2 key weather: there is no such setting; `tidings serve --help` lists them"
        ),
        "  flag --delivery-timeout: 1h is not within 1s to 30s".to_owned(),
        "  warning: environment TIDINGS_GRPC_LISEN: there is no such setting; did you mean TIDINGS_GRPC_LISTEN?"
            .to_owned(),
    ];
    assert_eq!(lines, expected);
    assert!(ended.stdout.is_empty());
    assert!(!fs::exists(data).expect("the directory above can be read"));
}

#[tokio::test]
async fn an_unknown_variable_is_a_warning_where_everything_else_is_sound() {
    let mut command = tidings(&["config"]);
    command.env("TIDINGS_GRPC_LISEN", "x").env("TIDINGS_PORT", "tcp://10.0.0.1:1");
    let ended = run(command).await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let expected = "tidings: warning: environment TIDINGS_GRPC_LISEN: there is no such setting; did you mean \
                    TIDINGS_GRPC_LISTEN?\n";
    assert_eq!(ended.stderr, expected);
    assert!(ended.stdout.starts_with("data_dir = "), "{}", ended.stdout);
}

#[tokio::test]
async fn config_prints_the_settings_in_force_and_reads_them_back() {
    let directory = tempfile::tempdir().expect("there is room");
    let file = directory.path().join("tidings.toml");
    fs::write(&file, "# mine\nmax_in_flight = 7\n").expect("there is room");
    let file = file.to_str().expect("it is UTF-8");

    let mut command = tidings(&["config", "--egress-allow", "127.0.0.0/8", "--egress-allow", "::1"]);
    command.env("TIDINGS_CONFIG", file).env("TIDINGS_LOG_FORMAT", "json");
    let first = run(command).await;

    assert_eq!(first.code, Some(0), "{}", first.stderr);
    assert_eq!(first.stdout.lines().count(), settings().get_arguments().count());
    for line in [
        "data_dir = \"tidings-data\"  # from default".to_owned(),
        "egress_allow = [\"127.0.0.0/8\", \"::1/128\"]  # from flag --egress-allow".to_owned(),
        "log_format = \"json\"  # from environment TIDINGS_LOG_FORMAT".to_owned(),
        format!("max_in_flight = 7  # from file {file} line 2 key max_in_flight"),
    ] {
        assert!(first.stdout.lines().any(|printed| printed == line), "{line}\n{}", first.stdout);
    }

    fs::write(file, &first.stdout).expect("there is room");
    let second = run(tidings(&["config", "--config", file])).await;
    assert_eq!(second.code, Some(0), "{}", second.stderr);
    let values = |toml: &str| -> Vec<String> {
        toml.lines()
            .map(|line| line.split("  # from ").next().expect("there is a first").to_owned())
            .collect()
    };
    assert_eq!(values(&second.stdout), values(&first.stdout));
    assert!(!second.stdout.contains("from default"));
}

#[tokio::test]
async fn config_prints_the_table_of_the_documentation() {
    let ended = run(tidings(&["config", "--markdown"])).await;
    assert_eq!((ended.code, ended.stdout), (Some(0), settings_table::<Config>()));
}
