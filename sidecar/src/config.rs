//! Every setting of the sidecar: its variable, its default, its meaning.
//!
//! The injector writes these variables into pods and takes their names from here.
//! Variables are read through a lookup function, so that tests need no real
//! environment, and all mistakes are reported at once, before anything starts.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use thiserror::Error;

use crate::advertise::Advertise;

/// Names of the environment variables.
///
/// None begins with `GETH`: Geth warns about unknown variables of that prefix
/// when they end up in its own container (internal/flags/helpers.go, v1.17.5).
pub mod env {
    /// Log level: `DEBUG`, `INFO`, `WARNING`, `ERROR` or `CRITICAL`. Default `INFO`.
    pub const LOGGING: &str = "LOGGING";
    /// Path of Geth's IPC socket. Default `/data/geth.ipc`, as it always was.
    pub const IPC_PATH: &str = "IPC_PATH";
    /// Name of the ConfigMap that all sidecars of a network share.
    /// Default `geth-shared-static-nodes`, as it always was.
    pub const CONFIGMAP_NAME: &str = "CONFIGMAP_NAME";
    /// Namespace of that ConfigMap. Default: the namespace of the pod. In another one the
    /// pod's key in it begins with the pod's namespace.
    pub const NAMESPACE: &str = "NAMESPACE";
    /// Name of the pod. Default: the host name, which is the pod's name.
    pub const POD_NAME: &str = "PEERING_POD_NAME";
    /// UID of the pod; without it, a pod that took over a name cannot be told from its predecessor.
    pub const POD_UID: &str = "PEERING_POD_UID";
    /// Address at which the other pods reach this one.
    pub const POD_IP: &str = "PEERING_POD_IP";
    /// All addresses of the pod, separated by commas; those of the other family are
    /// published too, so that others can choose one that they can dial. Default: none
    /// but the one above.
    pub const POD_IPS: &str = "PEERING_POD_IPS";
    /// What to publish in the place of the pod's addresses: `<IP>[:<port>]`, where
    /// others reach this Geth through something in between. Default: the pod's addresses.
    pub const ADVERTISE: &str = "PEERING_ADVERTISE";
    /// Name of the network, if several share one ConfigMap. Default: none.
    pub const NETWORK: &str = "PEERING_NETWORK";
    /// What Geth's `--maxpeers` is, if somebody knows. Default: unknown.
    pub const MAX_PEERS: &str = "PEERING_MAX_PEERS";
    /// To how many others Geth has to be connected before the pod is ready; to all, if
    /// there are fewer. Default 1.
    pub const MIN_PEERS: &str = "PEERING_MIN_PEERS";
    /// Port of `/livez`, `/readyz`, `/metrics` and `/status`. Default 9575.
    pub const HTTP_PORT: &str = "PEERING_HTTP_PORT";
    /// `text` or `json`. Default `text`.
    pub const LOG_FORMAT: &str = "PEERING_LOG_FORMAT";
    /// Set by Kubernetes in every container: the API server's address.
    pub const API_SERVER: &str = "KUBERNETES_SERVICE_HOST";
    /// Set by the container runtime: in a pod, the pod's name.
    pub const HOSTNAME: &str = "HOSTNAME";
}

/// Default of [`env::MIN_PEERS`]: with one link a node hears of every block.
pub const DEFAULT_MIN_PEERS: usize = 1;
/// Default of [`env::HTTP_PORT`].
pub const DEFAULT_HTTP_PORT: u16 = 9575;
/// The ConfigMap that injected sidecars use unless their pod names another.
pub const INJECTED_CONFIGMAP_NAME: &str = "geth-peering";

/// The longest path a unix socket can have, in bytes: `sun_path` holds 108 with its
/// final zero (unix(7)), and Geth exits with `bind: invalid argument` beyond.
pub const MAX_SOCKET_PATH: usize = 107;

const DEFAULT_IPC_PATH: &str = "/data/geth.ipc";
const DEFAULT_CONFIGMAP_NAME: &str = "geth-shared-static-nodes";

/// How much is logged. Python's names, because the variable is older than this program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// Everything that happens.
    Debug,
    /// One line a change.
    Info,
    /// What may need a person.
    Warning,
    /// What does need a person.
    Error,
}

impl LogLevel {
    /// The level as `tracing` calls it.
    pub fn as_tracing(self) -> tracing::Level {
        match self {
            Self::Debug => tracing::Level::DEBUG,
            Self::Info => tracing::Level::INFO,
            Self::Warning => tracing::Level::WARN,
            Self::Error => tracing::Level::ERROR,
        }
    }
}

impl FromStr for LogLevel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.to_ascii_uppercase().as_str() {
            "DEBUG" => Ok(Self::Debug),
            "INFO" => Ok(Self::Info),
            "WARNING" | "WARN" => Ok(Self::Warning),
            "ERROR" | "CRITICAL" => Ok(Self::Error),
            _ => Err("is not DEBUG, INFO, WARNING, ERROR or CRITICAL".into()),
        }
    }
}

/// What a log line looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("is not text or json".into()),
        }
    }
}

/// Everything the sidecar was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// See [`env::LOGGING`].
    pub log_level: LogLevel,
    /// See [`env::LOG_FORMAT`].
    pub log_format: LogFormat,
    /// See [`env::IPC_PATH`].
    pub ipc_path: PathBuf,
    /// See [`env::CONFIGMAP_NAME`].
    pub configmap: String,
    /// See [`env::NAMESPACE`]; `None` leaves it to the service account's own.
    pub namespace: Option<String>,
    /// See [`env::POD_NAME`].
    pub pod_name: String,
    /// See [`env::POD_UID`].
    pub pod_uid: Option<String>,
    /// See [`env::POD_IP`].
    pub pod_ip: IpAddr,
    /// See [`env::POD_IPS`]: those other than [`Config::pod_ip`].
    pub more_pod_ips: Vec<IpAddr>,
    /// See [`env::ADVERTISE`].
    pub advertise: Option<Advertise>,
    /// See [`env::NETWORK`].
    pub network: Option<String>,
    /// See [`env::MAX_PEERS`].
    pub max_peers: Option<u32>,
    /// See [`env::MIN_PEERS`].
    pub min_peers: usize,
    /// Where `/livez`, `/readyz`, `/metrics` and `/status` are served: every address, port [`env::HTTP_PORT`].
    pub http: SocketAddr,
}

/// Every mistake in the environment, one a line.
#[derive(Debug, PartialEq, Eq, Error)]
pub struct ConfigError(pub Vec<String>);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the configuration is wrong:")?;
        self.0.iter().try_for_each(|mistake| write!(f, "\n  {mistake}"))
    }
}

impl Config {
    /// Reads the configuration; `lookup` gives a variable's value, if it is set, and
    /// `local_ip` the address this host has towards a given one.
    ///
    /// # Errors
    /// All mistakes together.
    pub fn read(
        lookup: impl Fn(&str) -> Option<String>,
        local_ip: impl FnOnce(IpAddr) -> Option<IpAddr>,
    ) -> Result<Self, ConfigError> {
        let mut reader = Reader { lookup, mistakes: Vec::new() };

        let log_level = reader.parsed(env::LOGGING).unwrap_or(LogLevel::Info);
        let log_format = reader.parsed(env::LOG_FORMAT).unwrap_or(LogFormat::Text);
        let ipc_path = reader.value(env::IPC_PATH).unwrap_or_else(|| DEFAULT_IPC_PATH.into());
        if !ipc_path.starts_with('/') {
            reader.mistake(env::IPC_PATH, &ipc_path, "is not an absolute path");
        } else if ipc_path.len() > MAX_SOCKET_PATH {
            reader.mistake(
                env::IPC_PATH,
                &ipc_path,
                &format!("is longer than the {MAX_SOCKET_PATH} bytes a socket's path can have"),
            );
        }
        let configmap = reader.object_name(env::CONFIGMAP_NAME).unwrap_or_else(|| DEFAULT_CONFIGMAP_NAME.into());
        let namespace = reader.object_name(env::NAMESPACE);
        let pod_uid = reader.value(env::POD_UID);
        let network = reader.value(env::NETWORK);
        let max_peers = reader.parsed(env::MAX_PEERS);
        let min_peers = reader.parsed(env::MIN_PEERS).unwrap_or(DEFAULT_MIN_PEERS);
        let http_port = reader.parsed(env::HTTP_PORT).unwrap_or(DEFAULT_HTTP_PORT);
        let pod_name = reader.object_name(env::POD_NAME).or_else(|| reader.object_name(env::HOSTNAME));
        let pod_ips = reader.addresses(env::POD_IPS);
        let pod_ip = match (reader.value(env::POD_IP), pod_ips.first()) {
            (Some(_), _) => reader.parsed(env::POD_IP),
            (None, Some(first)) => Some(*first),
            (None, None) => reader.parsed(env::API_SERVER).and_then(local_ip),
        };
        let advertise = reader.parsed(env::ADVERTISE);
        if pod_name.is_none() {
            reader.missing(env::POD_NAME, "the name of this pod (fieldRef: metadata.name)");
        }
        if pod_ip.is_none() && reader.value(env::POD_IP).is_none() {
            reader.missing(env::POD_IP, "the address of this pod (fieldRef: status.podIP)");
        }

        match (pod_name, pod_ip) {
            (Some(pod_name), Some(pod_ip)) if reader.mistakes.is_empty() => Ok(Self {
                log_level,
                log_format,
                ipc_path: ipc_path.into(),
                configmap,
                namespace,
                pod_name,
                pod_uid,
                pod_ip,
                more_pod_ips: pod_ips.into_iter().filter(|ip| *ip != pod_ip).collect(),
                advertise,
                network,
                max_peers,
                min_peers,
                http: SocketAddr::new(any_of_family(pod_ip), http_port),
            }),
            _ => Err(ConfigError(reader.mistakes)),
        }
    }
}

/// The address that stands for every address of `ip`'s family: kubelet probes the pod at `ip`.
fn any_of_family(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// Reads variables and keeps account of what is wrong with them.
struct Reader<L> {
    lookup: L,
    mistakes: Vec<String>,
}

impl<L: Fn(&str) -> Option<String>> Reader<L> {
    /// The value of `name`; an empty one counts as unset, which is how templates say "nothing".
    fn value(&self, name: &str) -> Option<String> {
        (self.lookup)(name).filter(|value| !value.is_empty())
    }

    fn parsed<T: FromStr<Err: fmt::Display>>(&mut self, name: &str) -> Option<T> {
        let value = self.value(name)?;
        value.parse().inspect_err(|error: &T::Err| self.mistake(name, &value, &error.to_string())).ok()
    }

    /// A value that has to be a list of addresses, as the downward API writes it.
    fn addresses(&mut self, name: &str) -> Vec<IpAddr> {
        let Some(value) = self.value(name) else { return Vec::new() };
        let addresses: Result<_, _> = value.split(',').map(|ip| ip.trim().parse()).collect();
        addresses.unwrap_or_else(|_| {
            self.mistake(name, &value, "is no list of IP addresses with commas between them");
            Vec::new()
        })
    }

    /// A value that has to be the name of a Kubernetes object.
    fn object_name(&mut self, name: &str) -> Option<String> {
        let value = self.value(name)?;
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
        if value.len() > 253 || !value.chars().all(allowed) {
            self.mistake(name, &value, "is not the name of a Kubernetes object");
        }
        Some(value)
    }

    fn mistake(&mut self, name: &str, value: &str, what: &str) {
        self.mistakes.push(format!("{name}={value:?} {what}"));
    }

    fn missing(&mut self, name: &str, what: &str) {
        self.mistakes.push(format!("{name} is not set: it has to be {what}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn read(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let variables: HashMap<_, _> = variables.iter().copied().collect();
        Config::read(|name| variables.get(name).map(|value| (*value).to_owned()), |_| Some([10, 0, 0, 7].into()))
    }

    #[test]
    fn do_the_four_variables_of_a_hand_written_pod_suffice() {
        let config = read(&[
            ("LOGGING", "debug"),
            ("IPC_PATH", "/ipc/geth.ipc"),
            ("CONFIGMAP_NAME", "nodes"),
            ("NAMESPACE", "chain"),
            ("HOSTNAME", "geth-0"),
            ("KUBERNETES_SERVICE_HOST", "10.96.0.1"),
        ])
        .unwrap();
        assert_eq!(config.log_level, LogLevel::Debug);
        assert_eq!(config.configmap, "nodes");
        assert_eq!(config.namespace.as_deref(), Some("chain"));
        assert_eq!(config.pod_name, "geth-0");
        assert_eq!(config.pod_ip, IpAddr::from([10, 0, 0, 7]));
        assert_eq!(config.http.port(), DEFAULT_HTTP_PORT);
    }

    #[test]
    fn are_the_defaults_those_of_the_sidecar_it_replaces() {
        let config = read(&[("PEERING_POD_NAME", "geth-0"), ("PEERING_POD_IP", "10.1.2.3")]).unwrap();
        assert_eq!(config.ipc_path, PathBuf::from("/data/geth.ipc"));
        assert_eq!(config.configmap, "geth-shared-static-nodes");
        assert_eq!(config.namespace, None);
        assert_eq!(config.network, None);
    }

    #[test]
    fn are_all_mistakes_told_at_once_each_with_its_variable() {
        let ConfigError(mistakes) = read(&[
            ("LOGGING", "loud"),
            ("IPC_PATH", "geth.ipc"),
            ("CONFIGMAP_NAME", "No/Name"),
            ("PEERING_POD_IP", "geth-0"),
            ("PEERING_POD_IPS", "10.0.0.1 fd00::1"),
            ("PEERING_ADVERTISE", "geth-0.example.org:30303"),
            ("PEERING_MAX_PEERS", "many"),
            ("PEERING_HTTP_PORT", "99999"),
            ("PEERING_LOG_FORMAT", "xml"),
        ])
        .unwrap_err();
        let named = |name: &str| mistakes.iter().filter(|mistake| mistake.starts_with(name)).count();
        for name in [
            "LOGGING",
            "IPC_PATH",
            "CONFIGMAP_NAME",
            "PEERING_POD_IP=",
            "PEERING_POD_IPS",
            "PEERING_ADVERTISE",
            "PEERING_MAX_PEERS",
            "PEERING_HTTP_PORT",
            "PEERING_LOG_FORMAT",
            "PEERING_POD_NAME",
        ] {
            assert_eq!(named(name), 1, "{name} in {mistakes:#?}");
        }
        assert_eq!(mistakes.len(), 10, "{mistakes:#?}");
    }

    #[test]
    fn which_addresses_does_a_pod_have() {
        for (variables, first, more) in [
            (&[("PEERING_POD_IP", "10.1.2.3")][..], "10.1.2.3", ""),
            (&[("PEERING_POD_IP", "10.1.2.3"), ("PEERING_POD_IPS", "10.1.2.3")], "10.1.2.3", ""),
            (&[("PEERING_POD_IP", "10.1.2.3"), ("PEERING_POD_IPS", "10.1.2.3,fd00::3")], "10.1.2.3", "fd00::3"),
            (&[("PEERING_POD_IP", "fd00::3"), ("PEERING_POD_IPS", "10.1.2.3, fd00::3")], "fd00::3", "10.1.2.3"),
            (&[("PEERING_POD_IPS", "fd00::3,10.1.2.3")], "fd00::3", "10.1.2.3"),
        ] {
            let config = read(&[variables, &[("PEERING_POD_NAME", "geth-0")]].concat()).unwrap();
            let shown: Vec<_> = config.more_pod_ips.iter().map(ToString::to_string).collect();
            assert_eq!((config.pod_ip.to_string().as_str(), shown.join(",").as_str()), (first, more), "{variables:?}");
            assert_eq!(config.http.is_ipv4(), config.pod_ip.is_ipv4(), "kubelet probes the first");
        }
    }

    #[test]
    fn is_a_path_that_no_socket_can_have_refused() {
        let path = format!("/{}", "x".repeat(MAX_SOCKET_PATH));
        let error =
            read(&[("IPC_PATH", &path), ("PEERING_POD_NAME", "a"), ("PEERING_POD_IP", "10.0.0.1")]).unwrap_err();
        assert!(error.to_string().contains("107 bytes"), "{error}");
    }
}
