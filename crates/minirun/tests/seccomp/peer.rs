//! libseccomp, by a small C program.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use super::machine::Program;
use super::{ARCHES, Profile};

pub(crate) struct Peer {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// Names by interface and number.
pub(crate) type Numbers = BTreeMap<(usize, u32), String>;

/// What libseccomp made of a profile.
#[derive(Debug)]
pub(crate) struct Compiled {
    /// Names that this version does not have.
    pub(crate) unknown: BTreeSet<String>,
    /// By name of the interface: the highest number among those that the profile names.
    pub(crate) last: BTreeMap<String, u32>,
    /// How long it took.
    pub(crate) taken: Duration,
    /// The program, or libseccomp's error code.
    pub(crate) program: Result<Program, i32>,
}

impl Peer {
    pub(crate) fn start() -> Self {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/seccomp/peer.c");
        // Tests run at once, each with a file of its own.
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let program = dir.path().join("peer");
        let mut cc = Command::new("cc");
        cc.args(["-O1", "-o"]).arg(&program).arg(source).arg("-lseccomp");
        let built = cc.output().unwrap_or_else(|e| panic!("cannot run cc: {e}"));
        let errors = String::from_utf8_lossy(&built.stderr);
        assert!(built.status.success(), "cc, with libseccomp-dev: {errors}");
        Self::spawn(&program)
    }

    fn spawn(program: &Path) -> Self {
        let mut command = Command::new(program);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, input, output: BufReader::new(output) }
    }

    /// All calls that it has for our architectures: by interface and number.
    pub(crate) fn numbers(&mut self) -> Numbers {
        self.input.write_all(b"names\n").unwrap();
        let mut names = BTreeMap::new();
        loop {
            let line = self.line();
            let words: Vec<&str> = line.split(' ').collect();
            let [arch, number, name] = words[..] else { return names };
            let arch = ARCHES.iter().position(|a| a.0 == arch).unwrap();
            names.insert((arch, number.parse().unwrap()), name.into());
        }
    }

    pub(crate) fn compile(&mut self, profile: &Profile) -> Compiled {
        let mut text = format!("profile {}", profile.default);
        profile.arches.iter().for_each(|&i| write!(text, " {}", ARCHES[i].0).unwrap());
        text.push_str(" .\n");
        for rule in &profile.rules {
            write!(text, "rule {} {}", rule.name, rule.action).unwrap();
            for a in &rule.args {
                write!(text, " {} {} {} {}", a.index, a.op, a.value, a.second).unwrap();
            }
            text.push_str(" .\n");
        }
        text.push_str("end\n");
        self.input.write_all(text.as_bytes()).unwrap();
        let mut compiled = Compiled {
            unknown: BTreeSet::new(),
            last: BTreeMap::new(),
            taken: Duration::ZERO,
            program: Ok(Vec::new()),
        };
        loop {
            let line = self.line();
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["unknown", name] => {
                    compiled.unknown.insert(name.into());
                }
                ["last", arch, number] => {
                    compiled.last.insert(arch.into(), number.parse().unwrap());
                }
                ["taken", nanoseconds] => {
                    compiled.taken = Duration::from_nanos(nanoseconds.parse().unwrap());
                }
                ["refused", code] => {
                    compiled.program = Err(code.parse().unwrap());
                    return compiled;
                }
                ["program", ref words @ ..] => {
                    let numbers: Vec<u32> = words.iter().map(|w| w.parse().unwrap()).collect();
                    let instruction = |n: &[u32]| (n[0] as u16, n[1] as u8, n[2] as u8, n[3]);
                    compiled.program = Ok(numbers.chunks(4).map(instruction).collect());
                    return compiled;
                }
                _ => panic!("libseccomp's side says {line:?}"),
            }
        }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert!(line.ends_with('\n'), "libseccomp's side ended: {line:?}");
        line.trim_end().to_owned()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
