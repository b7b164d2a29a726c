//! What only a node can do to a container. kind's nodes are containers of the engine.

use crate::cluster::Namespace;
use crate::pods;
use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Client;
use kube::api::{Api, ListParams};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::process::Stdio;
use tokio::process::{Child, Command};

/// A signal.
#[derive(Clone, Copy, Debug)]
pub enum Signal {
    /// It is gone at once.
    Kill,
    /// It is asked to end.
    Terminate,
    /// It stands still, deaf to everything but SIGKILL.
    Stop,
    /// It goes on after it was stopped.
    Continue,
}

/// Sends a signal to the first process of a container. From inside the pod that would do nothing: it is PID 1 of
/// its namespace there.
///
/// # Errors
/// When the container does not run, or the engine is out of reach.
pub async fn signal(namespace: &Namespace, pod: &str, container: &str, signal: Signal) -> Result<()> {
    let signal = match signal {
        Signal::Kill => "KILL",
        Signal::Terminate => "TERM",
        Signal::Stop => "STOP",
        Signal::Continue => "CONT",
    };
    beside(namespace, pod, container, &format!("kill -{signal} $pid")).await?;
    Ok(())
}

/// The resident memory of a container's first process, in KiB.
///
/// # Errors
/// As [`signal`].
pub async fn resident_kib(namespace: &Namespace, pod: &str, container: &str) -> Result<u64> {
    let text = beside(namespace, pod, container, "awk '$1 == \"VmRSS:\" { print $2 }' /proc/$pid/status").await?;
    text.trim().parse().with_context(|| format!("VmRSS of {pod}/{container} is {text:?}"))
}

/// Kills a container's first process with SIGKILL and waits until kubelet has started the container anew.
///
/// # Errors
/// When it is not started again.
pub async fn kill_and_await_restart(namespace: &Namespace, pod: &str, container: &str) -> Result<()> {
    and_await_restart(namespace, pod, container, "kill -KILL $pid").await
}

/// As [`beside`], and waits until kubelet has started the container anew.
///
/// # Errors
/// When it is not started again.
pub async fn and_await_restart(namespace: &Namespace, pod: &str, container: &str, line: &str) -> Result<()> {
    let restarts = async || -> Result<i32> {
        let found = namespace.api::<Pod>().get(pod).await?;
        let status = pods::container_statuses(&found).find(|status| status.name == container);
        Ok(status.with_context(|| format!("{pod} has no container {container}"))?.restart_count)
    };
    let before = restarts().await?;
    beside(namespace, pod, container, line).await?;
    crate::wait::until(&format!("{container} of {pod} runs again"), crate::wait::PODS, async || {
        ensure!(restarts().await? > before, "not restarted yet");
        Ok(())
    })
    .await
}

/// Joins standard input and output of the process that is returned with a unix socket in a container, whoever may
/// open it. The Perl that does it is in every Debian.
///
/// # Errors
/// When the container is on no node; that the socket refuses shows as an end of the output.
pub async fn relay(namespace: &Namespace, pod: &str, container: &str, path: &str) -> Result<Child> {
    const RELAY: &str = r#"
        use IO::Socket::UNIX;
        my $socket = IO::Socket::UNIX->new(Peer => $ARGV[0]) or die "$ARGV[0]: $!\n";
        if (fork) {
            syswrite STDOUT, $bytes while sysread $socket, $bytes, 65536;
        } else {
            syswrite $socket, $bytes while sysread STDIN, $bytes, 65536;
            shutdown $socket, 1;
        }"#;
    let line = format!("exec perl -e '{RELAY}' /proc/$pid/root{path}");
    let (_, mut command) = command(namespace, pod, container, &line).await?;
    let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    pipes.kill_on_drop(true).spawn().context("docker, to reach a node of kind")
}

/// Runs a line of shell on the node of a pod, with `$pid` a container's first process there and `$id` the container.
///
/// # Errors
/// When the container does not run, the line fails, or the engine is out of reach.
pub async fn beside(namespace: &Namespace, pod: &str, container: &str, line: &str) -> Result<String> {
    let (node, mut command) = command(namespace, pod, container, line).await?;
    text_of(&node, &mut command).await.with_context(|| format!("for {pod}/{container}"))
}

/// The address that nodes reach this process at.
///
/// # Errors
/// When the API server knows no node's address.
pub async fn own_address(client: &Client) -> Result<IpAddr> {
    let nodes = Api::<Node>::all(client.clone()).list(&ListParams::default()).await?;
    let addresses =
        nodes.items.iter().flat_map(|node| node.status.iter().flat_map(|status| status.addresses.iter().flatten()));
    let node = addresses.into_iter().find(|address| address.type_ == "InternalIP").context("no node has an address")?;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    // This sends nothing, but chooses the way.
    socket.connect((&*node.address, 9))?;
    Ok(socket.local_addr()?.ip())
}

/// Runs a script of the shell on a node.
///
/// # Errors
/// When it fails, or the engine is out of reach.
pub async fn shell(node: &str, script: &str, arguments: &[&str]) -> Result<String> {
    text_of(node, on(node, script).args(arguments)).await
}

/// The command that runs a line of shell on the node of a pod, and the node.
async fn command(namespace: &Namespace, pod: &str, container: &str, line: &str) -> Result<(String, Command)> {
    let found = namespace.api::<Pod>().get(pod).await?;
    let node = found.spec.and_then(|spec| spec.node_name).with_context(|| format!("{pod} is on no node"))?;
    let script = format!(
        r#"id=$(crictl ps -q --label "io.kubernetes.pod.namespace=$1" --label "io.kubernetes.pod.name=$2" --name "^$3\$")
        pid=$(crictl inspect -o go-template --template '{{{{.info.pid}}}}' "$id")
        {line}"#
    );
    let mut command = on(&node, &script);
    command.args([&namespace.name, pod, container]);
    Ok((node, command))
}

/// A script of the shell on a node; its arguments are still to be added.
fn on(node: &str, script: &str) -> Command {
    let mut command = Command::new("docker");
    command.args(["exec", "-i", node, "sh", "-euc", script, "sh"]).stdin(Stdio::null());
    command
}

/// Runs a command of the engine and returns what it prints.
///
/// # Errors
/// When it fails.
pub async fn engine(arguments: &[&str]) -> Result<String> {
    text_of("docker", Command::new("docker").args(arguments)).await
}

async fn text_of(place: &str, command: &mut Command) -> Result<String> {
    let output = command.output().await.context("docker, to reach a node of kind")?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    ensure!(output.status.success(), "on {place}: {}", text(&output.stderr).trim());
    Ok(text(&output.stdout))
}
