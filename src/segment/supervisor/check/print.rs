//! The answer of a check: a line for each point, or one object for programs.

use std::io::{self, Write};

use serde::Serialize;

use super::{Finding, Output, Verdict};

/// One finding for programs.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    point: &'a str,
    /// `ok`, `notOk`, `skipped`.
    verdict: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'a str>,
    /// What was seen.
    detail: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<String>,
}

fn line(finding: &Finding) -> Line<'_> {
    let bare = |verdict, detail: &str| Line { point: finding.point, verdict, code: None, detail: detail.to_owned(), answer: None };
    match &finding.verdict {
        Verdict::Ok(seen) => bare("ok", seen),
        Verdict::Skipped(why) => bare("skipped", why),
        Verdict::NotOk(fault) => Line { code: Some(fault.code()), answer: Some(fault.answer()), ..bare("notOk", &fault.to_string()) },
    }
}

/// Prints all findings.
///
/// # Errors
/// As of the stream.
pub fn print(findings: &[Finding], output: Output, to: &mut impl Write) -> io::Result<()> {
    let lines: Vec<_> = findings.iter().map(line).collect();
    let count = |verdict: &str| lines.iter().filter(|line| line.verdict == verdict).count();
    if output == Output::Json {
        let all = serde_json::json!({ "version": 1, "ok": count("notOk") == 0, "points": lines });
        return writeln!(to, "{all}");
    }
    for line in &lines {
        let verdict = if line.verdict == "notOk" { "not ok" } else { line.verdict };
        let code = line.code.map(|code| format!("{code}: ")).unwrap_or_default();
        let answer = line.answer.as_ref().map(|answer| format!("; {answer}")).unwrap_or_default();
        writeln!(to, "{verdict:<8} {:<14} {code}{}{answer}", line.point, line.detail)?;
    }
    writeln!(to, "{} ok, {} not ok, {} skipped", count("ok"), count("notOk"), count("skipped"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervisor::check::fault::{Fault, Shortcoming};
    use model::refusal::ContractPoint;

    fn findings() -> Vec<Finding> {
        vec![
            Finding { point: "User", verdict: Verdict::Ok("runs as user 1000".into()) },
            Finding { point: "Volume", verdict: Verdict::NotOk(Fault::Contract(ContractPoint::NoClaim)) },
            Finding { point: "StopTime", verdict: Verdict::Skipped("not said".into()) },
        ]
    }

    fn printed(output: Output) -> String {
        let mut text = vec![];
        print(&findings(), output, &mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn each_point_has_its_line() {
        let text = printed(Output::Text);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "ok       User           runs as user 1000");
        assert!(lines[1].starts_with("not ok   Volume         NoClaim: the data directory lies on no"), "{}", lines[1]);
        assert!(lines[1].ends_with("; mount a persistent volume claim and put the data directory into a folder of it"));
        assert_eq!(lines[3], "1 ok, 1 not ok, 1 skipped");
    }

    #[test]
    fn programs_read_an_object() {
        let value: serde_json::Value = serde_json::from_str(&printed(Output::Json)).unwrap();
        assert_eq!((&value["ok"], &value["version"]), (&serde_json::json!(false), &serde_json::json!(1)));
        assert_eq!(value["points"][1]["code"], "NoClaim");
        assert_eq!(value["points"][0]["verdict"], "ok");
    }

    #[test]
    fn every_shortcoming_says_what_it_is_and_what_to_do() {
        assert_eq!(Shortcoming::examples().len(), Shortcoming::MEANINGS.len());
        for shortcoming in Shortcoming::examples() {
            assert!(shortcoming.to_string().len() > 8 && shortcoming.answer().len() > 8, "{}", shortcoming.name());
        }
    }
}
