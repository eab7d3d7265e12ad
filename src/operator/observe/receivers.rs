//! Which walsender a mirror's WAL receiver belongs to. Its address tells as a rule; where connections arrive from another one
//! (a service mesh's proxy, a NAT) both sides' positions do: what the receiver has lies between what its primary knew to be
//! flushed some time ago and what it knows now, look after look, with the same processes on both sides.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

use model::{CatalogIndex, Dbid, Look, Lsn, Source, World};

/// Older than any position on a page that a supervisor serves, with time to spare for a look.
const LAG: Duration = Duration::from_secs(15);

/// A process, and how far it says that the mirror is.
type At = (i32, Lsn);

/// What was seen of each mirror so far.
#[derive(Debug, Default)]
pub struct Receivers(BTreeMap<Dbid, Track>);

#[derive(Debug)]
struct Track {
    walsender: i32,
    receiver: i32,
    /// What the primary knew to be flushed, oldest first; of those that are older than [`LAG`] the newest.
    flushed: VecDeque<(Instant, Lsn)>,
    /// What the receiver had at the look before: its primary has had the time to hear of it.
    received: Option<Lsn>,
}

impl Receivers {
    /// Takes down what this look showed, and sets [`model::Instance::walsender`] where it is known.
    pub fn judge(&mut self, world: &mut World) {
        let Some(catalog) = world.catalog.seen().map(CatalogIndex::of) else { return };
        let mut found = vec![];
        for (content, pair) in catalog.pairs() {
            let Ok(pair) = pair else { continue };
            let sender = world.sources.get(content).and_then(Look::seen).and_then(only);
            let page = world.page_of(pair.mirror).ok().filter(|page| page.receiving);
            let receiver = page.and_then(|page| page.received.as_ref()).map(|received| (received.pid, received.position));
            found.push((pair.mirror.dbid, self.belongs(pair.mirror.dbid, sender, receiver)));
        }
        for (dbid, walsender) in found {
            if let Some(instance) = world.instances.get_mut(&dbid) {
                instance.walsender = walsender;
            }
        }
    }

    /// The walsender's process, once it is known to be this receiver's.
    fn belongs(&mut self, dbid: Dbid, sender: Option<At>, receiver: Option<At>) -> Option<i32> {
        let (Some((walsender, flush)), Some((pid, position))) = (sender, receiver) else {
            self.0.remove(&dbid);
            return None;
        };
        let now = Instant::now();
        let fresh = || Track { walsender, receiver: pid, flushed: VecDeque::new(), received: None };
        let track = self.0.entry(dbid).or_insert_with(fresh);
        if (track.walsender, track.receiver) != (walsender, pid) {
            *track = fresh();
        }
        track.flushed.push_back((now, flush));
        while track.flushed.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= LAG) {
            track.flushed.pop_front();
        }
        let before = track.received.replace(position)?;
        let (at, low) = track.flushed.front()?;
        (now.duration_since(*at) >= LAG && (*low..=flush).contains(&before)).then_some(walsender)
    }
}

/// The one walsender that streams to a mirror; of several nobody knows whose positions they are.
fn only(source: &Source) -> Option<At> {
    let mut streaming = source.streaming();
    let one = streaming.next().filter(|_| streaming.next().is_none())?;
    Some((one.pid?, one.flush?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{page::Received, world::fixtures::walsender};

    /// Looks a second apart at (walsender, flushed by it) and (receiver, received by it); what is known after each.
    async fn seen(looks: impl IntoIterator<Item = (At, At)>) -> Vec<Option<i32>> {
        let (mut receivers, mut known) = (Receivers::default(), vec![]);
        for (sender, receiver) in looks {
            known.push(receivers.belongs(Dbid(5), Some(sender), Some(receiver)));
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        known
    }

    #[tokio::test(start_paused = true)]
    async fn a_receiver_that_goes_along_with_a_walsender_is_its() {
        let busy = |second: u64| ((7, Lsn(1000 * second)), (40, Lsn(1000 * second.saturating_sub(4) + 300)));
        let known = seen((0..30).map(busy)).await;
        assert!(known[..15].iter().all(Option::is_none) && known[16..].iter().all(|one| *one == Some(7)), "{known:?}");
        let ahead = |second: u64| ((7, Lsn(1000 * second)), (40, Lsn(1000 * second + 300))); // its page was read after
        assert_eq!(seen((0..30).map(ahead)).await.last(), Some(&Some(7)));
        let idle = seen((0..30).map(|_| ((7, Lsn(9)), (40, Lsn(9))))).await;
        assert_eq!(idle.last(), Some(&Some(7)));
    }

    #[tokio::test(start_paused = true)]
    async fn another_ones_receiver_is_not() {
        let left_behind = |second: u64| ((7, Lsn(1000 * second)), (40, Lsn(500)));
        assert_eq!(seen((0..40).map(left_behind)).await.last(), Some(&None), "it stands still where the walsender goes on");
        let beyond = |second: u64| ((7, Lsn(1000 * second)), (40, Lsn(90_000)));
        assert_eq!(seen((0..40).map(beyond)).await.last(), Some(&None), "it has what the walsender never sent");
        let anew = |second: u64| ((7, Lsn(9)), (40 + i32::try_from(second / 10).unwrap(), Lsn(9)));
        assert!(seen((0..40).map(anew)).await.iter().all(Option::is_none), "never the same for long enough");
    }

    #[tokio::test(start_paused = true)]
    async fn of_two_walsenders_and_of_a_page_that_is_not_its_own_nothing_is_known() {
        let mut receivers = Receivers::default();
        let mut look = async |change: fn(&mut World)| {
            let mut world = World::of(&["2:0ppsu", "5:0mmsu"])
                .page(5, |page| page.received = Some(Received { pid: 40, position: Lsn(9) }))
                .source_with(0, |source| (source.walsenders[0].pid, source.walsenders[0].flush) = (Some(7), Some(Lsn(9))));
            change(&mut world);
            receivers.judge(&mut world);
            tokio::time::advance(LAG).await;
            world.instances[&Dbid(5)].walsender
        };
        assert_eq!((look(|_| {}).await, look(|_| {}).await), (None, Some(7)));
        let two = |world: &mut World| {
            let source = world.sources.values_mut().next().and_then(|look| match look {
                Look::Seen(source) => Some(source),
                Look::Unknown(_) => None,
            });
            source.unwrap().walsenders.push(walsender(9));
        };
        assert_eq!(look(two).await, None);
        assert_eq!((look(|_| {}).await, look(|_| {}).await), (None, Some(7)), "it begins anew");
        let foreign = |world: &mut World| {
            *world = std::mem::replace(world, World::of(&[])).page(5, |page| page.cluster = "other".into());
        };
        assert_eq!(look(foreign).await, None);
    }
}
