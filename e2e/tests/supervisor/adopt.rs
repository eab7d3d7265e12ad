//! A planned change of an instance's address: the volume is adopted at its new place when a person says so, and only then.

use std::fs;

use anyhow::{Context, Result, ensure};
use model::{InstanceState, Page, Role};

use super::{Alone, Place, catalog::Coordinator, serves, wait_for};

const PAGE: &str = "127.0.0.1:18102";

#[tokio::test]
#[ignore = "installs PostgreSQL and starts it; run by `make conformance`"]
async fn an_acting_primary_whose_address_changed_is_adopted_by_annotation() -> Result<()> {
    let alone = Alone::wait().await;
    let place = Place::make(&alone, 25_985)?;
    let first = place.supervise(PAGE)?;
    let database = wait_for(18102, "a token", serves).await?.system_identifier.context("no system identifier")?;
    first.end()?;
    fs::remove_file(place.at("volume/.gpheal/maintenance"))?;

    let rows = [format!("2:0:p:localhost:25985:{}", place.at("volume/gpseg").display()), "5:0:m:127.0.0.1:1:/nowhere".into()];
    let _coordinator = Coordinator::start(&alone, 25_984, &rows)?;
    let annotations = place.at("annotations");
    let file = annotations.display().to_string();
    let moved = [("GPHEAL_ADDRESS", "localhost"), ("GPHEAL_COORDINATOR", "127.0.0.1:25984"), ("GPHEAL_ANNOTATIONS", file.as_str())];
    let says = |value: &str| fs::write(&annotations, format!("gpheal.io/adopt-volume=\"{value}\"\n"));
    says("1")?;
    let second = place.supervise_with(PAGE, &moved)?;
    wait_for(18102, "another place's volume", |page: &Page| page.state == InstanceState::VolumeUnrecognised).await?;
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    ensure!(place.postgres().is_empty(), "another database's number adopted it");
    second.end()?;
    says(&database.to_string())?;
    let third = place.supervise_with(PAGE, &moved)?;
    wait_for(18102, "a primary at its new place", |page: &Page| page.state == InstanceState::Serving && page.serves == Some(Role::Primary))
        .await?;
    third.end()?;
    fs::remove_file(&annotations)?;
    let fourth = place.supervise_with(PAGE, &moved)?;
    wait_for(18102, "a primary that stays adopted", |page: &Page| page.serves == Some(Role::Primary)).await?;
    fourth.end()
}
