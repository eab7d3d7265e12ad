//! The checks in several processes side by side, each with a cluster and a network of its own: most of their time they wait.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    str::FromStr,
    thread,
};

use anyhow::{Context, Result, anyhow, ensure};

/// The checks of one process: each `of`-th, beginning with number `one`, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lane {
    one: usize,
    of: usize,
}

impl Lane {
    pub const ALL: Self = Self { one: 1, of: 1 };

    /// Whether the check of this number, from 0 on, is one of them.
    pub const fn has(self, number: usize) -> bool {
        number % self.of == self.one - 1
    }
}

impl FromStr for Lane {
    type Err = anyhow::Error;

    /// `1/2`
    fn from_str(text: &str) -> Result<Self> {
        let (one, of) = text.split_once('/').context("a lane is written as 1/2")?;
        let lane = Self { one: one.parse()?, of: of.parse()? };
        ensure!((1..=lane.of).contains(&lane.one), "there is no lane {text}");
        Ok(lane)
    }
}

/// Runs so many processes of this program, in namespaces of their own, and says what they say, line by line. Whether all are content.
pub fn side_by_side(filter: &str, of: usize) -> Result<bool> {
    let lanes: Vec<_> = (1..=of)
        .map(|one| {
            thread::spawn({
                let (filter, lane) = (filter.to_owned(), format!("{one}/{of}"));
                move || run(&filter, &lane)
            })
        })
        .collect();
    let mut content = true;
    for lane in lanes {
        content &= lane.join().map_err(|_| anyhow!("a lane panicked; its message is above"))??;
    }
    Ok(content)
}

fn run(filter: &str, lane: &str) -> Result<bool> {
    let itself = std::env::current_exe()?;
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", "ip link set lo up && exec \"$0\" --lane \"$1\" \"$2\""]).arg(itself).args([lane, filter]);
    let mut child = command.stdout(Stdio::piped()).spawn().context("unshare")?;
    for line in BufReader::new(child.stdout.take().context("it has an output")?).lines() {
        println!("{}", line?);
    }
    Ok(child.wait()?.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_check_is_in_one_lane() {
        let lanes: Vec<Lane> = ["1/3", "2/3", "3/3"].map(|text| text.parse().unwrap()).into();
        for number in 0..10 {
            assert_eq!(lanes.iter().filter(|lane| lane.has(number)).count(), 1, "{number}");
            assert!(Lane::ALL.has(number));
        }
        for wrong in ["0/2", "3/2", "1", "a/b", "1/0"] {
            assert!(wrong.parse::<Lane>().is_err(), "{wrong}");
        }
    }
}
