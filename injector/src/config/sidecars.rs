//! The flags that say what sidecars are like: of the server, and of the commands that inject without one.

use sidecar::config::LogLevel;

use super::values::{DnsLabel, Image, ObjectName, PullPolicy, Quantity};
use super::{Mistakes, Written};
use crate::inject::Settings;

/// What clap takes of them.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct SidecarArgs {
    /// Image of the sidecar
    #[arg(long, env = "INJECTOR_SIDECAR_IMAGE")]
    sidecar_image: Written<Image>,
    /// When the sidecar's image is pulled
    #[arg(long, env = "INJECTOR_SIDECAR_IMAGE_PULL_POLICY", default_value = "IfNotPresent")]
    sidecar_image_pull_policy: Written<PullPolicy>,
    /// CPU that each sidecar requests
    #[arg(long, env = "INJECTOR_SIDECAR_CPU_REQUEST", default_value = "5m")]
    sidecar_cpu_request: Written<Quantity>,
    /// Memory that each sidecar requests
    #[arg(long, env = "INJECTOR_SIDECAR_MEMORY_REQUEST", default_value = "16Mi")]
    sidecar_memory_request: Written<Quantity>,
    /// Memory that no sidecar may exceed
    #[arg(long, env = "INJECTOR_SIDECAR_MEMORY_LIMIT", default_value = "64Mi")]
    sidecar_memory_limit: Written<Quantity>,
    /// Log level of sidecars: DEBUG, INFO, WARNING, ERROR or CRITICAL
    #[arg(long, env = "INJECTOR_SIDECAR_LOG_LEVEL", default_value = "INFO")]
    sidecar_log_level: Written<LogLevel>,
    /// Name of a ConfigMap that networks may use, repeated or separated by commas; the first is the default
    #[arg(long, env = "INJECTOR_CONFIGMAP", value_delimiter = ',', default_value = "geth-peering")]
    configmap: Vec<Written<ObjectName>>,
    /// Name of a namespace whose registry pods of other namespaces may use; repeated or separated by commas
    #[arg(long, env = "INJECTOR_REGISTRY_NAMESPACE", value_delimiter = ',')]
    registry_namespace: Vec<Written<DnsLabel>>,
    /// Whether the cluster knows native sidecars (Kubernetes 1.29 and newer)
    #[arg(long, env = "INJECTOR_NATIVE_SIDECARS", default_value = "true")]
    native_sidecars: Written<bool>,
    /// Whether injected pods get no variables of the namespace's Services
    #[arg(long, env = "INJECTOR_DISABLE_SERVICE_LINKS", default_value = "true")]
    disable_service_links: Written<bool>,
}

impl SidecarArgs {
    /// What is injected; none if a flag is wrong, which is then among the mistakes.
    pub(super) fn settings(self, mistakes: &mut Mistakes) -> Option<Settings> {
        let Self {
            sidecar_image,
            sidecar_image_pull_policy,
            sidecar_cpu_request,
            sidecar_memory_request,
            sidecar_memory_limit,
            sidecar_log_level,
            configmap,
            registry_namespace,
            native_sidecars,
            disable_service_links,
        } = self;
        let image = mistakes.value("sidecar-image", sidecar_image);
        let image_pull_policy = mistakes.value("sidecar-image-pull-policy", sidecar_image_pull_policy);
        let cpu_request = mistakes.value("sidecar-cpu-request", sidecar_cpu_request);
        let memory_request = mistakes.value("sidecar-memory-request", sidecar_memory_request);
        let memory_limit = mistakes.value("sidecar-memory-limit", sidecar_memory_limit);
        let sidecar_log_text = sidecar_log_level.text.to_ascii_uppercase();
        let sidecar_log_level = mistakes.value("sidecar-log-level", sidecar_log_level);
        let configmaps: Option<Vec<_>> = configmap.into_iter().map(|name| mistakes.value("configmap", name)).collect();
        let registries: Option<Vec<_>> =
            registry_namespace.into_iter().map(|name| mistakes.value("registry-namespace", name)).collect();
        let native_sidecars = mistakes.value("native-sidecars", native_sidecars);
        let disable_service_links = mistakes.value("disable-service-links", disable_service_links);
        Some(Settings {
            image: image?.0,
            image_pull_policy: image_pull_policy?.0,
            cpu_request: cpu_request?.0,
            memory_request: memory_request?.0,
            memory_limit: memory_limit?.0,
            log_level: sidecar_log_level.map(|_| sidecar_log_text)?,
            configmap_names: configmaps?.into_iter().map(|name| name.0).collect(),
            registry_namespaces: registries?.into_iter().map(|name| name.0).collect(),
            native_sidecars: native_sidecars?,
            disable_service_links: disable_service_links?,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        })
    }
}
