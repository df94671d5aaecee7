//! Findings as text: a table for people, JSON for programs.

use ctsys::report::escape;

use super::finding::{Finding, Status};

/// Bold red and bold yellow, and the end of either (ECMA-48, SGR).
const RED: &str = "\x1b[1;31m";
const YELLOW: &str = "\x1b[1;33m";
const PLAIN: &str = "\x1b[0m";

/// A line for each finding; under what is not fine, the remedy.
pub fn table(findings: &[Finding], coloured: bool) -> String {
    let width = findings.iter().map(|f| f.check.chars().count()).max().unwrap_or(0);
    findings.iter().map(|finding| entry(finding, width, coloured)).collect()
}

fn entry(finding: &Finding, width: usize, coloured: bool) -> String {
    let (mark, colour) = match finding.status {
        Status::Fine => ("✓", None),
        Status::Warning => ("!", Some(YELLOW)),
        Status::Missing => ("✗", Some(RED)),
    };
    let mark = match colour.filter(|_| coloured) {
        Some(colour) => format!("{colour}{mark}{PLAIN}"),
        None => mark.to_owned(),
    };
    let line = format!("{mark} {:width$}  {}\n", finding.check, escape(&finding.cause));
    match &finding.remedy {
        Some(remedy) => format!("{line}  {:width$}  -> {}\n", "", escape(remedy)),
        None => line,
    }
}

/// An array of the findings, `{check, status, cause, remedy}` each.
pub fn json(findings: &[Finding]) -> String {
    // Plain text in plain fields: there is nothing that could fail.
    serde_json::to_string_pretty(findings).map(|text| text + "\n").unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remedies_stand_below_what_they_are_for() {
        let findings =
            [Finding::fine("kernel", "6.1"), Finding::warning("pasta", "not\x1b found", "get it")];
        let text = "✓ kernel  6.1\n! pasta   not\\u{1b} found\n          -> get it\n";
        assert_eq!(table(&findings, false), text);
        assert!(table(&findings, true).contains("\x1b[1;33m!\x1b[0m pasta "));
        assert!(json(&findings).contains("\"status\": \"warning\""));
    }
}
