//! Do pods work as other people write them? Their manifests lie in `pods/`.
//!
//! All shapes are members of one network, so every one of them has to peer with every other.

use anyhow::{Context, Result, ensure};
use e2e::cluster::{NAME, OPT_IN, in_namespace};
use e2e::network::{Network, create_genesis};
use e2e::{geth, manifest, mesh, node, pods, registry, wait};
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::ResourceExt;
use serde_json::{Value, json};

const SHAPES: [&str; 5] = [
    include_str!("pods/shell.yaml"),
    include_str!("pods/script.yaml"),
    include_str!("pods/deployment.yaml"),
    include_str!("pods/ipcpath.yaml"),
    include_str!("pods/kotal.yaml"),
];

/// The shapes that have an account of their own, and that account.
const ACCOUNTS: [(&str, &str); 3] = [("deployment", "operations"), ("shell", "execution"), ("kotal", "kotal")];

#[tokio::test]
async fn do_shells_scripts_own_accounts_claims_users_and_sockets_all_peer() -> Result<()> {
    in_namespace(async |namespace| {
        create_genesis(namespace).await?;
        manifest::create(namespace, include_str!("pods/service.yaml")).await?;
        for shape in SHAPES {
            manifest::create(namespace, shape).await?;
        }
        let geths = mesh::full_and_registered(namespace, "network=shapes", SHAPES.len()).await?;

        for pod in pods::live(namespace, "network=shapes").await? {
            let name = pod.name_any();
            ensure!(geths.iter().any(|geth| geth.pod == name), "{name} was replaced meanwhile");
            let account = pod.spec.and_then(|spec| spec.service_account_name).unwrap_or_default();
            let own = ACCOUNTS.iter().find(|(shape, _)| name.starts_with(&format!("{shape}-")));
            let expected = own.map_or(NAME, |(_, account)| account);
            ensure!(
                account == expected,
                "{name} runs as {account}: an account of the author's own is kept, the default one is not"
            );
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn does_a_namespace_that_enforces_restricted_pod_security_take_the_sidecar() -> Result<()> {
    in_namespace(async |namespace| {
        namespace.label(json!({OPT_IN: "enabled", "pod-security.kubernetes.io/enforce": "restricted"})).await?;
        create_genesis(namespace).await?;
        manifest::create(namespace, include_str!("pods/restricted.yaml")).await?;
        mesh::full_and_registered(namespace, "app=restricted", 2).await?;
        let pod = pods::live(namespace, "app=restricted").await?.pop().context("no pod")?;
        ensure!(pods::has_sidecar(&pod), "peered without a sidecar");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn does_a_namespace_with_quota_and_limits_take_the_sidecar() -> Result<()> {
    in_namespace(async |namespace| {
        create_genesis(namespace).await?;
        manifest::create(namespace, include_str!("pods/quota.yaml")).await?;
        let network = Network::of(2)
            .labelled()
            .with_annotation("geth-peering/patch", r#"[{"op":"add","path":"/resources/limits/cpu","value":"100m"}]"#);
        network.create(namespace).await?;
        mesh::full_and_registered(namespace, &network.selector(), 2).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn are_geths_behind_ports_of_their_nodes_dialed_there() -> Result<()> {
    const PORT: u16 = 31303;
    in_namespace(async |namespace| {
        // A port of the node is given once, so the two are on two nodes.
        let port = json!([{"op": "add", "path": "/spec/containers/0/ports", "value": [
            {"name": "p2p", "containerPort": 30303, "hostPort": PORT},
        ]}]);
        let network =
            Network::of(2).labelled().with_annotation("geth-peering/advertise", &format!("$(HOST_IP):{PORT}"));
        let network = network.with_template_patch(port);
        network.create(namespace).await?;
        let geths = mesh::full(namespace, &network.selector(), 2).await?;
        let entries = registry::entries(namespace).await?;
        for pod in pods::exactly(namespace, &network.selector(), 2).await? {
            let node = pod.status.as_ref().and_then(|status| status.host_ip.clone()).context("no node")?;
            let enode = &entries.get(&pod.name_any()).context("no entry")?.enode;
            ensure!(enode.ends_with(&format!("@{node}:{PORT}")), "{} is published as {enode}", pod.name_any());
        }
        let through = |end: &String| end.ends_with(&format!(":{PORT}"));
        let dialed = geths.iter().flat_map(|geth| geth.links.values()).any(|ends| ends.iter().any(through));
        ensure!(dialed, "nobody was dialed at a node: {geths:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn do_geths_meet_on_ipv6() -> Result<()> {
    let image = std::env::var("SIDECAR_IMAGE").context("SIDECAR_IMAGE is not set: run the tests through `make e2e`")?;
    in_namespace(async |namespace| {
        create_genesis(namespace).await?;
        namespace.create::<ServiceAccount>(json!({"metadata": {"name": "by-hand"}})).await?;
        manifest::create(namespace, &include_str!("pods/ipv6.yaml").replace("SIDECAR_IMAGE", &image)).await?;
        let give = "nsenter -t $pid -n ip -6 addr add fd00:6e::1/128 dev lo";
        let given = async || node::beside(namespace, "ipv6", "geth-left", give).await;
        wait::until("the pod has an IPv6 address", wait::PODS, given).await?;

        // Only now, so that nobody is dialed at an address that is not there yet.
        let verbs = json!(["get", "list", "create", "patch", "watch"]);
        let rules = json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": verbs}]);
        namespace.create::<Role>(json!({"metadata": {"name": "by-hand"}, "rules": rules})).await?;
        namespace
            .create::<RoleBinding>(json!({
                "metadata": {"name": "by-hand"},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "by-hand"},
                "subjects": [{"kind": "ServiceAccount", "name": "by-hand"}],
            }))
            .await?;
        wait::until("the two are peers", wait::PODS, async || {
            let peers = geth::call(namespace, "ipv6", "admin_peers", json!([])).await?;
            let ends = |end: &str| peers.pointer(&format!("/0/network/{end}")).and_then(Value::as_str);
            let on_ipv6 = |end: Option<&str>| end.is_some_and(|end| end.starts_with("[fd00:6e::1]:"));
            ensure!(on_ipv6(ends("localAddress")) && on_ipv6(ends("remoteAddress")), "{peers}");
            let status = mesh::status(namespace, "ipv6").await?;
            ensure!(status["connected"] == 1, "{status}");
            Ok(())
        })
        .await
    })
    .await
}
