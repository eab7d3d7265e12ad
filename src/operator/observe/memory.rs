//! What is remembered from look to look. All of it can be lost: what must not be lost stands in objects.

use std::{collections::BTreeMap, time::Duration};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use tokio::time::Instant;

use super::{Unanswered, database::Topology, ends::Ends, jobs::Said, receivers::Receivers, recoveries::RecoverySeen, stuck::Signs};
use api::{GreenplumCluster, convert};
use greenplum::{Login, SessionError};
use model::{Changed, Content, Dbid, InstanceState, Look, NoPage, Page, Plan, Role, Row, Source, Status, World, page::Effort};

/// How long credentials are used before the Secret is read again.
const LOGIN_KEPT: Duration = Duration::from_mins(5);

/// What moves on a page while there is work: state, since when, what is replayed, and what a start has done.
#[derive(Clone, Debug)]
struct Standing {
    said: (InstanceState, Timestamp, Option<String>),
    start: Option<Effort>,
}

impl Standing {
    fn on(page: &Page) -> Self {
        Self { said: (page.state, page.since, page.replays.clone()), start: page.start }
    }

    fn goes_on_from(&self, before: &Self) -> bool {
        let works = self.start.zip(before.start).is_some_and(|(now, before)| now.goes_on_from(before));
        self.said != before.said || works
    }
}

/// Per cluster.
#[derive(Debug, Default)]
pub struct Memory {
    login: Option<(String, Login, Instant)>,
    /// Acting primaries that answered read-write, with when the catalog had made them primaries.
    promoted: BTreeMap<Dbid, Option<Timestamp>>,
    /// When the catalog made instances primaries, by its coordinator's clock; since when it has said so, by one that nobody sets, and
    /// whether it was seen to begin to.
    marked: BTreeMap<Dbid, (Option<Timestamp>, Instant, bool)>,
    /// Since when instances have not been well; `None` before the status was read.
    unwell: Option<BTreeMap<Dbid, Timestamp>>,
    /// What the pages of instances said last, and since when they have said so, by a clock that nobody sets.
    still: BTreeMap<Dbid, (Standing, Instant)>,
    /// Since when supervisors have not answered, and since when WAL receivers have said why they receive nothing; by that clock.
    silent: BTreeMap<Dbid, Instant>,
    deaf: BTreeMap<Dbid, Instant>,
    /// Since when mirrors have received while FTS has them marked down.
    unmarked: BTreeMap<Dbid, Instant>,
    /// How often the postgres of instances was seen to end.
    pub ends: Ends,
    /// Which walsenders mirrors belong to.
    pub receivers: Receivers,
    /// What Jobs' logs say, by the Jobs' names, and when they are read next.
    pub logs: BTreeMap<String, (Instant, Said)>,
    /// What keeps Jobs from going on.
    pub signs: Signs,
    /// Access modes of claims by (uid of the pod, claim); both cannot change.
    pub claims: BTreeMap<(String, String), Option<String>>,
}

impl Memory {
    /// Credentials that were read lately.
    pub fn login(&self, secret: &str) -> Option<Login> {
        let (name, login, read) = self.login.as_ref()?;
        (name == secret && read.elapsed() < LOGIN_KEPT).then(|| login.clone())
    }

    pub fn keep_login(&mut self, secret: &str, login: Login) {
        self.login = Some((secret.to_owned(), login, Instant::now()));
    }

    /// A refused login is read anew: the password may have been changed.
    pub fn login_was_refused(&mut self, error: Option<&Unanswered>) {
        if matches!(error, Some(Unanswered::Session(SessionError::LoginRefused { .. }))) {
            self.login = None;
        }
    }

    /// Takes down who answered read-write.
    pub fn saw_sources(&mut self, topology: &Topology, sources: &BTreeMap<Content, Look<Source>>) {
        for source in sources.values().filter_map(Look::seen).filter(|source| !source.in_recovery) {
            self.promoted.insert(source.dbid, promoted_at(topology, source.dbid));
        }
    }

    /// It answered read-write since the catalog made it the primary.
    pub fn seen_promoted(&self, row: &Row, topology: &Topology) -> bool {
        row.role == Role::Primary && self.promoted.get(&row.dbid) == Some(&promoted_at(topology, row.dbid))
    }

    /// When the catalog was last seen to make an instance a primary.
    pub fn marked(&mut self, dbid: Dbid, at: Option<Timestamp>) -> Option<Changed> {
        let now = Instant::now();
        let (known, since, seen) = self.marked.entry(dbid).or_insert((at, now, false));
        if *known != at {
            (*known, *since, *seen) = (at, now, true);
        }
        let lasts = SignedDuration::try_from(now.duration_since(*since)).ok()?;
        Some(if *seen { Changed::Ago(lasts) } else { Changed::NotFor(lasts) })
    }

    /// After a restart: what the status remembers.
    pub fn recall(&mut self, cluster: &GreenplumCluster) {
        self.unwell.get_or_insert_with(|| convert::unwell_since(cluster));
    }

    /// Jobs and pods that are gone are forgotten.
    pub fn keep_only(&mut self, recoveries: &[RecoverySeen], pods: &[Pod]) {
        let jobs: Vec<_> = recoveries.iter().flat_map(|seen| seen.jobs.values()).map(|job| job.view.name.as_str()).collect();
        self.logs.retain(|name, _| jobs.contains(&name.as_str()));
        self.signs.keep_only(&jobs);
        self.claims.retain(|(pod, _), _| pods.iter().any(|one| one.metadata.uid.as_deref() == Some(pod)));
    }

    /// For how long nothing was seen to move at an instance. One that cannot be asked is not known to have moved.
    pub fn still(&mut self, dbid: Dbid, page: Option<&Page>) -> Option<SignedDuration> {
        let now = Instant::now();
        if let Some(page) = page {
            let shown = Standing::on(page);
            let (before, since) = self.still.entry(dbid).or_insert_with(|| (shown.clone(), now));
            if shown.goes_on_from(before) {
                *since = now;
            }
            before.said = shown.said;
            before.start = shown.start.or(before.start);
        }
        let (_, since) = self.still.get(&dbid)?;
        SignedDuration::try_from(now.duration_since(*since)).ok()
    }

    /// For how long its supervisor has not answered.
    pub fn silent(&mut self, dbid: Dbid, page: &Look<Page, NoPage>) -> Option<SignedDuration> {
        let is = match page {
            Look::Unknown(NoPage::Silent(_)) => true,
            Look::Unknown(NoPage::NotBelieved(_)) | Look::Seen(_) => false,
        };
        lasts(&mut self.silent, dbid, is)
    }

    /// For how long its WAL receiver has said why it receives nothing. One that cannot be asked is not known to receive.
    pub fn deaf(&mut self, dbid: Dbid, page: Option<&Page>) -> Option<SignedDuration> {
        let is = page.map_or(self.deaf.contains_key(&dbid), |page| page.is_deaf().is_some());
        lasts(&mut self.deaf, dbid, is)
    }

    /// For how long it has received while FTS has it marked down. One that cannot be asked is not known to have stopped.
    pub fn unmarked(&mut self, row: &Row, page: Option<&Page>) -> Option<SignedDuration> {
        let receives = page.map_or(self.unmarked.contains_key(&row.dbid), |page| page.receiving);
        lasts(&mut self.unmarked, row.dbid, receives && row.status == Status::Down)
    }

    pub fn unwell_since(&self, dbid: Dbid) -> Option<Timestamp> {
        self.unwell.as_ref()?.get(&dbid).copied()
    }

    /// Jobs that are ended before they began are remembered as such.
    pub fn ends(&mut self, plan: &Plan) {
        let instances = plan.recoveries.values().flat_map(|recovery| recovery.instances.values());
        for job in instances.filter(|one| one.end_job.is_some()).filter_map(|one| one.state.job.as_ref()) {
            self.signs.ends(job);
        }
    }

    /// What was not well in this look. Nothing is forgotten while the catalog cannot be read.
    pub fn remember(&mut self, world: &World, plan: &Plan) {
        if world.catalog.seen().is_some() {
            self.unwell = Some(plan.unwell.iter().map(|one| (one.dbid, one.since)).collect());
        }
    }
}

/// For how long something has been so at an instance.
fn lasts(since: &mut BTreeMap<Dbid, Instant>, dbid: Dbid, is: bool) -> Option<SignedDuration> {
    if !is {
        since.remove(&dbid);
        return None;
    }
    let now = Instant::now();
    SignedDuration::try_from(now.duration_since(*since.entry(dbid).or_insert(now))).ok()
}

fn promoted_at(topology: &Topology, dbid: Dbid) -> Option<Timestamp> {
    topology.history.get(&dbid)?.promoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use greenplum::topology::Written;
    use model::{Catalog, Reason, Refusal, Unwell, world::fixtures};

    fn topology(rows: &[&str], promoted: Option<i64>) -> Topology {
        let catalog = Catalog { rows: rows.iter().map(|text| fixtures::row(text)).collect() };
        let written = Written { newest: fixtures::ago(1), rows: 1, promoted: promoted.map(fixtures::ago) };
        let history = catalog.rows.iter().map(|row| (row.dbid, written)).collect();
        Topology { catalog, timeline: model::Timeline(1), history }
    }

    fn sources(in_recovery: bool) -> BTreeMap<Content, Look<Source>> {
        let dbid = Dbid(2);
        let source = Source { dbid, content: Content(0), in_recovery, system_identifier: None, walsenders: vec![] };
        BTreeMap::from([(Content(0), Look::Seen(source))])
    }

    #[test]
    fn promoted_means_read_write_since_the_catalog_made_it_the_primary() {
        let mut memory = Memory::default();
        let before = topology(&["2:0ppsu", "5:0mmsu"], Some(100));
        memory.saw_sources(&before, &sources(true));
        assert!(!memory.seen_promoted(&before.catalog.rows[0], &before));
        memory.saw_sources(&before, &sources(false));
        assert!(memory.seen_promoted(&before.catalog.rows[0], &before));
        let degraded = topology(&["2:0ppnu", "5:0mmnd"], Some(100));
        assert!(memory.seen_promoted(&degraded.catalog.rows[0], &degraded), "its mirror's fall is not another promotion");
        let again = topology(&["2:0ppnu", "5:0mmnd"], Some(1));
        assert!(!memory.seen_promoted(&again.catalog.rows[0], &again));
    }

    #[tokio::test(start_paused = true)]
    async fn a_promotion_was_when_it_was_seen_whatever_the_clock_of_its_coordinator_says() {
        let secs = SignedDuration::from_secs;
        for offset in [0, 61, -61, 86_400, -86_400] {
            let mut memory = Memory::default();
            assert_eq!(memory.marked(Dbid(5), None), Some(Changed::NotFor(secs(0))));
            tokio::time::advance(Duration::from_secs(40)).await;
            assert_eq!(memory.marked(Dbid(5), None), Some(Changed::NotFor(secs(40))));
            assert_eq!(memory.marked(Dbid(5), Some(fixtures::ago(offset))), Some(Changed::Ago(secs(0))), "{offset}");
            tokio::time::advance(Duration::from_secs(3)).await;
            assert_eq!(memory.marked(Dbid(5), Some(fixtures::ago(offset))), Some(Changed::Ago(secs(3))), "{offset}");
        }
    }

    #[test]
    fn a_blind_look_forgets_nothing() {
        let unwell = Unwell {
            dbid: Dbid(5),
            content: Content(0),
            row: String::new(),
            since: fixtures::ago(60),
            reason: Reason::Refused(Refusal::CatchingUp),
        };
        let mut memory = Memory::default();
        let mut world = World::of(&["2:0ppnu", "5:0mmnd"]);
        memory.remember(&world, &Plan { unwell: vec![unwell], ..Plan::default() });
        world = world.blind();
        memory.remember(&world, &Plan::default());
        assert_eq!(memory.unwell_since(Dbid(5)), Some(fixtures::ago(60)));
        memory.remember(&World::of(&["2:0ppsu", "5:0mmsu"]), &Plan::default());
        assert_eq!(memory.unwell_since(Dbid(5)), None);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_moves_while_state_and_replay_stand_still() {
        let mut memory = Memory::default();
        let mut page = fixtures::page(&fixtures::row("5:0mmnd"));
        page.replays = Some("00000001000000000000000A".into());
        let secs = |still: Option<SignedDuration>| still.map(|still| still.as_secs());
        assert_eq!(secs(memory.still(Dbid(5), None)), None, "never asked");
        assert_eq!(secs(memory.still(Dbid(5), Some(&page))), Some(0));
        tokio::time::advance(Duration::from_mins(2)).await;
        assert_eq!(secs(memory.still(Dbid(5), Some(&page))), Some(120));
        page.replays = Some("00000001000000000000000B".into());
        assert_eq!(secs(memory.still(Dbid(5), Some(&page))), Some(0), "it goes on");
        tokio::time::advance(Duration::from_secs(7)).await;
        assert_eq!(secs(memory.still(Dbid(5), None)), Some(7), "silence is no progress");
    }

    /// It syncs or removes a million files, and replays nothing meanwhile.
    #[tokio::test(start_paused = true)]
    async fn a_start_goes_on_while_its_own_process_works() {
        let effort = |pid, read_or_written, computed| Some(Effort { pid, read_or_written, computed });
        for (before, now, goes_on) in [
            (effort(7, 1, 1), effort(7, 1, 2), true),
            (effort(7, 1, 1), effort(7, 2, 1), true),
            (effort(7, 1, 1), effort(7, 1, 1), false),
            (effort(7, 1, 1), effort(8, 0, 0), false),
            (None, effort(7, 1, 1), false),
            (effort(7, 1, 1), None, false),
            (None, None, false),
        ] {
            let mut memory = Memory::default();
            let mut page = fixtures::page(&fixtures::row("5:0mmnd"));
            let mut still = |start| {
                page.start = start;
                memory.still(Dbid(5), Some(&page)).map(|still| still.as_secs())
            };
            assert_eq!(still(before), Some(0));
            tokio::time::advance(Duration::from_mins(9)).await;
            assert_eq!(still(now), Some(if goes_on { 0 } else { 540 }), "{before:?} {now:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_and_a_receiver_that_gets_nothing_are_timed_by_a_clock_that_nobody_sets() {
        let (mut memory, row) = (Memory::default(), fixtures::row("5:0mmsu"));
        let secs = |lasts: Option<SignedDuration>| lasts.map(|lasts| lasts.as_secs());
        let silent = Look::Unknown(NoPage::Silent("timed out".into()));
        let mut page = fixtures::page(&row);
        assert_eq!(secs(memory.silent(Dbid(5), &silent)), Some(0));
        tokio::time::advance(Duration::from_secs(16)).await;
        assert_eq!(secs(memory.silent(Dbid(5), &silent)), Some(16));
        assert_eq!(secs(memory.silent(Dbid(5), &Look::Unknown(NoPage::NotBelieved("another's".into())))), None);
        assert_eq!(secs(memory.silent(Dbid(5), &silent)), Some(0), "it had answered");
        assert_eq!(secs(memory.deaf(Dbid(5), Some(&page))), None);
        (page.receiving, page.receiver_error) = (false, Some("the slot is already active".into()));
        assert_eq!(secs(memory.deaf(Dbid(5), Some(&page))), Some(0));
        tokio::time::advance(Duration::from_secs(31)).await;
        assert_eq!(secs(memory.deaf(Dbid(5), None)), Some(31), "silence is no cure");
        assert_eq!(secs(memory.deaf(Dbid(5), Some(&page))), Some(31));
        page.receiving = true;
        assert_eq!(secs(memory.deaf(Dbid(5), Some(&page))), None);
    }

    #[tokio::test(start_paused = true)]
    async fn how_long_a_mirror_streams_that_fts_has_marked_down_is_timed_by_a_clock_that_nobody_sets() {
        let (mut memory, down) = (Memory::default(), fixtures::row("5:0mmnd"));
        let secs = |lasts: Option<SignedDuration>| lasts.map(|lasts| lasts.as_secs());
        let mut page = fixtures::page(&down);
        assert_eq!(secs(memory.unmarked(&down, None)), None, "nobody has seen it stream");
        assert_eq!(secs(memory.unmarked(&down, Some(&page))), Some(0));
        tokio::time::advance(Duration::from_secs(31)).await;
        assert_eq!(secs(memory.unmarked(&down, None)), Some(31));
        assert_eq!(secs(memory.unmarked(&fixtures::row("5:0mmnu"), Some(&page))), None, "FTS has marked it up");
        assert_eq!(secs(memory.unmarked(&down, Some(&page))), Some(0));
        page.receiving = false;
        assert_eq!(secs(memory.unmarked(&down, Some(&page))), None);
    }

    #[tokio::test(start_paused = true)]
    async fn credentials_are_read_again_when_refused_and_now_and_then() {
        let mut memory = Memory::default();
        let login = || Login { user: "gpadmin".into(), password: "x".into(), tls: greenplum::Tls::Disable };
        memory.keep_login("secret", login());
        assert!(memory.login("secret").is_some() && memory.login("other").is_none());
        let server = greenplum::Server::parse("c:1").unwrap();
        memory.login_was_refused(Some(&Unanswered::Session(SessionError::LoginRefused { server, message: String::new() })));
        assert!(memory.login("secret").is_none());
        memory.keep_login("secret", login());
        tokio::time::advance(LOGIN_KEPT).await;
        assert!(memory.login("secret").is_none());
    }
}
