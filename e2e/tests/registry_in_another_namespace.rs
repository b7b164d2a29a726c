//! Do Geths of two namespaces that share the registry of a third become one mesh?

use anyhow::{Context, Result, ensure};
use e2e::cluster::{Namespace, in_namespace};
use e2e::network::Network;
use e2e::{install, mesh, registry, wait};
use serde_json::Value;

const ANNOTATION: &str = "geth-peering/registry-namespace";

#[tokio::test]
async fn do_geths_of_two_namespaces_with_one_registry_become_one_mesh() -> Result<()> {
    in_namespace(async |shared| {
        in_namespace(async |other| {
            let values = install::values().await?;
            allow(&values, shared).await?;
            let outcome = one_mesh(shared, other).await;
            // Other tests come after this one.
            install::install(&values).await?;
            install::injectors_available(&shared.client).await?;
            outcome
        })
        .await
    })
    .await
}

/// Lets pods of other namespaces use the registry of `shared`.
async fn allow(values: &str, shared: &Namespace) -> Result<()> {
    let mut values: Value = serde_saphyr::from_str(values).context("the values")?;
    values["registry"]["namespaces"] = vec![shared.name.clone()].into();
    install::install(&values.to_string()).await?;
    install::injectors_available(&shared.client).await
}

async fn one_mesh(shared: &Namespace, other: &Namespace) -> Result<()> {
    // The same names in both, on purpose.
    let network = Network::of(2).labelled().with_annotation(ANNOTATION, &shared.name);
    network.create(shared).await?;
    network.create(other).await?;
    let expected = ["geth-0".to_owned(), "geth-1".to_owned()]
        .into_iter()
        .chain([0, 1].map(|number| format!("{}_geth-{number}", other.name)));
    let mut expected: Vec<_> = expected.collect();
    expected.sort();
    wait::until("one registry holds the Geths of both", wait::PODS, async || {
        let held: Vec<_> = registry::entries(shared).await?.into_keys().collect();
        ensure!(held == expected, "it holds {held:?}");
        Ok(())
    })
    .await?;
    wait::until("each Geth is linked to the three others", wait::PODS, async || {
        let mut geths = mesh::ask(shared, &network.selector(), 2).await?;
        geths.extend(mesh::ask(other, &network.selector(), 2).await?);
        let links: Vec<_> = geths.iter().map(|geth| mesh::links_within(geth, &geths)).collect();
        ensure!(links == [3; 4], "links of each: {links:?}");
        Ok(())
    })
    .await?;

    // A pod of the other namespace that ends takes its entry along, and whoever is left has one link fewer.
    network.scale(other, 1).await?;
    let gone = format!("{}_geth-1", other.name);
    wait::until("the entry of a pod that ended is gone", wait::PODS, async || {
        ensure!(!registry::entries(shared).await?.contains_key(&gone), "{gone} is there");
        Ok(())
    })
    .await?;
    mesh::full(shared, &network.selector(), 2).await.map(drop)
}
