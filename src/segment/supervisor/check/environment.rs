//! The environment, variable by variable: a person who sets it up wants to hear of all that is wrong at once.

use std::ffi::OsString;

use clap::{
    Arg, ArgMatches, Args, Command, FromArgMatches,
    builder::{OsStringValueParser, Resettable},
    error::ErrorKind,
};

use super::{Options, fault::Shortcoming};
use crate::supervisor::Config;

/// The arguments of a check, if they ask for one: the values of the supervisor's own settings are not judged yet.
pub fn asked(arguments: &[OsString]) -> Option<(Options, ArgMatches)> {
    let [_, command, rest @ ..] = arguments else { return None };
    if command != "supervise" {
        return None;
    }
    let loose = |arg: Arg| arg.required(false).value_parser(OsStringValueParser::new());
    let config = Config::augment_args(Command::new("supervise")).mut_args(loose);
    let command = Options::augment_args(config).no_binary_name(true);
    let matches = match command.clone().try_get_matches_from(rest) {
        // One variable may ask for another; that is judged below.
        Err(error) if error.kind() == ErrorKind::MissingRequiredArgument => command.ignore_errors(true).try_get_matches_from(rest).ok()?,
        other => other.ok()?,
    };
    let options = Options::from_arg_matches(&matches).ok()?;
    options.check.then_some((options, matches))
}

/// The configuration, or all that is wrong with it.
///
/// # Errors
/// One [`Shortcoming`] for each variable.
pub fn config(matches: &ArgMatches) -> Result<Config, Vec<Shortcoming>> {
    let strict = Config::augment_args(Command::new("supervise")).no_binary_name(true);
    let faults: Vec<_> = strict.get_arguments().filter_map(|arg| fault(arg, matches)).collect();
    if !faults.is_empty() {
        return Err(faults);
    }
    let malformed = |variable: &str, why: String| vec![Shortcoming::VariableMalformed { variable: variable.into(), why }];
    let parsed = strict.try_get_matches_from(words(matches)).and_then(|matches| Config::from_arg_matches(&matches));
    parsed.map_err(|error| malformed("the environment", sentence(&error)))
}

fn fault(arg: &Arg, matches: &ArgMatches) -> Option<Shortcoming> {
    let variable = arg.get_env().map_or_else(|| arg.get_id().to_string(), |name| name.to_string_lossy().into_owned());
    let values: Vec<OsString> = raw(arg, matches);
    if values.iter().all(|value| value.is_empty()) {
        return arg.is_required_set().then_some(Shortcoming::VariableMissing { variable });
    }
    let why = alone().try_get_matches_from(word(arg, values)).err().filter(|error| error.kind() != ErrorKind::MissingRequiredArgument)?;
    Some(Shortcoming::VariableMalformed { variable, why: sentence(&why) })
}

/// The supervisor's arguments, none of them needed or taken from the environment: a fault is that of the one that is given.
fn alone() -> Command {
    let free = |arg: Arg| arg.required(false).env(Resettable::Reset);
    Config::augment_args(Command::new("supervise")).no_binary_name(true).mut_args(free)
}

fn raw(arg: &Arg, matches: &ArgMatches) -> Vec<OsString> {
    matches.get_raw(arg.get_id().as_str()).into_iter().flatten().map(ToOwned::to_owned).collect()
}

/// The words that give `values` to an argument.
fn word(arg: &Arg, values: Vec<OsString>) -> Vec<OsString> {
    let Some(long) = arg.get_long() else { return [vec!["--".into()], values].concat() };
    values.into_iter().flat_map(|value| [format!("--{long}").into(), value]).collect()
}

/// All words, those of the last argument at the end.
fn words(matches: &ArgMatches) -> Vec<OsString> {
    let command = Config::augment_args(Command::new("supervise"));
    let (last, named): (Vec<&Arg>, Vec<&Arg>) = command.get_arguments().partition(|arg| arg.get_long().is_none());
    let given = |arg: &&Arg| !raw(arg, matches).iter().all(|value| value.is_empty());
    named.into_iter().chain(last).filter(given).flat_map(|arg| word(arg, raw(arg, matches))).collect()
}

/// The error without its hints.
fn sentence(error: &clap::Error) -> String {
    let text = error.to_string();
    let lines: Vec<_> = text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
    lines.join(" ").trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = "gpheal supervise --check --cluster demo --coordinator c-0.gp:5432,c-1.gp:5432 --data-directory /data/gpseg \
                         --port 6000 --address seg-5.gp --credentials /c";

    fn faults(text: &str) -> Vec<String> {
        let words: Vec<OsString> = text.split_whitespace().map(Into::into).collect();
        let (_, matches) = asked(&words).expect("a check");
        config(&matches).map_or_else(|faults| faults.iter().map(|f| format!("{}: {f}", f.name())).collect(), |_| vec![])
    }

    #[test]
    fn only_a_check_is_a_check() {
        let words = |text: &str| text.split(' ').map(Into::into).collect::<Vec<OsString>>();
        assert!(asked(&words("gpheal supervise -- postgres --check")).is_none());
        assert!(asked(&words("gpheal recover --check")).is_none());
        assert!(asked(&words("gpheal supervise --check --output json --grace-seconds 60")).is_some());
    }

    #[test]
    fn a_whole_environment_has_no_fault() {
        assert_eq!(faults(WHOLE), Vec::<String>::new());
        assert_eq!(faults(&format!("{WHOLE} -- postgres")), Vec::<String>::new());
    }

    #[test]
    fn every_variable_that_is_wrong_is_named() {
        let none = faults("gpheal supervise --check");
        for variable in
            ["GPHEAL_CLUSTER", "GPHEAL_COORDINATOR", "GPHEAL_DATA_DIRECTORY", "GPHEAL_PORT", "GPHEAL_ADDRESS", "GPHEAL_CREDENTIALS"]
        {
            assert!(none.contains(&format!("VariableMissing: {variable} is not set")), "{variable}: {none:?}");
        }
        let bad = faults(&WHOLE.replace("6000", "70000").replace("--address seg-5.gp", "--listen nowhere"));
        assert!(bad[0].starts_with("VariableMalformed: GPHEAL_PORT: ") && bad[0].contains("70000"), "{bad:?}");
        assert_eq!(bad[1], "VariableMissing: GPHEAL_ADDRESS is not set");
        assert!(bad[2].starts_with("VariableMalformed: GPHEAL_LISTEN: "), "{bad:?}");
        let tls = faults(&format!("{WHOLE} --tls verify-full"));
        assert!(tls.len() == 1 && tls[0].contains("--ca"), "{tls:?}");
        let coordinator = faults(&WHOLE.replace("c-1.gp:5432", "c-1.gp"));
        assert!(coordinator.len() == 1 && coordinator[0].starts_with("VariableMalformed: GPHEAL_COORDINATOR: "), "{coordinator:?}");
        assert!(coordinator[0].contains("'c-1.gp'") && coordinator[0].ends_with("it is not host:port"), "{coordinator:?}");
    }
}
