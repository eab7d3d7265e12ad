//! Metrics for Prometheus. Every label has a closed set of values, but for the names of clusters, which objects bound.

use std::{collections::BTreeSet, sync::Arc};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use api::{
    SegmentRecoveryStatus,
    cluster::Counts,
    recovery::{Phase, SegmentRecovery},
};
use model::Plan;

/// How a pass over one cluster ended. A rate of `Changed` on a well cluster would be a hot loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Pass {
    Changed,
    Unchanged,
    Failed,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PassLabels {
    namespace: String,
    cluster: String,
    outcome: Pass,
}

/// A word out of a closed set of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Word(&'static str);

impl EncodeLabelValue for Word {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> Result<(), std::fmt::Error> {
        self.0.encode(encoder)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RecoveryLabels {
    outcome: Word,
    r#type: Word,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TypeLabels {
    r#type: Word,
}

/// Which cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Of {
    pub namespace: String,
    pub cluster: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    namespace: String,
    cluster: String,
    state: Word,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabels {
    namespace: String,
    cluster: String,
    code: Word,
}

/// All metrics.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    passes: Family<PassLabels, Counter>,
    recoveries: Family<RecoveryLabels, Counter>,
    heal_seconds: Family<TypeLabels, Histogram>,
    instances: Family<StateLabels, Gauge>,
    refusals: Family<RefusalLabels, Gauge>,
    leading: Gauge,
}

/// A rewind takes seconds, a large full copy hours.
const SECONDS: [f64; 12] = [5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 21600.0, 86400.0];

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("gpheal");
        let passes = Family::default();
        registry.register("reconciles", "Passes over a cluster, by outcome", passes.clone());
        let recoveries = Family::default();
        registry.register("recoveries", "Recoveries that are over, by outcome and type", recoveries.clone());
        let heal_seconds = Family::new_with_constructor((|| Histogram::new(SECONDS)) as fn() -> Histogram);
        registry.register("heal_seconds", "Seconds from the first attempt of a recovery to the proof", heal_seconds.clone());
        let instances = Family::default();
        registry.register("instances", "Instances by state, as the catalog has them", instances.clone());
        let refusals = Family::default();
        registry.register("refusals", "Instances that are left alone now, or would be if they were not well, by reason", refusals.clone());
        let leading = Gauge::default();
        registry.register("leading", "1 while this operator holds the lease", leading.clone());
        Self { registry: Arc::new(registry), passes, recoveries, heal_seconds, instances, refusals, leading }
    }
}

impl Metrics {
    pub fn pass(&self, of: &Of, outcome: Pass) {
        self.passes.get_or_create(&pass_labels(of, outcome)).inc();
    }

    pub fn leading(&self, yes: bool) {
        self.leading.set(yes.into());
    }

    /// A status of a recovery was written; `before` is the one that it replaced.
    pub fn recovery(&self, before: Option<&SegmentRecoveryStatus>, after: &SegmentRecovery) {
        let Some(status) = &after.status else { return };
        let phase = model::Phase::from(status.phase);
        if !phase.is_over() || before.is_some_and(|before| before.phase == status.phase) {
            return;
        }
        let kind = Word(match status.type_.as_deref() {
            Some("Incremental") => "Incremental",
            Some("Full") => "Full",
            Some(_) => "Mixed",
            None => "None",
        });
        self.recoveries.get_or_create(&RecoveryLabels { outcome: Word(phase.as_str()), r#type: kind }).inc();
        if let (Phase::Succeeded, Some(begun), Some(ended)) = (status.phase, &status.started_at, &status.ended_at) {
            let seconds = ended.0.duration_since(begun.0).as_secs_f64();
            self.heal_seconds.get_or_create(&TypeLabels { r#type: kind }).observe(seconds);
        }
    }

    /// Gauges of one cluster. `before` holds the reasons that were shown last time, so that they go back to none.
    pub fn cluster(&self, of: &Of, counts: &Counts, plan: &Plan, shown: &mut BTreeSet<&'static str>) {
        for (state, number) in states(counts) {
            self.instances.get_or_create(&state_labels(of, state)).set(number.into());
        }
        let mut now = std::collections::BTreeMap::<&'static str, i64>::new();
        for refusal in
            plan.unwell.iter().chain(&plan.unfit).chain(&plan.unwatched).chain(&plan.lacking).filter_map(|one| one.reason.refusal())
        {
            *now.entry(refusal.code()).or_default() += 1;
        }
        for gone in shown.iter().filter(|code| !now.contains_key(*code)) {
            self.refusals.remove(&refusal_labels(of, gone));
        }
        for (code, number) in &now {
            self.refusals.get_or_create(&refusal_labels(of, code)).set(*number);
        }
        *shown = now.into_keys().collect();
    }

    /// A cluster that is not watched any more has no metrics.
    pub fn forget(&self, of: &Of, shown: &BTreeSet<&'static str>) {
        for outcome in [Pass::Changed, Pass::Unchanged, Pass::Failed] {
            self.passes.remove(&pass_labels(of, outcome));
        }
        for (state, _) in states(&Counts::default()) {
            self.instances.remove(&state_labels(of, state));
        }
        for code in shown {
            self.refusals.remove(&refusal_labels(of, code));
        }
    }

    /// The text that Prometheus reads.
    pub fn text(&self) -> String {
        let mut text = String::new();
        match encode(&mut text, &self.registry) {
            Ok(()) => text,
            Err(error) => format!("# {error}\n"),
        }
    }
}

fn states(counts: &Counts) -> [(&'static str, i32); 4] {
    [("up", counts.up), ("down", counts.down), ("swapped", counts.swapped), ("recovering", counts.recovering)]
}

fn pass_labels(of: &Of, outcome: Pass) -> PassLabels {
    PassLabels { namespace: of.namespace.clone(), cluster: of.cluster.clone(), outcome }
}

fn state_labels(of: &Of, state: &'static str) -> StateLabels {
    StateLabels { namespace: of.namespace.clone(), cluster: of.cluster.clone(), state: Word(state) }
}

fn refusal_labels(of: &Of, code: &'static str) -> RefusalLabels {
    RefusalLabels { namespace: of.namespace.clone(), cluster: of.cluster.clone(), code: Word(code) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::fixtures;
    use model::{Content, Dbid, Reason, Refusal, Unwell, world::fixtures::now};
    use serde_json::json;

    #[test]
    fn a_recovery_is_counted_once_when_it_is_over() {
        let metrics = Metrics::default();
        let mut object = fixtures::recovery("mend", &[5]);
        let times = json!({"phase": "Succeeded", "type": "Full", "startedAt": "2027-01-15T08:00:00Z", "endedAt": "2027-01-15T08:00:40Z"});
        object.status = serde_json::from_value(times).unwrap();
        metrics.recovery(None, &object);
        metrics.recovery(object.status.as_ref(), &object);
        let text = metrics.text();
        assert!(text.contains("gpheal_recoveries_total{outcome=\"Succeeded\",type=\"Full\"} 1"), "{text}");
        assert!(text.contains("gpheal_heal_seconds_sum{type=\"Full\"} 40"), "{text}");
    }

    #[test]
    fn a_reason_that_is_gone_is_shown_no_more() {
        let of = Of { namespace: "demo".into(), cluster: "demo".into() };
        let (metrics, mut shown) = (Metrics::default(), BTreeSet::new());
        metrics.pass(&of, Pass::Changed);
        assert!(metrics.text().contains("gpheal_reconciles_total{namespace=\"demo\",cluster=\"demo\",outcome=\"Changed\"} 1"));
        let unwell =
            Unwell { dbid: Dbid(5), content: Content(0), row: String::new(), since: now(), reason: Reason::Refused(Refusal::CatchingUp) };
        let plan = Plan { unwell: vec![unwell], ..Plan::default() };
        let counts = Counts { up: 6, ..Counts::default() };
        metrics.cluster(&of, &counts, &plan, &mut shown);
        let line = "gpheal_refusals{namespace=\"demo\",cluster=\"demo\",code=\"CatchingUp\"} 1";
        assert!(metrics.text().contains(line), "{}", metrics.text());
        metrics.cluster(&of, &counts, &Plan::default(), &mut shown);
        assert!(!metrics.text().contains("CatchingUp") && metrics.text().contains("state=\"up\"} 6"));
        metrics.forget(&of, &shown);
        assert!(!metrics.text().contains("cluster="), "{}", metrics.text());
    }
}
