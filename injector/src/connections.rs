//! How many connections may be open, and whose have to go when somebody else comes.
//!
//! An address may have all of them while nobody else wants any. Once all are taken, the next one is paid for by the address
//! that has most, until the shares are equal: so nobody who opens as many as he can keeps out one who has few. (For that it
//! takes as many addresses as there may be connections.) A connection on which nothing is being answered goes first; where
//! the address has no such, a request is lost, for who keeps others out may well do so by requests that never end. Who
//! comes when the shares are equal is sent away at once: to let him wait would be to let those after him wait as well.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// The connections of one port.
pub(crate) struct Connections {
    open: Arc<Mutex<Open>>,
}

#[derive(Default)]
struct Open {
    /// How many there may be.
    most: usize,
    sources: HashMap<IpAddr, Source>,
    /// How many connections there are of all sources.
    count: usize,
    /// How many there ever were.
    number: u64,
    /// It was said that all are taken. Once is enough until there is much room again.
    told: bool,
}

/// An address with open connections.
#[derive(Default)]
struct Source {
    /// By number, so from the oldest to the newest.
    held: BTreeMap<u64, Arc<Held>>,
}

#[derive(Default)]
struct Held {
    /// Requests under way.
    requests: AtomicUsize,
    /// Somebody else needs its place.
    given_up: CancellationToken,
}

/// The place of a connection among all; given back when dropped.
pub(crate) struct Place {
    source: IpAddr,
    number: u64,
    held: Arc<Held>,
    open: Arc<Mutex<Open>>,
}

/// Counts the requests of a connection.
#[derive(Clone)]
pub(crate) struct Requests(Arc<Held>);

/// A request under way, until dropped.
pub(crate) struct UnderWay {
    held: Arc<Held>,
    /// Others of its connection were when it began.
    pub(crate) is_beside: bool,
}

impl Connections {
    /// Up to `most` in all.
    pub(crate) fn new(most: usize) -> Self {
        Self { open: Arc::new(Mutex::new(Open { most, ..Open::default() })) }
    }

    /// A place for a connection from `source`, if need be one that another address has to give up; none if all are taken,
    /// and no other address would still have as many.
    pub(crate) fn take(&self, source: IpAddr) -> Option<Place> {
        // A port that listens to both shows IPv4 in the clothes of IPv6.
        let source = source.to_canonical();
        let mut open = lock(&self.open);
        if open.count >= open.most {
            open.tell();
            let own = open.sources.get(&source).map_or(0, |own| own.held.len());
            let from = payer(open.shares(), own).and_then(|payer| open.sources.get_mut(&payer))?;
            let given_up = from.cheapest().and_then(|number| from.held.remove(&number))?;
            given_up.given_up.cancel();
            open.count -= 1;
        }
        open.count += 1;
        open.number += 1;
        let (number, held) = (open.number, Arc::<Held>::default());
        open.sources.entry(source).or_default().held.insert(number, held.clone());
        Some(Place { source, number, held, open: self.open.clone() })
    }
}

impl Open {
    /// How many connections each address has.
    fn shares(&self) -> impl Iterator<Item = (IpAddr, usize)> {
        self.sources.iter().map(|(address, source)| (*address, source.held.len()))
    }

    fn tell(&mut self) {
        if !std::mem::replace(&mut self.told, true)
            && let Some((source, has)) = self.shares().max_by_key(|(_, held)| *held)
        {
            let all = self.count;
            tracing::warn!(all, %source, has, "all connections are taken; who has most pays for those who come now");
        }
    }
}

/// Which address gives up a connection for one that has `own`: the one with most, if it still has as many as the other then.
fn payer(open: impl Iterator<Item = (IpAddr, usize)>, own: usize) -> Option<IpAddr> {
    open.max_by_key(|(_, held)| *held).filter(|(_, held)| *held > own + 1).map(|(address, _)| address)
}

impl Source {
    /// The connection to give up: the oldest on which nothing is under way, else the oldest.
    fn cheapest(&self) -> Option<u64> {
        let idle = self.held.iter().find(|(_, held)| held.requests.load(Ordering::Relaxed) == 0);
        idle.or_else(|| self.held.first_key_value()).map(|(number, _)| *number)
    }
}

impl Place {
    /// Waits until somebody else needs the place.
    pub(crate) async fn given_up(&self) {
        self.held.given_up.cancelled().await;
    }

    /// Where the connection's requests are counted.
    pub(crate) fn requests(&self) -> Requests {
        Requests(self.held.clone())
    }
}

impl Requests {
    /// One more is under way.
    pub(crate) fn begin(&self) -> UnderWay {
        let others = self.0.requests.fetch_add(1, Ordering::Relaxed);
        UnderWay { held: self.0.clone(), is_beside: others > 0 }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.held.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = lock(&self.open);
        let Some(source) = open.sources.get_mut(&self.source) else { return };
        // It is not there any more if it was given up.
        let was_open = source.held.remove(&self.number).is_some();
        if source.held.is_empty() {
            open.sources.remove(&self.source);
        }
        open.count -= usize::from(was_open);
        open.told &= open.count > open.most / 2;
    }
}

fn lock(open: &Mutex<Open>) -> MutexGuard<'_, Open> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn is_given_up(place: &Place) -> bool {
        place.held.given_up.is_cancelled()
    }

    #[test]
    fn does_who_has_most_pay_for_who_comes_and_only_then() {
        let connections = Connections::new(6);
        let take = |last| connections.take(address(last));
        let greedy: Vec<_> = (0..4).map(|_| take(1).unwrap()).collect();
        let others = [take(2).unwrap(), take(2).unwrap()];
        assert!(take(1).is_none(), "it has most");
        assert!(!greedy.iter().chain(&others).any(is_given_up));

        let newcomers = [take(3).unwrap(), take(3).unwrap()];
        assert_eq!(greedy.iter().map(is_given_up).collect::<Vec<_>>(), [true, true, false, false]);
        assert!([1, 2, 3].into_iter().all(|last| take(last).is_none()), "each has two");
        assert!(!newcomers.iter().chain(&others).any(is_given_up));
    }

    #[test]
    fn can_many_addresses_not_keep_out_one() {
        let connections = Connections::new(100);
        let crowd: Vec<_> = (0..100).map(|number| connections.take(address(number % 50)).unwrap()).collect();
        let api_server = connections.take(address(200)).unwrap();
        assert_eq!(crowd.iter().filter(|place| is_given_up(place)).count(), 1);
        for number in 0..50 {
            drop(connections.take(address(number)));
        }
        assert!(!is_given_up(&api_server));
    }

    #[test]
    fn is_a_request_under_way_spared_while_there_is_an_idle_connection() {
        let connections = Connections::new(2);
        let (busy, idle) = (connections.take(address(1)).unwrap(), connections.take(address(1)).unwrap());
        let request = busy.requests().begin();
        let other = connections.take(address(2)).unwrap();
        assert_eq!((is_given_up(&busy), is_given_up(&idle)), (false, true));
        drop((request, other, idle));
        let newest = connections.take(address(1)).unwrap();
        let _other = connections.take(address(2)).unwrap();
        assert_eq!((is_given_up(&busy), is_given_up(&newest)), (true, false), "of two idle ones, the oldest");
    }

    #[test]
    fn is_nothing_remembered_of_addresses_that_have_left() {
        let connections = Connections::new(2);
        let (one, other): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "::ffff:10.0.0.1".parse().unwrap());
        let held = [connections.take(one).unwrap(), connections.take(other).unwrap()];
        assert!(connections.take(one).is_none(), "both are one address");
        let newcomer = connections.take(address(2)).unwrap();
        drop((held, newcomer));
        let open = lock(&connections.open);
        assert_eq!((open.sources.len(), open.count), (0, 0));
    }
}
