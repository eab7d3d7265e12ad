//! What a person does, on bare processes of the same programs, and nothing between the commands.

use std::time::Instant;

use anyhow::Result;

use crate::conformance::Bench;

/// CHECKPOINT, pg_rewind, port, start, probe: from the promoted mirror on until the pair is in sync. Primary and mirror of content 0 in turns.
pub async fn incremental(runs: usize) -> Result<Vec<f64>> {
    let mut bench = Bench::start().await?;
    let mut values = vec![];
    for (lost, source) in [(2, 4), (4, 2)].into_iter().cycle().take(runs) {
        bench.server(lost).crash()?;
        let (failed_over, healed) = if lost == 2 { ("2mpnd 4pmnu", "2mpsu 4pmsu") } else { ("2ppnu 4mmnd", "2ppsu 4mmsu") };
        bench.await_pair(0, failed_over).await?;
        bench.await_session(source).await?;
        let begun = Instant::now();
        bench.recover(lost, source, healed).await?;
        values.push(begun.elapsed().as_secs_f64());
    }
    Ok(values)
}
