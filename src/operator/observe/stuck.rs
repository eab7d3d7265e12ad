//! Attempts that nobody ends: what keeps a Job from going on, as far as it lasts. Counted by this operator's own monotonic
//! clock, from the moment at which it first saw the sign: clocks of other machines prove nothing.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use tokio::time::Instant;

use super::{
    jobs::{JobSeen, PodStage},
    nodes::Node,
};
use model::{JobState, JobView, Progress, Step};

/// What shows that a Job does not go on, in the order in which it explains more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Sign {
    /// Its node is gone for good.
    NodeGone,
    /// Its node is not ready.
    NodeLost,
    /// The instance's pod is on another node.
    Moved,
    /// The Job has no pod.
    NoPod,
    /// Its pod is on no node.
    Unscheduled,
    /// Its pod does not start.
    NotStarting,
    /// It says nothing, and its hold does not beat.
    Silent,
    /// It says again and again that nothing has moved, and its hold does not beat.
    Beatless,
    /// It says that again and again, for longer than anything takes that shows no sign of itself.
    Idle,
}

impl Sign {
    /// How long it has to last before it is believed.
    fn patience(self) -> Duration {
        match self {
            Self::NodeGone | Self::Moved => Duration::from_secs(30),
            Self::NodeLost | Self::NoPod | Self::Unscheduled => Duration::from_mins(2),
            Self::NotStarting | Self::Silent => Duration::from_mins(5),
            Self::Beatless => Duration::from_mins(15), // as a tool, which is broken off by then
            Self::Idle => Duration::from_mins(30),     // to flush or remove what a copy was made of, say
        }
    }
}

/// What is known beside the Job itself.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// The node of its pod, or the one to which it is bound.
    pub node: &'a Node,
    /// The node of the instance's pod.
    pub instance_on: Option<&'a str>,
    /// The last heartbeat of its hold that the instance's supervisor shows.
    pub heartbeat: Option<Timestamp>,
}

/// Signs of all Jobs that are not over: since when each lasts, and for what is told by a change, what was last seen.
#[derive(Debug, Default)]
pub struct Signs {
    since: BTreeMap<String, BTreeMap<Sign, (Instant, String)>>,
    /// Jobs that the plan had ended before they began to copy, and who had refused their pods.
    ended: BTreeMap<String, Option<String>>,
}

impl Signs {
    /// Jobs that nobody looks for any more are forgotten.
    pub fn keep_only(&mut self, jobs: &[&str]) {
        self.since.retain(|name, _| jobs.contains(&name.as_str()));
        self.ended.retain(|name, _| jobs.contains(&name.as_str()));
    }

    /// The plan has a Job ended which has not begun: once it is gone, nothing else tells.
    pub fn ends(&mut self, job: &JobView) {
        if !job.begun {
            self.ended.insert(job.name.clone(), job.refused.clone());
        }
    }

    /// Adds to what is seen of a Job whether it is stuck, and whether it may have begun to copy.
    pub fn judge(&mut self, job: &mut JobSeen, facts: &Facts) {
        match job.view.state {
            JobState::Active => {}
            JobState::Lost(_) => {
                let ended = self.ended.get(&job.view.name).filter(|_| job.pod == PodStage::None);
                job.view.begun = if job.pod == PodStage::None { ended.is_none() } else { begun(job, facts) };
                job.view.refused = ended.cloned().flatten();
                return;
            }
            JobState::Ended(_) | JobState::Garbled(_) => return,
        }
        self.ended.remove(&job.view.name);
        job.view.node_gone = facts.node.is_gone();
        job.view.begun = begun(job, facts);
        let signs = signs(job, facts);
        let known = self.since.entry(job.view.name.clone()).or_default();
        known.retain(|sign, _| signs.iter().any(|(now, ..)| now == sign));
        job.view.stuck = None;
        for (sign, seen, sentence) in signs {
            let (since, last) = known.entry(sign).or_insert_with(|| (Instant::now(), seen.clone()));
            if *last != seen {
                (*since, *last) = (Instant::now(), seen);
            }
            if since.elapsed() >= sign.patience() && job.view.stuck.is_none() {
                job.view.stuck = Some(sentence);
            }
        }
    }
}

/// It may have begun to copy: false only when that is known.
fn begun(job: &JobSeen, facts: &Facts) -> bool {
    match job.pod {
        PodStage::None | PodStage::Unscheduled => false,
        // What a node that does not answer has begun it has not told.
        PodStage::Placed => !facts.node.lives(),
        PodStage::Begun => match &job.said.progress {
            _ if !job.said.answered => true,
            Some(progress) => progress.step >= Step::Copying,
            None => !job.said.last.is_empty(),
        },
    }
}

/// Each sign that shows now, with what has to stand still for it to last, and a sentence.
fn signs(job: &JobSeen, facts: &Facts) -> Vec<(Sign, String, String)> {
    let name = job.node.as_deref().unwrap_or("?");
    let mut all = vec![];
    let mut add = |sign, sentence: String| all.push((sign, String::new(), sentence));
    match facts.node {
        Node::Gone => add(Sign::NodeGone, format!("its node {name} is not there any more")),
        Node::Seen(node) if node.out_of_service => add(Sign::NodeGone, format!("its node {name} is marked as out of service")),
        Node::Seen(node) if !node.ready => add(Sign::NodeLost, format!("its node {name} is not ready")),
        Node::Seen(_) | Node::Unknown(_) => {}
    }
    if let Some(on) = facts.instance_on.filter(|on| job.node.as_deref().is_some_and(|bound| bound != *on)) {
        add(Sign::Moved, format!("the instance's pod is on node {on}, and the Job is bound to {name}"));
    }
    let waits = job.waits.clone();
    match (job.pod, waits) {
        (PodStage::None, _) => {
            let (guess, job) = ("a quota or an admission webhook may refuse it; kubectl describe job", &job.view);
            let why = job.refused.clone().unwrap_or_else(|| format!("{guess} {} says why", job.name));
            add(Sign::NoPod, format!("its pod is not made: {why}"));
        }
        (PodStage::Unscheduled, waits) => add(Sign::Unscheduled, format!("its pod is on no node{}", because(waits))),
        (PodStage::Placed, waits) | (PodStage::Begun, waits @ Some(_)) => {
            add(Sign::NotStarting, format!("its pod does not start{}", because(waits)));
        }
        (PodStage::Begun, None) => {
            all.push(silent(job, facts));
            all.extend(idle(job, facts));
        }
    }
    all
}

fn because(waits: Option<String>) -> String {
    waits.map_or_else(String::new, |why| format!(": {why}"))
}

/// Lasts as long as its work does not move: the lines of its log are printed by a thread of their own, whatever becomes of the others.
fn idle(job: &JobSeen, facts: &Facts) -> Vec<(Sign, String, String)> {
    // One of an older version does not tell that it waits for a source at work.
    let Some(Progress { step, bytes, read, written, moves: Some(moves), .. }) = &job.said.progress else { return vec![] };
    let work = format!("{step} {bytes} {read:?} {written:?} {moves}");
    let said = format!("it says that it runs, and nothing of its work in step {step} moves");
    let holds = (Step::ProvingAgain..Step::Releasing).contains(step);
    let beat = facts.heartbeat.filter(|_| holds).map(|at| (Sign::Beatless, format!("{work}\n{at}")));
    let beatless = beat.map(|(sign, seen)| (sign, seen, format!("{said}, nor does the heartbeat of its hold on the volume")));
    beatless.into_iter().chain([(Sign::Idle, work, said)]).collect()
}

/// Lasts as long as neither its log nor its hold's heartbeat moves.
fn silent(job: &JobSeen, facts: &Facts) -> (Sign, String, String) {
    let heard = format!("{}\n{:?}", job.said.last, facts.heartbeat);
    let unread = match facts.node {
        Node::Unknown(why) => format!("; whether its node lives is not known: {why}"),
        Node::Seen(_) | Node::Gone => String::new(),
    };
    (Sign::Silent, heard, format!("it runs and says nothing, and its hold on the volume has no new heartbeat{unread}"))
}

#[cfg(test)]
#[path = "stuck_tests.rs"]
mod tests;
