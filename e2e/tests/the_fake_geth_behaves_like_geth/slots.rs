//! How many a Geth dials.

use super::WHILE;
use super::cast::Role;
use super::geths::Geths;
use anyhow::Result;
use e2e::wait;
use serde_json::json;

/// A third of so many are two to dial (`MaxDialedConns`, p2p/server.go).
pub(super) const CAST: &[Role] = &[
    Role::member("few").with_max_peers(6),
    Role::member("one"),
    Role::member("two"),
    Role::member("three"),
    Role::member("four"),
];

const FEW: usize = 0;
const ONE: usize = 1;
const TWO: usize = 2;
const THREE: usize = 3;
const FOUR: usize = 4;

/// One after the other: of those that it is told of at once Geth dials up to twice as many as it has slots (`freeDialSlots`,
/// p2p/dial.go), whichever it likes.
pub(super) async fn script(geths: &mut Geths<'_>) -> Result<()> {
    let enode = |geths: &Geths<'_>, node: usize| json!([geths.nodes[node].enode]);
    for (node, what) in [(ONE, "is the first dialed?"), (TWO, "is the second dialed?")] {
        let params = enode(geths, node);
        geths.step("addPeer with a slot left", FEW, "admin_addPeer", params).await?;
        geths.until(what, FEW, node, true, wait::SOON).await?;
    }
    let (one, three, four) = (enode(geths, ONE), enode(geths, THREE), enode(geths, FOUR));
    geths.step("addPeer without a slot left", FEW, "admin_addPeer", three).await?;
    geths.apart_for("is the third dialed?", FEW, THREE, WHILE).await?;
    geths.step("peers of who has no slot left", FEW, "admin_peers", json!([])).await?;

    geths.step("removePeer of the first", FEW, "admin_removePeer", one).await?;
    geths.until("is the third dialed in the place of the first?", FEW, THREE, true, wait::SOON).await?;
    geths.until("is the first gone?", FEW, ONE, false, wait::SOON).await?;
    geths.step("addPeer without a slot left again", FEW, "admin_addPeer", four).await?;
    geths.apart_for("is the fourth dialed?", FEW, FOUR, WHILE).await?;

    // Being dialed takes none of these slots.
    let few = enode(geths, FEW);
    geths.step("addPeer by the fourth", FOUR, "admin_addPeer", few).await?;
    geths.until("are few and the fourth peers?", FEW, FOUR, true, wait::SOON).await?;
    geths.step("peers in the end", FEW, "admin_peers", json!([])).await
}
