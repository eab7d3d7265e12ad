//! What the operator may do: each right that it has is used, and what it must never do is forbidden.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{BufRead, BufReader, Seek, SeekFrom},
    path::Path,
};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::{
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
    coordination::v1::Lease,
    rbac::v1::{ClusterRole, PolicyRule, Role},
};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams},
};
use serde_json::{Value, json};

use super::{
    Stage, copies,
    operator::{self, NAMESPACE as SYSTEM, RELEASE},
};
use crate::{
    bed::fault::delete_operator,
    fixture::{Catalog, NAMESPACE},
};

const USER: &str = "system:serviceaccount:gpheal-system:gpheal";
/// Rights that no scenario can be sure to see used, each with what uses it.
const RARE: [(&str, &str, &str); 6] = [
    ("batch", "jobs", "get"),                     // after a create that met a namesake (src/operator/apply/tests.rs)
    ("batch", "jobs", "delete"),                  // of one that does not go on (src/operator/apply/tests.rs)
    ("events.k8s.io", "events", "list"),          // of a Job without a pod (src/operator/observe/refused_tests.rs)
    ("gpheal.io", "segmentrecoveries", "delete"), // of old ones (src/operator/apply/tests.rs)
    ("gpheal.io", "greenplumclusters/finalizers", "update"), // asked by the admission plugin, which notes no request;
    ("gpheal.io", "segmentrecoveries/finalizers", "update"), // without them no recovery and no Job could be made here
];
/// Verb, group, resource, name and namespace of what must not be allowed. An empty namespace is all of them, an
/// empty name any.
const FORBIDDEN: [[&str; 5]; 34] = [
    ["create", "", "pods/exec", "", NAMESPACE],
    ["get", "", "pods/exec", "", NAMESPACE],
    ["create", "", "pods/attach", "", NAMESPACE],
    ["create", "", "pods/portforward", "", NAMESPACE],
    ["patch", "", "pods/ephemeralcontainers", "", NAMESPACE],
    ["create", "", "pods", "", NAMESPACE],
    ["patch", "", "pods", "", NAMESPACE],
    ["delete", "", "pods", "", NAMESPACE],
    ["get", "", "secrets", "", ""],
    ["list", "", "secrets", "", ""],
    ["watch", "", "secrets", "", ""],
    ["list", "", "secrets", "", NAMESPACE],
    ["get", "", "secrets", "another", NAMESPACE],
    ["get", "", "secrets", "demo-gpadmin", NAMESPACE],
    ["get", "", "secrets", "demo-gpheal-operator", "default"],
    ["patch", "", "secrets", "demo-gpheal-operator", NAMESPACE],
    ["delete", "", "persistentvolumeclaims", "", NAMESPACE],
    ["patch", "", "persistentvolumeclaims", "", NAMESPACE],
    ["delete", "", "persistentvolumes", "", ""],
    ["list", "", "nodes", "", ""],
    ["patch", "", "nodes", "", ""],
    ["create", "", "serviceaccounts/token", "", NAMESPACE],
    ["impersonate", "", "users", "", ""],
    ["patch", "apps", "statefulsets", "", NAMESPACE],
    ["delete", "apps", "statefulsets", "", NAMESPACE],
    ["patch", "batch", "jobs", "", NAMESPACE],
    ["deletecollection", "batch", "jobs", "", NAMESPACE],
    ["patch", "gpheal.io", "greenplumclusters", "", NAMESPACE],
    ["delete", "gpheal.io", "greenplumclusters", "", NAMESPACE],
    ["deletecollection", "gpheal.io", "segmentrecoveries", "", NAMESPACE],
    ["patch", "gpheal.io", "segmentrecoveries", "", NAMESPACE],
    ["create", "rbac.authorization.k8s.io", "rolebindings", "", NAMESPACE],
    ["get", "coordination.k8s.io", "leases", RELEASE, NAMESPACE],
    ["update", "coordination.k8s.io", "leases", "another", SYSTEM],
];

/// A right: group, resource (with its subresource) and verb.
type Right = (String, String, String);

/// A fresh operator heals, and uses all that it may do but what is rare; nothing that it asked for was forbidden.
pub async fn rights(stage: &mut Stage) -> Result<()> {
    let client = stage.cluster.kubernetes().clone();
    forbidden(&client).await?;
    stage.mark(format!("{} things are forbidden", FORBIDDEN.len()));
    let audit = stage.bed.audit_log();
    let from = fs::metadata(&audit)?.len();
    delete_operator(&stage.bed).await?;
    // The next operator has to make its lease, as after the very first installation.
    Api::<Lease>::namespaced(client.clone(), SYSTEM).delete(RELEASE, &DeleteParams::default()).await?;
    operator::ready(&client).await?;
    let (_, mirror) = stage.pair(0).await?;
    // Slow enough for the Job's log to be read.
    stage.healing(json!({ "maxRate": 4 * 1024 * 1024 })).await?;
    copies::empty(stage, &mirror).await?;
    stage.wait_succeeded(mirror.dbid).await?;
    stage.wait_catalog("every pair to be up and in sync", Catalog::is_healthy).await?;
    let (used, refused) = asked(&audit, from)?;
    ensure!(refused.is_empty(), "the operator was forbidden what it asked for: {refused:?}");
    let idle: Vec<_> = granted(&client).await?.into_iter().filter(|right| !used.contains(right) && !is_rare(right)).collect();
    ensure!(idle.is_empty(), "the operator has rights that it does not use: {idle:?}");
    stage.mark("every right was used, none was missing");
    Ok(())
}

fn is_rare((group, resource, verb): &Right) -> bool {
    RARE.contains(&(group, resource, verb))
}

/// What must never be allowed is not, and what the operator lives by is.
pub async fn forbidden(client: &Client) -> Result<()> {
    for access in FORBIDDEN {
        ensure!(!allowed(client, access).await?, "the operator may {access:?}, which it must not");
    }
    for access in [["get", "", "secrets", "demo-gpheal-operator", NAMESPACE], ["create", "batch", "jobs", "", NAMESPACE]] {
        ensure!(allowed(client, access).await?, "the operator may not {access:?}");
    }
    Ok(())
}

/// Asks the API server what the operator may do: verb, group, resource, name, namespace.
pub async fn allowed(client: &Client, [verb, group, resource, name, namespace]: [&str; 5]) -> Result<bool> {
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let attributes = ResourceAttributes {
        verb: text(verb),
        group: text(group),
        resource: text(resource),
        subresource: text(subresource),
        name: text(name),
        namespace: text(namespace),
        ..ResourceAttributes::default()
    };
    let groups = ["system:serviceaccounts", "system:serviceaccounts:gpheal-system", "system:authenticated"].map(str::to_owned);
    let spec = SubjectAccessReviewSpec {
        user: Some(USER.to_owned()),
        groups: Some(groups.to_vec()),
        resource_attributes: Some(attributes),
        ..SubjectAccessReviewSpec::default()
    };
    let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
    let answered = Api::<SubjectAccessReview>::all(client.clone()).create(&PostParams::default(), &review).await?;
    Ok(answered.status.context("a review without an answer")?.allowed)
}

/// All rights that the chart gave.
async fn granted(client: &Client) -> Result<BTreeSet<Right>> {
    let cluster = Api::<ClusterRole>::all(client.clone()).get(RELEASE).await?.rules.unwrap_or_default();
    let mut rules = cluster;
    for (namespace, name) in [(SYSTEM, "gpheal-lease"), (NAMESPACE, "gpheal-secrets")] {
        rules.extend(Api::<Role>::namespaced(client.clone(), namespace).get(name).await?.rules.unwrap_or_default());
    }
    Ok(rules.iter().flat_map(rights_of).collect())
}

fn rights_of(rule: &PolicyRule) -> Vec<Right> {
    let mut found = vec![];
    for group in rule.api_groups.iter().flatten() {
        for resource in rule.resources.iter().flatten() {
            found.extend(rule.verbs.iter().map(|verb| (group.clone(), resource.clone(), verb.clone())));
        }
    }
    found
}

/// What the operator asked for since a place in the audit log: what it got, and what it was refused.
fn asked(audit: &Path, from: u64) -> Result<(BTreeSet<Right>, BTreeSet<Right>)> {
    let mut file = File::open(audit)?;
    file.seek(SeekFrom::Start(from))?;
    let (mut used, mut refused) = (BTreeSet::new(), BTreeSet::new());
    for line in BufReader::new(file).lines() {
        let Ok(event) = serde_json::from_str::<Value>(&line?) else { continue };
        let Some((right, code)) = request(&event) else { continue };
        match code {
            401 | 403 => refused.insert(right),
            _ => used.insert(right),
        };
    }
    if used.is_empty() {
        bail!("the audit log has no request of the operator");
    }
    Ok((used, refused))
}

/// A request of the operator that was answered, and the code of the answer.
fn request(event: &Value) -> Option<(Right, i64)> {
    let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str);
    if text("/user/username") != Some(USER) {
        return None;
    }
    let code = event.pointer("/responseStatus/code").and_then(Value::as_i64)?;
    let resource = text("/objectRef/resource")?;
    let resource = text("/objectRef/subresource").map_or_else(|| resource.to_owned(), |sub| format!("{resource}/{sub}"));
    let group = text("/objectRef/apiGroup").unwrap_or_default();
    Some(((group.to_owned(), resource, text("/verb")?.to_owned()), code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_the_operator_are_told_from_those_of_others() {
        let event = |user: &str, code: i64| {
            json!({ "user": { "username": user }, "verb": "get", "objectRef": { "resource": "pods", "subresource": "log" },
                "responseStatus": { "code": code } })
        };
        let right = (String::new(), "pods/log".to_owned(), "get".to_owned());
        assert_eq!(request(&event(USER, 200)), Some((right.clone(), 200)));
        assert_eq!(request(&event(USER, 403)), Some((right, 403)));
        assert_eq!(request(&event("kubernetes-admin", 200)), None);
    }

    #[test]
    fn a_rule_is_every_verb_on_every_resource() {
        let words = |words: &[&str]| Some(words.iter().map(|word| (*word).to_owned()).collect());
        let rule = PolicyRule {
            api_groups: words(&["batch"]),
            resources: words(&["jobs", "cronjobs"]),
            verbs: vec!["get".into(), "list".into()],
            ..PolicyRule::default()
        };
        assert_eq!(rights_of(&rule).len(), 4);
    }
}
