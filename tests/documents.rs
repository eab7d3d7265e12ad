//! The documents name files, functions and scenarios that are there.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use std::{
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn pages() -> Vec<PathBuf> {
    let pages = fs::read_dir(root().join("docs")).unwrap().flatten().map(|entry| entry.path());
    pages.filter(|path| path.extension().is_some_and(|extension| extension == "md")).chain([root().join("README.md")]).collect()
}

/// The texts between every `open` and the next `close`.
fn between<'a>(text: &'a str, open: &str, close: char) -> Vec<&'a str> {
    text.split(open).skip(1).filter_map(|rest| rest.split(close).next()).collect()
}

#[test]
fn every_link_leads_somewhere() {
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for link in between(&text, "](", ')') {
            let file = link.split('#').next().unwrap();
            let there = file.starts_with("https://") || page.parent().unwrap().join(file).exists();
            assert!(there, "{} links to {link}", page.display());
        }
    }
}

fn sources(folder: &Path) -> String {
    let entries = fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path());
    entries
        .map(|path| match path.extension() {
            _ if path.is_dir() => sources(&path),
            Some(extension) if extension == "rs" => fs::read_to_string(&path).unwrap(),
            _ => String::new(),
        })
        .collect()
}

#[test]
fn what_holds_each_promise_is_there() {
    let text = fs::read_to_string(root().join("docs/never.md")).unwrap();
    let code: String = ["src", "tests", "e2e"].map(|folder| sources(&root().join(folder))).concat();
    let words: Vec<&str> = text.split('`').skip(1).step_by(2).collect();
    assert!(words.len() > 50, "the page names too little");
    for word in words.into_iter().filter(|word| *word != "preferred_role") {
        if let Some((file, function)) = word.split_once("::") {
            let text = fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
            assert!(text.contains(&format!("fn {function}(")), "there is no function {function} in {file}");
        } else if Path::new(word).extension().is_some_and(|extension| extension == "rs" || extension == "yaml") {
            assert!(["", "src"].iter().any(|folder| root().join(folder).join(word).exists()), "there is no file {word}");
        } else if word.contains('_') {
            assert!(code.contains(&format!("fn {word}(")), "there is no function {word}");
        } else if word.contains('-') && !word.contains(' ') {
            assert!(code.contains(&format!("\"{word}\",")), "there is no scenario {word}");
        }
    }
}
