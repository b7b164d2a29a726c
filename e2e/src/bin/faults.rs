//! Does to networks of real Geths whatever may happen to them, and measures how long they take to heal:
//! `faults [NAME...]`, where a name may be just the beginning of one, as `geth`; by default all.
//!
//! Prints a line for each fault, puts the rows into the table of `docs/faults.md`, and fails unless all healed.
//! `FAULT_SECONDS` sets how long faults last that last, for those in a hurry. Stops nodes and the API server, so
//! nothing else may use the cluster meanwhile.

use anyhow::{Result, ensure};
use e2e::cluster::client;
use e2e::faults::{all, cluster, named, table};
use e2e::network::GETH_IMAGE;
use std::io::Write;
use std::path::Path;

/// The file with the table.
const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/faults.md");

/// How long faults last that last, in seconds, instead of what each has by default.
const SECONDS_VARIABLE: &str = "FAULT_SECONDS";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let names: Vec<_> = std::env::args().skip(1).collect();
    let lasts = std::env::var(SECONDS_VARIABLE).ok().map(|seconds| seconds.parse()).transpose()?;
    let (all, chosen, client) = (all(), named(&names)?, client().await?);
    let mut out = std::io::stdout();
    let mut failed = vec![];
    cluster::repair(&client).await?;
    let machine = machine(&client).await?;
    for fault in &chosen {
        let outcome = fault.run(lasts).await;
        match &outcome {
            Ok(healed) => {
                let (after, notes) = (table::seconds(healed.after), healed.notes.join("; "));
                writeln!(out, "{:<30} {after:>7} s  {notes}", fault.name)?;
            }
            Err(error) => {
                writeln!(out, "{:<30} NOT HEALED: {error:#}", fault.name)?;
                failed.push(fault.name);
            }
        }
        let day = jiff::Timestamp::now().strftime("%F").to_string();
        table::update(Path::new(FILE), &all, &[table::Row::new(fault, lasts, &outcome, &day)], &machine)?;
        cluster::repair(&client).await?;
    }
    writeln!(out, "\n{} of {} faults healed", chosen.len() - failed.len(), chosen.len())?;
    ensure!(failed.is_empty(), "not healed: {}", failed.join(", "));
    Ok(())
}

/// What the figures depend on.
async fn machine(client: &kube::Client) -> Result<String> {
    let cores = std::thread::available_parallelism()?;
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib =
        memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    let gib = kib.map(|kib| format!("{:.0} GiB", kib / 1048576.0)).unwrap_or_default();
    let kubernetes = client.apiserver_version().await?.git_version;
    let geth = GETH_IMAGE.rsplit(':').next().unwrap_or_default();
    Ok(format!(
        "{cores} cores and {gib} for the whole cluster (kind, one control plane and two workers), Kubernetes {kubernetes}, Geth {geth}."
    ))
}
