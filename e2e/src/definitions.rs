//! CustomResourceDefinitions of operators that the cluster does not have, from the operators' own sources.

use crate::install;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// The definitions of one operator.
pub struct Definitions(String);

impl Definitions {
    /// Those of cert-manager.
    ///
    /// # Errors
    /// When its source cannot be read, or nobody says where it is.
    pub fn of_cert_manager() -> Result<Self> {
        Self::in_folder(&source("E2E_CERT_MANAGER")?.join("deploy/crds"))
    }

    /// Those of the Prometheus Operator.
    ///
    /// # Errors
    /// When its source cannot be read, or nobody says where it is.
    pub fn of_prometheus_operator() -> Result<Self> {
        Self::in_folder(&source("E2E_PROMETHEUS_OPERATOR")?.join("example/prometheus-operator-crd"))
    }

    fn in_folder(folder: &Path) -> Result<Self> {
        let mut all = String::new();
        for file in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
            let file = file?.path();
            if file.extension().is_some_and(|extension| extension == "yaml") {
                let mut definition: Value = serde_saphyr::from_str(&fs::read_to_string(&file)?)?;
                // cert-manager's are templates of its chart.
                definition["metadata"]["labels"] = json!({});
                all.push_str(&format!("---\n{definition}\n"));
            }
        }
        Ok(Self(all))
    }

    /// Brings them to the cluster, and waits until it knows them.
    ///
    /// # Errors
    /// When it does not take them.
    pub async fn apply(&self) -> Result<()> {
        install::run("kubectl", &["apply", "--server-side", "--filename=-"], &self.0).await?;
        let wait = ["wait", "--for=condition=Established", "--timeout=60s", "--filename=-"];
        install::run("kubectl", &wait, &self.0).await.map(drop)
    }

    /// Takes them away, with all objects of their kinds.
    ///
    /// # Errors
    /// When they do not go.
    pub async fn delete(&self) -> Result<()> {
        let delete = ["delete", "--ignore-not-found", "--timeout=60s", "--filename=-"];
        install::run("kubectl", &delete, &self.0).await.map(drop)
    }
}

/// Where an operator's source is, by the variable that says so.
fn source(variable: &str) -> Result<PathBuf> {
    let folder = std::env::var_os(variable).with_context(|| format!("{variable} is not set: run `make e2e`"))?;
    Ok(folder.into())
}
