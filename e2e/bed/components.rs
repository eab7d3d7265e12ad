//! Builds the programs of Kubernetes from `e2e/kube` and Helm from `e2e/helm`, or finds them built.

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

const KUBERNETES: &str = "1.34.4";
const HELM: &str = "3.19.5";
const PROGRESS_EVERY: Duration = Duration::from_secs(15);

/// The names by which the one binary is called; see `e2e/kube/main.go`.
const PROGRAMS: [&str; 8] =
    ["coredns", "etcd", "kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubectl", "kubelet"];

/// A Go program: a package that one of the modules below `e2e` has or names as its tool.
struct Program<'a> {
    name: &'a str,
    module: &'a str,
    package: &'a str,
    /// For the linker.
    flags: &'a str,
    /// How long it takes from nothing.
    takes: &'a str,
}

impl Program<'_> {
    fn sources(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join(self.module)
    }
}

/// Makes sure that the binaries are built and that the bed links to them.
pub fn ensure(layout: &Layout) -> Result<()> {
    let flags = version_flags();
    let kube = build(layout, &Program { name: "kube", module: "kube", package: ".", flags: &flags, takes: "about ten minutes" })?;
    make_folder(&layout.programs())?;
    for program in PROGRAMS {
        link(&kube, &layout.program(program))?;
    }
    Ok(())
}

/// The program of every pod's sandbox.
pub fn pause(layout: &Layout) -> Result<PathBuf> {
    let flags = "-s -w";
    build(layout, &Program { name: "pause", module: "kube", package: "./cmd/pause", flags, takes: "a second" })
}

/// Helm, which no bed needs but whoever installs the chart: a module of its own, so that neither of them holds the
/// other's libraries back.
pub fn helm(layout: &Layout) -> Result<PathBuf> {
    let flags = helm_flags();
    build(layout, &Program { name: "helm", module: "helm", package: "helm.sh/helm/v3/cmd/helm", flags: &flags, takes: "two minutes" })
}

/// Helm's own version, and the one of Kubernetes that it takes for granted when it asks no cluster.
fn helm_flags() -> String {
    let mut numbers = KUBERNETES.split('.');
    let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    let kubernetes = ["pkg/chartutil", "pkg/lint/rules"].map(|package| {
        let place = format!("helm.sh/helm/v3/{package}.k8sVersion");
        format!(" -X {place}Major={major} -X {place}Minor={minor}")
    });
    format!("-s -w -X helm.sh/helm/v3/internal/version.version=v{HELM}{}", kubernetes.concat())
}

/// Without a version the components distrust each other's age.
fn version_flags() -> String {
    let mut numbers = KUBERNETES.split('.');
    let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    let set = |name: &str, value: &str| format!(" -X k8s.io/component-base/version.{name}={value}");
    ["-s -w".to_owned(), set("gitVersion", &format!("v{KUBERNETES}")), set("gitMajor", major), set("gitMinor", minor)].concat()
        + &set("gitTreeState", "clean")
}

fn build(layout: &Layout, program: &Program) -> Result<PathBuf> {
    let sources = program.sources();
    let mut inputs = Inputs::new();
    inputs.text(program.flags).text(program.package);
    for file in ["go.mod", "go.sum"] {
        inputs.file(&sources.join(file))?;
    }
    let main = sources.join(program.package).join("main.go");
    if main.exists() {
        inputs.file(&main)?; // a tool's is another module's, whose version go.mod has
    }
    entry(layout, program.name, &inputs, |target| compile(program, target))
}

fn compile(program: &Program, target: &Path) -> Result<()> {
    let (name, sources) = (program.name, program.sources());
    say(format!("building {name} with Go (from nothing it takes {})", program.takes));
    let mut command = Command::new("go");
    command.current_dir(&sources).env("CGO_ENABLED", "0");
    command.args(["build", "-v", "-trimpath", "-buildvcs=false", "-ldflags", program.flags, "-o"]);
    command.arg(target).arg(program.package).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut compiler = command.spawn().context("cannot run `go`; install Go 1.24 or newer and put it on PATH")?;
    let said = follow(name, &mut compiler)?;
    if !compiler.wait()?.success() {
        bail!("`go build` of {name} failed in {}: {said}", sources.display());
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

/// Points `place` at a program.
pub fn link(target: &Path, place: &Path) -> Result<()> {
    if fs::read_link(place).is_ok_and(|old| old == target) {
        return Ok(());
    }
    if place.is_symlink() {
        fs::remove_file(place)?;
    }
    symlink(target, place).with_context(|| format!("cannot link {}", place.display()))
}
