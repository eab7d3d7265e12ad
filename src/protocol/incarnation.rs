//! Incarnations: each start of an instance as a primary, and what they prove of a copy's history.
//!
//! A position in the log says how far a history goes, not which one it is: a primary that was put back on an older copy
//! of itself writes past its mirror's end within a second. So each start as a primary leaves a number, a nonce and the
//! position at which it began on its own volume, *before* it takes a write; a mirror remembers which of them it followed.

use serde::{Deserialize, Serialize};

use super::{Lsn, Timeline};

/// One start of an instance as a primary: a start of its postmaster, or a promotion.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Incarnation {
    /// Counts from 1 on this volume.
    pub number: u64,
    /// Random; a restored volume gives the same number to another incarnation, never the same nonce.
    pub nonce: String,
    /// The timeline on which it began.
    pub timeline: Timeline,
    /// Where its own log began: the end of the log that it found, or the fork of its promotion.
    pub began: Lsn,
}

/// How far a copy's log reaches: to the end of its last whole record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reach {
    pub timeline: Timeline,
    pub end: Lsn,
}

/// A primary that is about to begin another incarnation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Begins {
    /// Those that stand on its volume, oldest first.
    pub incarnations: Vec<Incarnation>,
    /// Where its log ends, so where it would begin.
    pub at: Reach,
    /// Nonce of the last incarnation that a copy followed which a person lets it leave behind.
    pub waived: Option<String>,
}

impl Begins {
    /// What shows that a copy which followed `followed` and reaches `reaches` at least (`None`: not known) holds what this
    /// primary lacks: it was put back on an older copy of itself.
    pub fn lacks(&self, followed: &[Incarnation], reaches: Option<Reach>) -> Option<String> {
        if followed.last().is_some_and(|last| Some(&last.nonce) == self.waived.as_ref()) {
            return None;
        }
        let next = Incarnation {
            number: self.incarnations.last().map_or(1, |last| last.number + 1),
            nonce: String::new(),
            timeline: self.at.timeline,
            began: self.at.end,
        };
        let incarnations = [self.incarnations.as_slice(), &[next]].concat();
        match lineage(followed, &incarnations, reaches) {
            Lineage::Differs(why) => Some(why),
            Lineage::Same | Lineage::Unknown(_) => None,
        }
    }
}

/// How a copy that followed some incarnations of a primary stands to that primary's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lineage {
    /// All of its log is part of that history.
    Same,
    /// Some of its log is not: the text says what shows it.
    Differs(String),
    /// Nothing shows either.
    Unknown(String),
}

impl Lineage {
    /// Both have to hold.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (differs @ Self::Differs(_), _) | (_, differs @ Self::Differs(_)) => differs,
            (unknown @ Self::Unknown(_), _) | (_, unknown @ Self::Unknown(_)) => unknown,
            (Self::Same, Self::Same) => Self::Same,
        }
    }

    /// The same with what made it necessary to ask.
    #[must_use]
    pub fn because(self, cause: &str) -> Self {
        match self {
            Self::Same => Self::Same,
            Self::Differs(why) => Self::Differs(format!("{cause}; {why}")),
            Self::Unknown(why) => Self::Unknown(format!("{cause}; {why}")),
        }
    }
}

/// Holds a copy whose log ends at `end` (`None`: not known), and that followed `followed`, against the incarnations that
/// its primary has on its volume; both lists are ordered by number, the older ones may be missing.
///
/// A primary goes on where its last incarnation ended, so of the first one that the copy did not follow only the
/// beginning counts: a copy that reaches beyond it holds what this primary never had, or has lost.
pub fn lineage(followed: &[Incarnation], primarys: &[Incarnation], end: Option<Reach>) -> Lineage {
    let (Some(last), Some(oldest), Some(newest)) = (followed.last(), primarys.first(), primarys.last()) else {
        let who = if followed.is_empty() { "this copy remembers no incarnation that it followed" } else { "the primary tells none" };
        return Lineage::Unknown(who.into());
    };
    if oldest.number > last.number {
        return Lineage::Unknown(format!("the primary does not know its incarnation {} any more", last.number));
    }
    let known = |one: &&Incarnation| followed.iter().any(|seen| seen.number == one.number && seen.nonce == one.nonce);
    let remembered = |one: &&Incarnation| followed.first().is_some_and(|first| one.number >= first.number);
    let common = primarys.iter().filter(remembered).any(|one| known(&one));
    match primarys.iter().filter(remembered).find(|one| !known(one)) {
        // It always begins another one: without, it was put back while nobody wrote that down.
        None if newest.number < last.number => {
            let (last, newest) = (last.number, newest.number);
            Lineage::Differs(format!("this copy followed its incarnation {last}, and it knows of none after {newest}"))
        }
        None => Lineage::Same,
        // What went before may have been another history already, from anywhere on.
        Some(first) if !common && primarys.iter().any(|one| !remembered(&one)) => match beside(first, end) {
            Lineage::Same => Lineage::Unknown(format!("the primary's incarnation {} is not the one that was followed", first.number)),
            other @ (Lineage::Differs(_) | Lineage::Unknown(_)) => other,
        },
        Some(first) => beside(first, end),
    }
}

/// `first` is the first incarnation that was not followed.
fn beside(first: &Incarnation, end: Option<Reach>) -> Lineage {
    let Some(Reach { timeline, end }) = end else { return Lineage::Unknown("the end of this copy's log is not known".into()) };
    if first.began == Lsn(0) {
        return Lineage::Unknown(format!("where the primary's incarnation {} began could not be written down", first.number));
    }
    if timeline <= first.timeline && end <= first.began {
        return Lineage::Same;
    }
    Lineage::Differs(format!(
        "its log reaches {end} on timeline {timeline}, and the primary's incarnation {}, which it did not follow, began at {} on \
         timeline {}",
        first.number, first.began, first.timeline
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `number nonce timeline:began`, separated by commas.
    fn chain(text: &str) -> Vec<Incarnation> {
        let one = |text: &str| {
            let mut fields = text.split_whitespace();
            let (number, nonce) = (fields.next().unwrap().parse().unwrap(), fields.next().unwrap().into());
            let (timeline, began) = fields.next().unwrap().split_once(':').unwrap();
            Incarnation { number, nonce, timeline: Timeline(timeline.parse().unwrap()), began: Lsn(began.parse().unwrap()) }
        };
        text.split(',').map(str::trim).filter(|text| !text.is_empty()).map(one).collect()
    }

    fn stands(followed: &str, primarys: &str, end: (u32, u64)) -> Lineage {
        lineage(&chain(followed), &chain(primarys), Some(Reach { timeline: Timeline(end.0), end: Lsn(end.1) }))
    }

    #[test]
    fn a_copy_that_followed_every_incarnation_is_of_this_history() {
        assert_eq!(stands("1 a 1:10", "1 a 1:10", (1, 900)), Lineage::Same);
        assert_eq!(stands("2 b 1:50", "1 a 1:10, 2 b 1:50", (1, 900)), Lineage::Same, "what came before it was seen need not be known");
    }

    #[test]
    fn a_primary_that_was_started_again_is_followed_by_whom_it_had_sent_all() {
        for end in [60, 99, 100] {
            assert_eq!(stands("1 a 1:10", "1 a 1:10, 2 b 1:100", (1, end)), Lineage::Same, "{end}");
        }
    }

    /// The primary was put back to 80, after its mirror had got 100; its position may be anywhere by now.
    #[test]
    fn a_copy_that_reaches_beyond_an_incarnation_that_it_did_not_follow_holds_what_is_nowhere_else() {
        for primarys in ["1 a 1:10, 2 b 1:80", "1 a 1:10, 2 b 1:80, 3 c 1:500", "1 x 1:80", "1 x 1:80, 2 y 1:500"] {
            let stands = stands("1 a 1:10", primarys, (1, 100));
            assert!(matches!(&stands, Lineage::Differs(why) if why.contains("0/64")), "{primarys}: {stands:?}");
        }
        let back = stands("1 a 1:10, 2 b 1:50", "1 a 1:10", (1, 60));
        assert!(matches!(&back, Lineage::Differs(why) if why.contains("none after 1")), "{back:?}");
    }

    #[test]
    fn a_beginning_that_is_not_known_shows_nothing() {
        assert!(matches!(stands("1 a 1:10", "1 a 1:10, 2 b 1:0", (1, 100)), Lineage::Unknown(_)));
    }

    #[test]
    fn a_promotion_begins_at_its_fork() {
        assert_eq!(stands("1 a 1:10", "1 a 1:10, 2 b 2:100", (1, 100)), Lineage::Same);
        assert!(matches!(stands("1 a 1:10", "1 a 1:10, 2 b 2:100", (1, 101)), Lineage::Differs(_)));
        assert!(matches!(stands("1 a 1:10", "1 a 1:10, 2 b 2:100", (3, 90)), Lineage::Differs(_)), "a newer timeline");
    }

    #[test]
    fn what_was_never_seen_is_no_evidence_either_way() {
        for (followed, primarys) in [("", "1 a 1:10"), ("1 a 1:10", ""), ("", ""), ("3 c 1:30", "4 d 1:40"), ("3 c 1:30", "9 d 1:40")] {
            assert!(matches!(stands(followed, primarys, (1, 35)), Lineage::Unknown(_)), "{followed} beside {primarys}");
        }
        assert!(matches!(lineage(&chain("1 a 1:10"), &chain("1 a 1:10, 2 b 1:50"), None), Lineage::Unknown(_)));
        assert_eq!(lineage(&chain("1 a 1:10"), &chain("1 a 1:10"), None), Lineage::Same, "it needs no position");
        let forgotten = stands("5 e 1:50", "3 c 1:30, 4 x 1:40, 5 y 1:90", (1, 60));
        assert!(matches!(forgotten, Lineage::Unknown(_)), "it may have left that history before: {forgotten:?}");
    }

    /// One thing that happens to a pair.
    #[derive(Clone, Debug)]
    enum Event {
        /// The primary writes so much, and its mirror gets it if it follows.
        Write(u64),
        Follow(bool),
        /// The mirror remembers what its log is a part of, and receives nothing.
        Remember,
        Restart,
        /// A copy of the primary's volume is made.
        Snapshot,
        /// It is put back and started.
        Restore,
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let one = prop_oneof![
            (1..9_u64).prop_map(Event::Write),
            any::<bool>().prop_map(Event::Follow),
            Just(Event::Remember),
            Just(Event::Restart),
            Just(Event::Snapshot),
            Just(Event::Restore),
        ];
        prop::collection::vec(one, 1..24)
    }

    /// A log of bytes, each of which is one of a kind, with the incarnations of its volume.
    #[derive(Clone, Default)]
    struct Volume {
        log: Vec<u64>,
        chain: Vec<Incarnation>,
    }

    impl Volume {
        fn begins(&self) -> Begins {
            let at = Reach { timeline: Timeline(1), end: Lsn(self.log.len() as u64 + 1) };
            Begins { incarnations: self.chain.clone(), at, waived: None }
        }

        fn start(&mut self, unique: &mut u64) {
            *unique += 1;
            let (number, began) = (self.chain.len() as u64 + 1, Lsn(self.log.len() as u64 + 1));
            self.chain.push(Incarnation { number, nonce: unique.to_string(), timeline: Timeline(1), began });
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever happens to a primary, a mirror is said to be of its history only if each byte of its log is.
        #[test]
        fn only_a_prefix_of_the_primarys_log_is_of_its_history(events in events()) {
            let (mut unique, mut primary, mut snapshot) = (0_u64, Volume::default(), None);
            let (mut mirror, mut followed, mut follows) = (vec![], vec![], true);
            primary.start(&mut unique);
            for event in events {
                match event {
                    Event::Write(count) => for _ in 0..count {
                        unique += 1;
                        primary.log.push(unique);
                    },
                    Event::Follow(wanted) => follows = wanted,
                    Event::Remember => {
                        let reaches = Some(Reach { timeline: Timeline(1), end: Lsn(mirror.len() as u64 + 1) });
                        if lineage(&followed, &primary.chain, reaches) == Lineage::Same {
                            followed.clone_from(&primary.chain);
                        }
                    }
                    Event::Restart => primary.start(&mut unique),
                    Event::Snapshot => snapshot = Some(primary.clone()),
                    Event::Restore => if let Some(copy) = snapshot.clone() {
                        // A mirror that runs is another matter: here it is down while its primary is put back.
                        (primary, follows) = (copy, false);
                        let reaches = Some(Reach { timeline: Timeline(1), end: Lsn(mirror.len() as u64 + 1) });
                        let lacks = primary.begins().lacks(&followed, reaches);
                        let truly = primary.log.starts_with(&mirror);
                        prop_assert!(followed.is_empty() || truly == lacks.is_none(), "{lacks:?} of {mirror:?} beside {:?}", primary.log);
                        primary.start(&mut unique);
                    },
                }
                let end = Some(Reach { timeline: Timeline(1), end: Lsn(mirror.len() as u64 + 1) });
                let truly = primary.log.starts_with(&mirror);
                if !followed.is_empty() {
                    let said = lineage(&followed, &primary.chain, end);
                    prop_assert!(truly == (said == Lineage::Same), "{said:?} of {mirror:?} beside {:?}", primary.log);
                }
                if follows && truly {
                    (mirror, followed) = (primary.log.clone(), primary.chain.clone());
                } else {
                    follows = false;
                }
            }
        }
    }
}
