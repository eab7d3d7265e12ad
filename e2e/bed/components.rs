//! Builds the programs of Kubernetes from `e2e/kube`, or finds them built.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::{
    cache::{Inputs, entry},
    command::{make_folder, say},
    layout::Layout,
};

const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/kube");
const KUBERNETES: &str = "1.34.4";
const PROGRESS_EVERY: Duration = Duration::from_secs(15);

/// The names by which the one binary is called; see `e2e/kube/main.go`.
const PROGRAMS: [&str; 8] =
    ["coredns", "etcd", "kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubectl", "kubelet"];

/// Makes sure that the binaries are built and that the bed links to them.
pub fn ensure(layout: &Layout) -> Result<()> {
    let kube = build(layout, "kube", ".", &version_flags())?;
    make_folder(&layout.programs())?;
    for program in PROGRAMS {
        link(&kube, &layout.program(program))?;
    }
    Ok(())
}

/// The program of every pod's sandbox.
pub fn pause(layout: &Layout) -> Result<PathBuf> {
    build(layout, "pause", "./cmd/pause", "-s -w")
}

/// Without a version the components distrust each other's age.
fn version_flags() -> String {
    let mut numbers = KUBERNETES.split('.');
    let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    let set = |name: &str, value: &str| format!(" -X k8s.io/component-base/version.{name}={value}");
    ["-s -w".to_owned(), set("gitVersion", &format!("v{KUBERNETES}")), set("gitMajor", major), set("gitMinor", minor)].concat()
        + &set("gitTreeState", "clean")
}

fn build(layout: &Layout, name: &str, package: &str, flags: &str) -> Result<PathBuf> {
    let sources = Path::new(SOURCES);
    let mut inputs = Inputs::new();
    inputs.text(flags).text(package);
    for file in ["go.mod", "go.sum"] {
        inputs.file(&sources.join(file))?;
    }
    inputs.file(&sources.join(package).join("main.go"))?;
    entry(layout, name, &inputs, |target| compile(name, package, flags, target))
}

fn compile(name: &str, package: &str, flags: &str, target: &Path) -> Result<()> {
    say(format!("building {name} with Go (from nothing, Kubernetes takes about ten minutes)"));
    let mut command = Command::new("go");
    command.current_dir(SOURCES).env("CGO_ENABLED", "0");
    command.args(["build", "-v", "-trimpath", "-buildvcs=false", "-ldflags", flags, "-o"]);
    command.arg(target).arg(package).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut compiler = command.spawn().context("cannot run `go`; install Go 1.24 or newer and put it on PATH")?;
    let said = follow(name, &mut compiler)?;
    if !compiler.wait()?.success() {
        bail!("`go build` of {name} failed in {SOURCES}: {said}");
    }
    Ok(())
}

/// Shows how far the compiler is and returns the last of what it said.
fn follow(name: &str, compiler: &mut Child) -> Result<String> {
    let output = compiler.stderr.take().context("the compiler has no output")?;
    let (packages, started) = (AtomicUsize::new(0), Instant::now());
    thread::scope(|scope| {
        let reader = scope.spawn(|| read_lines(output, &packages));
        let mut announced = started;
        while !reader.is_finished() {
            thread::sleep(Duration::from_millis(100));
            if announced.elapsed() >= PROGRESS_EVERY {
                announced = Instant::now();
                let seconds = started.elapsed().as_secs();
                say(format!("building {name}: {seconds} s, {} packages", packages.load(Ordering::Relaxed)));
            }
        }
        Ok(reader.join().unwrap_or_default())
    })
}

fn read_lines(output: impl Read, count: &AtomicUsize) -> String {
    let mut last = Vec::new();
    for line in BufReader::new(output).lines().map_while(Result::ok) {
        count.fetch_add(1, Ordering::Relaxed);
        last.push(line);
        if last.len() > 20 {
            last.remove(0);
        }
    }
    last.join("\n")
}

fn link(target: &Path, place: &Path) -> Result<()> {
    if fs::read_link(place).is_ok_and(|old| old == target) {
        return Ok(());
    }
    if place.is_symlink() {
        fs::remove_file(place)?;
    }
    symlink(target, place).with_context(|| format!("cannot link {}", place.display()))
}
