//! Measures networks of real Geths on the cluster: `mesh_bench [RUNS [SIZE...]]`, by default 5 runs of 5, 10, 20 and 33.
//!
//! Prints a table: how long it takes from the Geths answering to the full mesh, beside the time that the bare calls take
//! in the same minutes on the same machine ([`runs`] says what is measured, [`moments`] how, and the table's caption
//! both). On the way, as figures: each run, and what a network costs at rest.
//!
//! `mesh_bench rest SIZE MINUTES` does nothing of that: it makes one network and leaves it alone for so long, then prints
//! the memory of each sidecar, as it was at first and as it is, and how often the API server was asked for what meanwhile.
//!
//! `mesh_bench register COUNT` registers so many sidecars at once, without Geths.

mod at_rest;
mod logs;
mod moments;
mod register;
mod runs;
mod table;

use anyhow::{Context, Result, bail};
use e2e::measure::figure;
use std::io::Write;
use std::time::Duration;

/// The size of the network of which a pod is restarted.
const RESTARTED: usize = 5;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let word = std::env::args().nth(1).filter(|word| ["rest", "register"].contains(&word.as_str()));
    let numbers = std::env::args().skip(if word.is_some() { 2 } else { 1 });
    let mut arguments = numbers.map(|argument| argument.parse().with_context(|| format!("not a number: {argument}")));
    if let Some(word) = word {
        return match (&*word, &arguments.collect::<Result<Vec<usize>>>()?[..]) {
            ("rest", [size, minutes]) => runs::rest(*size, Duration::from_secs(60 * *minutes as u64)).await,
            ("register", [count]) => register::at_once(*count).await,
            _ => bail!("rest SIZE MINUTES, or register COUNT"),
        };
    }
    let runs = arguments.next().transpose()?.unwrap_or(5);
    let sizes: Vec<usize> = arguments.collect::<Result<_>>()?;
    let sizes = if sizes.is_empty() { vec![5, 10, 20, 33] } else { sizes };
    let mut rows: Vec<(usize, table::Row)> = vec![];
    for size in sizes {
        let mut row = table::Row::default();
        for run in 1..=runs {
            let told = |what: &str, time: runs::Time| {
                let seconds = time.map_or("never".into(), |time| format!("{:.2} s", time.as_secs_f64()));
                figure(&format!("{size} Geths, run {run} of {runs}, {what}"), seconds);
                time
            };
            row.natural.push(told("natural", runs::natural(size, run == runs).await?));
            row.bare.push(told("bare", runs::bare(size).await?));
            row.at_once.push(told("all at once", runs::at_once(size).await?));
        }
        rows.push((size, row));
        // So that an hour's work is not lost if a later run fails.
        std::io::stderr().write_all(table::of(&rows).as_bytes())?;
    }
    let restarts = runs::restarts(RESTARTED, runs).await?;
    let table = table::of(&rows) + &table::of_restarts(RESTARTED, &restarts);
    std::io::stdout().write_all(table.as_bytes())?;
    Ok(())
}
