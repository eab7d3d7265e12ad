//! Greenplum and Kubernetes -> `World`: one look at one cluster. Nothing is decided here, and nothing that
//! could not be looked at is taken for down.

pub mod agreed;
pub mod background;
pub mod cluster;
pub mod database;
pub mod ends;
mod glance;
pub mod jobs;
pub mod kernel;
pub mod lacks;
pub mod memory;
mod nearby;
pub mod nodes;
pub mod places;
pub mod receivers;
pub mod recoveries;
pub mod refused;
pub mod stuck;

#[cfg(test)]
pub mod fixtures;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use futures::{StreamExt, stream};
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::{Client, ResourceExt};
use tokio::sync::Notify;

use self::{
    agreed::Named,
    background::Background,
    cluster::{Listed, ObserveError, Reader},
    database::{Sessions, Topology},
    glance::Glance,
    memory::Memory,
    nodes::Nodes,
    places::Place,
    recoveries::RecoverySeen,
    refused::Refusals,
};
use api::{GreenplumCluster, SegmentRecovery, cluster::Coordinator as CoordinatorSpec, convert};
use greenplum::{Login, Server, SessionError, TlsFault};
use model::{
    Catalog, Content, Dbid, Instance, Look, NoPage, Page, Plan, Source, Timeline, Unread, World, refusal::ContractPoint,
    world::Undispatched,
};
use web;

/// Pages asked at once.
const PAGES_AT_ONCE: usize = 32;

/// One look, with the objects that it was made from: effects are bound to them.
#[derive(Clone, Debug)]
pub struct Seen {
    pub world: World,
    /// Pod of each instance.
    pub pods: BTreeMap<Dbid, Arc<Pod>>,
    /// The recoveries as they were read.
    pub objects: BTreeMap<String, SegmentRecovery>,
    /// Jobs of the recoveries that are not over.
    pub jobs: BTreeMap<String, BTreeMap<Dbid, jobs::JobSeen>>,
}

/// Looks at one cluster, and keeps its sessions from look to look.
pub struct Observer {
    reader: Reader,
    sessions: Sessions,
    background: Background,
    memory: Memory,
    nodes: Nodes,
    glance: Glance,
    refusals: Refusals,
    wake: Arc<Notify>,
    /// Whose Jobs could not be made, as whoever makes them says: see [`World::not_made`].
    pub not_made: Vec<(String, Dbid)>,
}

/// Who answers for the database in this look.
struct Coordinator {
    server: Server,
    login: Result<Login, Unanswered>,
}

impl Observer {
    /// `wake` is told when something that was asked in the background has an answer.
    pub fn new(client: Client, namespace: &str, wake: Arc<Notify>) -> Self {
        let reader = Reader::new(client, namespace);
        let (sessions, background, memory, nodes, glance, refusals, not_made) = Default::default();
        Self { reader, sessions, background, memory, nodes, glance, refusals, wake, not_made }
    }

    /// One look at everything.
    ///
    /// # Errors
    /// [`ObserveError`]: without its objects and pods a cluster cannot be judged at all. That its database does
    /// not answer is no error, it is what was seen.
    pub async fn look(&mut self, cluster: &GreenplumCluster) -> Result<Seen, ObserveError> {
        let coordinator = self.coordinator(cluster).await;
        let name = cluster.name_any();
        let (topology, pods, objects) = tokio::join!(
            topology(&mut self.sessions, &coordinator),
            self.reader.pods(&cluster.spec.segments.selector),
            self.reader.recoveries(&name),
        );
        let older = topology.as_ref().ok().and_then(|topology| self.older(cluster, topology.timeline));
        let topology = older.map_or(topology, Err);
        self.memory.login_was_refused(topology.as_ref().err());
        let (pods, objects) = (pods?, objects?);
        let (jobs, job_pods) = self.jobs(&name, &objects).await?;
        let mut joined: Vec<RecoverySeen> = objects.ours.iter().map(|object| recoveries::join(object, &jobs, &job_pods)).collect();
        self.reader.progress(&mut joined, &mut self.memory).await;
        self.memory.keep_only(&joined, &pods);
        let mut world = self.world(cluster, &coordinator, topology, &pods, &joined).await?;
        if objects.may_have_jobs() {
            world.at_work = Look::Seen(jobs::at_work(&jobs, &job_pods));
        }
        world.unreadable = [objects.unreadable, objects.foreign].concat();
        let mut seen = seen(world, pods, objects.ours, joined);
        self.nearby(&mut seen).await;
        Ok(seen)
    }

    /// What the plan asks to be done in the background, and what is to be remembered of it.
    pub async fn follow(&mut self, cluster: &GreenplumCluster, seen: &Seen, plan: &Plan) {
        self.memory.remember(&seen.world, plan);
        self.memory.ends(plan);
        if plan.doubts_the_coordinator() {
            self.sessions.forget_coordinator(); // its name may lead to another one by now
        }
        let Some(why) = &plan.probe else { return self.background.no_probe() };
        let Coordinator { server, login } = self.coordinator(cluster).await;
        if let Ok(login) = login {
            self.background.probe(&server, &login, why, &self.wake).await;
        }
    }

    /// Until a supervisor's page says what is not to wait for the next look.
    pub async fn until_something_happens(&self) {
        self.glance.until_something_happens().await;
    }

    async fn coordinator(&mut self, cluster: &GreenplumCluster) -> Coordinator {
        let spec = &cluster.spec.coordinator;
        let port = u16::try_from(spec.port).unwrap_or(5432);
        let server = Server { database: spec.database.clone(), ..Server::new(&cluster.coordinator_host(), port) };
        Coordinator { server, login: self.login(spec).await }
    }

    /// Credentials are kept for a while; the authorities to trust are read anew in each look, so that a new connection
    /// never goes by old ones.
    async fn login(&mut self, spec: &CoordinatorSpec) -> Result<Login, Unanswered> {
        let tls = self.reader.tls(&spec.tls).await?;
        let secret = &spec.credentials_secret.name;
        if let Some(login) = self.memory.login(secret) {
            return Ok(Login { tls, ..login });
        }
        let login = self.reader.login(secret).await.map_err(Unanswered::NoLogin)?;
        self.memory.keep_login(secret, login.clone());
        Ok(Login { tls, ..login })
    }

    /// Never believed: a coordinator on a lower timeline than one before it. What was seen stands in the status, so that
    /// another operator knows it too.
    fn older(&mut self, cluster: &GreenplumCluster, now: Timeline) -> Option<Unanswered> {
        let seen = convert::coordinator_timeline(cluster).filter(|seen| now < *seen)?;
        self.sessions.forget_coordinator();
        Some(Unanswered::OldCoordinator { now, seen })
    }

    /// Jobs and their pods, only while it counts whether there are some.
    async fn jobs(&self, cluster: &str, objects: &Listed) -> Result<(Vec<Job>, Vec<Pod>), ObserveError> {
        if !objects.may_have_jobs() {
            return Ok((vec![], vec![]));
        }
        let (jobs, pods) = tokio::join!(self.reader.jobs(cluster), self.reader.job_pods(cluster));
        Ok((jobs?, pods?))
    }

    async fn world(
        &mut self,
        cluster: &GreenplumCluster,
        coordinator: &Coordinator,
        topology: Result<Topology, Unanswered>,
        pods: &[Pod],
        joined: &[RecoverySeen],
    ) -> Result<World, ObserveError> {
        let mut world = World {
            catalog: Look::Unknown(Unread::CoordinatorSilent { why: "it was not asked yet".into() }),
            coordinator_timeline: None,
            selected: pods.len(),
            instances: BTreeMap::new(),
            sources: BTreeMap::new(),
            dispatch: self.dispatch(coordinator, joined).await,
            unprobed: self.background.unprobed.clone(),
            not_made: self.not_made.clone(),
            recoveries: joined.iter().map(|one| one.recovery.clone()).collect(),
            unreadable: vec![],
            at_work: Look::Unknown("nothing may be begun or removed".into()),
            cluster_uid: cluster.uid().unwrap_or_default(),
            cluster_name: cluster.name_any(),
        };
        self.glance = Glance::default();
        let topology = match topology {
            Ok(topology) => topology,
            Err(why) => {
                world.catalog = Look::Unknown(why.unread());
                return Ok(world);
            }
        };
        let places = places::places(&topology.catalog, pods);
        let container = &cluster.spec.segments.container;
        let (sources, pages, access) = tokio::join!(
            sources(&mut self.sessions, coordinator, &topology.catalog, &places),
            pages(&places),
            self.reader.access(&topology.catalog, &places, container, &mut self.memory.claims),
        );
        self.memory.saw_sources(&topology, &sources);
        self.memory.recall(cluster);
        world.instances = self.instances(&topology, &places, pages, access?, cluster, &Named::by(cluster, pods));
        world.sources = sources;
        world.coordinator_timeline = Some(topology.timeline);
        world.catalog = Look::Seen(topology.catalog);
        self.memory.receivers.judge(&mut world);
        self.glance = Glance::of(&world, &places);
        Ok(world)
    }

    async fn dispatch(&mut self, coordinator: &Coordinator, joined: &[RecoverySeen]) -> Look<Vec<Content>, Undispatched> {
        let live = joined.iter().filter(|one| !one.recovery.phase.is_over()).flat_map(|one| one.recovery.instances.values());
        // A Job that ended is proven from the next look on; one that runs needs no proof yet.
        let proving = live.filter(|instance| !instance.phase.is_over()).any(|instance| instance.proving_since.is_some());
        match &coordinator.login {
            Ok(login) => self.background.dispatch(proving, &coordinator.server, login, &self.wake).await,
            Err(why) => Look::Unknown(why.to_string().into()),
        }
    }

    fn instances(
        &mut self,
        topology: &Topology,
        places: &BTreeMap<Dbid, Place>,
        mut pages: BTreeMap<Dbid, Look<Page, NoPage>>,
        mut access: BTreeMap<Dbid, (String, Look<String>)>,
        cluster: &GreenplumCluster,
        coordinator: &Named,
    ) -> BTreeMap<Dbid, Instance> {
        let one = |row: &model::Row| {
            let place = places.get(&row.dbid).unwrap_or(&Place::None);
            let mut contract = places::contract(row, place, &cluster.spec.segments.container);
            if let Place::One(pod) = place {
                contract.extend(agreed::points(pod, cluster, coordinator));
            }
            let page = pages.remove(&row.dbid).unwrap_or_else(|| Look::Unknown(NoPage::Silent("it has no pod to ask".into())));
            let still = self.memory.still(row.dbid, page.seen());
            let (silent, deaf) = (self.memory.silent(row.dbid, &page), self.memory.deaf(row.dbid, page.seen()));
            let unmarked = self.memory.unmarked(row, page.seen());
            let promoted_at = topology.history.get(&row.dbid).and_then(|written| written.promoted);
            let marked = self.memory.marked(row.dbid, promoted_at);
            let (ended, ends_lately) = self.memory.ends.look(row.dbid, page.seen());
            let instance = Instance {
                pod: match place {
                    Place::One(pod) => Look::Seen(places::seen(pod)),
                    Place::None | Place::Several(_) => Look::Unknown(contract.first().map_or(String::new(), ContractPoint::to_string)),
                },
                contract,
                job_lacks: match place {
                    Place::One(pod) => lacks::lacks(pod, cluster),
                    Place::None | Place::Several(_) => None,
                },
                access_mode: access.remove(&row.dbid),
                page,
                unwell_since: self.memory.unwell_since(row.dbid),
                seen_promoted: self.memory.seen_promoted(row, topology),
                last_history: topology.history.get(&row.dbid).map(|written| written.newest),
                written: topology.history.get(&row.dbid).map(|written| written.rows),
                still,
                silent,
                deaf,
                unmarked,
                ended,
                ends_lately,
                walsender: None,
                node_lost: None,
                promoted_at,
                marked,
            };
            (row.dbid, instance)
        };
        topology.catalog.rows.iter().map(one).collect()
    }
}

/// Why the catalog could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Unanswered {
    #[error("{0}")]
    NoLogin(String),
    #[error(transparent)]
    NoTls(#[from] TlsFault),
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error("it is on timeline {now}, older than {seen} which was seen before")]
    OldCoordinator { now: Timeline, seen: Timeline },
}

impl Unanswered {
    /// The same for the planner.
    fn unread(&self) -> Unread {
        let why = self.to_string();
        match self {
            Self::NoLogin(_) => Unread::CredentialsMissing { why },
            Self::OldCoordinator { .. } => Unread::OldCoordinator { why },
            Self::NoTls(fault) => fault.unread(why),
            Self::Session(error) => error.unread(),
        }
    }
}

async fn topology(sessions: &mut Sessions, coordinator: &Coordinator) -> Result<Topology, Unanswered> {
    match &coordinator.login {
        Ok(login) => Ok(sessions.topology(&coordinator.server, login).await?),
        Err(Unanswered::NoTls(fault)) => Err(fault.clone().into()),
        Err(why) => Err(Unanswered::NoLogin(why.to_string())),
    }
}

/// Every acting primary at its pod's address, asked for by the name that the catalog has.
async fn sources(
    sessions: &mut Sessions,
    coordinator: &Coordinator,
    catalog: &Catalog,
    places: &BTreeMap<Dbid, Place<'_>>,
) -> BTreeMap<Content, Look<Source>> {
    let Ok(login) = &coordinator.login else { return BTreeMap::new() };
    let asked = catalog.contents().into_iter().filter_map(|content| {
        let row = catalog.pair(content).ok()?.primary;
        let server = match places.get(&row.dbid) {
            Some(Place::One(pod)) => match places::ips(pod).first().and_then(|ip| ip.parse().ok()) {
                Some(ip) => Ok(Server { database: coordinator.server.database.clone(), ..Server::new(&row.address, row.port) }.at(ip)),
                None => Err(format!("its pod {} has no address", pod.name_any())),
            },
            Some(Place::Several(_)) => Err(format!("several pods have its address {}", row.address)),
            Some(Place::None) | None => Err(format!("no pod has its address {}", row.address)),
        };
        Some((content, row.dbid, server))
    });
    sessions.sources(asked.collect(), login).await
}

async fn pages(places: &BTreeMap<Dbid, Place<'_>>) -> BTreeMap<Dbid, Look<Page, NoPage>> {
    let asked: Vec<_> = places
        .iter()
        .filter_map(|(dbid, place)| match place {
            Place::One(pod) => Some((*dbid, places::ips(pod).first().cloned(), places::page_port(pod))),
            Place::None | Place::Several(_) => None,
        })
        .collect();
    let read = |(dbid, ip, port): (Dbid, Option<String>, u16)| async move { (dbid, page(ip, port).await) };
    stream::iter(asked).map(read).buffer_unordered(PAGES_AT_ONCE).collect().await
}

async fn page(ip: Option<String>, port: u16) -> Look<Page, NoPage> {
    let Some(ip) = ip else { return Look::Unknown(NoPage::Silent("its pod has no address yet".into())) };
    match web::read::page(&ip, port).await {
        Ok(page) => Look::Seen(page),
        Err(error) if error.is_nonsense() => Look::Unknown(NoPage::NotBelieved(error.to_string())),
        Err(error) => Look::Unknown(NoPage::Silent(error.to_string())),
    }
}

fn seen(world: World, pods: Vec<Pod>, objects: Vec<SegmentRecovery>, joined: Vec<RecoverySeen>) -> Seen {
    let places = world.catalog.seen().map(|catalog| places::places(catalog, &pods)).unwrap_or_default();
    let one = |(dbid, place)| match place {
        Place::One(pod) => Some((dbid, pod.name_any())),
        Place::None | Place::Several(_) => None,
    };
    let names: BTreeMap<Dbid, String> = places.into_iter().filter_map(one).collect();
    let pods: HashMap<String, Arc<Pod>> = pods.into_iter().map(|pod| (pod.name_any(), Arc::new(pod))).collect();
    Seen {
        pods: names.into_iter().filter_map(|(dbid, name)| Some((dbid, pods.get(&name)?.clone()))).collect(),
        objects: objects.into_iter().map(|object| (object.name_any(), object)).collect(),
        jobs: joined.into_iter().map(|one| (one.recovery.name, one.jobs)).collect(),
        world,
    }
}

#[cfg(test)]
#[path = "coordinator_tests.rs"]
mod tests;
