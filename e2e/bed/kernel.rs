//! Settings of the whole machine that kubelets change when they start. The bed
//! remembers the old values and puts them back.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use serde_json::{Map, Value};

use super::{command::write, layout::Layout};

const CHANGED: [&str; 5] = ["vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys"];

pub fn remember(layout: &Layout) -> Result<()> {
    let note = note(layout);
    if note.exists() {
        return Ok(());
    }
    let values = CHANGED.iter().filter_map(|name| Some(((*name).to_owned(), Value::from(read(name)?))));
    write(&note, &serde_json::to_string(&values.collect::<Map<_, _>>())?)
}

pub fn restore(layout: &Layout) -> Result<()> {
    let Ok(text) = fs::read_to_string(note(layout)) else { return Ok(()) };
    let values: Map<String, Value> = serde_json::from_str(&text).unwrap_or_default();
    for (name, value) in &values {
        let value = value.as_str().unwrap_or_default();
        if CHANGED.contains(&name.as_str()) && read(name).as_deref() != Some(value) {
            fs::write(place(name), value).with_context(|| format!("cannot restore the kernel setting {name}"))?;
        }
    }
    Ok(())
}

fn note(layout: &Layout) -> std::path::PathBuf {
    layout.folder().join("kernel-settings.json")
}

fn read(name: &str) -> Option<String> {
    fs::read_to_string(place(name)).ok().map(|text| text.trim().to_owned())
}

fn place(name: &str) -> std::path::PathBuf {
    Path::new("/proc/sys").join(name)
}
