use proptest::prelude::*;

use super::{
    written::{SIX, TWELVE, Written},
    *,
};

const LAYOUTS: [(u16, u64); 4] = [(SIX, 8192), (SIX, 32768), (TWELVE, 8192), (TWELVE, 32768)];

fn log(magic: u16, block: u64) -> Written {
    Written::new(magic, block, 4 * block)
}

fn ends(folder: &Path) -> (u32, u64, u64) {
    let end = end(folder).unwrap().unwrap();
    assert_eq!(end.system_identifier, SystemIdentifier(77));
    (end.timeline.0, end.end.0, end.last_byte.0)
}

/// Records of many lengths over some segments; gives back the end of each with that of its bytes.
fn fill(log: &mut Written, segments: u64) -> Vec<(u64, u64)> {
    let mut found = vec![];
    for number in 0_u64.. {
        let length = [3, 40, 700, 1, 9000, 64, 33000][usize::try_from(number % 7).unwrap()];
        let last_byte = log.append(&vec![u8::try_from(1 + number % 250).unwrap(); length]);
        found.push((log.end(), last_byte));
        if log.end() > log.start + segments * log.segment {
            break;
        }
    }
    found
}

#[test]
fn the_end_is_exact_to_the_record_wherever_the_log_is_cut() {
    for (magic, block) in LAYOUTS {
        let mut log = log(magic, block);
        let found = fill(&mut log, 2);
        let last = log.start + 2 * log.segment;
        // Into a segment that has something: an end right before it is that of the segment before.
        for cut in (last - block..log.end()).step_by(1016).chain([last + 40, last + 41, log.end()]) {
            let dir = tempfile::tempdir().unwrap();
            log.leave(dir.path(), 1, log.start, cut, &[]);
            let whole = found.iter().rev().find(|(_, last_byte)| *last_byte <= cut).unwrap();
            assert_eq!(ends(dir.path()), (1, whole.0, whole.1), "cut at {cut:x}, block {block}, {magic:x}");
        }
    }
}

#[test]
fn what_a_recycled_segment_still_holds_is_no_log() {
    for (magic, block) in LAYOUTS {
        let mut log = log(magic, block);
        let found = fill(&mut log, 4);
        let dir = tempfile::tempdir().unwrap();
        log.leave(dir.path(), 1, log.start, log.start + log.segment, &[]);
        let stale = std::fs::read(dir.path().join("000000010000000000000001")).unwrap();
        let from = log.start + 3 * log.segment;
        for (end, last_byte) in found.iter().filter(|(end, _)| *end > from) {
            log.leave(dir.path(), 1, log.start, *end, &stale);
            assert_eq!(ends(dir.path()), (1, *end, *last_byte));
            // The segments before may be gone.
            let bare = tempfile::tempdir().unwrap();
            log.leave(bare.path(), 1, from, *end, &stale);
            assert_eq!(ends(bare.path()), (1, *end, *last_byte), "alone, block {block}, {magic:x}");
        }
        std::fs::write(dir.path().join("000000010000000000000009"), stale).unwrap();
        assert_eq!(ends(dir.path()).1, found.last().unwrap().0, "a file that waits to be used");
    }
}

/// The stale bytes of a page may begin with a whole, well-formed record; only the chain tells that it is none.
#[test]
fn a_well_formed_record_that_names_another_before_it_is_none() {
    for (magic, block) in LAYOUTS {
        let (mut one, mut other) = (log(magic, block), log(magic, block));
        one.append(b"first");
        let (last_byte, end) = (one.append(&[1; 40]), one.end());
        other.append(&[2; 5 + 8]);
        other.append(&[1; 32]);
        while other.end() < end + 400 {
            other.append(&[3; 16]);
        }
        let dir = tempfile::tempdir().unwrap();
        other.leave(dir.path(), 1, other.start, other.end(), &[]);
        let stale = std::fs::read(dir.path().join("000000010000000000000001")).unwrap();
        one.leave(dir.path(), 1, one.start, end, &stale);
        assert_eq!(ends(dir.path()), (1, end, last_byte));
    }
}

#[test]
fn a_record_of_which_a_page_was_torn_is_none() {
    for (magic, block) in LAYOUTS {
        let mut log = log(magic, block);
        let before = (log.append(b"before"), log.end());
        log.append(&[7; 900]);
        let dir = tempfile::tempdir().unwrap();
        log.leave(dir.path(), 1, log.start, log.end(), &[]);
        let path = dir.path().join("000000010000000000000001");
        let mut bytes = std::fs::read(&path).unwrap();
        let at = usize::try_from(before.1 - log.start).unwrap() + 512;
        bytes[at..at + 64].fill(0);
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(ends(dir.path()), (1, before.1, before.0));
    }
}

#[test]
fn after_a_switch_the_next_segment_begins() {
    for (magic, block) in LAYOUTS {
        let mut log = log(magic, block);
        fill(&mut log, 1);
        let last_byte = log.switch();
        let dir = tempfile::tempdir().unwrap();
        log.leave(dir.path(), 1, log.start, log.end(), &[]);
        assert_eq!(ends(dir.path()), (1, log.end(), last_byte));
        let last_byte = log.append(b"after it");
        log.leave(dir.path(), 1, log.start, log.end(), &[]);
        assert_eq!(ends(dir.path()), (1, log.end(), last_byte));
    }
}

#[test]
fn a_record_that_was_given_up_is_passed_over() {
    let mut log = log(TWELVE, 8192);
    log.append(b"before");
    log.abandon(&vec![5; 20000]);
    let last_byte = log.append(b"after");
    let dir = tempfile::tempdir().unwrap();
    log.leave(dir.path(), 1, log.start, log.end(), &[]);
    assert_eq!(ends(dir.path()), (1, log.end(), last_byte));
}

#[test]
fn a_new_timeline_goes_on_where_the_old_one_was_left() {
    for (magic, block) in LAYOUTS {
        let mut old = log(magic, block);
        fill(&mut old, 1);
        let new = old.clone().promoted();
        fill(&mut old, 2); // what the old primary wrote on
        let dir = tempfile::tempdir().unwrap();
        old.leave(dir.path(), 1, old.start, old.end(), &[]);
        new.leave(dir.path(), 2, new.end() - 1, new.end(), &[]);
        let (timeline, end, _) = ends(dir.path());
        assert_eq!((timeline, end), (2, new.end()));
    }
}

#[test]
fn a_folder_with_nothing_written_has_no_end() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(end(dir.path()).unwrap(), None);
    let file = dir.path().join("000000010000000000000001");
    for short in [0, 10, 4096, 1 << 20] {
        std::fs::write(&file, vec![0; short]).unwrap();
        assert_eq!(end(dir.path()).unwrap(), None);
    }
    std::fs::write(dir.path().join("00000002.history"), "1\t0/1\twhy\n").unwrap();
    assert_eq!(end(dir.path()).unwrap(), None);
}

/// On the old code what could not be read was not written: the end was underestimated by whole segments.
#[test]
fn what_cannot_be_read_is_an_error_and_what_was_cut_off_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = log(TWELVE, 8192);
    fill(&mut log, 1);
    log.leave(dir.path(), 1, log.start, log.end(), &[]);
    let last = dir.path().join("000000010000000000000002");
    let bytes = std::fs::read(&last).unwrap();
    std::fs::remove_file(&last).unwrap();
    std::fs::create_dir(&last).unwrap(); // reading a folder fails otherwise than at its end
    assert!(end(dir.path()).is_err());
    std::fs::remove_dir(&last).unwrap();
    std::fs::write(&last, &bytes[..60]).unwrap();
    assert!(ends(dir.path()).1 >= log.start, "cut off: what is there counts");
    assert!(end(&dir.path().join("missing")).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_written_its_end_is_found(
        lengths in prop::collection::vec(1..30_000_usize, 1..40), layout in 0..4_usize, cut in 0.0..1.0_f64, alone in any::<bool>()
    ) {
        let (magic, block) = LAYOUTS[layout];
        let mut log = log(magic, block);
        let mut found = vec![];
        for (number, length) in lengths.into_iter().enumerate() {
            let last_byte = log.append(&vec![u8::try_from(1 + number).unwrap(); length]);
            found.push((log.end(), last_byte));
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let cut = log.start + 41 + ((log.end() - log.start - 41) as f64 * cut) as u64;
        let dir = tempfile::tempdir().unwrap();
        log.leave(dir.path(), 1, if alone { cut - 1 } else { log.start }, cut, &[]);
        let said = end(dir.path()).unwrap();
        let whole = found.iter().rev().find(|(_, last_byte)| *last_byte <= cut);
        let segment = (cut - 1) - (cut - 1) % log.segment;
        match whole.filter(|(_, last_byte)| !alone || *last_byte > segment + 40) {
            Some((end, last_byte)) => {
                let said = said.unwrap();
                prop_assert_eq!((said.end.0, said.last_byte.0), (*end, *last_byte));
            }
            // No record ends in what is there; whether the rest of one is whole, its own segment would have to say.
            None if alone => prop_assert!(said.is_none_or(|said| said.end.0 <= cut.next_multiple_of(log.block))),
            None => prop_assert!(said.is_none_or(|said| said.end.0 <= segment + 40)),
        }
    }
}
