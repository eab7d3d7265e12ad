//! Deterministic names: whoever looks at the same fault finds the same objects.

use sha2::{Digest, Sha256};

use crate::model::{Dbid, Recovery, World};

/// Longest name of a recovery, so that its Jobs' names fit into a label (63).
pub const LONGEST_RECOVERY: usize = 40;

/// `CLUSTER-dDBID-HASH`; the hash is of what makes this fault this one: the cluster object, the
/// instance and the newest row that FTS wrote about it.
pub fn recovery(world: &World, dbid: Dbid) -> String {
    let written = world.instances.get(&dbid).and_then(|instance| instance.last_history).map_or_else(String::new, |t| t.to_string());
    let seen = format!("{}/{dbid}/{written}", world.cluster_uid);
    let digest = Sha256::digest(seen);
    let hash = format!("{:02x}{:02x}{:02x}{:02x}", digest[0], digest[1], digest[2], digest[3]);
    let tail = format!("-d{dbid}-{hash}");
    let mut head = world.cluster_name.clone();
    head.truncate(LONGEST_RECOVERY - tail.len());
    format!("{}{tail}", head.trim_end_matches(['-', '.']))
}

/// `RECOVERY-aN`, or `RECOVERY-dDBID-aN` for a recovery that may have several instances.
pub fn job(recovery: &Recovery, dbid: Dbid, attempt: u32) -> String {
    if recovery.automatic { format!("{}-a{attempt}", recovery.name) } else { format!("{}-d{dbid}-a{attempt}", recovery.name) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::world::fixtures::{ago, asked};

    #[test]
    fn the_name_is_of_the_fault_and_fits() {
        let mut world = World::of(&["2:0ppnu", "5:0mmnd"]);
        let first = recovery(&world, Dbid(5));
        assert_eq!(first, recovery(&world, Dbid(5)));
        assert!(first.starts_with("demo-d5-"), "{first}");
        world = world.instance(5, |i| i.last_history = Some(ago(1)));
        assert_ne!(first, recovery(&world, Dbid(5)), "the next fault has another name");
        world.cluster_name = "a-very-long-name-of-a-cluster-that-goes-on-and-on".into();
        let long = recovery(&world, Dbid(32767));
        assert!(long.len() <= LONGEST_RECOVERY, "{long}");
        assert!(job(&asked(&long, &[5], None), Dbid(32767), 99).len() <= 63);
    }
}
