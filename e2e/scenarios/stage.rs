//! What a scenario acts on: bed, cluster, custom resources, and the clock that writes the time line.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use api::{GreenplumCluster, SegmentRecovery, SegmentRecoverySpec, cluster::UnwellInstance, recovery::InstanceStatus};
use greenplum::{
    Dialect,
    wal::{self, WalEnd},
};
use k8s_openapi::api::batch::v1::Job;
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use model::{Page, Repair};
use serde_json::{Value, json};

use crate::{
    bed::{Bed, Volume, fault::Container, say},
    fixture::{Acked, Catalog, Cluster, DATA_DIRECTORY, NAMESPACE, Row, Writer, volume_of, wait_for_catalog},
};

/// Pods with a volume.
pub const PODS: [&str; 8] =
    ["gp-coordinator-0", "gp-standby-0", "gp-primary-0", "gp-primary-1", "gp-primary-2", "gp-mirror-0", "gp-mirror-1", "gp-mirror-2"];
/// Name of the GreenplumCluster.
pub const CLUSTER: &str = "demo";
/// Port of the supervisors' pages.
pub const PAGE_PORT: u16 = 8090;
const PAUSE: Duration = Duration::from_millis(100);
/// A pair is healed within this, or the scenario has failed.
pub const HEALED_WITHIN: Duration = Duration::from_mins(3);

/// The cluster on the bed, as one scenario sees it.
pub struct Stage {
    pub bed: Bed,
    pub cluster: Cluster,
    started: Instant,
    /// What happened when, in seconds since the scenario began.
    pub marks: Vec<(String, f64)>,
    /// Instances that the scenario had healed: they are made to serve afterwards.
    pub healed: Vec<i16>,
    writer: Option<Writer>,
    /// Rows that were acknowledged so far.
    pub acked: Acked,
}

impl Stage {
    pub async fn of(bed: Bed) -> Result<Self> {
        let cluster = Cluster::of(&bed).await?;
        Ok(Self { bed, cluster, started: Instant::now(), marks: vec![], healed: vec![], writer: None, acked: Acked::default() })
    }

    /// Forgets the last scenario.
    pub fn begin(&mut self) {
        (self.started, self.marks, self.healed) = (Instant::now(), vec![], vec![]);
    }

    /// Begins to write into every content.
    pub async fn start_writing(&mut self) -> Result<()> {
        self.acked = Acked::default();
        self.writer = Some(Writer::start(&self.cluster).await?);
        Ok(())
    }

    /// Ends it, if it has not ended.
    pub async fn stop_writing(&mut self) -> Result<()> {
        if let Some(writer) = self.writer.take() {
            self.acked = std::mem::take(&mut self.acked).and(writer.stop().await?);
        }
        Ok(())
    }

    /// Begins again; what was acknowledged before still counts.
    pub async fn go_on_writing(&mut self) -> Result<()> {
        self.stop_writing().await?;
        self.writer = Some(Writer::start(&self.cluster).await?);
        Ok(())
    }

    /// Ends it as well. What was acknowledged of one content since it last began does not count: the scenario made a lie of it.
    pub async fn stop_writing_lies(&mut self, content: i16) -> Result<()> {
        if let Some(writer) = self.writer.take() {
            let mut told = writer.stop().await?;
            told.ids.remove(&content);
            self.acked = std::mem::take(&mut self.acked).and(told);
        }
        Ok(())
    }

    /// Writes down that something happened now.
    pub fn mark(&mut self, what: impl Into<String>) {
        let (what, at) = (what.into(), self.started.elapsed().as_secs_f64());
        say(format!("  {at:6.1} s  {what}"));
        self.marks.push((what, at));
    }

    pub fn clusters(&self) -> Api<GreenplumCluster> {
        Api::namespaced(self.cluster.kubernetes().clone(), NAMESPACE)
    }

    pub fn recoveries(&self) -> Api<SegmentRecovery> {
        Api::namespaced(self.cluster.kubernetes().clone(), NAMESPACE)
    }

    pub fn jobs(&self) -> Api<Job> {
        Api::namespaced(self.cluster.kubernetes().clone(), NAMESPACE)
    }

    pub async fn catalog(&self) -> Result<Catalog> {
        self.cluster.catalog().await
    }

    /// Acting primary and mirror of a content.
    pub async fn pair(&self, content: i16) -> Result<(Row, Row)> {
        let catalog = self.catalog().await?;
        let primary = catalog.acting_primary(content).cloned().with_context(|| format!("content {content} has no primary"))?;
        let mirror = catalog.acting_mirror(content).cloned().with_context(|| format!("content {content} has no mirror"))?;
        Ok((primary, mirror))
    }

    /// The acting coordinator, and its standby.
    pub async fn coordinators(&self) -> Result<(Row, Row)> {
        let catalog = self.catalog().await?;
        let acting = catalog.coordinator().cloned().context("the catalog has no acting coordinator")?;
        let standby = catalog.standby().cloned().context("the coordinator has no standby")?;
        Ok((acting, standby))
    }

    pub async fn container(&self, row: &Row) -> Result<Container> {
        Container::find(&self.bed, NAMESPACE, row.pod(), "greenplum").await
    }

    pub fn volume(&self, row: &Row) -> Result<Volume> {
        volume_of(&self.bed, row.pod())
    }

    /// How far the log in an instance's directory reaches.
    pub fn wal_end(&self, row: &Row) -> Result<WalEnd> {
        let data = self.volume(row)?.folder().join(DATA_DIRECTORY);
        let version = std::fs::read_to_string(data.join("PG_VERSION")).with_context(|| format!("{} has no database", row.pod()))?;
        let folder = data.join(Dialect::from_pg_version(&version)?.wal_folder());
        wal::end(&folder)?.with_context(|| format!("{} has no log", row.pod()))
    }

    pub async fn wait_catalog(&self, what: &str, wanted: impl Fn(&Catalog) -> bool) -> Result<Catalog> {
        wait_for_catalog(&self.cluster, what, HEALED_WITHIN, wanted).await
    }

    /// The row of an instance has these letters for role, mode and status (`mnd`).
    pub async fn wait_row(&self, dbid: i16, letters: &str) -> Result<Catalog> {
        self.wait_catalog(&format!("dbid {dbid} to be {letters}"), |catalog| {
            catalog.by_dbid(dbid).is_some_and(|r| [r.role, r.mode, r.status].iter().collect::<String>() == letters)
        })
        .await
    }

    pub async fn wait_healthy(&self) -> Result<Catalog> {
        let catalog = self.wait_catalog("every pair to be up and in sync", Catalog::is_healthy).await?;
        for primary in catalog.segments().filter(|row| row.is_acting_primary()) {
            self.wait_settled(primary).await?;
        }
        Ok(catalog)
    }

    /// FTS calls a pair in sync when all was sent. A primary that is lost before its mirror has confirmed that may have acknowledged alone
    /// what it holds, and a person has to say what becomes of it.
    async fn wait_settled(&self, primary: &Row) -> Result<()> {
        until(&format!("the mirror of {} to have confirmed all", primary.pod()), HEALED_WITHIN, async || {
            Ok(if self.has(primary, ".gpheal/alone.json").await? { Err("alone.json stands on its volume".into()) } else { Ok(()) })
        })
        .await
    }

    /// The page of an instance's supervisor.
    pub async fn page(&self, row: &Row) -> Result<Page> {
        if self.bed.is_foreign() {
            return self.page_by_proxy(row).await;
        }
        let pod = self.cluster.pods().get(row.pod()).await?;
        let ip = pod.status.and_then(|s| s.pod_ip).context("the pod has no address")?;
        Ok(web::read::page(&ip, PAGE_PORT).await?)
    }

    /// Waits for a page, an answer that does not come being no answer yet.
    pub async fn wait_page(&self, row: &Row, what: &str, wanted: impl Fn(&Page) -> bool) -> Result<Page> {
        until(&format!("the supervisor of {} to come to {what}", row.pod()), HEALED_WITHIN, async || {
            Ok(match self.page(row).await {
                Ok(page) if wanted(&page) => Ok(page),
                Ok(page) => Err(format!("{:?}: {}", page.state, page.detail)),
                Err(error) => Err(format!("{error:#}")),
            })
        })
        .await
    }

    /// All recoveries, oldest first.
    pub async fn all_recoveries(&self) -> Result<Vec<SegmentRecovery>> {
        let mut all = self.recoveries().list(&ListParams::default()).await?.items;
        all.sort_by_key(|r| r.metadata.creation_timestamp.clone().map(|t| t.0));
        Ok(all)
    }

    /// Waits for the recovery that has this instance, and until it is as wanted.
    pub async fn wait_recovery(
        &self,
        dbid: i16,
        what: &str,
        wanted: impl Fn(&SegmentRecovery, &InstanceStatus) -> bool,
    ) -> Result<SegmentRecovery> {
        until(&format!("the recovery of dbid {dbid} to come to {what}"), HEALED_WITHIN, async || {
            let mut last = "there is none".to_owned();
            for recovery in self.all_recoveries().await? {
                let Some(instance) = instance_of(&recovery, dbid) else { continue };
                if wanted(&recovery, &instance) {
                    return Ok(Ok(recovery));
                }
                last = recovery.status.map(|s| format!("{:?}: {}", s.phase, s.message)).unwrap_or_default();
            }
            Ok(Err(last))
        })
        .await
    }

    /// Waits until a recovery of this instance has succeeded, and returns what it says of it.
    pub async fn wait_succeeded(&mut self, dbid: i16) -> Result<InstanceStatus> {
        let over = |r: &SegmentRecovery, _: &InstanceStatus| r.status.as_ref().is_some_and(|s| s.ended_at.is_some());
        let recovery = self.wait_recovery(dbid, "an end", over).await?;
        let status = recovery.status.clone().unwrap_or_default();
        ensure!(status.phase == api::recovery::Phase::Succeeded, "the recovery ended {:?}: {}", status.phase, status.message);
        self.mark(format!("recovery of dbid {dbid} succeeded"));
        self.healed.push(dbid);
        instance_of(&recovery, dbid).context("the recovery has lost its instance")
    }

    /// Waits until an instance is healed by a rewind, and every pair is in sync.
    pub async fn wait_rewound(&mut self, dbid: i16) -> Result<()> {
        let healed = self.wait_succeeded(dbid).await?;
        ensure!(healed.type_ == Some(Repair::Incremental), "it was repaired by {:?}", healed.type_);
        self.wait_healthy().await.map(drop)
    }

    /// Waits until the status of the cluster gives this reason for an instance.
    pub async fn wait_reason(&self, dbid: i16, reason: &str) -> Result<UnwellInstance> {
        until(&format!("the status to give {reason} for dbid {dbid}"), HEALED_WITHIN, async || {
            let status = self.clusters().get(CLUSTER).await?.status.unwrap_or_default();
            Ok(match status.instances.into_iter().find(|i| i.dbid == i32::from(dbid)) {
                Some(found) if found.reason == reason => Ok(found),
                Some(found) => Err(format!("{}: {}", found.reason, found.message)),
                None => Err("it is well".into()),
            })
        })
        .await
    }

    /// Changes the healing policy.
    pub async fn healing(&self, change: Value) -> Result<()> {
        let patch = Patch::Merge(json!({ "spec": { "healing": change } }));
        self.clusters().patch(CLUSTER, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    /// Applies a recovery by hand.
    pub async fn ask(&self, name: &str, targets: Value, type_: &str) -> Result<()> {
        let spec: SegmentRecoverySpec =
            serde_json::from_value(json!({ "clusterRef": { "name": CLUSTER }, "targets": targets, "type": type_ }))?;
        self.recoveries().create(&PostParams::default(), &SegmentRecovery::new(name, spec)).await?;
        Ok(())
    }

    /// Waits until the recovery of this name is over.
    pub async fn wait_over(&self, name: &str) -> Result<SegmentRecovery> {
        until(&format!("SegmentRecovery {name} to end"), HEALED_WITHIN, async || {
            let recovery = self.recoveries().get(name).await?;
            let status = recovery.status.clone().unwrap_or_default();
            Ok(if status.ended_at.is_some() { Ok(recovery) } else { Err(status.message) })
        })
        .await
    }

    /// No Job waits at a step any more, whatever the last scenario left.
    pub fn let_jobs_go(&self) -> Result<()> {
        if self.bed.is_foreign() {
            return Ok(()); // where no scenario can have made one wait
        }
        for pod in PODS {
            let pause = volume_of(&self.bed, pod)?.folder().join(".gpheal/pause-at");
            if pause.exists() {
                std::fs::remove_file(pause)?;
            }
        }
        Ok(())
    }

    /// Removes every recovery, and waits until they and their Jobs are gone.
    pub async fn forget_recoveries(&self) -> Result<()> {
        self.recoveries().delete_collection(&DeleteParams::default(), &ListParams::default()).await?;
        until("recoveries and their Jobs to go away", HEALED_WITHIN, async || {
            let jobs = self.jobs().list(&ListParams::default().labels("gpheal.io/recovery")).await?.items.len();
            let recoveries = self.all_recoveries().await?.len();
            Ok(if jobs + recoveries == 0 { Ok(()) } else { Err(format!("{recoveries} recoveries, {jobs} Jobs")) })
        })
        .await
    }

    /// Nothing is repaired for as long: the state is held for a few of the operator's looks.
    pub async fn stays_untouched(&self, how_long: Duration) -> Result<()> {
        let until = Instant::now() + how_long;
        while Instant::now() < until {
            let all = self.all_recoveries().await?;
            let names: Vec<_> = all.iter().filter_map(|r| r.metadata.name.clone()).collect();
            ensure!(names.is_empty(), "recoveries were made: {names:?}");
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }
}

/// Looks again and again until there is an answer; the complaint has what was last seen. An error of the look itself ends it.
pub async fn until<T>(what: &str, within: Duration, look: impl AsyncFn() -> Result<Result<T, String>>) -> Result<T> {
    let end = Instant::now() + within;
    loop {
        match look().await? {
            Ok(found) => return Ok(found),
            Err(last) if Instant::now() >= end => bail!("waited {} s for {what}; last seen: {last}", within.as_secs()),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// What a recovery says of an instance.
pub fn instance_of(recovery: &SegmentRecovery, dbid: i16) -> Option<InstanceStatus> {
    recovery.status.as_ref()?.instances.iter().find(|i| i.dbid == i32::from(dbid)).cloned()
}
