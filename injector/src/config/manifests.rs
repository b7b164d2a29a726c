//! The flags of the command that injects manifests.

use std::path::PathBuf;

use super::values::DnsLabel;
use super::{ConfigError, Mistakes, Written, sidecars};
use crate::manifest::Injection;

/// What clap takes; [`InjectArgs::check`] makes an [`Injection`] of it.
#[derive(Debug, clap::Args)]
pub struct InjectArgs {
    /// A file with manifests, YAML or JSON; - for standard input
    #[arg(short, long)]
    file: PathBuf,
    /// Namespace that the manifests will be applied to; needed where they do not name theirs
    #[arg(short, long)]
    namespace: Option<Written<DnsLabel>>,
    /// Leave out the ServiceAccount, Role and RoleBinding that the sidecars need, because they are there already
    #[arg(long)]
    without_rbac: bool,
    #[command(flatten)]
    sidecars: sidecars::SidecarArgs,
}

impl InjectArgs {
    /// The file to read, and what to do with what is in it.
    ///
    /// # Errors
    /// All mistakes together.
    pub fn check(self) -> Result<(PathBuf, Injection), ConfigError> {
        let Self { file, namespace, without_rbac, sidecars } = self;
        let mut mistakes = Mistakes::default();
        let namespace = namespace.map(|namespace| mistakes.value("namespace", namespace));
        let settings = sidecars.settings(&mut mistakes);
        match settings {
            Some(settings) if mistakes.0.is_empty() => {
                let namespace = namespace.flatten().map(|namespace| namespace.0);
                Ok((file, Injection { settings, namespace, rights: !without_rbac }))
            }
            _ => Err(ConfigError(mistakes.0)),
        }
    }
}

/// What sidecars are like where nobody says otherwise, for tests.
#[cfg(test)]
pub(crate) fn example_settings() -> crate::inject::Settings {
    use crate::cli::{Cli, Command};
    let told = ["injector", "inject", "--file=-", "--sidecar-image=geth-peering/sidecar:0.1.0"];
    match <Cli as clap::Parser>::try_parse_from(told).unwrap().command {
        Command::Inject(args) => args.check().unwrap().1.settings,
        _ => unreachable!("it is told to inject"),
    }
}
