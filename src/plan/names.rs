//! Deterministic names: whoever looks at the same fault finds the same objects.

use sha2::{Digest, Sha256};

use model::{Dbid, Recovery, World};

/// Longest name of a recovery, so that its Jobs' names fit into a label (63).
pub const LONGEST_RECOVERY: usize = 40;
/// Of it kept free for the number of a fault's later recoveries.
const LONGEST_NUMBER: usize = 5;

/// `CLUSTER-dDBID-HASH`, the name of a fault and of its first recovery. The hash is of what makes this fault this one: the
/// cluster object, the instance, and how much FTS had written about it. A coordinator's clock that is set back does not
/// take rows away; the newest row's time tells a history that was cut from what it was before.
pub fn fault(world: &World, dbid: Dbid) -> String {
    let instance = world.instances.get(&dbid);
    let newest = instance.and_then(|instance| instance.last_history).map_or_else(String::new, |t| t.to_string());
    let rows = instance.and_then(|instance| instance.written).map_or_else(String::new, |rows| rows.to_string());
    let digest = Sha256::digest(format!("{}/{dbid}/{newest}/{rows}", world.cluster_uid));
    let hash = format!("{:02x}{:02x}{:02x}{:02x}", digest[0], digest[1], digest[2], digest[3]);
    let tail = format!("-d{dbid}-{hash}");
    let mut head = world.cluster_name.clone();
    head.truncate(LONGEST_RECOVERY - LONGEST_NUMBER - tail.len());
    format!("{}{tail}", head.trim_end_matches(['-', '.']))
}

/// The first, second, third … recovery of one fault.
pub fn recovery(fault: &str, number: u32) -> String {
    if number <= 1 { fault.to_owned() } else { format!("{fault}-{number}") }
}

/// Which recovery of the fault bears this name, if one does.
pub fn number(fault: &str, name: &str) -> Option<u32> {
    match name.strip_prefix(fault)? {
        "" => Some(1),
        rest => rest.strip_prefix('-')?.parse().ok().filter(|number| *number > 1),
    }
}

/// `RECOVERY-aN`, or `RECOVERY-dDBID-aN` for a recovery that may have several instances.
pub fn job(recovery: &Recovery, dbid: Dbid, attempt: u32) -> String {
    if recovery.automatic { format!("{}-a{attempt}", recovery.name) } else { format!("{}-d{dbid}-a{attempt}", recovery.name) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::world::fixtures::{ago, asked};

    #[test]
    fn the_name_is_of_the_fault_and_fits() {
        let mut world = World::of(&["2:0ppnu", "5:0mmnd"]);
        let first = fault(&world, Dbid(5));
        assert_eq!(first, fault(&world, Dbid(5)));
        assert!(first.starts_with("demo-d5-"), "{first}");
        world = world.instance(5, |i| i.written = Some(2));
        assert_ne!(first, fault(&world, Dbid(5)), "the next fault has another name");
        world.cluster_name = "a-very-long-name-of-a-cluster-that-goes-on-and-on".into();
        let long = recovery(&fault(&world, Dbid(32767)), 9999);
        assert!(long.len() <= LONGEST_RECOVERY, "{long}");
        assert!(job(&asked(&long, &[5], None), Dbid(32767), 9999).len() <= 63);
    }

    #[test]
    fn a_coordinators_clock_that_was_set_back_gives_the_next_fault_a_name_of_its_own_all_the_same() {
        let world = World::of(&["2:0ppnu", "5:0mmnd"]).instance(5, |i| (i.last_history, i.written) = (Some(ago(-86_400)), Some(3)));
        let next = world.clone().instance(5, |i| i.written = Some(5)); // newest is still the row of tomorrow
        assert_ne!(fault(&world, Dbid(5)), fault(&next, Dbid(5)));
    }

    #[test]
    fn the_recoveries_of_one_fault_are_numbered() {
        for n in [1, 2, 10] {
            assert_eq!(number("demo-d5-3f2a9c1e", &recovery("demo-d5-3f2a9c1e", n)), Some(n));
        }
        for other in ["demo-d5-3f2a9c1", "demo-d5-3f2a9c1e-", "demo-d5-3f2a9c1e-x", "demo-d5-3f2a9c1e-1", "demo-d5-3f2a9c1ef"] {
            assert_eq!(number("demo-d5-3f2a9c1e", other), None, "{other}");
        }
    }
}
