//! What is left of a Geth that was killed, and what it remembers when it is back.

use super::WHILE;
use super::cast::Role;
use super::geths::Geths;
use anyhow::Result;
use e2e::wait;
use serde_json::json;

pub(super) const CAST: &[Role] = &[Role::mortal("killed"), Role::member("other")];

const KILLED: usize = 0;
const OTHER: usize = 1;

pub(super) async fn script(geths: &mut Geths<'_>) -> Result<()> {
    let (killed, other) = (json!([geths.nodes[KILLED].enode]), json!([geths.nodes[OTHER].enode]));
    geths.step("nodeInfo", KILLED, "admin_nodeInfo", json!([])).await?;
    geths.step("addPeer", KILLED, "admin_addPeer", other.clone()).await?;
    geths.until("are they peers?", KILLED, OTHER, true, wait::SOON).await?;
    geths.step("addTrustedPeer", KILLED, "admin_addTrustedPeer", other).await?;
    geths.until_trusted("is the other trusted?", KILLED, OTHER, true).await?;

    geths.kill(KILLED).await?;
    geths.until_alone("has the other one noticed?", OTHER).await?;
    geths.start(KILLED).await?;

    geths.step("nodeInfo afterwards", KILLED, "admin_nodeInfo", json!([])).await?;
    geths.apart_for("is anybody dialed afterwards?", KILLED, OTHER, WHILE).await?;
    geths.step("addPeer by the other one", OTHER, "admin_addPeer", killed).await?;
    geths.until("are they peers again?", OTHER, KILLED, true, wait::SOON).await?;
    // Nor is the other one trusted any more.
    geths.step("peers of who was killed", KILLED, "admin_peers", json!([])).await
}
