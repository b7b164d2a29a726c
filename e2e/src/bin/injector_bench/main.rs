//! Measures how fast the injector answers, beside the same injection written with controller-runtime:
//! `injector_bench ROUNDS SECONDS NAME=PROGRAM...`, where each load is put on each program for so many seconds in each
//! round; with no rounds, it is only seen whether all do the same. The names are `injector`, `controller-runtime` and,
//! if wanted, `eks-pod-identity-webhook`.
//!
//! Webhooks run on the first core. wrk, which sends the reviews, and what is here run on the second one, if they are
//! started there. Prints each figure, then the table, puts it into `docs/injector-bench.md`, and ends with how many
//! times as many requests the injector answers.

mod client;
mod load;
mod reviews;
mod servers;
mod table;
mod world;

use anyhow::{Context, Result, ensure};
use e2e::measure::figure;
use k8s_openapi::api::core::v1::Pod;
use load::{Load, Seen};
use reviews::{ordinary, refusing, with_variables};
use serde_json::{Value, json};
use servers::{Kind, Program, Server};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;
use world::World;

/// The file with the table.
const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/injector-bench.md");

/// For how long each program is used before anything is measured.
const WARM_UP: Duration = Duration::from_secs(2);

/// How long programs are left alone when they have answered for the first time, before their memory is looked at.
const REST: Duration = Duration::from_secs(1);

/// One load, and what it is called.
struct Case {
    name: &'static str,
    review: Value,
    connections: usize,
    new_connections: bool,
}

/// What was measured of one program; each list has an element for each round.
struct Measured {
    kind: Kind,
    megabytes: f64,
    first_answer: Vec<f64>,
    idle: Vec<f64>,
    after_small: Vec<f64>,
    most: Vec<f64>,
    /// For each case.
    seen: Vec<Vec<Seen>>,
}

/// The place of the case that is the measure of all: an ordinary pod, and as much of it as the core can do.
const SMALL: usize = 1;
/// The places of the cases whose times are compared to see whether they grow with the pod.
const BIG: usize = 2;
const TWICE_AS_BIG: usize = 3;

fn cases() -> Result<Vec<Case>> {
    let case = |name, review, connections| Case { name, review, connections, new_connections: false };
    Ok(vec![
        case("5.4 KB, 1 connection", ordinary()?, 1),
        case("5.4 KB, 16 connections", ordinary()?, 16),
        case("113 KB (2,000 more variables), 1 connection", with_variables(2000)?, 1),
        case("221 KB (4,000 more variables), 1 connection", with_variables(4000)?, 1),
        case("5.4 KB, label `disabled`, 1 connection", refusing()?, 1),
        Case { new_connections: true, ..case("5.4 KB, each on a new connection, 16 at a time", ordinary()?, 16) },
    ])
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |what| -> Result<u64> { Ok(arguments.next().with_context(|| format!("no {what}"))?.parse()?) };
    let (rounds, seconds) = (number("ROUNDS")?, number("SECONDS")?);
    let mut programs = arguments.map(|argument| Program::named(&argument)).collect::<Result<Vec<_>>>()?;
    let cases = cases()?;
    if rounds == 0 {
        return only_compare(&programs, &cases).await;
    }
    let load = std::fs::read_to_string("/proc/loadavg")?;
    let mut measured = programs
        .iter()
        .map(|program| {
            let (kind, megabytes) = (program.kind, program.megabytes()?);
            let (first_answer, idle, after_small, most) = Default::default();
            let seen = vec![vec![]; cases.len()];
            Ok(Measured { kind, megabytes, first_answer, idle, after_small, most, seen })
        })
        .collect::<Result<Vec<_>>>()?;
    for number in 1..=rounds {
        round(number, Duration::from_secs(seconds), &programs, &cases, &mut measured).await?;
        programs.reverse();
    }
    let names: Vec<_> = cases.iter().map(|case| case.name).collect();
    let machine = format!(
        "{}, load before the run {}; {rounds} rounds, {seconds} s for each load and round; {}.",
        machine(),
        load.split(' ').next().unwrap_or_default(),
        jiff::Timestamp::now().strftime("%F")
    );
    let text = table::of(&names, &measured, &machine);
    table::update(Path::new(FILE), &text)?;
    let mut out = std::io::stdout();
    out.write_all(text.as_bytes())?;
    if let Some(times) = table::times(&measured) {
        writeln!(out, "times controller-runtime: {times:.1}")?;
    }
    Ok(())
}

/// Measures nothing, and fails if the programs do not do the same any more.
async fn only_compare(programs: &[Program], cases: &[Case]) -> Result<()> {
    let world = World::new().await?;
    let servers = started(&world, programs, cases).await?;
    for case in cases {
        agree(&servers, case).await?;
    }
    for server in servers {
        server.stop().await?;
    }
    Ok(())
}

/// All programs, each once it answers.
async fn started(world: &World, programs: &[Program], cases: &[Case]) -> Result<Vec<Server>> {
    let mut servers = vec![];
    for program in programs {
        servers.push(program.start(world, &cases[SMALL].review).await?);
    }
    Ok(servers)
}

/// All programs, new and each in its turn.
async fn round(
    number: u64,
    duration: Duration,
    programs: &[Program],
    cases: &[Case],
    measured: &mut [Measured],
) -> Result<()> {
    let world = World::new().await?;
    let files = cases
        .iter()
        .enumerate()
        .map(|(place, case)| world.write(&format!("review-{place}.json"), &case.review.to_string()))
        .collect::<Result<Vec<PathBuf>>>()?;
    let mut servers = started(&world, programs, cases).await?;
    tokio::time::sleep(REST).await;
    for server in &mut servers {
        server.idle = server.memory("VmRSS")?;
    }
    for server in &servers {
        let (connections, new_connections) = (cases[SMALL].connections, false);
        Load { review: &files[SMALL], connections, new_connections, duration: WARM_UP }.run(server).await?;
    }
    for (place, case) in cases.iter().enumerate() {
        let Case { name, connections, new_connections, .. } = *case;
        agree(&servers, case).await?;
        for server in &servers {
            let seen = Load { review: &files[place], connections, new_connections, duration }.run(server).await?;
            let Seen { p50, p99, rate, cpu } = seen;
            let who = server.kind.name();
            let told = format_args!("{p50:.3} / {p99:.3} ms, {rate:.0} requests/s, {cpu:.0} µs of processor time each");
            figure(&format!("round {number}, {who}, {name}"), told);
            let measured = of(measured, server.kind)?;
            measured.seen[place].push(seen);
            if place == SMALL {
                measured.after_small.push(server.memory("VmRSS")?);
            }
        }
    }
    for server in servers {
        let measured = of(measured, server.kind)?;
        measured.first_answer.push(server.first_answer.as_secs_f64() * 1e3);
        measured.idle.push(server.idle);
        measured.most.push(server.memory("VmHWM")?);
        server.stop().await?;
    }
    Ok(())
}

/// What was measured of this one so far.
fn of(measured: &mut [Measured], kind: Kind) -> Result<&mut Measured> {
    measured.iter_mut().find(|measured| measured.kind == kind).context("all are measured")
}

/// Sees to it that all do what they are measured at, and that those who are to do the same, do.
async fn agree(servers: &[Server], case: &Case) -> Result<()> {
    let before = &case.review["request"]["object"];
    let refuses = before["metadata"]["labels"]["geth-peering"] == "disabled";
    let mut pods = vec![];
    for server in servers {
        let pod = server.webhook.admitted(&case.review).await?;
        if server.kind == Kind::EksPodIdentity {
            // It knows nothing of the label.
            ensure!(pod != *before, "{}: {} injects nothing", case.name, server.kind.name());
        } else {
            ensure!((pod == *before) == refuses, "{}: {}: {pod}", case.name, server.kind.name());
            // As Kubernetes understands it: null is nothing, and some write it.
            pods.push((server.kind.name(), serde_json::from_value::<Pod>(pod)?));
        }
    }
    let differ = pods.iter().any(|(_, pod)| Some(pod) != pods.first().map(|(_, first)| first));
    ensure!(!differ, "{}: the pods differ: {}", case.name, json!(pods));
    Ok(())
}

/// What the figures depend on.
fn machine() -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let (cpu, kernel) = (read("/proc/cpuinfo"), read("/proc/sys/kernel/osrelease"));
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let count = cpu.lines().filter(|line| line.starts_with("processor")).count();
    format!("{count} cores of {}, Linux {}", model.map_or("an unknown processor", |(_, name)| name), kernel.trim())
}
