//! Images without a container engine: built by buildah, loaded into each
//! node's container runtime.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::SystemTime,
};

use anyhow::{Context, Result, anyhow};
use serde_json::Value;
use tempfile::TempDir;

use super::{
    cache::{Inputs, entry},
    command::{line, run, say, write},
    components,
    layout::{Layout, Node},
    node::{PAUSE_IMAGE, ctr},
};

/// Accepts what is built here, whatever the machine's own policy says.
const POLICY: &str = r#"{ "default": [{ "type": "insecureAcceptAnything" }] }"#;

/// Builds an image from a Containerfile and the files of a folder, and returns
/// its archive. It is built once for the same inputs.
pub fn build(layout: &Layout, containerfile: &Path, context: &Path, name: &str) -> Result<PathBuf> {
    let mut inputs = Inputs::new();
    inputs.text(name).file(containerfile)?;
    inputs.folder(context)?;
    let kind = name.rsplit('/').next().unwrap_or(name).replace(':', "-");
    entry(layout, &format!("image-{kind}"), &inputs, |target| {
        say(format!("building the image {name}"));
        buildah(layout, containerfile, context, name, target)
    })
}

/// Layers stay uncompressed: the archive goes no further than this machine.
fn buildah(layout: &Layout, containerfile: &Path, context: &Path, name: &str, target: &Path) -> Result<()> {
    let scratch = TempDir::new_in(layout.cache()).context("cannot make a folder for buildah in the cache")?;
    let policy = scratch.path().join("policy.json");
    write(&policy, POLICY)?;
    let storage = format!("buildah --storage-driver vfs --root {0}/root --runroot {0}/run", scratch.path().display());
    let mut bud = line(&format!("{storage} bud --isolation chroot --tag {name}"));
    bud.arg("--signature-policy").arg(&policy).arg("--file").arg(containerfile).arg(context);
    run(&mut bud)?;
    let mut push = line(&format!("{storage} push --disable-compression"));
    push.arg("--signature-policy").arg(&policy).arg(name).arg(format!("oci-archive:{}:{name}", target.display()));
    run(&mut push).map(drop)
}

/// Loads an archive under its image's name on every node, all at once, where
/// it is not loaded yet.
pub fn load(layout: &Layout, archive: &Path, name: &str) -> Result<()> {
    let hash = Inputs::new().file(archive)?.hash();
    let missing: Vec<_> = Node::all().filter(|node| !is_loaded(layout, *node, name, &hash)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let started = SystemTime::now();
    thread::scope(|scope| {
        let work: Vec<_> = missing.iter().map(|node| scope.spawn(|| import(layout, *node, archive, name, &hash))).collect();
        work.into_iter().try_for_each(|work| work.join().map_err(|_| anyhow!("the import of {name} panicked"))?)
    })?;
    let seconds = started.elapsed().unwrap_or_default().as_secs_f32();
    say(format!("loaded {name} on {} nodes ({seconds:.1} s)", missing.len()));
    Ok(())
}

/// The name that an archive was made with.
pub fn name_of(archive: &Path) -> Result<String> {
    let index = run(line("tar --extract --to-stdout --file").arg(archive).arg("index.json"))?;
    let index: Value = serde_json::from_str(&index).with_context(|| format!("{} is no OCI archive", archive.display()))?;
    let name = index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"].as_str();
    Ok(name.with_context(|| format!("the image in {} has no name; give one when pushing it", archive.display()))?.to_owned())
}

/// Makes and loads the sandbox image.
pub fn ensure_pause(layout: &Layout) -> Result<()> {
    let binary = components::pause(layout)?;
    let context = TempDir::new_in(layout.cache()).context("cannot make a folder in the cache")?;
    fs::copy(&binary, context.path().join("pause"))?;
    let containerfile = context.path().join("Containerfile");
    write(&containerfile, "FROM scratch\nCOPY pause /pause\nUSER 65535:65535\nENTRYPOINT [\"/pause\"]\n")?;
    let archive = build(layout, &containerfile, context.path(), PAUSE_IMAGE)?;
    load(layout, &archive, PAUSE_IMAGE)
}

fn import(layout: &Layout, node: Node, archive: &Path, name: &str, hash: &str) -> Result<()> {
    let mut command = ctr(layout, node);
    command.args(["images", "import"]).arg(archive);
    run(&mut command).with_context(|| format!("cannot load {name} on {node}"))?;
    write(&record(layout, node, name), hash)
}

/// By the bed's own note, which goes with the node's folder.
fn is_loaded(layout: &Layout, node: Node, name: &str, hash: &str) -> bool {
    fs::read_to_string(record(layout, node, name)).is_ok_and(|old| old == hash)
}

fn record(layout: &Layout, node: Node, name: &str) -> PathBuf {
    layout.node(node).join("images").join(name.replace(['/', ':'], "_"))
}
