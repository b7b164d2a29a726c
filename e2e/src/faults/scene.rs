//! A healthy network before a fault, and whether it is healthy again after it.

use crate::cluster::Namespace;
use crate::geth::Geth;
use crate::network::Network;
use crate::{mesh, registry, wait};
use anyhow::{Context, Result, anyhow, ensure};
use futures::future::try_join_all;
use serde_json::Value;
use std::cell::RefCell;
use std::time::{Duration, Instant};

/// How a network healed: the Geths say that they are a full mesh, the registry holds exactly their entries, and every
/// sidecar says that its Geth, its sight of the registry and all its links are well.
#[derive(Clone, Debug)]
pub struct Healed {
    /// From the end of the fault (or its beginning, where it is healed while it lasts) until all that was so.
    pub after: Duration,
    /// Which links were down in between, and what else is worth telling.
    pub notes: Vec<String>,
}

impl Healed {
    /// With something else that is worth telling.
    #[must_use]
    pub fn with_note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }
}

/// A network that is a full mesh.
pub(super) struct Scene<'a> {
    /// Where it is.
    pub namespace: &'a Namespace,
    /// What it is made of.
    pub network: Network,
    /// Its Geths before the fault.
    pub geths: Vec<Geth>,
}

impl<'a> Scene<'a> {
    /// Makes the network and waits until it is well.
    pub(super) async fn of(namespace: &'a Namespace, network: Network) -> Result<Scene<'a>> {
        network.create(namespace).await?;
        let geths =
            well_within(namespace, &network.selector(), network.size(), wait::PODS, &Progress::since(Instant::now()))
                .await?;
        Ok(Self { namespace, network, geths })
    }

    /// Three Geths.
    pub(super) async fn of_three(namespace: &'a Namespace) -> Result<Scene<'a>> {
        Self::of(namespace, Network::of(3).labelled()).await
    }

    /// The Geth of a pod, before the fault.
    pub(super) fn geth(&self, pod: &str) -> Result<&Geth> {
        self.geths.iter().find(|geth| geth.pod == pod).with_context(|| format!("there was no {pod}"))
    }

    /// Waits until the network is well again; of the links only those for which `may_go` holds may have been down.
    pub(super) async fn heals(&self, since: Instant, may_go: impl Fn(&Geth, &Geth) -> bool) -> Result<Healed> {
        self.heals_within(since, wait::PODS, may_go).await
    }

    /// As [`Self::heals`], with another deadline than 180 s.
    pub(super) async fn heals_within(
        &self,
        since: Instant,
        limit: Duration,
        may_go: impl Fn(&Geth, &Geth) -> bool,
    ) -> Result<Healed> {
        let (healed, ..) = self.well_again(self.geths.len(), since, limit, may_go).await?;
        Ok(healed)
    }

    /// As [`Self::heals`], and tells when each part of that came about.
    pub(super) async fn heals_by_parts(&self, since: Instant, may_go: impl Fn(&Geth, &Geth) -> bool) -> Result<Healed> {
        let (healed, _, progress) = self.well_again(self.geths.len(), since, wait::PODS, may_go).await?;
        Ok(healed.with_note(progress.told()))
    }

    /// As [`Self::heals`], with so many Geths, which are returned.
    pub(super) async fn heals_with(
        &self,
        size: usize,
        since: Instant,
        may_go: impl Fn(&Geth, &Geth) -> bool,
    ) -> Result<(Healed, Vec<Geth>)> {
        let (healed, geths, _) = self.well_again(size, since, wait::PODS, may_go).await?;
        Ok((healed, geths))
    }

    async fn well_again(
        &self,
        size: usize,
        since: Instant,
        limit: Duration,
        may_go: impl Fn(&Geth, &Geth) -> bool,
    ) -> Result<(Healed, Vec<Geth>, Progress)> {
        let progress = Progress::since(since);
        let geths = well_within(self.namespace, &self.network.selector(), size, limit, &progress).await?;
        let after = since.elapsed();
        Ok((Healed { after, notes: vec![self.links_between(&geths, may_go)?] }, geths, progress))
    }

    /// Which links that there were before the fault are others now.
    fn links_between(&self, after: &[Geth], may_go: impl Fn(&Geth, &Geth) -> bool) -> Result<String> {
        let (mut lost, mut kept) = (vec![], 0);
        for (index, one) in self.geths.iter().enumerate() {
            for other in &self.geths[index + 1..] {
                if connection(&self.geths, one, other) == connection(after, one, other) {
                    kept += 1;
                } else {
                    ensure!(may_go(one, other), "the link of {} and {} was down in between", one.pod, other.pod);
                    lost.push(format!("{} to {}", one.pod, other.pod));
                }
            }
        }
        Ok(match (kept, lost.len()) {
            (_, 0) => "all links stayed".into(),
            (kept, 1..=3) => {
                format!("{kept} of {} links stayed; down in between: {}", kept + lost.len(), lost.join(", "))
            }
            (kept, _) => format!("{kept} of {} links stayed", kept + lost.len()),
        })
    }

    /// What the sidecar of a pod says of itself once that holds.
    pub(super) async fn status_until(&self, pod: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Result<Value> {
        let what = format!("the sidecar of {pod} says {what}");
        wait::until(&what, wait::SOON, async || {
            let status = mesh::status(self.namespace, pod).await?;
            ensure!(holds(&status), "it says {status}");
            Ok(status)
        })
        .await
    }

    /// Whether all links are still those of before the fault, asked without the API server.
    pub(super) async fn all_links_stay(&self) -> Result<()> {
        let now = try_join_all(self.geths.iter().map(crate::geth::ask_on_node)).await?;
        self.links_between(&now, |_, _| false).map(drop)
    }
}

/// A test of links: those of this pod may go.
pub(super) fn of_pod(pod: &str) -> impl Fn(&Geth, &Geth) -> bool {
    move |one, other| one.pod == pod || other.pod == pod
}

/// A test of links: none may go.
pub(super) fn none(_: &Geth, _: &Geth) -> bool {
    false
}

/// The ends of the connection of two pods as the first of them sees it: others mean another connection.
fn connection<'a>(geths: &'a [Geth], one: &Geth, other: &Geth) -> Option<&'a [String; 2]> {
    let find = |pod: &str| geths.iter().find(|geth| geth.pod == pod);
    find(&one.pod)?.links.get(&find(&other.pod)?.key)
}

/// When each part of being well came about, if it has held ever since.
struct Progress {
    since: Instant,
    parts: RefCell<Vec<(&'static str, Option<Duration>)>>,
}

impl Progress {
    fn since(since: Instant) -> Self {
        Self { since, parts: RefCell::default() }
    }

    /// Takes note of whether a part holds now, and returns that.
    fn note<T>(&self, part: &'static str, now: Result<T>) -> Result<T> {
        let mut parts = self.parts.borrow_mut();
        let index = parts.iter().position(|(known, _)| *known == part).unwrap_or(parts.len());
        if index == parts.len() {
            parts.push((part, None));
        }
        let held = &mut parts[index].1;
        *held = now.is_ok().then(|| held.unwrap_or_else(|| self.since.elapsed()));
        now
    }

    /// The parts that hold, in the order of their times.
    fn told(&self) -> String {
        let parts = self.parts.borrow();
        let mut parts: Vec<_> = parts.iter().filter_map(|(part, held)| Some(((*held)?, part))).collect();
        parts.sort();
        let told = |(held, part): (Duration, &&str)| format!("{part} after {:.1} s", held.as_secs_f64());
        parts.into_iter().map(told).collect::<Vec<_>>().join(", ")
    }
}

/// Waits until Geths, registry and sidecars agree that all is well.
async fn well_within(
    namespace: &Namespace,
    selector: &str,
    size: usize,
    limit: Duration,
    progress: &Progress,
) -> Result<Vec<Geth>> {
    let what = format!("{size} Geths are peered and registered, and their sidecars say so");
    match wait::until(&what, limit, async || is_well(namespace, selector, size, progress).await).await {
        Ok(geths) => Ok(geths),
        Err(error) => Err(anyhow!("{error:#}\n{}", mesh::statuses(namespace, selector).await)),
    }
}

/// Looks at every part, even when an earlier one does not hold.
async fn is_well(namespace: &Namespace, selector: &str, size: usize, progress: &Progress) -> Result<Vec<Geth>> {
    let geths = progress.note("all Geths answer", mesh::ask(namespace, selector, size).await)?;
    let full = progress.note("they are a full mesh", mesh::all_linked(&geths));
    let whole = progress.note("the registry tells of each as it is", registry::is_exactly(namespace, &geths).await);
    let statuses = try_join_all(geths.iter().map(|geth| mesh::status(namespace, &geth.pod))).await;
    let statuses = match progress.note("all sidecars answer", statuses) {
        Ok(statuses) => statuses,
        Err(error) => return full.and(whole).and(Err(error)),
    };
    let all_say = |holds: &dyn Fn(&Value) -> bool| {
        let other = geths.iter().zip(&statuses).find(|(_, status)| !holds(status));
        other.map_or(Ok(()), |(geth, status)| Err(anyhow!("the sidecar of {} says {status}", geth.pod)))
    };
    let state = |status: &Value, of: &str| status[of]["state"].as_str().unwrap_or_default().to_owned();
    // Polling will do: whoever must not watch sees the registry all the same.
    let sees = |status: &Value| matches!(&*state(status, "registry"), "watching" | "polling");
    let all = Value::from(size.saturating_sub(1));
    let linked =
        |status: &Value| state(status, "geth") == "up" && status["wanted"] == all && status["connected"] == all;
    let seen = progress.note("all sidecars see it", all_say(&sees));
    let linked = progress.note("all say that their links are up", all_say(&linked));
    full.and(whole).and(seen).and(linked)?;
    Ok(geths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn does_a_part_that_broke_again_count_from_when_it_held_for_good() {
        let progress = Progress::since(Instant::now() - Duration::from_secs(60));
        let note = |part, holds: bool| drop(progress.note(part, if holds { Ok(()) } else { Err(anyhow!("no")) }));
        note("late", false);
        note("early", true);
        progress.parts.borrow_mut()[1].1 = Some(Duration::from_secs(5));
        note("early", true);
        assert_eq!(progress.told(), "early after 5.0 s");
        note("late", true);
        assert_eq!(progress.told(), "early after 5.0 s, late after 60.0 s");
        note("early", false);
        note("early", true);
        assert_eq!(progress.told(), "late after 60.0 s, early after 60.0 s");
    }
}
