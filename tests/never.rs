//! What is nowhere in the product. Its layers are crates, so Cargo holds them.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use std::{
    fs,
    path::{Path, PathBuf},
};

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = vec![];
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// Lines of code in `folder` that name one of `words`; comments may speak of anything.
fn naming(folder: &str, words: &[&str]) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(folder);
    let files = sources(&root);
    assert!(!files.is_empty(), "{folder} has no sources");
    let mut found = vec![];
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if words.iter().any(|word| code.contains(word)) {
                found.push(format!("{}:{}: {}", file.display(), number + 1, line.trim()));
            }
        }
    }
    found
}

/// Every line of code that names one of `words`, wherever in the product.
fn anywhere(words: &[&str]) -> Vec<String> {
    naming("", words)
}

#[test]
fn nothing_writes_a_catalog() {
    // Role, mode and status are FTS's; rows are the administrator's.
    let found = anywhere(&["UPDATE ", "INSERT INTO", "DELETE FROM", "gp_add_segment", "gp_remove_segment", "allow_system_table_mods"]);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn nothing_makes_a_database_out_of_nothing() {
    let found = anywhere(&["\"initdb\"", "gpinitsystem", "gpaddmirrors"]);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn the_operator_enters_nothing_and_deletes_nothing_but_jobs_and_recoveries_of_its_own() {
    let found = anywhere(&["api::AttachParams", ".delete_collection(", ".exec(", "StatefulSet"]);
    assert!(found.is_empty(), "{}", found.join("\n"));
    let deleted = anywhere(&[".delete("]);
    let as_seen =
        |line: &String, kind: &str| line.contains("operator/apply/mod.rs") && line.contains(kind) && line.contains("as_seen(uid, version)");
    let (job, recovery) = ("api::<Job>().delete(&name,", "api::<SegmentRecovery>().delete(name,");
    assert!(matches!(&deleted[..], [a, b] if as_seen(a, job) && as_seen(b, recovery)), "{deleted:?}");
}
