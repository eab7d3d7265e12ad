use jiff::Timestamp;
use tempfile::TempDir;

use super::*;
use model::{FailureClass, Incarnation, Lsn, Repair, Timeline};

/// A volume on which a full copy is made, with one tablespace in Greenplum's layout.
struct Stage {
    dir: TempDir,
    volume: Volume,
    /// What directory and tablespace said before the first attempt.
    before: (String, String),
}

fn text(path: &Path) -> String {
    fs::read_to_string(path.join("text")).unwrap_or_default()
}

fn folder(path: &Path, said: &str) {
    fs::create_dir_all(path).unwrap();
    fs::write(path.join("text"), said).unwrap();
}

impl Stage {
    /// Whether there is an original directory, and an original tablespace.
    fn new(directory: bool, tablespace: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let volume = Volume::open(&dir.path().join("gpseg")).unwrap();
        let mut stage = Self { dir, volume, before: Default::default() };
        for (there, place) in [(directory, stage.volume.data().to_owned()), (tablespace, stage.place())] {
            if there {
                folder(&place, "original");
            }
        }
        folder(&stage.dir.path().join("space/2"), "source");
        stage.before = stage.now();
        stage
    }

    fn now(&self) -> (String, String) {
        (text(self.volume.data()), text(&self.place()))
    }

    fn place(&self) -> PathBuf {
        self.dir.path().join("space/5")
    }

    /// The copy of the attempt, in place of what a dead one has left.
    fn copied(&self, said: &str) -> Space {
        let (fresh, new) = (self.volume.beside_new(), self.dir.path().join("space.gpheal-new-5"));
        remove_folder(&fresh).unwrap();
        remove_folder(&new).unwrap();
        folder(&fresh, said);
        fs::write(fresh.join("standby.signal"), "").unwrap();
        folder(&new.join("5"), said);
        fs::create_dir(fresh.join("pg_tblspc")).unwrap();
        let link = fresh.join("pg_tblspc/16400");
        symlink(new.join("5"), &link).unwrap();
        Space { place: self.place(), copy: Some(CopiedSpace { folder: new.join("5"), link }) }
    }

    fn acts(&self, attempt: &str) -> Vec<Act> {
        let space = self.copied(attempt);
        acts(&self.volume, &mark(attempt), (&self.volume.beside_new(), &[space]), &remembers(attempt)).unwrap()
    }

    /// The swap of an attempt that dies after so many acts; `false`: it has come to its end.
    fn dies_after(&self, attempt: &str, count: usize) -> bool {
        let acts = self.acts(attempt);
        for act in acts.iter().take(count) {
            act.run(&self.volume).unwrap();
            self.tells_the_truth();
        }
        if count > acts.len() {
            self.volume.remove("copy").unwrap();
            self.tells_the_truth();
        }
        count <= acts.len()
    }

    /// Whatever is neither as it was before nor of one copy has the copy mark over it.
    fn tells_the_truth(&self) {
        let now = self.now();
        let whole = now == self.before || (now.0 == now.1 && !now.0.is_empty());
        let data = self.volume.data();
        let half = data.exists() && !data.join("standby.signal").exists() && text(data) != self.before.0;
        assert!(!half, "the half of a copy stands in the place");
        assert!(whole || self.volume.marks().copy.is_some(), "no mark over {now:?}");
        assert_eq!(text(&self.dir.path().join("space/2")), "source");
    }

    fn is_whole(&self, attempt: &str) {
        assert_eq!(self.now(), (attempt.to_owned(), attempt.to_owned()));
        assert_eq!(fs::read_link(self.volume.data().join("pg_tblspc/16400")).unwrap(), self.place());
        assert_eq!(self.volume.marks().copy, None);
    }

    /// The original of both is where a person, or the removal after the proof, finds it by the mark.
    fn keeps_the_original(&self) {
        let old = self.volume.kept().unwrap().expect("a mark");
        assert_eq!(old.tablespaces, [Volume::aside(&self.place())]);
        assert_eq!((text(&old.directory).as_str(), text(&old.tablespaces[0]).as_str()), ("original", "original"));
    }
}

/// What the attempt knew of the data directory that it put aside.
fn remembers(attempt: &str) -> Remembered {
    let followed = vec![Incarnation { number: 1, nonce: attempt.into(), timeline: Timeline(1), began: Lsn(1) }];
    Remembered { followed, ..Remembered::default() }
}

fn mark(attempt: &str) -> Copy {
    Copy { attempt: attempt.into(), repair: Repair::Full, since: Timestamp::UNIX_EPOCH }
}

#[test]
fn wherever_two_attempts_die_the_third_is_whole_and_the_original_is_kept() {
    let longest = 20;
    for first in 0..longest {
        for second in 0..longest {
            let stage = Stage::new(true, true);
            if stage.dies_after("a1", first) {
                stage.dies_after("a2", second);
                assert!(!stage.dies_after("a3", longest));
                stage.is_whole("a3");
            } else {
                stage.is_whole("a1");
            }
            stage.keeps_the_original();
        }
    }
}

/// A supervisor that sees no catalog never proves the copy, and it is promoted: it holds commits of its own by then.
#[test]
fn what_was_a_primary_since_it_was_copied_is_kept_wherever_an_attempt_dies() {
    for died in 0..20 {
        let stage = Stage::new(true, true);
        assert!(!stage.dies_after("a1", 20));
        fs::remove_file(stage.volume.data().join("standby.signal")).unwrap();
        let stage = Stage { before: stage.now(), ..stage };
        stage.dies_after("a2", died);
        let moved_by = if Volume::aside_again(stage.volume.data(), 2).exists() { "a2" } else { "a3" };
        assert!(!stage.dies_after("a3", 20));
        assert!(!stage.dies_after("a4", 20), "one that never acted makes room");
        stage.is_whole("a4");
        let old = stage.volume.kept().unwrap().unwrap();
        let kept = |place: &Path| {
            let both = [Volume::aside(place), Volume::aside_again(place, 2)];
            assert!(both.iter().all(|aside| *aside == old.directory || old.tablespaces.contains(aside)), "{old:?}");
            both.map(|aside| text(&aside))
        };
        assert_eq!(kept(stage.volume.data()), ["original", "a1"], "died after {died}");
        assert_eq!(kept(&stage.place()), ["original", "a1"], "died after {died}");
        assert!(!Volume::aside_again(stage.volume.data(), 3).exists());
        let original = |attempt: &str, directory| Original { directory, remembered: remembers(attempt) };
        let named = [original("a1", stage.volume.beside_old()), original(moved_by, Volume::aside_again(stage.volume.data(), 2))];
        assert_eq!(stage.volume.originals().unwrap(), named, "each with what was known when it was moved, died after {died}");
    }
}

/// A person who needs the room takes the older one away.
#[test]
fn the_one_that_was_put_aside_last_is_the_last_whatever_its_name_is() {
    let mut stage = Stage::new(true, true);
    for attempt in ["a1", "a2", "a3"] {
        if attempt == "a3" {
            fs::remove_dir_all(stage.volume.beside_old()).unwrap();
        }
        assert!(!stage.dies_after(attempt, 20));
        fs::remove_file(stage.volume.data().join("standby.signal")).unwrap();
        stage.before = stage.now();
    }
    let kept: Vec<_> = stage.volume.originals().unwrap().iter().map(|original| text(&original.directory)).collect();
    assert_eq!(kept, ["a1", "a2"]);
    fs::remove_dir_all(stage.volume.data()).unwrap();
    assert_eq!(stage.volume.last_original().unwrap().map(|last| text(&last.directory)), Some("a2".into()));
}

#[test]
fn an_emptied_volume_is_filled_wherever_an_attempt_dies() {
    for died in 0..20 {
        let stage = Stage::new(false, false);
        stage.dies_after("a1", died);
        stage.dies_after("a2", 20);
        stage.is_whole("a2");
    }
}

/// A lost data directory leaves its tablespaces behind; they are kept like it, and nothing is overwritten in place.
#[test]
fn tablespaces_without_their_directory_are_put_aside() {
    for died in 0..20 {
        let stage = Stage::new(false, true);
        stage.dies_after("a1", died);
        stage.dies_after("a2", 20);
        stage.is_whole("a2");
        assert_eq!(text(&Volume::aside(&stage.place())), "original", "died after {died}");
        assert!(stage.volume.kept().unwrap().unwrap().tablespaces.contains(&Volume::aside(&stage.place())));
    }
}

#[test]
fn what_a_removal_has_left_over_is_no_original() {
    let stage = Stage::new(true, true);
    folder(&stage.volume.beside_old(), "half of something");
    folder(&Volume::aside(&stage.place()), "half of something");
    assert!(!stage.dies_after("a1", 20));
    stage.is_whole("a1");
    stage.keeps_the_original();
}

/// What is written down before the copy mark goes is written while the copy is in its place.
fn swapped(stage: &Stage, spaces: &[Space]) -> Result<&'static str, FailureClass> {
    let settled = || {
        assert!(text(stage.volume.data()) == "a1" && stage.volume.marks().copy.is_some());
        Ok(())
    };
    swap(&stage.volume, &mark("a1"), (&stage.volume.beside_new(), spaces), &remembers("a1"), settled).map_err(|fault| fault.class)
}

#[test]
fn a_tablespace_that_the_source_has_no_more_is_put_aside_too() {
    let stage = Stage::new(true, true);
    let dropped = Space { place: stage.place(), copy: None };
    folder(&stage.volume.beside_new(), "a1");
    let note = swapped(&stage, &[dropped]);
    assert_eq!(note, Ok("the old directory is kept until the new one is in sync"));
    assert!(!stage.place().exists());
    stage.keeps_the_original();
}

#[test]
fn an_empty_directory_is_nothing_to_keep() {
    let stage = Stage::new(false, false);
    fs::create_dir(stage.volume.data()).unwrap();
    folder(&stage.volume.beside_new(), "a1");
    let note = swapped(&stage, &[]);
    assert_eq!(note, Ok("the old directory was empty"));
    assert!(text(stage.volume.data()) == "a1" && stage.volume.kept().unwrap().is_none());
}
