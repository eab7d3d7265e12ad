//! Waiting for conditions, saying what is waited for.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::{command::say, daemon::Daemon, layout::Layout};

const LIMIT: Duration = Duration::from_secs(90);
const PAUSE: Duration = Duration::from_millis(100);

/// Waits until `condition` holds. An error is a 'not yet', but a daemon that
/// ended meanwhile will never bring it about; its log says why.
pub async fn wait_for<C>(layout: &Layout, what: &str, daemons: &[&Daemon], condition: C) -> Result<()>
where
    C: AsyncFn() -> Result<bool>,
{
    let started = Instant::now();
    let mut announced = Duration::from_secs(2);
    loop {
        let answer = condition().await;
        if matches!(answer, Ok(true)) {
            return Ok(());
        }
        daemons.iter().try_for_each(|daemon| daemon.check(layout))?;
        let waited = started.elapsed();
        if waited >= LIMIT {
            let why = answer.err().map(|error| format!(" ({error:#})")).unwrap_or_default();
            let logs: Vec<_> = daemons.iter().map(|daemon| daemon.log(layout).display().to_string()).collect();
            bail!("{what}: not ready after {} s{why}; see {}", LIMIT.as_secs(), logs.join(", "));
        }
        if waited >= announced {
            say(format!("waiting for {what} ({} s)", waited.as_secs()));
            announced += Duration::from_secs(5);
        }
        tokio::time::sleep(PAUSE).await;
    }
}
