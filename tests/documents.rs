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
            _ if path.ends_with("e2e/out") => String::new(), // what a run has left
            _ if path.is_dir() => sources(&path),
            Some(extension) if extension == "rs" => fs::read_to_string(&path).unwrap(),
            _ => String::new(),
        })
        .collect()
}

fn code() -> String {
    ["src", "tests", "e2e"].map(|folder| sources(&root().join(folder))).concat()
}

/// What GitHub makes of the headings of a page.
fn anchors(text: &str) -> Vec<String> {
    let outside_of_code = text.split("\n```").step_by(2);
    let headings = outside_of_code.flat_map(str::lines).filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#'));
    headings.map(|heading| heading.trim().to_lowercase().chars().filter_map(in_an_anchor).collect()).collect()
}

fn in_an_anchor(letter: char) -> Option<char> {
    match letter {
        ' ' => Some('-'),
        letter => (letter.is_alphanumeric() || letter == '-' || letter == '_').then_some(letter),
    }
}

#[test]
fn every_section_that_the_code_names_is_there() {
    let code = code();
    let citations: Vec<(&str, &str)> = code.split("docs/").skip(1).filter_map(|rest| citation(rest)).collect();
    assert!(citations.len() > 25, "hardly any is found");
    for (page, anchor) in citations {
        let text = fs::read_to_string(root().join("docs").join(page)).unwrap_or_else(|error| panic!("docs/{page}: {error}"));
        assert!(anchors(&text).iter().any(|there| there == anchor), "docs/{page} has no section {anchor}");
    }
}

/// Of what follows `docs/`: a page, and a section of it.
fn citation(rest: &str) -> Option<(&str, &str)> {
    let page = rest.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '-').map(|end| &rest[..end])?;
    let anchor = rest.strip_prefix(page)?.strip_prefix(".md#")?;
    let end = anchor.find(|letter: char| !letter.is_alphanumeric() && letter != '-' && letter != '_').unwrap_or(anchor.len());
    Some((&rest[..page.len() + ".md".len()], &anchor[..end]))
}

#[test]
fn what_holds_each_fact_is_there() {
    let text = fs::read_to_string(root().join("docs/greenplum.md")).unwrap();
    let held: Vec<(&str, &str)> = text.split('`').skip(1).step_by(2).filter_map(|word| word.split_once("::")).collect();
    assert!(held.len() > 50, "the page names too little");
    for (file, function) in held.into_iter().filter(|named| *named != ("module", "name")) {
        let path = if file.contains('/') { root().join(file) } else { root().join(format!("e2e/conformance/{file}.rs")) };
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(text.contains(&format!("fn {function}(")), "there is no function {function} in {}", path.display());
    }
    let scenarios = fs::read_to_string(root().join("e2e/scenarios/list.rs")).unwrap();
    for sentence in text.replace('\n', " ").split("scenario").skip(1).map(|rest| rest.split(['.', '(']).next().unwrap()) {
        for scenario in sentence.split('`').skip(1).step_by(2) {
            assert!(scenarios.contains(&format!("\"{scenario}\",")), "there is no scenario {scenario}");
        }
    }
}

#[test]
fn what_holds_each_promise_is_there() {
    let text = fs::read_to_string(root().join("docs/never.md")).unwrap();
    let code = code();
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
