//! What can be seen without asking anybody: the volume, its marks and lock, the user, the processes.

use std::{os::unix::fs::MetadataExt, path::Path};

use nix::unistd::{AccessFlags, Uid, access};

use super::{
    Verdict,
    fault::{Fault, Shortcoming},
    mount,
};
use crate::{
    supervisor::decide::by_marks,
    volume::{
        LockSeen, Marks, TokenState, Volume, VolumeError, layout, mount as mounts,
        processes::{self, Found},
        shape::Shaped,
    },
};
use model::{InstanceState, Refusal, page::Shape, refusal::ContractPoint};

/// The volume, if its data directory can have marks beside it.
pub fn volume(data: &Path) -> (Option<Volume>, Verdict) {
    let unreadable = |why: String| Verdict::NotOk(Fault::Seen(Shortcoming::DirectoryUnreadable { why }));
    match (Volume::at(data), mounts::mountinfo()) {
        (Err(VolumeError::DataDirIsMountRoot(_)), _) => (None, Verdict::NotOk(Fault::Contract(ContractPoint::DataDirIsMountRoot))),
        (Err(error @ VolumeError::NotAbsolute(_)), _) => (None, malformed(&error.to_string())),
        (Err(error @ (VolumeError::Look { .. } | VolumeError::Marks { .. })), _) => (None, unreadable(error.to_string())),
        (Ok(volume), Ok(mountinfo)) => {
            let place = mounts::resolved(data);
            (Some(volume), mount::judge(mounts::find(&mountinfo, &place).as_ref(), &place).into())
        }
        (Ok(volume), Err(error)) => (Some(volume), unreadable(format!("/proc/self/mountinfo: {error}"))),
    }
}

fn malformed(why: &str) -> Verdict {
    Verdict::NotOk(Fault::Seen(Shortcoming::VariableMalformed { variable: "GPHEAL_DATA_DIRECTORY".into(), why: why.into() }))
}

/// postgres would take this directory as its own.
pub fn user(data: &Path, user: Uid) -> Verdict {
    if user.is_root() {
        return Verdict::NotOk(Fault::Seen(Shortcoming::RunsAsRoot));
    }
    let directory = match std::fs::metadata(data) {
        Ok(directory) => directory,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Verdict::Ok(format!("runs as user {user}; there is no data directory to own"));
        }
        Err(error) => {
            let why = format!("{}: {error}", data.display());
            return Verdict::NotOk(Fault::Seen(Shortcoming::DirectoryUnreadable { why }));
        }
    };
    let (name, mode) = (data.display().to_string(), directory.mode() & 0o7777);
    if directory.uid() != user.as_raw() {
        return Verdict::NotOk(Fault::Seen(Shortcoming::NotOwner { directory: name, owner: directory.uid(), user: user.as_raw() }));
    }
    // Greenplum 6 wants 0700, later ones let the group read.
    if mode & 0o027 != 0 {
        return Verdict::NotOk(Fault::Seen(Shortcoming::ModeTooOpen { directory: name, mode: format!("{mode:04o}") }));
    }
    Verdict::Ok(format!("runs as user {user}, the owner of {name}"))
}

/// The folder of marks can be written, or made.
pub fn marks_folder(volume: &Volume) -> Verdict {
    let folder = volume.marks_folder();
    // What cannot be looked at is asked for all the same, and says why.
    let there = if folder.try_exists().unwrap_or(true) { folder } else { folder.parent().unwrap_or(folder) };
    match access(there, AccessFlags::R_OK | AccessFlags::W_OK | AccessFlags::X_OK) {
        Ok(()) if there == folder => Verdict::Ok(format!("{} can be written", folder.display())),
        Ok(()) => Verdict::Ok(format!("{} will be made", folder.display())),
        Err(why) => {
            Verdict::NotOk(Fault::Seen(Shortcoming::MarksNotWritable { folder: there.display().to_string(), why: why.to_string() }))
        }
    }
}

/// No mark keeps postgres down.
pub fn marks(marks: &Marks) -> Verdict {
    match by_marks(marks) {
        Some((state, why)) => Verdict::NotOk(Fault::State(state, why)),
        _ if marks.maintenance => {
            Verdict::Ok("maintenance stands: postgres runs without being asked about, and nothing is repaired".into())
        }
        _ => Verdict::Ok("none stands".into()),
    }
}

/// The volume is this instance's, or has not been anybody's yet.
pub fn token(token: &TokenState, shape: Shape) -> Verdict {
    match token {
        TokenState::Mine(token) => Verdict::Ok(format!("dbid {} of cluster {}, adopted at {}", token.dbid, token.cluster, token.adopted)),
        TokenState::Foreign(why) => Verdict::NotOk(Fault::State(InstanceState::VolumeUnrecognised, why.clone())),
        TokenState::Absent if shape == Shape::Empty => {
            let why = "the volume has neither a token nor a database; is it the right one, is it mounted?";
            Verdict::NotOk(Fault::State(InstanceState::VolumeUnrecognised, why.into()))
        }
        TokenState::Absent => Verdict::Ok("there is none; the supervisor writes it at its first start of postgres".into()),
    }
}

/// The lock can be taken, or is held by who should hold it. `supervised`: a supervisor is pid 1 here.
pub fn lock(volume: &Volume, supervised: bool) -> Verdict {
    let busy = |why: String| Verdict::NotOk(Fault::State(InstanceState::LockBusy, why));
    let squatters = volume.squatters();
    match (volume.lock_seen(), squatters.pids.as_slice(), squatters.unknown) {
        (Err(error), ..) => busy(format!("the lock cannot be looked at: {error}")),
        (Ok(LockSeen::Held(who)), ..) => Verdict::Ok(format!("held by: {who}{}", pids(&volume.lock_holders()))),
        (Ok(_), [], Some(why)) => Verdict::Skipped(format!("free; whether somebody writes without it is not known: {why}")),
        (Ok(LockSeen::Free), [], None) => Verdict::Ok("free".into()),
        (Ok(LockSeen::Never), [], None) => Verdict::Ok("nobody ever took it".into()),
        (Ok(_), pids, _) if supervised => {
            busy(format!("who lives or writes in the data directory without the lock: process {}", processes::describe(pids)))
        }
        (Ok(_), pids, _) => Verdict::Ok(format!(
            "free; without it, as long as the supervisor is not the command, run process {}",
            processes::describe(pids)
        )),
    }
}

fn pids(found: &Found) -> String {
    let names: Vec<_> = found.pids.iter().map(ToString::to_string).collect();
    match &found.unknown {
        Some(why) => format!(" (processes {}; not all could be looked at: {why})", names.join(", ")),
        None if names.is_empty() => " (no process of this container)".into(),
        None => format!(" (processes {})", names.join(", ")),
    }
}

/// A full copy could take its place.
pub fn copied(volume: &Volume) -> Verdict {
    match layout::uncopied(volume.data()) {
        Some(why) => Verdict::NotOk(Fault::Refused(Refusal::NotToBeCopied { why })),
        None => Verdict::Ok("a full copy could take the place of the data directory".into()),
    }
}

/// What stands in the data directory.
pub fn directory(shaped: &Shaped) -> Verdict {
    match shaped.shape {
        Shape::Unknown => Verdict::NotOk(Fault::Seen(Shortcoming::DirectoryUnreadable { why: shaped.why.clone() })),
        Shape::Primary => Verdict::Ok("would start as a primary".into()),
        Shape::Mirror => Verdict::Ok("would start as a mirror".into()),
        Shape::Empty | Shape::Unusable => Verdict::Ok(format!("{}; a mirror is copied anew, a primary is not touched", shaped.why)),
    }
}

/// The first processes of our namespace, by their names.
pub struct Processes {
    pub first: String,
    pub second: String,
}

impl Processes {
    /// As `/proc` shows them.
    pub fn look() -> Self {
        let name = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned();
        Self { first: name(1), second: name(2) }
    }
}

/// No process of another container is to be seen.
pub fn processes(processes: &Processes) -> Verdict {
    match (processes.first.as_str(), processes.second.as_str()) {
        (_, "kthreadd") => Verdict::NotOk(Fault::Contract(ContractPoint::HostPid)),
        ("pause", _) => Verdict::NotOk(Fault::Contract(ContractPoint::SharedProcessNamespace)),
        (first, _) => Verdict::Ok(format!("pid 1 is {first}")),
    }
}

/// A supervisor is pid 1 here: what it runs is seen by the words of its command.
pub fn is_supervised() -> bool {
    let words = std::fs::read("/proc/1/cmdline").unwrap_or_default();
    let words: Vec<_> = words.split(|byte| *byte == 0).collect();
    words.contains(&b"supervise".as_slice()) && !words.contains(&b"--check".as_slice())
}

/// The supervisor is the container's command.
pub fn supervisor(supervised: bool) -> Verdict {
    if supervised {
        Verdict::Ok("is pid 1 of this container".into())
    } else {
        Verdict::Skipped("not the command of this container yet; it becomes that when all else is ok".into())
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::Permissions, os::unix::fs::PermissionsExt};

    use jiff::Timestamp;

    use super::*;
    use crate::volume::{Copy, Token, shape};
    use model::Repair;

    fn code(verdict: &Verdict) -> &'static str {
        match verdict {
            Verdict::Ok(_) => "ok",
            Verdict::Skipped(_) => "skipped",
            Verdict::NotOk(fault) => fault.code(),
        }
    }

    fn folder() -> (tempfile::TempDir, Volume) {
        let folder = tempfile::tempdir().unwrap();
        let volume = Volume::at(&folder.path().join("gpseg")).unwrap();
        (folder, volume)
    }

    #[test]
    fn a_look_makes_nothing() {
        let (folder, volume) = folder();
        assert_eq!(code(&marks_folder(&volume)), "ok");
        assert_eq!(code(&marks(&volume.marks())), "ok");
        assert_eq!(code(&lock(&volume, true)), "ok");
        assert_eq!(code(&directory(&shape::look(volume.data()))), "ok");
        assert_eq!(code(&token(&volume.token("demo", "seg-5.gp", 6000), Shape::Primary)), "ok");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_relative_path_and_a_mount_root_are_told() {
        assert_eq!(code(&super::volume(Path::new("gpseg")).1), "VariableMalformed");
        assert_eq!(code(&super::volume(Path::new("/proc")).1), "DataDirIsMountRoot");
    }

    #[test]
    fn the_owner_and_the_mode_are_postgres_own() {
        let (_folder, volume) = folder();
        let data = volume.data();
        let me = Uid::from_raw(4711);
        assert_eq!(code(&user(data, Uid::from_raw(0))), "RunsAsRoot");
        assert_eq!(code(&user(data, me)), "ok", "no directory yet");
        std::fs::create_dir(data).unwrap();
        let owner = Uid::from_raw(std::fs::metadata(data).unwrap().uid());
        assert_eq!(code(&user(data, me)), "NotOwner");
        if owner.is_root() {
            nix::unistd::chown(data, Some(me), None).unwrap();
        }
        let owner = if owner.is_root() { me } else { owner };
        for (mode, expected) in [(0o700, "ok"), (0o750, "ok"), (0o755, "ModeTooOpen"), (0o2770, "ModeTooOpen")] {
            std::fs::set_permissions(data, Permissions::from_mode(mode)).unwrap();
            assert_eq!(code(&user(data, owner)), expected, "{mode:o}");
        }
    }

    #[test]
    fn a_volume_that_cannot_be_written_is_told() {
        let (folder, _) = folder();
        let volume = Volume::at(&folder.path().join("not/mounted/gpseg")).unwrap();
        assert_eq!(code(&marks_folder(&volume)), "MarksNotWritable");
    }

    #[test]
    fn marks_that_keep_postgres_down_are_told() {
        let (_folder, volume) = folder();
        let volume = Volume::open(volume.data()).unwrap();
        std::fs::write(volume.mark("maintenance"), "").unwrap();
        assert_eq!(code(&marks(&volume.marks())), "ok");
        volume.write("copy", &Copy { attempt: "a1".into(), repair: Repair::Full, since: Timestamp::UNIX_EPOCH }).unwrap();
        assert_eq!(code(&marks(&volume.marks())), "CopyUnfinished");
        std::fs::write(volume.mark("retired"), "").unwrap();
        assert_eq!(code(&marks(&volume.marks())), "Retired");
    }

    #[test]
    fn whose_volume_it_is_is_told() {
        let (_folder, volume) = folder();
        let volume = Volume::open(volume.data()).unwrap();
        assert_eq!(code(&token(&TokenState::Absent, Shape::Empty)), "VolumeUnrecognised");
        let written = Token { data_directory: volume.data().to_string_lossy().into_owned(), ..Token::of_a_test() };
        volume.write_token(&written).unwrap();
        assert_eq!(code(&token(&volume.token("demo", "seg-5.gp", 6000), Shape::Empty)), "ok");
        assert_eq!(code(&token(&volume.token("demo", "seg-6.gp", 6000), Shape::Mirror)), "VolumeUnrecognised");
    }

    #[test]
    fn a_postgres_without_the_lock_is_a_fault_only_beside_a_supervisor() {
        let (_folder, volume) = folder();
        std::fs::create_dir(volume.data()).unwrap();
        let mut sleep = std::process::Command::new("sleep").arg("60").current_dir(volume.data()).spawn().unwrap();
        assert_eq!((code(&lock(&volume, true)), code(&lock(&volume, false))), ("LockBusy", "ok"));
        sleep.kill().unwrap();
        sleep.wait().unwrap();
    }

    #[test]
    fn a_log_that_lies_elsewhere_is_told_before_a_copy_is_due() {
        let (folder, volume) = folder();
        std::fs::create_dir(volume.data()).unwrap();
        assert_eq!(code(&copied(&volume)), "ok");
        std::os::unix::fs::symlink(folder.path().join("log"), volume.data().join("pg_wal")).unwrap();
        assert_eq!(code(&copied(&volume)), "NotToBeCopied");
    }

    #[test]
    fn a_directory_that_cannot_be_listed_is_told() {
        let (_folder, volume) = folder();
        std::fs::write(volume.data(), "no folder").unwrap();
        assert_eq!(code(&directory(&shape::look(volume.data()))), "DirectoryUnreadable");
    }

    #[test]
    fn a_process_namespace_that_is_shared_is_told() {
        let of = |first: &str, second: &str| code(&processes(&Processes { first: first.into(), second: second.into() }));
        assert_eq!(of("gpheal", ""), "ok");
        assert_eq!(of("systemd", "kthreadd"), "HostPid");
        assert_eq!(of("pause", "gpheal"), "SharedProcessNamespace");
    }
}
