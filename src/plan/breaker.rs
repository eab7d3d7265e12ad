//! A breaker over the repairs of one instance: what heals and falls again and again is not helped by one more, and each takes the
//! redundancy of its content away for as long as it lasts. It is read from the recoveries alone, so that a restarted operator, and
//! one on another node, knows it too.

use jiff::Timestamp;

use super::{
    aftermath,
    desk::{Desk, Past},
    gates::Admitted,
};
use model::{Breaker, Refusal, Repair};

/// Letters that are given of each cause.
const LONGEST_CAUSE: usize = 240;

/// May automatic healing begin one more repair of this instance? A person's is never asked about.
///
/// # Errors
/// [`Refusal::Flapping`]
pub fn lets(desk: &Desk, admitted: &Admitted) -> Result<(), Refusal> {
    let dbid = admitted.target().dbid;
    let Some((row, newest)) = tripped(desk.policy.breaker, desk.past(dbid), desk.now) else { return Ok(()) };
    let Some(last) = row.last() else { return Ok(()) };
    let mut causes: Vec<_> = row.iter().map(|past| cause(past)).collect();
    causes.push(cut(&format!("now {}", aftermath::told(admitted.page))));
    let within = desk.policy.breaker.within;
    let until = newest.saturating_add(within).unwrap_or(Timestamp::MAX);
    Err(Refusal::Flapping { dbid, recovery: last.name.to_owned(), within, causes, until })
}

/// The row of repairs that keeps the next one back, and when the last of them ended. It ends only when it was quiet for the whole
/// term: as the oldest of them leaves the term, the newest may be of a moment ago.
fn tripped<'p, 'a>(breaker: Breaker, past: &'p [Past<'a>], now: Timestamp) -> Option<(Vec<&'p Past<'a>>, Timestamp)> {
    // In either direction: an end that lies ahead is of a clock that was set back since, and is waited for no longer than that.
    let near = |a: Timestamp, b: Timestamp| a.duration_since(b).abs() < breaker.within;
    let counted = counted(past);
    let newest = counted.iter().filter_map(|past| past.ended).filter(|ended| near(*ended, now)).max()?;
    let row: Vec<_> = counted.into_iter().filter(|past| past.ended.is_some_and(|ended| near(ended, newest))).collect();
    let next = u32::try_from(row.len() + 1).unwrap_or(u32::MAX);
    (next >= breaker.repairs).then_some((row, newest))
}

/// Repairs that automatic healing began and that are over, since the last one that a person made: that one knew better.
fn counted<'p, 'a>(past: &'p [Past<'a>]) -> Vec<&'p Past<'a>> {
    let begun = |past: &&Past| past.state.as_ref().is_some_and(|state| state.attempt > 0);
    let since = past.iter().rposition(|one| !one.automatic && begun(&one)).map_or(0, |at| at + 1);
    past.iter().skip(since).filter(begun).filter(|past| past.automatic && past.phase.is_over()).collect()
}

fn cause(past: &Past) -> String {
    let at = past.ended.map_or_else(String::new, |ended| format!("{ended} "));
    let (repair, why) = past.state.as_deref().map_or(("", ""), |state| (state.repair.map_or("", Repair::as_str), state.why.as_str()));
    cut(&format!("{at}SegmentRecovery {} ({repair}): {why}", past.name))
}

fn cut(text: &str) -> String {
    model::error::cut(text, LONGEST_CAUSE)
}

#[cfg(test)]
#[path = "breaker_tests.rs"]
mod tests;
