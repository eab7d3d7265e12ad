//! A postgres that a person started by hand: while it lives the volume is given to nobody.

use std::{
    fs,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use jiff::Timestamp;
use model::{Dbid, InstanceState, Page};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use segment::volume::{Hold, Holder, LockError, Volume, marks::Ack};

use super::{Alone, Place, wait_for};

struct ByHand(Child);

impl ByHand {
    fn start(place: &Place) -> Result<Self> {
        let mut postgres = place.command(&place.at("home/bin/postgres"));
        postgres.arg("-D").arg(place.at("volume/gpseg")).args(["-p", &place.port.to_string(), "-c", "gp_role=execute"]);
        Ok(Self(postgres.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?))
    }

    fn pid(&self) -> i32 {
        self.0.id().cast_signed()
    }
}

impl Drop for ByHand {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.pid()), Signal::SIGQUIT);
        let _ = self.0.wait();
    }
}

/// Nobody gets the lock for as long as one looks.
async fn is_kept(volume: &Volume) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(5);
    while Instant::now() < until {
        let taken = volume.try_lock(&Holder::here("", "", "a Job"), None);
        ensure!(matches!(taken, Err(LockError::Busy(_))), "a Job would write beside it: {taken:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

#[tokio::test]
#[ignore = "installs PostgreSQL and starts it; run by `make conformance`"]
async fn the_lock_is_kept_while_somebody_else_runs_postgres_there() -> Result<()> {
    let alone = Alone::wait().await;
    let place = Place::empty(&alone, 25_988)?;
    place.bootstrap("bootstrap-primary", 2, 0, &[])?;
    fs::write(place.at("volume/.gpheal/retired"), "")?; // down, as a mirror that waits for its repair
    let supervisor = place.supervise("127.0.0.1:18099")?;
    let down = |page: &Page| page.state == InstanceState::Retired;
    wait_for(18099, "one that stays down", down).await?;

    let by_hand = ByHand::start(&place)?;
    wait_for(18099, "a postgres that a person started", |page| page.state == InstanceState::LockBusy).await?;
    let volume = Volume::open(&place.at("volume/gpseg"))?;
    is_kept(&volume).await?;
    let named = by_hand.pid().to_string();
    let busy = |page: &Page| page.state == InstanceState::LockBusy && page.detail.contains(&named);
    wait_for(18099, "naming it", busy).await?;

    let hold = Hold { attempt: "a1".into(), dbid: Dbid(2), reason: "a repair".into(), heartbeat: Timestamp::now() };
    volume.write("hold", &hold)?;
    place.owner.file(&volume.mark("hold"), 0o600)?;
    is_kept(&volume).await?;
    let ack: Option<Ack> = volume.read("ack")?;
    let refused = ack.and_then(|ack| ack.refused).unwrap_or_default();
    ensure!(refused.contains(&named), "the attempt is not told why: '{refused}'");
    volume.remove("hold")?;

    let begun = Instant::now();
    supervisor.end()?;
    ensure!(begun.elapsed() < Duration::from_secs(3), "SIGTERM was heard after {:?}", begun.elapsed());
    let supervisor = place.supervise("127.0.0.1:18099")?;
    wait_for(18099, "naming it again", busy).await?;
    drop(by_hand);
    wait_for(18099, "one that stays down again", down).await?;
    volume.try_lock(&Holder::here("", "", "a Job"), None)?;
    supervisor.end()
}
