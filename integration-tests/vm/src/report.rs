//! Compares what the programs reported with what was expected of them.

use std::collections::BTreeMap;

use crate::plan::Expected;

/// What is expected of each test of each program.
pub type Plan = BTreeMap<String, BTreeMap<String, Expected>>;

/// What came of a run.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    pub passed: usize,
    pub ignored: usize,
    /// What is not as expected, a line each.
    pub faults: Vec<String>,
}

/// How a test ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Passed,
    Failed,
    Ignored,
}

/// Judges the lines that `init.rs` wrote.
pub fn judge(report: &str, plan: &Plan) -> Verdict {
    let mut verdict = Verdict::default();
    let mut outcomes = BTreeMap::new();
    let (mut program, mut ended) = ("", false);
    for line in report.lines() {
        let line = line.trim_end();
        let (mark, text) = line.split_once(' ').unwrap_or((line, ""));
        match mark {
            "program" => program = text,
            "out" => {
                if let Some((test, outcome)) = outcome(text) {
                    outcomes.insert((program, test), outcome);
                }
            }
            "err" if text.starts_with("left out:") => {
                verdict.faults.push(format!("{program}: {text}"));
            }
            "left" => {
                verdict.faults.push(format!("{program} left {text}"));
            }
            "status" if text != "exit status: 0" => {
                verdict.faults.push(format!("{program} ended with {text}"));
            }
            "end" => ended = true,
            _ => {}
        }
    }
    for (program, tests) in plan {
        for (test, expected) in tests {
            let outcome = outcomes.get(&(program.as_str(), test.as_str()));
            match (outcome, expected) {
                (Some(Outcome::Passed), Expected::Pass | Expected::Any) => {
                    verdict.passed += 1;
                }
                (Some(Outcome::Ignored), Expected::Ignore | Expected::Any) => {
                    verdict.ignored += 1;
                }
                (outcome, _) => {
                    let became = match outcome {
                        Some(Outcome::Passed) => "passed unexpectedly",
                        Some(Outcome::Failed) => "failed",
                        Some(Outcome::Ignored) => "was ignored",
                        None => "did not run",
                    };
                    verdict.faults.push(format!("{program} {test} {became}"));
                }
            }
        }
    }
    if !ended {
        verdict.faults.push("the machine stopped before the end".into());
    }
    verdict
}

/// The outcome in a line such as `test name ... ok`, which both harnesses
/// print.
fn outcome(line: &str) -> Option<(&str, Outcome)> {
    let (test, outcome) = line.strip_prefix("test ")?.split_once(" ... ")?;
    let test = test.trim_end().trim_end_matches(" - should panic");
    // A reason follows `ignored`.
    let word = outcome.split([' ', ',']).next()?;
    let outcome = match word {
        "ok" => Outcome::Passed,
        "FAILED" => Outcome::Failed,
        "ignored" => Outcome::Ignored,
        _ => return None,
    };
    Some((test, outcome))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(report: &str, expected: Expected) -> Vec<String> {
        let tests = BTreeMap::from([("works".to_owned(), expected)]);
        judge(report, &Plan::from([("some/suite".to_owned(), tests)])).faults
    }

    fn ended(lines: &str) -> String {
        format!("program some/suite\n{lines}status exit status: 0\nend \n")
    }

    #[test]
    fn a_test_that_passed_is_counted() {
        let tests = BTreeMap::from([("works".to_owned(), Expected::Pass)]);
        let plan = Plan::from([("some/suite".to_owned(), tests)]);
        let verdict = judge(&ended("out test works ... ok\r\n"), &plan);
        let expected = Verdict { passed: 1, ignored: 0, faults: vec![] };
        assert_eq!(verdict, expected);
    }

    #[test]
    fn a_test_that_was_expected_and_did_not_run_is_a_fault() {
        let report = ended("out test other ... ok\n");
        assert_eq!(
            faults(&report, Expected::Pass),
            ["some/suite works did not run"]
        );
        // Nor does the same name in another program stand in for it.
        let report = ended("program else\nout test works ... ok\n");
        assert_eq!(faults(&report, Expected::Pass).len(), 1);
    }

    #[test]
    fn only_what_is_expected_to_be_ignored_may_be() {
        let ignored = ended("out test works   ... ignored, no device\n");
        assert_eq!(
            faults(&ignored, Expected::Pass),
            ["some/suite works was ignored"]
        );
        assert!(faults(&ignored, Expected::Ignore).is_empty());
        assert!(faults(&ignored, Expected::Any).is_empty());
        let passed = ended("out test works ... ok\n");
        assert_eq!(faults(&passed, Expected::Ignore).len(), 1);
        assert!(faults(&passed, Expected::Any).is_empty());
    }

    #[test]
    fn what_a_test_leaves_or_leaves_out_is_a_fault() {
        let passed = "out test works ... ok\n";
        for line in [
            "left /dev/shm/x\n",
            "err left out: works: needs root\n",
            "status signal: 9 (SIGKILL)\n",
        ] {
            let report = ended(&format!("{passed}{line}"));
            assert_eq!(faults(&report, Expected::Pass).len(), 1, "{line}");
        }
    }

    #[test]
    fn a_machine_that_stops_early_is_a_fault() {
        let report = "program some/suite\nout test works ... ok\n";
        assert_eq!(faults(report, Expected::Pass).len(), 1);
    }

    #[test]
    fn a_failed_test_is_a_fault_whatever_was_expected() {
        let report = ended("out test works ... FAILED\n");
        for expected in [Expected::Pass, Expected::Ignore, Expected::Any] {
            assert_eq!(faults(&report, expected), ["some/suite works failed"]);
        }
    }
}
