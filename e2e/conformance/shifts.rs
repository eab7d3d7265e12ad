//! The shifts side by side: each in a process, with a cluster and a network of its own. Most of their time they wait.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context, Result, anyhow};

/// Runs this program once for each of so many shifts and says what they say, line by line. Whether all are content.
pub fn side_by_side(filter: &str, shifts: usize) -> Result<bool> {
    let run = |shift: usize| {
        let filter = filter.to_owned();
        thread::spawn(move || run(&filter, shift))
    };
    let running: Vec<_> = (1..=shifts).map(run).collect();
    let mut content = true;
    for shift in running {
        content &= shift.join().map_err(|_| anyhow!("a shift panicked; its message is above"))??;
    }
    Ok(content)
}

fn run(filter: &str, shift: usize) -> Result<bool> {
    let itself = std::env::current_exe()?;
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", "ip link set lo up && exec \"$0\" --shift \"$1\" \"$2\""]).arg(itself);
    command.args([&shift.to_string(), filter]).stdout(Stdio::piped());
    let mut child = command.spawn().context("unshare")?;
    for line in BufReader::new(child.stdout.take().context("it has an output")?).lines() {
        println!("{}", line?);
    }
    Ok(child.wait()?.success())
}
