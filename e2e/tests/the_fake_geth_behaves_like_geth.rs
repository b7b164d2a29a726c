//! Does the fake Geth, which the fast tests rest on, answer and peer as real ones do?
//!
//! Each script of calls is run on fakes and, at the same time, on real Geths in pods that nobody injects; what each
//! step brought to light is compared. Where they differ, the fake is wrong.

#[path = "the_fake_geth_behaves_like_geth/cast.rs"]
mod cast;
#[path = "the_fake_geth_behaves_like_geth/geths.rs"]
mod geths;
#[path = "the_fake_geth_behaves_like_geth/restart.rs"]
mod restart;
#[path = "the_fake_geth_behaves_like_geth/slots.rs"]
mod slots;

use anyhow::{Result, ensure};
use cast::Role;
use e2e::cluster::in_namespace;
use e2e::differences::between;
use e2e::network::{CLIQUE_IMAGE, GETH_IMAGE};
use e2e::{measure, wait};
use geths::Geths;
use serde_json::json;
use std::time::{Duration, Instant};

/// Places in [`CAST`].
const ONE: usize = 0;
const TWO: usize = 1;
const THREE: usize = 2;
const OTHER_GENESIS: usize = 3;
const OTHER_NETWORK: usize = 4;
const DEV: usize = 5;

const CAST: &[Role] = &[
    Role::member("one"),
    Role::member("two"),
    Role::member("three"),
    Role::other_genesis("other-genesis"),
    Role::other_network("other-network"),
    Role::dev("dev"),
];

/// What a Geth is dialed at, in both worlds.
const PORT: u16 = 30303;

/// A key that nobody has.
const NOBODY: &str = "9884d6c934660266c45f7e1f13ebd2a8766d3c696770d25ed96923dc1c459f3d\
                      663a4ad3a31a2dc1d044c75708eceec6b4591ad4ad33147a2298a0237508f24d";

/// An address at which nobody is (RFC 5737).
const NOWHERE: &str = "192.0.2.1:30303";

/// How long two Geths are watched that must not find each other; a link takes a fraction of a second.
const WHILE: Duration = Duration::from_secs(4);

/// For so long at least nobody is dialed again.
const MUST_WAIT: Duration = Duration::from_secs(33);

/// Longer than a dial stays in the history (`dialHistoryExpiration`, 35 s, p2p/dial.go).
const AFTER_HISTORY: Duration = Duration::from_secs(60);

#[tokio::test]
async fn does_the_fake_geth_answer_and_peer_as_a_real_one() -> Result<()> {
    same(GETH_IMAGE, &[], CAST, script).await
}

#[tokio::test]
async fn does_an_older_geth_answer_and_peer_so_too_but_for_what_later_ones_have_changed() -> Result<()> {
    same(CLIQUE_IMAGE, OLDER, CAST, script).await
}

#[tokio::test]
async fn does_the_fake_geth_dial_as_few_as_a_real_one_and_the_next_when_one_is_removed() -> Result<()> {
    same(GETH_IMAGE, &[], slots::CAST, slots::script).await
}

#[tokio::test]
async fn does_the_fake_geth_that_was_killed_forget_and_refuse_what_a_real_one_does() -> Result<()> {
    same(GETH_IMAGE, &[], restart::CAST, restart::script).await
}

/// A difference that is known: a part of the step's name, how the place's path ends without the numbers in it, and why.
type Known = (&'static str, &'static str, &'static str);

/// Where a Geth v1.13.15 differs from v1.17.5, which the fake is modelled on. Nothing that the sidecar goes by is among it.
const OLDER: &[Known] = &[
    ("", "/name", "it says its own version"),
    ("", "/caps", "of the versions of eth it offers 68, later ones 69 and on"),
    ("", "/protocols/eth/version", "so that is the one they agree on"),
    ("", "/protocols/eth/earliestBlock", "which blocks a peer has is told since eth/69"),
    ("", "/protocols/eth/latestBlock", "the same"),
    ("", "/protocols/eth/latestBlockHash", "the same"),
    ("", "/protocols/eth/difficulty", "later ones tell nothing of difficulty"),
    ("@:30303", "/error", "it looks host names up at once, and there is none of no letters"),
    ("@:30303", "/result", "the same"),
    (
        "other-",
        "/reasons of both",
        "either end may be the first to hang up on a stranger, and the other then says so too",
    ),
];

/// Makes sure that a script brings the same to light on real Geths and on fakes, but for differences that are known.
async fn same(
    image: &str,
    known: &[Known],
    cast: &'static [Role],
    script: impl AsyncFn(&mut Geths<'_>) -> Result<()>,
) -> Result<()> {
    in_namespace(async |namespace| {
        let folder = tempfile::tempdir()?;
        let mut fake = cast::fakes(namespace, cast, &folder).await?;
        let mut real = cast::pods(namespace, cast, image).await?;
        let start = Instant::now();
        tokio::try_join!(script(&mut real), script(&mut fake))?;
        measure::since(&format!("one script on fakes and on {image}"), start);
        let mut told = Vec::new();
        for ((what, real), (other, fake)) in real.steps.iter().zip(&fake.steps) {
            ensure!(what == other, "{what} became {other}");
            let differences = between(real, fake).into_iter().filter(|found| !is_known(known, what, &found.path));
            told.extend(differences.map(|found| format!("{what}\n  {found}")));
        }
        ensure!(real.steps.len() == fake.steps.len(), "one of them did not get to the end");
        ensure!(told.is_empty(), "{}", told.join("\n"));
        Ok(())
    })
    .await
}

/// Whether a difference in this step, at this path, is known.
fn is_known(known: &[Known], what: &str, path: &str) -> bool {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let path = path.split('/').filter(|part| !is_number(part)).collect::<Vec<_>>().join("/");
    known.iter().any(|(step, end, _)| what.contains(step) && path.ends_with(end))
}

/// The script. It waits for what must happen and, at the end, once for what must not.
async fn script(geths: &mut Geths<'_>) -> Result<()> {
    for node in [ONE, OTHER_GENESIS, OTHER_NETWORK, DEV] {
        geths.step("nodeInfo", node, "admin_nodeInfo", json!([])).await?;
    }
    for node in [ONE, TWO, THREE, OTHER_GENESIS, OTHER_NETWORK, DEV] {
        geths.subscribe(node).await?;
    }
    geths.step("a method that is not there", ONE, "admin_nonsense", json!([])).await?;
    geths.step("a subscription that is not there", ONE, "admin_subscribe", json!(["nonsense"])).await?;
    let batch = json!([
        {"jsonrpc": "2.0", "id": 1, "method": "admin_nonsense"},
        {"jsonrpc": "2.0", "id": "2", "method": "admin_peers"},
        {"jsonrpc": "2.0", "id": 3, "method": "admin_addPeer", "params": ["nonsense"]},
    ]);
    for line in [batch.to_string(), "[]".into(), "{}".into()] {
        let answer = geths.nodes[ONE].ipc.raw(&line).await?;
        geths.record(&format!("the line {line}"), answer);
    }
    geths.broken_line(TWO).await?;

    let two = geths.nodes[TWO].enode.clone();
    let key = &two[8..136];
    for url in [
        json!("nonsense"),
        json!(""),
        json!("enode://1234@192.0.2.1:30303"),
        json!(format!("enode://{}@192.0.2.1:30303", "01".repeat(64))),
        json!(format!("enode://{}@192.0.2.1:30303", "zz".repeat(64))),
        json!("enode://192.0.2.1:30303"),
        json!(format!("enode://{NOBODY}@192.0.2.1")),
        json!(format!("enode://{NOBODY}@192.0.2.1:0")),
        json!(format!("enode://{NOBODY}@192.0.2.1:nonsense")),
        json!(format!("enode://{NOBODY}@192.0.2.1:77777")),
        json!(format!("enode://{NOBODY}@192.0.2.1:30303?discport=nonsense")),
        json!(format!("enode://{NOBODY}@:30303")),
        json!(format!("http://{NOBODY}@192.0.2.1:30303")),
        json!("enr:!"),
        json!(5),
    ] {
        for method in ["admin_addPeer", "admin_removePeer", "admin_addTrustedPeer", "admin_removeTrustedPeer"] {
            geths.step(&format!("{method}({url})"), THREE, method, json!([url])).await?;
        }
    }
    geths.step("addPeer of nothing", THREE, "admin_addPeer", json!([])).await?;
    geths.step("removePeer of a stranger", ONE, "admin_removePeer", json!([two])).await?;
    geths.step("removeTrustedPeer of a stranger", ONE, "admin_removeTrustedPeer", json!([two])).await?;

    // Nobody is there; nobody ever gets connected.
    geths.step("addPeer of nobody", ONE, "admin_addPeer", json!([format!("enode://{NOBODY}@{NOWHERE}")])).await?;
    // The second call changes nothing: three is dialed where it is not.
    let (three, key_of_three) = (geths.nodes[THREE].enode.clone(), geths.nodes[THREE].key().to_owned());
    let moved = format!("enode://{key_of_three}@{NOWHERE}");
    geths.step("addPeer at an old address", ONE, "admin_addPeer", json!([moved])).await?;
    geths.step("addPeer at the new address", ONE, "admin_addPeer", json!([three])).await?;

    let dialed = Instant::now();
    geths.step("addPeer", ONE, "admin_addPeer", json!([two])).await?;
    geths.until("are one and two peers?", ONE, TWO, true, wait::SOON).await?;
    geths.step("peers of the dialer", ONE, "admin_peers", json!([])).await?;
    geths.step("peers of the listener", TWO, "admin_peers", json!([])).await?;
    geths.step("addPeer again", ONE, "admin_addPeer", json!([two])).await?;

    let one = geths.nodes[ONE].enode.clone();
    geths.step("addTrustedPeer of a peer", TWO, "admin_addTrustedPeer", json!([one])).await?;
    geths.until_trusted("does two trust one?", TWO, ONE, true).await?;
    geths.step("peers of who does not trust", ONE, "admin_peers", json!([])).await?;
    geths.step("removeTrustedPeer of a peer", TWO, "admin_removeTrustedPeer", json!([one])).await?;
    geths.until_trusted("does two trust one?", TWO, ONE, false).await?;
    geths.step("addTrustedPeer of who is no peer", TWO, "admin_addTrustedPeer", json!([three])).await?;

    // One still wants two, and may not dial it yet. Nor does it after it was told so again.
    geths.step("removePeer of who dialed", TWO, "admin_removePeer", json!([one])).await?;
    geths.step("peers after removePeer", TWO, "admin_peers", json!([])).await?;
    geths.until("are one and two peers?", ONE, TWO, false, wait::SOON).await?;
    geths.step("removePeer of who is no peer any more", ONE, "admin_removePeer", json!([two])).await?;
    geths.step("addPeer within the history", ONE, "admin_addPeer", json!([two])).await?;

    for stranger in [OTHER_GENESIS, OTHER_NETWORK, DEV] {
        let enode = geths.nodes[stranger].enode.clone();
        geths.step("addPeer of a stranger", THREE, "admin_addPeer", json!([enode])).await?;
    }
    let key = key.to_owned();
    geths.step("addPeer without p2p", DEV, "admin_addPeer", json!([two])).await?;
    geths.step("addPeer of a name without an address", DEV, "admin_addPeer", json!([format!("enode://{key}")])).await?;
    // On a machine that took so long to get here, there is little left to see.
    let end = (dialed + MUST_WAIT).min(Instant::now() + WHILE);
    geths.apart("do any get connected that must not?", end).await?;
    for stranger in [OTHER_GENESIS, OTHER_NETWORK] {
        geths.until_dropped(THREE, stranger).await?;
        let enode = geths.nodes[stranger].enode.clone();
        geths.step("removePeer of a stranger", THREE, "admin_removePeer", json!([enode])).await?;
    }
    geths.until("are one and two peers after the history?", ONE, TWO, true, AFTER_HISTORY).await?;

    // By now one has dialed three's old address a second time.
    geths.step("addPeer by who moved", THREE, "admin_addPeer", json!([one])).await?;
    geths.until("are one and three peers?", THREE, ONE, true, wait::SOON).await?;
    geths.step("peers of who had the old address", ONE, "admin_peers", json!([])).await?;
    geths.step("peers of three", THREE, "admin_peers", json!([])).await?;
    geths.step("peers without p2p", DEV, "admin_peers", json!([])).await?;
    geths.all_events().await
}
