//! Every rule of the definitions, in both directions; and that what is committed is what is generated.

use serde_json::{Value, json};

use super::{GreenplumCluster, SegmentRecovery, fixtures, yaml};

fn cluster(change: impl FnOnce(&mut Value)) -> GreenplumCluster {
    let mut value = serde_json::to_value(fixtures::cluster()).unwrap();
    change(&mut value);
    serde_json::from_value(value).unwrap()
}

fn recovery(targets: &Value) -> SegmentRecovery {
    let mut value = serde_json::to_value(fixtures::recovery("mend", &[5])).unwrap();
    value["spec"]["targets"] = targets.clone();
    serde_json::from_value(value).unwrap()
}

#[test]
fn a_cluster_names_its_coordinator_in_one_way() {
    assert!(cluster(|_| ()).validate_cel().is_ok());
    let by_service = cluster(|c| {
        c["spec"]["coordinator"]["host"].take();
        c["spec"]["coordinator"]["service"] = json!("gp-coordinator");
    });
    assert!(by_service.validate_cel().is_ok());
    assert_eq!(by_service.coordinator_host(), "gp-coordinator.demo.svc");
    assert!(cluster(|c| c["spec"]["coordinator"]["service"] = json!("gp")).validate_cel().is_err(), "both");
    assert!(cluster(|c| _ = c["spec"]["coordinator"]["host"].take()).validate_cel().is_err(), "neither");
}

#[test]
fn who_verifies_says_whom_to_trust() {
    let with = |tls: Value| cluster(|c| c["spec"]["coordinator"]["tls"] = tls).validate_cel().is_ok();
    assert!(with(json!({})) && with(json!({"mode": "require"})));
    assert!(with(json!({"mode": "verify-full", "caSecretRef": {"name": "demo-ca"}})));
    assert!(!with(json!({"mode": "verify-full"})));
}

#[test]
fn names_are_short_enough_for_what_is_made_of_them() {
    let named = |length: usize| cluster(|c| c["metadata"]["name"] = json!("a".repeat(length)));
    assert!(named(40).validate_cel().is_ok());
    assert!(named(41).validate_cel().is_err());
    let mut long = recovery(&json!({"dbids": [5]}));
    long.metadata.name = Some("a".repeat(41));
    assert!(long.validate_cel().is_err());
}

#[test]
fn a_recovery_has_exactly_one_kind_of_target() {
    for good in [json!({"dbids": [5]}), json!({"contents": [0, 1]}), json!({"allDown": true})] {
        assert!(recovery(&good).validate_cel().is_ok(), "{good}");
    }
    for bad in [json!({}), json!({"dbids": [5], "contents": [0]}), json!({"contents": [0], "allDown": true}), json!({"allDown": false})] {
        assert!(recovery(&bad).validate_cel().is_err(), "{bad}");
    }
}

#[test]
fn a_recovery_cannot_be_changed() {
    let old = recovery(&json!({"dbids": [5]}));
    assert!(old.validate_cel_update(&old).is_ok());
    assert!(recovery(&json!({"dbids": [6]})).validate_cel_update(&old).is_err());
    let mut typed = old.clone();
    typed.spec.type_ = super::recovery::RecoveryType::Full;
    assert!(typed.validate_cel_update(&old).is_err());
}

/// All schemas of a definition, with their paths.
fn walk<'a>(path: &str, schema: &'a Value, found: &mut Vec<(String, &'a Value)>) {
    found.push((path.to_owned(), schema));
    for (name, child) in schema["properties"].as_object().into_iter().flatten() {
        walk(&format!("{path}.{name}"), child, found);
    }
    if schema["items"].is_object() {
        walk(&format!("{path}[]"), &schema["items"], found);
    }
}

#[test]
fn every_field_is_described_and_every_list_of_ours_is_bounded() {
    for (file, crd) in super::crds() {
        let crd = serde_json::to_value(&crd).unwrap();
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        let mut found = vec![];
        walk("", &schema["properties"]["spec"], &mut found);
        walk(".status", &schema["properties"]["status"], &mut found);
        for (path, schema) in found {
            let of_kubernetes = path.contains(".selector.") || path.contains("[].");
            assert!(path.is_empty() || path.ends_with("[]") || schema["description"].is_string(), "{file}: {path} says nothing");
            assert!(of_kubernetes || schema["type"] != "array" || schema["maxItems"].is_number(), "{file}: {path} has no bound");
            assert!(!schema["format"].as_str().is_some_and(|f| f.starts_with("uint")), "{file}: {path} warns on apply");
        }
    }
}

#[test]
fn the_rules_are_in_the_definitions() {
    let rules = |crd: &str| crd.matches("rule:").count();
    let [(_, cluster), (_, recovery)] = super::crds();
    assert_eq!((rules(&yaml(&cluster).unwrap()), rules(&yaml(&recovery).unwrap())), (5, 4));
}

#[test]
fn what_is_committed_is_what_is_generated() {
    for (file, crd) in super::crds() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crds").join(file);
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(committed == yaml(&crd).unwrap(), "crds/{file} is old: run `gpheal crds crds`");
    }
}

#[test]
fn a_grace_period_that_no_clock_counts_is_refused() {
    let grace = |text: &str| cluster(|c| c["spec"]["healing"]["gracePeriod"] = json!(text)).validate_cel();
    assert!(grace("30s").is_ok() && grace("168h").is_ok() && grace("1h30m0.5s").is_ok());
    assert!(grace("169h").is_err() && grace("2000000h").is_err());
}

#[test]
fn a_breaker_that_never_trips_or_is_looked_back_over_for_too_long_is_refused() {
    let breaker = |value: Value| cluster(|c| c["spec"]["healing"]["breaker"] = value).validate_cel();
    for within in ["1m", "1h", "12h", "90m"] {
        assert!(breaker(json!({ "within": within })).is_ok(), "{within}");
    }
    for within in ["0s", "59s", "12h1s", "13h"] {
        let refused = breaker(json!({ "within": within })).unwrap_err();
        assert!(format!("{refused:?}").contains("one minute (1m) to 12 hours (12h)"), "{within}: {refused:?}");
    }
    let crd = serde_json::to_value(&super::crds()[0].1).unwrap();
    let at = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/healing/properties/breaker/properties/repairs";
    let repairs = crd.pointer(at).unwrap();
    assert_eq!((&repairs["minimum"], &repairs["maximum"], &repairs["default"]), (&json!(2.0), &json!(1000.0), &json!(3)));
}

/// The patterns of the definition, by path.
fn pattern(path: &[&str]) -> regex::Regex {
    let crd = serde_json::to_value(&super::crds()[0].1).unwrap();
    let spec = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    let found = path.iter().fold(spec, |at, name| if *name == "*" { &at["additionalProperties"] } else { &at["properties"][*name] });
    regex::Regex::new(found["pattern"].as_str().unwrap()).unwrap()
}

#[test]
fn names_that_cannot_be_are_refused_by_the_definition() {
    for (path, good, bad) in [
        (&["coordinator", "service"][..], &["gp", "gp-coordinator"][..], &["GP", "gp.demo", "../secrets/x", "-gp", ""][..]),
        (&["coordinator", "host"], &["gp-0.gp.demo.svc", "10.0.0.1", "fd00::1"], &["gp 0", "gp/0", "http://gp", ""]),
        (&["coordinator", "database"], &["postgres", "Meine Datenbank"], &["\0", ""]),
        (&["coordinator", "credentialsSecret", "name"], &["a", "demo-gpadmin", "a.b"], &["../../kube-system/secrets/x", "A", "a/b", "a-"]),
        (&["segments", "container"], &["greenplum"], &["Greenplum", "a b"]),
        (&["job", "resources", "limits", "*"], &["1", "500m", "1.5Gi", "2e3"], &["lots", "1 Gi", "1GiB", ""]),
    ] {
        let pattern = pattern(path);
        for text in good {
            assert!(pattern.is_match(text), "{path:?}: {text}");
        }
        for text in bad {
            assert!(!pattern.is_match(text), "{path:?}: {text}");
        }
    }
}
