//! Does a network heal after each of the faults that are quickly over? `make faults` has the others too.

use anyhow::{Result, ensure};
use e2e::faults::{When, all};
use e2e::measure;
use futures::StreamExt;
use tokio::sync::Mutex;

/// How many networks may be about at a time; more would be slow for want of a machine, and not for the fault.
const AT_ONCE: usize = 2;

/// Held by the family whose turn it is.
static TURN: Mutex<()> = Mutex::const_new(());

#[tokio::test]
async fn do_networks_heal_whatever_happens_to_a_geth() -> Result<()> {
    heal("geth-").await
}

#[tokio::test]
async fn do_networks_heal_whatever_happens_to_a_sidecar() -> Result<()> {
    heal("sidecar-").await
}

#[tokio::test]
async fn do_networks_heal_whatever_is_done_to_the_registry() -> Result<()> {
    heal("registry-").await
}

#[tokio::test]
async fn do_networks_heal_when_the_api_server_answers_again() -> Result<()> {
    heal("api-").await
}

async fn heal(family: &str) -> Result<()> {
    let _turn = TURN.lock().await;
    let quick = all().into_iter().filter(|fault| fault.name.starts_with(family) && fault.when == When::Quick);
    let run = async |fault: e2e::faults::Fault| match fault.run(None).await {
        Ok(healed) => {
            let text = format!("healed after {:.1} s; {}", healed.after.as_secs_f64(), healed.notes.join("; "));
            measure::figure(fault.name, text);
            None
        }
        Err(error) => Some(format!("{}: {error:#}", fault.name)),
    };
    let failed: Vec<String> = futures::stream::iter(quick)
        .map(run)
        .buffer_unordered(AT_ONCE)
        .filter_map(futures::future::ready)
        .collect()
        .await;
    ensure!(failed.is_empty(), "not healed:\n{}", failed.join("\n"));
    Ok(())
}
