//! Which connections our tools have open, by their ports on this side. A source that sees them from an address of ours, and
//! from these ports, sees nobody else's: an address alone is shared by all who come through one proxy.

use std::{collections::BTreeSet, fs, path::Path};

use super::activity;

/// Ports of all TCP connections of the processes that this one has started, and of those that they have.
pub fn ports() -> Vec<u16> {
    let mut ports = BTreeSet::new();
    for pid in descendants(std::process::id()) {
        let process = Path::new("/proc").join(pid.to_string());
        let sockets = sockets(&process);
        let table = |name: &str| fs::read_to_string(process.join("net").join(name)).unwrap_or_default();
        ports.extend([table("tcp"), table("tcp6")].iter().flat_map(|table| of_table(table, &sockets)));
    }
    ports.into_iter().collect()
}

fn descendants(ancestor: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let parent = |pid: u32| activity::stat(&Path::new("/proc").join(pid.to_string()))?.get(1)?.parse::<u32>().ok();
    let all: Vec<(u32, u32)> = entries.filter_map(|pid| Some((pid, parent(pid)?))).collect();
    let mut found = vec![ancestor];
    let mut at = 0;
    while let Some(one) = found.get(at).copied() {
        found.extend(all.iter().filter(|(_, parent)| *parent == one).map(|(pid, _)| *pid));
        at += 1;
    }
    found.split_off(1)
}

/// The sockets that a process has open, by number.
fn sockets(process: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    let links = entries.filter_map(|entry| Some(fs::read_link(entry.path()).ok()?.to_string_lossy().into_owned()));
    links.filter_map(|link| Some(link.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())).collect()
}

/// The local ports of these sockets, by a table of the kernel: number, local address, remote address, …, inode.
fn of_table(table: &str, sockets: &BTreeSet<String>) -> Vec<u16> {
    let port = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let (_, port) = fields.get(1)?.rsplit_once(':')?;
        sockets.contains(*fields.get(9)?).then(|| u16::from_str_radix(port, 16).ok()).flatten()
    };
    table.lines().skip(1).filter_map(port).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_of_a_child_is_known_by_its_port_and_none_of_anybody_else() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let own = std::net::TcpStream::connect(at).unwrap();
        let ours = own.local_addr().unwrap().port();
        let script = format!("exec 3<>/dev/tcp/127.0.0.1/{}; echo; sleep 60", at.port());
        let mut command = std::process::Command::new("bash");
        let mut child = command.args(["-c", &script]).stdout(std::process::Stdio::piped()).spawn().unwrap();
        let mut said = [0; 1];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut said).unwrap();
        let _first = listener.accept().unwrap();
        let theirs = listener.accept().unwrap().1.port();
        let seen = ports();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(seen.contains(&theirs) && !seen.contains(&ours), "{theirs} of the child, {ours} of our own: {seen:?}");
    }

    #[test]
    fn a_table_is_read_by_the_numbers_of_the_sockets() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:1F9A 0100007F:0050 01 00000000:00000000 00:00000000 00000000  1000        0 4711 1 x 20 4 30 10 -1\n\
            1: 0100007F:1F9B 0100007F:0050 01 00000000:00000000 00:00000000 00000000  1000        0 4712 1 x 20 4 30 10 -1\n";
        assert_eq!(of_table(table, &BTreeSet::from(["4712".to_owned()])), [0x1F9B]);
    }
}
