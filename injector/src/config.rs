//! Everything the injector is told: flags, each of which can be an environment variable as well.
//!
//! All mistakes are reported at once, before anything starts: whoever edits values by hand should not have to find
//! them one restart at a time.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use sidecar::config::{LogFormat, LogLevel};
use thiserror::Error;

use self::values::{DnsLabel, Folder, ObjectName};
use crate::inject;
use crate::scope::Scope;
use crate::tls::{self, Source, folder, server_name};

pub use self::manifests::InjectArgs;
#[cfg(test)]
pub(crate) use self::manifests::example_settings;

mod manifests;
mod sidecars;
mod values;

/// The server's flags as clap takes them; [`Args::check`] makes a [`Config`] of them.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Namespace the injector runs in
    #[arg(long, env = "INJECTOR_NAMESPACE")]
    namespace: Written<DnsLabel>,
    /// Name of this pod, which signs Events
    #[arg(long, env = "INJECTOR_POD_NAME")]
    pod_name: Written<ObjectName>,
    /// Name of the injector's Service, under which API servers call it
    #[arg(long, env = "INJECTOR_SERVICE")]
    service: Written<DnsLabel>,
    /// Name of the injector's Deployment, which owns the Secret of the certificate authority
    #[arg(long, env = "INJECTOR_DEPLOYMENT", required_unless_present = "tls_folder")]
    deployment: Option<Written<ObjectName>>,
    /// Name of the MutatingWebhookConfiguration whose caBundle is kept
    #[arg(long, env = "INJECTOR_WEBHOOK_CONFIGURATION", required_unless_present = "tls_folder")]
    webhook_configuration: Option<Written<ObjectName>>,
    /// Name of the Secret that holds the certificate authority
    #[arg(long, env = "INJECTOR_CA_SECRET", required_unless_present = "tls_folder")]
    ca_secret: Option<Written<ObjectName>>,
    /// Folder with a tls.crt and tls.key that somebody else makes, who also writes the caBundle; without it, the injector
    /// has an authority of its own
    #[arg(long, env = "INJECTOR_TLS_FOLDER", conflicts_with_all = ["deployment", "webhook_configuration", "ca_secret"])]
    tls_folder: Option<Written<Folder>>,
    /// Name of the role that sidecars get in the namespaces of their pods: a ClusterRole, or with --only-namespace a Role
    /// in each
    #[arg(long, env = "INJECTOR_SIDECAR_ROLE")]
    sidecar_role: Written<ObjectName>,
    #[command(flatten)]
    sidecars: sidecars::SidecarArgs,
    /// Name of a namespace in which nothing is made, whatever its labels; repeated or separated by commas
    #[arg(long, env = "INJECTOR_EXCLUDED_NAMESPACE", value_delimiter = ',')]
    excluded_namespace: Vec<Written<DnsLabel>>,
    /// Name of a namespace in which the injector has rights, if it has none in all the cluster; repeated or separated by
    /// commas
    #[arg(long, env = "INJECTOR_ONLY_NAMESPACE", value_delimiter = ',')]
    only_namespace: Vec<Written<DnsLabel>>,
    /// Whether to look now and then for pods that lack their sidecar
    #[arg(long, env = "INJECTOR_AUDIT", default_value = "true")]
    audit: Written<bool>,
    /// Port of the webhooks
    #[arg(long, env = "INJECTOR_HTTPS_PORT", default_value = "8443")]
    https_port: Written<u16>,
    /// Port of /livez, /readyz and /metrics
    #[arg(long, env = "INJECTOR_HTTP_PORT", default_value = "8080")]
    http_port: Written<u16>,
    /// Log level of the injector: DEBUG, INFO, WARNING, ERROR or CRITICAL
    #[arg(long, env = "INJECTOR_LOG_LEVEL", default_value = "INFO")]
    log_level: Written<LogLevel>,
    /// Log format of the injector: text or json
    #[arg(long, env = "INJECTOR_LOG_FORMAT", default_value = "text")]
    log_format: Written<LogFormat>,
}

/// What the injector runs by.
#[derive(Debug)]
pub struct Config {
    /// Where the injector's certificates come from.
    pub tls: Source,
    /// Name of this pod.
    pub pod_name: String,
    /// The name of the role of sidecars.
    pub sidecar_role: String,
    /// Where anything is made.
    pub scope: Scope,
    /// What is injected.
    pub inject: inject::Settings,
    /// Whether pods that lack their sidecar are looked for.
    pub audit: bool,
    /// Port of the webhooks; 0 takes any.
    pub https_port: u16,
    /// Port of probes and metrics; 0 takes any.
    pub http_port: u16,
    /// How much is logged.
    pub log_level: LogLevel,
    /// What a log line looks like.
    pub log_format: LogFormat,
}

/// Every mistake in the flags, one a line.
#[derive(Debug, PartialEq, Eq, Error)]
pub struct ConfigError(Vec<String>);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the configuration is wrong:")?;
        self.0.iter().try_for_each(|mistake| write!(f, "\n  {mistake}"))
    }
}

impl Args {
    /// Makes a configuration of what was written.
    ///
    /// # Errors
    /// All mistakes together.
    pub fn check(self) -> Result<Config, ConfigError> {
        let Self {
            namespace,
            pod_name,
            deployment,
            service,
            webhook_configuration,
            ca_secret,
            tls_folder,
            sidecar_role,
            sidecars,
            excluded_namespace,
            only_namespace,
            audit,
            https_port,
            http_port,
            log_level,
            log_format,
        } = self;
        let mut mistakes = Mistakes::default();
        let namespace = mistakes.value("namespace", namespace);
        let pod_name = mistakes.value("pod-name", pod_name);
        let deployment = mistakes.given("deployment", deployment);
        let service = mistakes.value("service", service);
        let webhook_configuration = mistakes.given("webhook-configuration", webhook_configuration);
        let ca_secret = mistakes.given("ca-secret", ca_secret);
        let from_folder = tls_folder.is_some();
        let folder = mistakes.given("tls-folder", tls_folder);
        let sidecar_role = mistakes.value("sidecar-role", sidecar_role);
        let inject = sidecars.settings(&mut mistakes);
        let excluded = mistakes.names("excluded-namespace", excluded_namespace);
        let only = mistakes.names("only-namespace", only_namespace);
        if let (Some(excluded), Some(only)) = (&excluded, &only) {
            for name in only.intersection(excluded) {
                mistakes.0.push(format!("--only-namespace {name}: --excluded-namespace names it too; take one out"));
            }
        }
        let audit = mistakes.value("audit", audit);
        let https_port = mistakes.value("https-port", https_port);
        let http_port = mistakes.value("http-port", http_port);
        let log_level = mistakes.value("log-level", log_level);
        let log_format = mistakes.value("log-format", log_format);
        if https_port.is_some() && https_port == http_port && https_port != Some(0) {
            mistakes.0.push("--https-port and --http-port are the same; give each its own".to_owned());
        }

        // Every value is there unless a mistake says otherwise.
        let all = || {
            let (namespace, service) = (namespace?.0, service?.0);
            let tls = if from_folder {
                Source::Folder(folder::Settings { folder: folder?.0.into(), name: server_name(&service, &namespace) })
            } else {
                Source::Own(tls::Settings {
                    namespace,
                    service,
                    deployment: deployment?.0,
                    secret: ca_secret?.0,
                    configuration: webhook_configuration?.0,
                })
            };
            Some(Config {
                tls,
                pod_name: pod_name?.0,
                sidecar_role: sidecar_role?.0,
                scope: Scope { only: only.filter(|only| !only.is_empty()), excluded: excluded? },
                inject: inject?,
                audit: audit?,
                https_port: https_port?,
                http_port: http_port?,
                log_level: log_level?,
                log_format: log_format?,
            })
        };
        match all() {
            Some(config) if mistakes.0.is_empty() => Ok(config),
            _ => Err(ConfigError(mistakes.0)),
        }
    }
}

/// A value as it was written, and what it means. Whether it means anything is asked of all values together: clap would
/// stop at the first that does not.
#[derive(Debug, Clone)]
struct Written<T> {
    text: String,
    value: Result<T, String>,
}

impl<T: FromStr<Err: fmt::Display>> FromStr for Written<T> {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self { text: text.to_owned(), value: text.parse().map_err(|error: T::Err| error.to_string()) })
    }
}

#[derive(Default)]
struct Mistakes(Vec<String>);

impl Mistakes {
    fn given<T>(&mut self, flag: &str, written: Option<Written<T>>) -> Option<T> {
        written.and_then(|written| self.value(flag, written))
    }

    fn names(&mut self, flag: &str, written: Vec<Written<DnsLabel>>) -> Option<BTreeSet<String>> {
        written.into_iter().map(|name| self.value(flag, name).map(|name| name.0)).collect()
    }

    fn value<T>(&mut self, flag: &str, Written { text, value }: Written<T>) -> Option<T> {
        value.inspect_err(|what| self.0.push(format!("--{flag} {text:?}: {what}"))).ok()
    }
}

#[cfg(test)]
mod tests {
    use clap::FromArgMatches as _;

    use super::*;

    const REQUIRED: [&str; 8] = [
        "--namespace=geth-peering",
        "--pod-name=geth-peering-injector-5d-x",
        "--deployment=geth-peering-injector",
        "--service=geth-peering-injector",
        "--webhook-configuration=geth-peering",
        "--ca-secret=geth-peering-ca",
        "--sidecar-role=geth-peering-sidecar",
        "--sidecar-image=geth-peering/sidecar:0.1.0",
    ];

    fn args(flags: &[&str]) -> Result<Args, clap::Error> {
        let command = <Args as clap::Args>::augment_args(clap::Command::new("injector"));
        Args::from_arg_matches(&command.try_get_matches_from([&["injector"], flags].concat())?)
    }

    fn check(flags: &[&str]) -> Result<Config, ConfigError> {
        args(&[&REQUIRED[..], flags].concat()).unwrap().check()
    }

    #[test]
    fn do_the_names_alone_suffice() {
        let config = check(&[]).unwrap();
        assert_eq!(config.inject.configmap_names, ["geth-peering"]);
        assert!(config.inject.native_sidecars && config.inject.disable_service_links);
        assert_eq!((config.https_port, config.http_port), (8443, 8080));
        assert_eq!(config.inject.version, env!("CARGO_PKG_VERSION"));
    }

    #[test]
    fn does_every_flag_arrive() {
        let config = check(&[
            "--sidecar-image-pull-policy=Always",
            "--sidecar-cpu-request=0.5",
            "--sidecar-memory-request=20M",
            "--sidecar-memory-limit=1Gi",
            "--sidecar-log-level=debug",
            "--configmap=nodes",
            "--configmap=geth-peering,third",
            "--registry-namespace=shared",
            "--registry-namespace=east,west",
            "--excluded-namespace=vault",
            "--excluded-namespace=kube-system,vault",
            "--only-namespace=one,two",
            "--native-sidecars=false",
            "--disable-service-links=false",
            "--https-port=1",
            "--http-port=2",
            "--log-level=WARNING",
            "--log-format=json",
        ])
        .unwrap();
        let expected = inject::Settings {
            image: "geth-peering/sidecar:0.1.0".into(),
            image_pull_policy: "Always".into(),
            cpu_request: "0.5".into(),
            memory_request: "20M".into(),
            memory_limit: "1Gi".into(),
            log_level: "DEBUG".into(),
            configmap_names: vec!["nodes".into(), "geth-peering".into(), "third".into()],
            registry_namespaces: vec!["shared".into(), "east".into(), "west".into()],
            native_sidecars: false,
            disable_service_links: false,
            version: env!("CARGO_PKG_VERSION").into(),
        };
        assert_eq!(config.inject, expected);
        assert_eq!(config.scope.excluded.into_iter().collect::<Vec<_>>(), ["kube-system", "vault"]);
        assert_eq!(config.scope.only.unwrap().into_iter().collect::<Vec<_>>(), ["one", "two"]);
        assert_eq!((config.https_port, config.http_port), (1, 2));
        assert_eq!((config.log_level, config.log_format), (LogLevel::Warning, LogFormat::Json));
    }

    #[test]
    fn are_all_mistakes_told_at_once_each_with_its_flag() {
        let wrong = [
            ("sidecar-image-pull-policy", "Sometimes"),
            ("sidecar-cpu-request", "0"),
            ("sidecar-memory-request", "much"),
            ("sidecar-memory-limit", "1Xi"),
            ("sidecar-log-level", "LOUD"),
            ("configmap", "No_Name"),
            ("registry-namespace", "No"),
            ("excluded-namespace", "no.namespace"),
            ("only-namespace", "Mine"),
            ("native-sidecars", "maybe"),
            ("disable-service-links", "2"),
            ("audit", "perhaps"),
            ("https-port", "99999"),
            ("http-port", "-"),
            ("log-level", ""),
            ("log-format", "xml"),
        ];
        let flags: Vec<_> = wrong.iter().map(|(flag, value)| format!("--{flag}={value}")).collect();
        let flags: Vec<_> = flags.iter().map(String::as_str).collect();
        let ConfigError(mistakes) = check(&flags).unwrap_err();
        assert_eq!(mistakes.len(), wrong.len(), "{mistakes:#?}");
        for (flag, value) in wrong {
            assert!(mistakes.iter().any(|mistake| mistake.starts_with(&format!("--{flag} {value:?}"))), "{flag}");
        }
    }

    #[test]
    fn is_a_name_that_no_object_can_have_refused() {
        for (text, label, name) in [
            ("geth", true, true),
            ("geth.peering", false, true),
            ("Geth", false, false),
            ("-geth", false, false),
            ("geth-", false, false),
            ("geth..peering", false, false),
            ("", false, false),
        ] {
            assert_eq!((text.parse::<DnsLabel>().is_ok(), text.parse::<ObjectName>().is_ok()), (label, name), "{text}");
        }
        assert!("g".repeat(64).parse::<DnsLabel>().is_err());
    }

    #[test]
    fn are_both_ports_the_same_refused() {
        assert!(check(&["--https-port=8080"]).unwrap_err().to_string().contains("--http-port"));
    }

    #[test]
    fn are_all_names_that_are_missing_told_at_once() {
        let error = args(&[]).unwrap_err().to_string();
        for flag in REQUIRED {
            let flag = flag.split_once('=').unwrap().0;
            assert!(error.contains(flag), "{flag} in {error}");
        }
    }
}
