//! The proxies of endpoints: from the settings, or else from the variables that other programs read too.

use std::{ffi::OsString, fmt};

use super::fault::{ConfigFault, Source};
use crate::domain::egress::{HostPattern, Proxy, ProxyRules};

/// The value that means no proxy.
const NONE: &str = "none";

/// The variables that name the proxy for https endpoints, the preferred one first.
const HTTPS: [&str; 2] = ["https_proxy", "HTTPS_PROXY"];
/// The variables for http endpoints.
const HTTP: [&str; 2] = ["http_proxy", "HTTP_PROXY"];
/// The variables that name hosts to reach directly.
const DIRECT: [&str; 2] = ["no_proxy", "NO_PROXY"];
/// Set for a CGI program, to which a web server passes the header `Proxy` of a request as `HTTP_PROXY`.
const CGI: &str = "REQUEST_METHOD";

/// The setting `egress_proxy`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProxySetting {
    /// Unset: the environment's variables apply.
    Environment,
    /// No proxy, whatever the environment says.
    None,
    /// One proxy for http and https endpoints.
    One(Proxy),
}

impl ProxySetting {
    /// Parses the setting.
    ///
    /// # Errors
    ///
    /// The error, without the text, which may contain a password.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "" => Ok(Self::Environment),
            NONE => Ok(Self::None),
            url => Proxy::parse(url).map(Self::One),
        }
    }

    /// The rules of the setting, with these hosts reached directly.
    pub fn rules(
        &self,
        direct: Vec<HostPattern>,
        environment: &[(OsString, OsString)],
        faults: &mut Vec<ConfigFault>,
    ) -> ProxyRules {
        match self {
            Self::Environment => {
                let mut rules = of_environment(environment, faults);
                rules.direct.extend(direct);
                rules
            }
            Self::None => ProxyRules::default(),
            Self::One(proxy) => ProxyRules { http: Some(proxy.clone()), https: Some(proxy.clone()), direct },
        }
    }
}

impl fmt::Display for ProxySetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Environment => Ok(()),
            Self::None => f.write_str(NONE),
            Self::One(proxy) => proxy.fmt(f),
        }
    }
}

fn of_environment(variables: &[(OsString, OsString)], faults: &mut Vec<ConfigFault>) -> ProxyRules {
    let value = |name: &str| variables.iter().find(|(known, _)| known == name).map(|(_, value)| value);
    let is_cgi = value(CGI).is_some();
    // A variable that is set to nothing means no proxy: the other spelling is not read.
    let first = |names: [&'static str; 2]| {
        let mut known = names.into_iter().filter(|name| !(is_cgi && *name == "HTTP_PROXY"));
        known.find_map(|name| Some((name, value(name)?)))
    };
    let mut proxy = |names| {
        let (name, value) = first(names).filter(|(_, value)| !value.is_empty())?;
        let read = value
            .to_str()
            .ok_or_else(|| "is not UTF-8".to_owned())
            .and_then(|text| Proxy::parse(text.trim()));
        let fault = |problem: String| {
            let problem = format!("{problem}; set egress_proxy to \"{NONE}\" to do without");
            faults.push(ConfigFault::new(Source::Environment(name.to_owned()), problem));
        };
        read.map_err(fault).ok()
    };
    let (http, https) = (proxy(HTTP), proxy(HTTPS));
    // Written for many programs: entries that only others understand are skipped.
    let direct = first(DIRECT).and_then(|(_, value)| value.to_str()).unwrap_or_default();
    let direct = direct.split([',', ' ']).map(str::trim).filter_map(HostPattern::parse).collect();
    ProxyRules { http, https, direct }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(setting: &str, variables: &[(&str, &str)]) -> Result<ProxyRules, Vec<String>> {
        let variables: Vec<_> = variables.iter().map(|(name, value)| (name.into(), value.into())).collect();
        let mut faults = Vec::new();
        let rules = ProxySetting::parse(setting).unwrap().rules(Vec::new(), &variables, &mut faults);
        if faults.is_empty() { Ok(rules) } else { Err(faults.iter().map(ToString::to_string).collect()) }
    }

    /// By which host http and https endpoints are reached.
    fn hosts(setting: &str, variables: &[(&str, &str)]) -> (String, String) {
        let ProxyRules { http, https, .. } = rules(setting, variables).unwrap();
        let host = |proxy: Option<Proxy>| proxy.map_or(String::new(), |proxy| proxy.host().to_owned());
        (host(http), host(https))
    }

    fn both(http: &str, https: &str) -> (String, String) {
        (http.to_owned(), https.to_owned())
    }

    #[test]
    fn the_setting_goes_before_the_environment_and_lower_case_before_upper_case() {
        let all = [
            ("http_proxy", "http://a"),
            ("HTTP_PROXY", "http://b"),
            ("https_proxy", "http://c"),
            ("HTTPS_PROXY", "http://d"),
            ("ALL_PROXY", "http://e"),
        ];
        assert_eq!(hosts("", &all), both("a", "c"));
        assert_eq!(hosts("", &all[1..]), both("b", "c"));
        assert_eq!(hosts("", &all[3..]), both("", "d"));
        assert_eq!(hosts("", &all[4..]), both("", ""));
        assert_eq!(hosts("http://f", &all), both("f", "f"));
        assert_eq!(hosts("none", &all), both("", ""));
        assert_eq!(hosts("", &[("https_proxy", ""), ("HTTPS_PROXY", "http://d")]), both("", ""));
    }

    #[test]
    fn a_web_server_does_not_choose_the_proxy() {
        let all = [("HTTP_PROXY", "http://evil"), ("HTTPS_PROXY", "http://d"), ("REQUEST_METHOD", "GET")];
        assert_eq!(hosts("", &all), both("", "d"));
        assert_eq!(hosts("", &all[..2]), both("evil", "d"));
    }

    #[test]
    fn an_unusable_variable_is_a_fault_only_if_it_counts() {
        let variables = [("HTTPS_PROXY", "socks5://user:hunter2@proxy.example")];
        let faults = rules("", &variables).unwrap_err();
        assert!(matches!(&*faults, [fault] if fault.starts_with("environment HTTPS_PROXY: ")), "{faults:?}");
        assert!(!faults[0].contains("hunter2"), "{faults:?}");
        assert!(rules("none", &variables).is_ok());
        assert!(rules("http://proxy.example", &variables).is_ok());
    }

    #[test]
    fn the_environments_exceptions_are_those_of_its_proxies() {
        let variables =
            [("HTTPS_PROXY", "http://d"), ("NO_PROXY", "a.example, <local>,.b.example 10.0.0.0/8,")];
        let direct = rules("", &variables).unwrap().direct;
        let shown: Vec<_> = direct.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["a.example", "b.example", "10.0.0.0/8"]);
        assert_eq!(rules("http://f", &variables).unwrap().direct, []);
    }
}
