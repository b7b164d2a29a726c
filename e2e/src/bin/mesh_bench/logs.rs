//! The logs of a run that was slow, kept for whoever wants to know why.

use anyhow::{Context, Result};
use e2e::cluster::Namespace;
use e2e::measure::figure;
use e2e::network::Network;
use e2e::pods;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::LogParams;
use std::path::Path;

/// Beside what cargo builds, under the name of the namespace.
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/mesh-bench");

/// Writes the logs of all Geths and sidecars of a network into files, and says where they are.
///
/// # Errors
/// When they cannot be had or written.
pub(crate) async fn keep(namespace: &Namespace, network: &Network, size: usize) -> Result<()> {
    let folder = Path::new(FOLDER).join(&namespace.name);
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for pod in pods::exactly(namespace, &network.selector(), size).await? {
        let pod = pod.name_any();
        for container in ["geth", pods::SIDECAR] {
            let parameters = LogParams { container: Some(container.into()), timestamps: true, ..LogParams::default() };
            // Networks of bare Geths have no sidecars.
            let Ok(log) = namespace.api::<Pod>().logs(&pod, &parameters).await else { continue };
            std::fs::write(folder.join(format!("{pod}.{container}.log")), log)?;
        }
    }
    figure("the logs of the slow run are in", folder.display());
    Ok(())
}
