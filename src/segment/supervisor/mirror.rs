//! An acting primary's look at its mirror: a mirror that hangs is told of at once, its walsender is ended, and FTS is asked to
//! look when its grace is over. Commits of the content wait for seconds then, and not for `wal_sender_timeout`.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::{task::JoinHandle, time::Instant};

use super::{
    Config, Supervisor,
    acknowledged::Acknowledged,
    facts::RowHere,
    hang::{self, Sight, Standing, Track},
    idle::MARKS,
    walsender::{self, Ended, Stays},
    watch::Running,
    works::{COMES_BACK, Works},
};
use crate::volume::commits::is_marked_as_mirror;
use greenplum::{
    Dialect, Session, SessionError, fts,
    replication::{self, Position, Sender, Senders},
};
use model::{
    Look, Page, Role,
    page::{MirrorHang, Shape, Work},
};

/// Bound of one statement to our own postgres.
const STATEMENT: Duration = Duration::from_secs(3);
/// The pause after a look that failed, and after one that showed that no login of ours may see positions.
const AGAIN: Duration = Duration::from_secs(5);
const BLIND: Duration = Duration::from_mins(1);
/// FTS counts its grace in whole seconds, from the end of the walsender.
const PAST_GRACE: Duration = Duration::from_millis(1100);
/// Greenplum's default, where the setting cannot be read.
const GRACE: Duration = Duration::from_secs(30);
/// FTS is asked so often, with such pauses, and has so long for a look; after that it looks by itself once a minute.
const ASKS: u32 = 5;
const ASK_APART: Duration = Duration::from_secs(3);
const ASK: Duration = Duration::from_secs(30);
/// One that was slow for the last time so long ago is not called so any more.
const SLOW: Duration = Duration::from_mins(1);
/// A mirror that owes an answer for so long is asked whether it works.
const ASKED: Duration = Duration::from_secs(1);
/// What has ended, and neither came back nor was marked down, is no finding any more.
const FORGOTTEN: Duration = Duration::from_mins(5);

/// What is asked, and what is remembered of the answers.
#[derive(Default)]
pub struct MirrorWatch {
    pub errand: Option<JoinHandle<Errand>>,
    pub asking: Option<JoinHandle<()>>,
    track: Track,
    /// Kept from look to look, and opened with this one of postgres' logins.
    session: Option<Session>,
    login: usize,
    next: Option<Instant>,
    /// No process sends to a mirror.
    gone: bool,
    /// A walsender that had nothing owed, and its title then: while that stays, nothing was sent since.
    quiet: Option<(i32, Vec<u8>)>,
    /// When the walsender was ended, whether there is one again, and when FTS is asked next, how often still.
    pub(super) ended: Option<Instant>,
    pub(super) is_back: bool,
    ask: Option<(Instant, u32)>,
    /// Why the last one that was to be ended was not.
    stays: Option<String>,
    /// It has owed an answer for a while; what its own supervisor shows meanwhile.
    pub(super) owes: bool,
    pub(super) page: Option<JoinHandle<Look<Page>>>,
    pub(super) next_page: Option<Instant>,
    pub(super) works: Works,
    /// When it was last said to be slow.
    slow: Option<Instant>,
    /// Looks in a row that failed.
    failed: u32,
    acknowledged: Acknowledged,
}

/// What came of an errand. Both bring the session back.
pub enum Errand {
    Looked(Option<Session>, Looked),
    Ended(Option<Session>, Sender, Result<Ended, Stays>, Option<Duration>),
}

/// What a look showed.
pub enum Looked {
    /// The walsenders, and the title that the one seen before had before.
    Seen(Vec<Sight>, Option<(i32, Vec<u8>)>),
    /// How far they are is known, and nothing of what shows whether they work.
    Unjudged(Vec<Sender>, String),
    /// This login may not see how far they are.
    Hidden,
    /// There is no such login, or it may not log in.
    NoLogin(String),
    Failed(String),
}

impl MirrorWatch {
    /// Nobody needs the answers any more.
    pub fn stop(&mut self) {
        self.errand.take().inspect(JoinHandle::abort);
        self.asking.take().inspect(JoinHandle::abort);
        self.page.take().inspect(JoinHandle::abort);
    }

    /// Nothing was sent since nothing was owed: the title says how far a walsender has sent, where titles are written at all.
    fn is_quiet(&self) -> bool {
        self.quiet.as_ref().is_some_and(|(pid, title)| {
            let tells = String::from_utf8_lossy(title).contains("streaming ");
            tells && walsender::title(*pid).as_ref() == Some(title) && walsender::works(*pid) == Some(true)
        })
    }

    /// The mirror is back, or marked down.
    fn settled(&mut self) {
        (self.ended, self.is_back, self.ask, self.stays) = (None, false, None, None);
        self.asking.take().inspect(JoinHandle::abort);
    }
}

impl Supervisor {
    /// Starts what is due: a look at the mirror, a question to FTS.
    pub(super) fn watch_mirror(&self, running: &mut Running) {
        let (now, watch) = (Instant::now(), &mut running.mirror);
        if running.here.content.is_none_or(|content| content.0 < 0) {
            return; // FTS does not watch it
        }
        // What it acknowledges needs no login to be known.
        if running.timeline.is_some() || matches!(is_marked_as_mirror(self.volume.data()), Ok(false)) {
            watch.acknowledged.told(&self.volume, &self.show_alone(Shape::Primary));
        }
        if running.timeline.is_none() {
            return; // it takes no writes yet, as far as it has told
        }
        if watch.acknowledged.is_settling() && self.board.page().mirror_unwatched.is_none() && watch.failed == 0 {
            watch.next = watch.next.map(|next| next.min(now + MARKS)); // a primary that is lost before that needs a person
        }
        if watch.errand.is_none() && watch.next.is_none_or(|next| now >= next) {
            watch.next = Some(now + hang::APART);
            watch.gone = !walsender::any(running.postgres.pid);
            watch.acknowledged.looks();
            if watch.gone || !watch.acknowledged.is_alone() && watch.is_quiet() {
                (watch.is_back, watch.owes) = (watch.is_back && !watch.gone, false);
                watch.session = None; // a postgres that is told to end when all sessions have would wait for this one
            } else {
                let known = watch.quiet.as_ref().map(|(pid, _)| *pid);
                let look = look(self.config.clone(), watch.session.take(), watch.login, running.dialect, running.postgres.pid, known);
                watch.errand = Some(tokio::spawn(look));
            }
        }
        let marked = matches!(running.row.seen(), Some(RowHere::Mine { role: Role::Primary, in_sync: false }));
        let forgotten = watch.ended.is_some_and(|ended| ended.elapsed() > FORGOTTEN);
        if watch.ended.is_some() && (marked || forgotten) || marked && watch.gone {
            watch.settled();
            if self.board.page().mirror_hangs.is_some() {
                self.board.show(|page| page.mirror_hangs = None);
            }
        }
        self.ask_whether_it_works(running);
        self.ask_fts_when_due(running);
    }

    /// A walsender that is back, in whatever state, has taken the question back; a mirror that works is waited for.
    fn ask_fts_when_due(&self, running: &mut Running) {
        let (now, watch) = (Instant::now(), &mut running.mirror);
        let Some((_, left)) = watch.ask.filter(|(at, left)| *left > 0 && now >= *at && watch.asking.is_none()) else { return };
        // A walsender that cannot be looked at may be that of this mirror.
        let unsure = !watch.gone && watch.failed > 0;
        if unsure || watch.works.moved_within(COMES_BACK, std::time::Instant::now()) {
            watch.ask = Some((now + ASKED, left));
        } else {
            watch.ask = Some((now, left - 1));
            watch.asking = Some(tokio::spawn(ask_fts(self.config.clone())));
        }
    }

    /// FTS has looked: the row may be another one.
    pub(super) fn fts_looked(running: &mut Running, _: Option<()>) {
        running.mirror.asking = None;
        running.mirror.ask = running.mirror.ask.map(|(_, left)| (Instant::now() + ASK_APART, left));
        running.next_read = Instant::now();
    }

    pub(super) fn mirror_looked(&mut self, running: &mut Running, errand: Option<Errand>) {
        running.mirror.errand = None;
        match errand {
            Some(Errand::Looked(session, looked)) => {
                running.mirror.session = session;
                self.looked(running, looked);
            }
            Some(Errand::Ended(session, sender, ended, grace)) => {
                running.mirror.session = session;
                self.walsender_ended(running, &sender, &ended, grace);
            }
            None => {} // broken off; the next look is due soon
        }
    }

    fn looked(&mut self, running: &mut Running, looked: Looked) {
        let (unwatched, pause) = match looked {
            Looked::Seen(sights, before) => {
                self.judge_mirror(running, &sights, before);
                (None, None)
            }
            Looked::Hidden | Looked::NoLogin(_) if running.mirror.login + 1 < self.config.postgres_credentials.len() => {
                (running.mirror.session, running.mirror.login) = (None, running.mirror.login + 1);
                return;
            }
            Looked::Hidden => {
                running.mirror.acknowledged.hidden(&self.volume);
                (Some(HIDDEN.to_owned()), Some(BLIND))
            }
            Looked::NoLogin(why) => {
                running.mirror.acknowledged.unseen(&self.volume);
                (Some(format!("{why}; {HIDDEN}")), Some(BLIND))
            }
            Looked::Unjudged(senders, why) => {
                running.mirror.acknowledged.seen(&self.volume, running.timeline, &positions(&senders));
                (Some(why).filter(|_| running.mirror.failed > 0), Some(AGAIN))
            }
            Looked::Failed(why) => {
                running.mirror.acknowledged.unseen(&self.volume);
                (Some(why).filter(|_| running.mirror.failed > 0), Some(AGAIN)) // the first may be of a moment
            }
        };
        running.mirror.failed = if pause == Some(AGAIN) { running.mirror.failed.saturating_add(1) } else { 0 };
        if let Some(pause) = pause {
            (running.mirror.session, running.mirror.login) = (None, 0);
            running.mirror.next = Some(Instant::now() + pause);
        }
        if unwatched != self.board.page().mirror_unwatched {
            if let Some(why) = &unwatched {
                tracing::warn!(why, "whether the mirror hangs cannot be told");
            }
            self.board.show(|page| page.mirror_unwatched = unwatched);
        }
    }

    fn judge_mirror(&mut self, running: &mut Running, sights: &[Sight], before: Option<(i32, Vec<u8>)>) {
        let watch = &mut running.mirror;
        watch.acknowledged.seen(&self.volume, running.timeline, &positions(sights.iter().map(|(sender, _)| sender)));
        let (standing, about) = watch.track.judge(sights, watch.acknowledged.commits_wait(), std::time::Instant::now());
        watch.quiet = None;
        watch.is_back = watch.ended.is_some() && !sights.is_empty();
        if watch.is_back {
            watch.ask = None; // whether it lives will show
        }
        let lasts = about.map_or(Duration::ZERO, |(_, lasts)| lasts);
        watch.owes = matches!(standing, Standing::Owes | Standing::Hangs | Standing::HangsAgain) && lasts >= ASKED;
        if let Some((sender, lasts)) = about {
            match standing {
                Standing::Gone => {}
                Standing::Unjudged | Standing::Owes => self.forget_that_it_was_slow(running),
                Standing::Stopped => {
                    let process = sender.pid;
                    let why =
                        format!("its walsender, process {process}, does not work: it is stopped, or waits for the primary's own disk");
                    self.say_hangs(sender, lasts, &why);
                }
                Standing::Lives => {
                    // Its title is read before the next look, to be held against what that shows.
                    let noted = watch.acknowledged.is_written();
                    let caught_up =
                        noted && sights.len() == 1 && sender.position.sent.is_some() && sender.position.sent == sender.position.flush;
                    let title = before.filter(|(pid, _)| caught_up && *pid == sender.pid);
                    watch.quiet = Some(title.unwrap_or((sender.pid, vec![])));
                    watch.settled();
                    self.board.show(|page| page.mirror_hangs = None);
                }
                Standing::Hangs | Standing::HangsAgain => self.stands_still(running, sender, lasts, standing == Standing::Hangs),
            }
        }
        self.say_whether_fts_may_look(running);
    }

    /// It has owed an answer for too long. What its own supervisor shows is asked before anything is ended.
    fn stands_still(&mut self, running: &mut Running, sender: &Sender, lasts: Duration, may_be_ended: bool) {
        let watch = &mut running.mirror;
        let stays = watch.stays.clone();
        if let Some(work) = watch.works.works(std::time::Instant::now()) {
            watch.slow = Some(Instant::now());
            self.say_slow(sender, lasts, work);
        } else if !may_be_ended {
            self.say_hangs(sender, lasts, stays.as_deref().unwrap_or("its walsender was ended less than a minute ago"));
        } else if self.volume.stands("maintenance").unwrap_or(true) {
            self.say_hangs(sender, lasts, "a person works here (maintenance): its walsender is left alone");
        } else if !self.config.hasten_lost_mirror {
            self.say_hangs(sender, lasts, "GPHEAL_HASTEN_LOST_MIRROR is false: its walsender is left alone");
        } else {
            self.say_hangs(sender, lasts, "its walsender is being ended");
            watch.track.ended(std::time::Instant::now());
            let end = end(running.postgres.pid, watch.session.take(), sender.clone());
            watch.errand = Some(tokio::spawn(end));
        }
    }

    fn forget_that_it_was_slow(&self, running: &mut Running) {
        if running.mirror.slow.is_some_and(|said| said.elapsed() > SLOW) {
            running.mirror.slow = None;
            self.board.show(|page| page.mirror_hangs = page.mirror_hangs.take().filter(|hang| !hang.slow));
        }
    }

    fn walsender_ended(&mut self, running: &mut Running, sender: &Sender, ended: &Result<Ended, Stays>, grace: Option<Duration>) {
        let said = match ended {
            Ok(how) => {
                self.board.counts.walsenders_ended.inc();
                let grace = grace.unwrap_or(GRACE);
                (running.mirror.ended, running.mirror.is_back) = (Some(Instant::now()), false);
                running.mirror.ask = Some((Instant::now() + grace + PAST_GRACE, ASKS));
                let how = match how {
                    Ended::Closed => "its connection was closed",
                    Ended::Told => "it was told to end",
                    Ended::Before => "it had ended by itself",
                };
                format!(
                    "its walsender was ended ({how}): one that lives connects again, else FTS is asked to look in {} s",
                    grace.as_secs() + 1
                )
            }
            Err(why) => format!("its walsender is not ended: {why}"),
        };
        tracing::warn!(walsender = sender.pid, said, "the mirror hangs");
        let done = ended.is_ok();
        running.mirror.stays = (!done).then(|| said.clone());
        self.board.show(|page| {
            if let Some(hang) = &mut page.mirror_hangs {
                let stands = hang.detail.split("; its walsender").next().unwrap_or_default();
                (hang.detail, hang.ended) = (format!("{stands}; {said}"), done);
            }
        });
    }

    fn say_hangs(&self, sender: &Sender, lasts: Duration, done: &str) {
        self.say_stands_still(sender, lasts, done, false);
    }

    fn say_slow(&self, sender: &Sender, lasts: Duration, work: Work) {
        let receiver = work.pid;
        let done = format!("its WAL receiver, process {receiver} there, works and is slow: its walsender is left alone");
        self.say_stands_still(sender, lasts, &done, true);
    }

    fn say_stands_still(&self, sender: &Sender, lasts: Duration, done: &str, slow: bool) {
        let at = |lsn: Option<model::Lsn>| lsn.map_or("?".into(), |lsn| lsn.to_string());
        let (sent, flush) = (at(sender.position.sent), at(sender.position.flush));
        let detail = format!(
            "the mirror was sent the log up to {sent}, and has acknowledged nothing past {flush} since; commits wait for it; {done}"
        );
        let since = Timestamp::now() - SignedDuration::try_from(lasts).unwrap_or(SignedDuration::ZERO);
        let before = self.board.page().mirror_hangs;
        if before.as_ref().is_none_or(|before| before.slow != slow) {
            if !slow {
                self.board.counts.mirror_hangs.inc();
            }
            tracing::warn!(walsender = sender.pid, detail, slow, "the mirror answers nothing");
        }
        let since = before.map_or(since, |before| before.since);
        self.board.show(|page| page.mirror_hangs = Some(MirrorHang { since, detail, ended: false, slow }));
    }
}

/// Ends that walsender, and asks how long FTS waits for another.
async fn end(postmaster: nix::unistd::Pid, session: Option<Session>, sender: Sender) -> Errand {
    let who = sender.clone();
    let ended = tokio::task::spawn_blocking(move || walsender::end(postmaster, &who)).await;
    let ended = ended.unwrap_or_else(|broken| Err(Stays::Unseen(std::io::Error::other(broken))));
    let grace = match &session {
        Some(session) => replication::mirror_grace(session, STATEMENT).await.ok().flatten(),
        None => None,
    };
    Errand::Ended(session, sender, ended, grace)
}

/// What would let us see.
const HIDDEN: &str = "this login does not see how far a mirror is, so whether one hangs cannot be told: name a superuser (on 7 a \
                      member of pg_monitor does) in GPHEAL_POSTGRES_CREDENTIALS";

async fn look(
    config: Config,
    session: Option<Session>,
    login: usize,
    dialect: Dialect,
    postmaster: nix::unistd::Pid,
    known: Option<i32>,
) -> Errand {
    let open = session.filter(|session| !session.client.is_closed());
    let session = match open {
        Some(session) => session,
        None => match opened(&config, login, dialect).await {
            Ok(session) => session,
            Err(looked) => return Errand::Looked(None, looked),
        },
    };
    let before = known.and_then(|pid| Some((pid, walsender::title(pid)?)));
    match replication::senders(&session, STATEMENT).await {
        Ok(Senders::Hidden) => Errand::Looked(None, Looked::Hidden),
        Ok(Senders::Seen(senders)) => {
            let senders: Vec<_> = senders.into_iter().filter(|sender| walsender::lives(sender.pid)).collect();
            let sight = |sender: &Sender| walsender::outside(postmaster, sender).map(|outside| (sender.clone(), outside));
            let sights: Vec<_> = senders.iter().filter_map(sight).collect();
            if !senders.is_empty() && sights.is_empty() {
                let why = "the walsender's process, or its connection, cannot be looked at";
                return Errand::Looked(Some(session), Looked::Unjudged(senders, why.into()));
            }
            Errand::Looked(Some(session), Looked::Seen(sights, before))
        }
        Err(error) => Errand::Looked(None, Looked::Failed(error.to_string())),
    }
}

fn positions<'a>(senders: impl IntoIterator<Item = &'a Sender>) -> Vec<Position> {
    senders.into_iter().map(|sender| sender.position).collect()
}

async fn opened(config: &Config, login: usize, dialect: Dialect) -> Result<Session, Looked> {
    let login = config.postgres_login(login).map_err(|error| Looked::NoLogin(error.to_string()))?;
    Session::utility(&config.local(), &login, Some(dialect)).await.map_err(|error| match error {
        SessionError::LoginRefused { .. } => Looked::NoLogin(error.to_string()),
        other => Looked::Failed(other.to_string()),
    })
}

/// Has FTS look, by whichever coordinator dispatches.
async fn ask_fts(config: Config) {
    let Ok(login) = config.login() else { return };
    for server in &config.coordinator {
        let asked = async { fts::request_probe(&Session::dispatch(server, &login).await?).await };
        match tokio::time::timeout(ASK, asked).await {
            Ok(Ok(())) => return tracing::info!(%server, "FTS was asked to look: the mirror's walsender was ended"),
            Ok(Err(error)) => tracing::debug!(%error, "FTS could not be asked to look"),
            Err(_) => tracing::debug!(%server, "FTS has not looked within {} s", ASK.as_secs()),
        }
    }
}
