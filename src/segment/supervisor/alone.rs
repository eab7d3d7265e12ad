//! Whether a catalog is older than what FTS last told a primary. FTS has no mirror promoted that it has marked down, and it has marked
//! it down before it tells the primary to commit alone; in sync, it has told the primary to wait for it before. Both stand in the
//! primary's own settings, so a catalog that contradicts them is one of before: a standby coordinator's that had not heard of it.

use super::{
    Supervisor,
    facts::{Facts, PeerRole},
    person::REPLACED,
};
use crate::volume::{TokenState, commits::served_alone};
use model::{Look, page::Shape};

/// Of one that served alone before any incarnation was written down.
const UNNUMBERED: &str = "none";

impl Supervisor {
    /// The incarnation whose commits waited for no mirror; `None` of one whose did, or that is no primary.
    pub(super) fn served_alone(&self, shape: Shape) -> Look<Option<String>> {
        match served_alone(self.volume.data(), shape) {
            Ok(false) => Look::Seen(None),
            Ok(true) => {
                let last = self.board.page().incarnations.last().map(|last| last.nonce.clone());
                Look::Seen(Some(last.unwrap_or_else(|| UNNUMBERED.into())))
            }
            Err(error) => Look::Unknown(format!("whether it was last told to commit without a mirror cannot be read: {error}")),
        }
    }

    /// The same, for the other side to see. What cannot be looked at is as it was.
    pub(super) fn show_alone(&self, shape: Shape) -> Look<Option<String>> {
        let alone = self.served_alone(shape);
        if let Look::Seen(seen) = &alone
            && self.board.page().served_alone != *seen
        {
            self.board.show(|page| page.served_alone.clone_from(seen));
        }
        alone
    }
}

/// The incarnation that served alone, unless the directory is known to be an older copy, whose settings are as old.
pub fn incarnation(facts: &Facts) -> Option<&String> {
    let put_back = facts.peer.seen().is_some_and(|peer| peer.holds_more.is_some());
    facts.served_alone.seen()?.as_ref().filter(|_| !put_back)
}

/// Why the catalog that calls such a one a mirror is an older one, unless a person says that it was replaced all the same. Its volume
/// remembers that, so the annotation may go.
pub fn catalog_is_older(facts: &Facts) -> Option<String> {
    let was_replaced = matches!(&facts.token, TokenState::Mine(token) if token.replaced.is_some());
    let incarnation = incarnation(facts).filter(|incarnation| !was_replaced && !facts.replaced.lifts(incarnation))?;
    Some(format!(
        "the catalog says mirror, and FTS last told this one to commit without a mirror (synchronous_standby_names is empty in its \
         postgresql.auto.conf), over which it promotes none: the catalog is older than that, and what was acknowledged since is nowhere else{}",
        facts.replaced.how(incarnation)
    ))
}

/// The other side's dbid and incarnation, as `2@nonce`, where it serves alone.
pub fn of_other(facts: &Facts) -> Option<&String> {
    facts.peer.seen().filter(|peer| peer.role == PeerRole::Promoted)?.alone.as_ref()
}

/// Why the catalog that calls a mirror a primary is an older one: the other side serves alone, and FTS promotes nobody over that.
pub fn other_side(facts: &Facts) -> Option<String> {
    let incarnation = of_other(facts)?;
    Some(format!(
        "the catalog says primary, and FTS last told the other side, a primary, to commit without this mirror: the catalog is older than \
         that, and what the other side acknowledged since is nowhere else (a person who gives that up says so to the other side's pod: \
         {REPLACED}={incarnation})"
    ))
}

/// That it cannot be told, for the end of a sentence.
pub fn untold(facts: &Facts) -> String {
    facts.served_alone.unknown().map_or_else(String::new, |why| format!("; {why}"))
}
