//! What is asked while postgres runs, and what the answers change: of postgres itself, of the catalog and the other side, of
//! the other coordinators, and of the acting primary that a mirror follows.

use std::time::{Duration, SystemTime};

use tokio::{task::JoinHandle, time::Instant};

use super::{
    Supervisor, ask,
    ask::{Answer, NotRead},
    decide::rivals,
    facts::{OtherHere, PeerHere, PrimaryHere, RowHere},
    history,
    idle::{MARKS, jittered},
    others,
    others::Witnesses,
    peer,
    serving::{self, Answered},
    watch::{FLIP_WINDOW, Running},
};
use greenplum::Dialect;
use model::{Content, InstanceState, Look, Page, Postmaster, Reach, Role, Timeline, page::Shape};

/// A postgres that served for so long has left its crashes behind.
const SETTLED: Duration = Duration::from_mins(1);
/// Between two questions to a postgres that serves, to one that does not, and to one that has just been started.
const CALM: Duration = Duration::from_secs(5);
const UNEASY: Duration = Duration::from_millis(500);
const BEGINNING: Duration = MARKS;
/// So long it has just been started.
const BEGINS: Duration = Duration::from_secs(5);

/// Between two looks for a mirror's WAL receiver. One that is gone comes again within five seconds: before it does, how far the
/// log reaches and what the primary has begun meanwhile are to be known.
const RECEIVER: Duration = Duration::from_millis(500);
/// Between two questions to the segments while another coordinator is silent.
const WITNESSES: Duration = Duration::from_secs(20);
/// What the other side was seen to be counts for so long after it fell silent.
const LAST_SEEN: Duration = Duration::from_secs(30);

/// The catalog, and what the other side said beside it.
pub type RowRead = (Look<Answer, NotRead>, Look<PeerHere>);
/// What the other coordinators said and, while one of them is silent, now and then the segments.
pub type OthersRead = (Look<OtherHere>, Option<Witnesses>);

/// What a mirror asks about its source.
pub struct SourceRead {
    page: Look<Page>,
    /// How far its log reaches, if that was not known yet and nobody writes it, and when somebody last did.
    reaches: Option<(Look<Reach>, Option<SystemTime>)>,
    /// It received when it asked.
    received: bool,
}

impl Supervisor {
    /// Starts the questions that are due; none is waited for.
    pub(super) fn ask_again(&mut self, running: &mut Running) {
        let now = Instant::now();
        if running.probe.is_none() && now >= running.next_probe {
            self.keep_passfile();
            if self.still_follows(running) {
                self.settle(running);
                running.next_probe = now + CALM;
            } else {
                let (config, known) = (self.config.clone(), running.timeline);
                running.probe = Some(tokio::spawn(async move { serving::ask(&config, known).await }));
            }
        }
        if running.read.is_none() && now >= running.next_read {
            running.read = Some(self.ask_row(running));
            running.read_begun = now;
        }
        if running.others.is_none() && now >= running.next_others && self.dispatches(running) {
            running.others = Some(self.ask_other_coordinators(running));
        }
        if running.source.is_none() && now >= running.next_look && self.shape_now(running.dialect) == Shape::Mirror {
            self.look_for_receiver(running, now);
        }
    }

    fn look_for_receiver(&self, running: &mut Running, now: Instant) {
        running.next_look = now + if running.started.elapsed() < BEGINS { BEGINNING } else { RECEIVER };
        let position = running.postgres.received();
        if position != self.board.page().received {
            self.board.show(|page| page.received = position);
        }
        let receives = running.postgres.receives();
        running.log_known = running.log_known.filter(|_| !receives);
        if !receives && self.board.page().receiving {
            running.next_probe = now; // the page is to say so
        }
        if !receives || now >= running.next_source {
            running.source = Some(self.ask_source(running, receives));
        }
    }

    fn ask_other_coordinators(&self, running: &mut Running) -> JoinHandle<OthersRead> {
        let (config, own) = (self.config.clone(), self.own(&running.here));
        let due = running.next_witnesses <= Instant::now();
        if due {
            running.next_witnesses = Instant::now() + WITNESSES;
        }
        tokio::spawn(async move {
            let other = others::ask(&config, &own).await;
            let witnesses = match (&other, own.timeline) {
                (Look::Unknown(_), Some(timeline)) if due => others::own_witnesses(&config, timeline).await,
                (Look::Unknown(_) | Look::Seen(_), _) => None,
            };
            (other, witnesses)
        })
    }

    /// The row, and the other side beside it: what a catalog says alone is not enough to kill one that may hold the newest commits, nor
    /// for a mirror to run on where it is about to be promoted beside one.
    fn ask_row(&self, running: &Running) -> JoinHandle<RowRead> {
        let (config, known) = (self.config.clone(), self.known(&running.here));
        let other = running.here.other_side().filter(|_| matches!(self.shape_now(running.dialect), Shape::Primary | Shape::Mirror));
        self.board.counts.catalog_reads.inc();
        tokio::spawn(async move {
            let peer = async {
                match &other {
                    Some(other) => peer::ask(&config, Some(other), None).await,
                    None => Look::Unknown("not asked".into()),
                }
            };
            tokio::join!(ask::catalog(&config, known), peer)
        })
    }

    /// A coordinator that is open for writing.
    fn dispatches(&self, running: &Running) -> bool {
        running.here.content == Some(Content::COORDINATOR) && self.shape_now(running.dialect) == Shape::Primary
    }

    /// Asks the acting primary's page: that of the other side, for a mirror has no other source, or that of the coordinator
    /// that acts. Without a coordinator, too: what is not remembered in time is missed at the next start. While nobody writes
    /// the log, how far it reaches is looked up once, and again when somebody has.
    fn ask_source(&self, running: &mut Running, received: bool) -> JoinHandle<SourceRead> {
        let (known, dialect, data) = (running.log_known, running.dialect, self.volume.data().to_owned());
        let (config, other, own) = (self.config.clone(), running.here.other_side(), self.own(&running.here));
        let coordinator = running.here.content == Some(Content::COORDINATOR);
        tokio::spawn(async move {
            let look = || tokio::task::spawn_blocking(move || history::reaches_since(known, dialect, &data));
            let reaches = if received { None } else { look().await.ok().flatten() };
            let page = match other {
                _ if coordinator => others::source(&config, &own).await,
                Some(other) => peer::page_of_other(&config, &other).await,
                None => Look::Unknown("no peer was ever seen".into()),
            };
            SourceRead { page, reaches, received }
        })
    }

    /// What is received before and after its incarnation was asked for is followed, and whatever the log was a part of before.
    pub(super) fn source_said(&mut self, running: &mut Running, read: Option<SourceRead>) {
        running.source = None;
        let receives = running.postgres.receives();
        let Some(SourceRead { page, reaches, received }) = read else { return };
        // One that has just begun to receive has followed nobody yet.
        running.next_source = Instant::now() + if received && receives { CALM } else { Duration::ZERO };
        if let Some((reaches, written)) = reaches.filter(|_| !receives) {
            self.show_reach(Shape::Mirror, &reaches);
            running.log_known = reaches.seen().and(written);
            running.reached = reaches.seen().copied().or(running.reached);
        }
        let Look::Seen(page) = page else { return };
        let before = running.outlived;
        if outlived(running, &page) {
            running.next_source = Instant::now();
            if before == running.outlived {
                running.source_here =
                    Look::Seen(PrimaryHere::Lacks("its receiver is connected to an earlier incarnation of its primary".into()));
            }
        } else {
            running.source_here = self.follow(&mut running.here, &page, running.reached, received && receives);
        }
    }

    /// What the other coordinators say of themselves; that they are silent is what a crash in place goes by, too, unless the
    /// segments know of one on a higher timeline.
    pub(super) fn others_said(&mut self, running: &mut Running, read: Option<OthersRead>) {
        running.others = None;
        running.next_others = Instant::now() + CALM;
        let Some((look, witnesses)) = read else { return };
        match witnesses {
            Some(Witnesses::Against(why)) => {
                tracing::warn!(why, "the other coordinator is silent");
                self.memory.refuted = Some((Instant::now(), why));
            }
            Some(Witnesses::ForUs) => self.memory.refuted = None,
            Some(Witnesses::TooFew { .. }) | None => {}
        }
        match look {
            Look::Seen(OtherHere::Overtook(timeline)) => self.remember_who_overtook(timeline),
            Look::Seen(OtherHere::Behind | OtherHere::HoldsMore(_)) => {
                (running.others_asked, self.memory.refuted) = (Instant::now(), None);
            }
            Look::Seen(OtherHere::Rivals(_)) => {} // one that ends now is not to come back unasked
            Look::Unknown(_) if self.memory.refuted.is_some() => {}
            Look::Unknown(_) => running.others_asked = Instant::now(),
        }
        running.other = look;
    }

    /// A mirror that receives needs no question, as long as its page says what it should: each would be a FATAL in its log.
    fn still_follows(&self, running: &Running) -> bool {
        let page = self.board.page();
        page.receiving
            && page.state == self.shown(InstanceState::Serving)
            && self.shape_now(running.dialect) == Shape::Mirror
            && running.postgres.receives()
    }

    pub(super) fn answered(&mut self, running: &mut Running, answered: Option<Answered>) {
        running.probe = None;
        let answered = answered.unwrap_or_else(|| Answered::No("the question was broken off".into()));
        let (serves, timeline) = match answered {
            Answered::Serves(role, timeline) => (Some(role), timeline),
            Answered::ServesOthers(timeline, _) => (Some(Role::Primary), Some(timeline)),
            Answered::NotYet | Answered::No(_) => (None, None),
        };
        let receiving = serves == Some(Role::Mirror) && running.postgres.receives();
        let uneasy = if running.started.elapsed() < BEGINS { BEGINNING } else { UNEASY };
        running.next_probe = Instant::now() + if receiving || serves == Some(Role::Primary) { CALM } else { uneasy };
        if serves.is_some() {
            if serves == Some(Role::Primary) {
                running.was_primary = true;
                running.log_written = history::last_written(&self.volume.data().join(running.dialect.wal_folder()));
            }
            if running.timeline.is_none() {
                self.opened(running, timeline);
            }
            running.timeline = timeline;
            self.settle(running);
        } else if running.serving_since.take().is_some() && running.here.content != Some(Content::COORDINATOR) {
            running.next_read = Instant::now(); // it served and does not any more: ask what became of its role
        }
        let (state, detail) = match &running.outdated {
            Some(why) if serves == Some(Role::Primary) => (InstanceState::CatalogOutdated, why.clone()),
            Some(_) | None => state_of(&answered, running.started.elapsed(), running.is_mirror_before_recovery()),
        };
        let detail = if self.dispatches(running) { format!("{detail}{}", self.beside(&running.other)) } else { detail };
        let state = self.shown(state);
        let shape = self.shape_now(running.dialect);
        let (replays, start) = (running.postgres.replays(), running.postgres.effort().filter(|_| serves.is_none()));
        let postmaster = if serves == Some(Role::Primary) { self.postmaster() } else { None };
        self.board.show(|page| {
            (page.state, page.detail, page.serves, page.receiving, page.shape) = (state, detail, serves, receiving, shape);
            (page.replays, page.start, page.postmaster) = (replays, start, postmaster);
            page.timeline = timeline.or(page.timeline);
        });
    }

    /// The run of postgres that serves on this directory, by its own word.
    fn postmaster(&self) -> Option<Postmaster> {
        Postmaster::of_pid_file(&std::fs::read(self.volume.data().join("postmaster.pid")).ok()?)
    }

    /// What is amiss between a coordinator that dispatches and the other ones, for the end of a sentence.
    fn beside(&self, other: &Look<OtherHere>) -> String {
        match other {
            Look::Unknown(silent) => {
                let seen = self.memory.refuted.as_ref().map_or(String::new(), |(_, why)| format!("; {why}"));
                format!("; whether another coordinator has taken over is not known: {silent}{seen}")
            }
            Look::Seen(OtherHere::Rivals(timeline)) => format!("; {}", rivals(*timeline)),
            Look::Seen(OtherHere::Behind | OtherHere::HoldsMore(_) | OtherHere::Overtook(_)) => String::new(),
        }
    }

    /// It serves: after a while its crashes are no news any more, also those of a mirror that is asked nothing while it follows.
    fn settle(&mut self, running: &mut Running) {
        if running.serving_since.get_or_insert_with(Instant::now).elapsed() > SETTLED {
            (self.memory.crashes, self.memory.restarts, self.memory.not_before) = (0, 0, None);
        }
    }

    /// It tells its timeline for the first time: it takes writes.
    fn opened(&mut self, running: &mut Running, timeline: Option<Timeline>) {
        let Some(timeline) = timeline else { return };
        if running.here.shaped.shape == Shape::Mirror {
            self.promoted(running.dialect, timeline);
        } else if running.recovers {
            running.recovers = false;
            self.correct_incarnation();
        }
    }

    /// Whether it is shaped as a mirror now: promotion takes the marker away. What cannot be looked at is not gone.
    pub(super) fn shape_now(&self, dialect: Dialect) -> Shape {
        let there = |file: &str| self.volume.data().join(file).try_exists();
        match (there("PG_VERSION"), there(dialect.mirror_marker())) {
            (Ok(false), _) => Shape::Empty,
            (_, Ok(true)) => Shape::Mirror,
            (Ok(true), Ok(false)) => Shape::Primary,
            (Err(_), Ok(false)) | (_, Err(_)) => Shape::Unknown,
        }
    }

    pub(super) fn read_done(&mut self, running: &mut Running, read: Option<RowRead>) {
        running.read = None;
        running.row_asked = running.read_begun;
        let (look, peer) = match read {
            Some((look, peer)) => (Some(look), peer),
            None => (None, Look::Unknown("the question was broken off".into())),
        };
        // An answer that is missed once does not make a catalog right that the pair itself has contradicted.
        if peer.seen().is_some() || running.outdated.is_none() || running.peer_seen.elapsed() > LAST_SEEN {
            running.peer_seen = Instant::now();
            running.peer = peer;
        }
        running.unread = if look.as_ref().is_some_and(|look| look.seen().is_some()) { 0 } else { running.unread + 1 };
        running.row = match &look {
            Some(Look::Seen(answer)) => ask::row_here(&self.config, &answer.catalog, running.here.dbid),
            Some(Look::Unknown(why)) => Look::Unknown(why.to_string()),
            None => Look::Unknown("the question was broken off".into()),
        };
        if let Some(look) = look {
            self.remember(&look, running.here.dbid);
        }
        running.here.token = self.token_now();
        if let Err(error) = self.adopt(&running.here) {
            tracing::warn!(%error, "the token could not be brought up to date");
        }
        running.here.token = self.token_now(); // as it is by now
        self.show_token(&running.here.token);
        running.next_read = Instant::now() + jittered(self.next_read(running));
    }

    /// Once a minute while all is well; every second or two while the row may change under us.
    fn next_read(&self, running: &Running) -> Duration {
        let flip_window = running.was_primary && running.started.elapsed() < FLIP_WINDOW;
        let unclear = running.serving_since.is_none() || running.row.seen().is_none() || running.outdated.is_some();
        let uneasy = unclear || self.volume.stands("hold").unwrap_or(true);
        // Whether the pair was in sync is what decides when there is no coordinator to ask.
        let degraded = matches!(running.row, Look::Seen(RowHere::Mine { in_sync: false, .. }));
        match (flip_window, uneasy || self.volume.keeps(), degraded) {
            (true, ..) => Duration::from_secs(1),
            // Nobody waits for an answer that nobody gives: with each, a little less often.
            (false, true, _) => Duration::from_secs(2) * running.unread.clamp(1, 8),
            (false, false, true) => Duration::from_secs(10),
            (false, false, false) => Duration::from_mins(1),
        }
    }
}

/// A receiver that streamed before its primary began another incarnation is a connection to nobody, if nobody has noticed yet. What
/// it got since its log was last looked at is not known, and the next one may write over it: postgres is stopped to look.
fn outlived(running: &mut Running, page: &Page) -> bool {
    let (receiver, newest) = (running.postgres.receiver(), page.incarnations.last().map(|newest| newest.nonce.clone()));
    let (before, shown) = &running.fed_by;
    if shown.is_some() && *shown != newest {
        running.outlived = *before;
    }
    running.fed_by = (receiver, newest);
    receiver.is_some() && receiver == running.outlived
}

fn state_of(answered: &Answered, running: Duration, before_recovery: bool) -> (InstanceState, String) {
    match answered {
        Answered::Serves(Role::Primary, _) => (InstanceState::Serving, "serves as primary".into()),
        Answered::Serves(Role::Mirror, _) => (InstanceState::Serving, "serves as mirror".into()),
        Answered::ServesOthers(_, why) => (InstanceState::Serving, format!("serves as primary; {why}")),
        Answered::NotYet => (InstanceState::Starting, "postgres starts up".into()),
        Answered::No(why) if running < Duration::from_secs(10) => (InstanceState::Starting, why.clone()),
        Answered::No(why) if before_recovery => (InstanceState::Starting, format!("it has not begun to recover: {why}")),
        Answered::No(why) => (InstanceState::NotAnswering, why.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_that_is_still_to_recover_starts_however_long_it_answers_nobody() {
        let (moment, long) = (Duration::from_secs(9), Duration::from_hours(1));
        let state = |answered: &Answered, running, before| state_of(answered, running, before).0;
        let no = Answered::No("timed out".into());
        assert_eq!((state(&no, moment, false), state(&no, moment, true)), (InstanceState::Starting, InstanceState::Starting));
        assert_eq!((state(&no, long, false), state(&no, long, true)), (InstanceState::NotAnswering, InstanceState::Starting));
        assert_eq!(state(&Answered::NotYet, long, false), InstanceState::Starting);
        assert_eq!(state(&Answered::Serves(Role::Mirror, None), long, true), InstanceState::Serving);
    }
}
