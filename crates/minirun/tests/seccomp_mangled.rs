//! Profile files that are damaged or hostile: an error or a program that the kernel takes, no panic.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panic")]

mod seccomp;

use minirun::seccomp::profile::{Circumstances, Profile};
use minirun::seccomp::{MAX_INSTRUCTIONS, SeccompError, compile};
use seccomp::ARCHES;
use seccomp::machine::{Call, run};
use seccomp::random::{self, Kind, Random};
use serde_json::{Value, json};

const ROUNDS: u64 = 3000;

/// Whether it compiled.
fn goes_through(text: &[u8]) -> bool {
    let circumstances = Circumstances { capabilities: &["CAP_CHOWN".into()], kernel: (6, 1) };
    let Ok(profile) = Profile::parse(text) else { return false };
    let Ok(filter) = compile(&profile.resolve(&circumstances)) else { return false };
    let program: Vec<_> = filter.program.iter().map(|i| (i.code, i.jt, i.jf, i.k)).collect();
    for (number, arch) in (0..600).zip(ARCHES.iter().cycle()) {
        run(&program, &Call { number, arch: arch.2, args: [u64::from(number); 6] });
    }
    true
}

#[test]
fn damaged_files_are_refused_or_compiled() {
    let names = ["read", "socket", "clone", "personality", "semop"].map(String::from);
    let kind = Kind {
        names: &names,
        arches: &[0, 1, 2],
        rules: 6,
        actions: &[seccomp::ALLOW, seccomp::ERRNO | 5],
        conditions: 6,
        repeated: 20,
    };
    let mut compiled = 0;
    for seed in 0..ROUNDS {
        let mut random = Random::new(seed);
        let mut text = random::profile(&mut random, &kind).to_json().to_string().into_bytes();
        for _ in 0..random.below(4) {
            damage(&mut text, &mut random);
        }
        compiled += u64::from(goes_through(&text));
    }
    assert!(compiled > ROUNDS / 10 && compiled < ROUNDS, "{compiled} of {ROUNDS} compiled");
}

fn damage(text: &mut Vec<u8>, random: &mut Random) {
    let at = random.below(text.len());
    match random.below(4) {
        0 => text[at] = b"0123456789\"[]{},:-nt"[random.below(20)],
        1 => text.insert(at, b'9'),
        2 => text.truncate(at.max(1)),
        _ => {
            text.remove(at);
        }
    }
}

/// The most that a rule of six conditions can grow to, in programs that are too long for one jump.
#[test]
fn long_programs_reach_everything_or_are_refused() {
    let operators = ["SCMP_CMP_GT", "SCMP_CMP_LT", "SCMP_CMP_NE", "SCMP_CMP_GE"];
    let rule = |n: u64, count: usize| {
        let arg = |index: usize| {
            let op = operators[(index + n as usize) % operators.len()];
            json!({ "index": index, "op": op, "value": (n << 33) + n + index as u64 })
        };
        let args: Vec<Value> = (0..count).map(arg).collect();
        json!({ "names": ["read", "write", "socket"], "action": "SCMP_ACT_ALLOW", "args": args })
    };
    let profile = |rules: u64, count| {
        let rules: Vec<Value> = (0..rules).map(|n| rule(n, count)).collect();
        serde_json::from_value(json!({
            "defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86"],
            "syscalls": rules,
        }))
        .unwrap()
    };
    for (rules, count) in [(1, 5), (3, 4), (60, 1), (40, 2)] {
        let program = compile(&profile(rules, count)).unwrap().program;
        assert!(program.len() > 255 && program.len() <= MAX_INSTRUCTIONS, "{}", program.len());
        let program: Vec<_> = program.iter().map(|i| (i.code, i.jt, i.jf, i.k)).collect();
        for number in 0..64 {
            for value in [0, 1, u64::MAX, 1 << 33] {
                run(&program, &Call { number, arch: ARCHES[0].2, args: [value; 6] });
            }
        }
    }
    assert_eq!(compile(&profile(500, 6)).unwrap_err(), SeccompError::TooLong);
    assert_eq!(compile(&profile(20_000, 1)).unwrap_err(), SeccompError::TooLong);
}
