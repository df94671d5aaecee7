//! Our compiler beside libseccomp: the same call by call, on every number and around every value that
//! a profile compares with.
//!
//! libseccomp itself is wrong now and then: version 2.5.4 forgets in small profiles for several
//! interfaces to load the call's number, and shares code between rules with several conditions that
//! it must not. So both are held against what the profile's words say, too, and a difference passes
//! only where libseccomp is the one that does something else.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panic")]

mod seccomp;

use std::collections::BTreeSet;

use seccomp::machine::{Call, Program, run};
use seccomp::peer::{Compiled, Numbers, Peer};
use seccomp::random::{self, Kind, Random};
use seccomp::{ALLOW, ARCHES, Arg, ENOSYS, ERRNO, OPERATORS, Profile, Rule, X32_BIT};

/// Above the highest number of any interface, but for 32-bit arm's private ones.
const NUMBERS: u32 = 600;
/// Debian 12's libseccomp has it for some interfaces only.
const INCOMPLETE: &str = "map_shadow_stack";

#[test]
fn every_name_has_the_same_number_everywhere() {
    let mut peer = Peer::start();
    let numbers = peer.numbers();
    let names: BTreeSet<&String> = numbers.values().filter(|n| *n != INCOMPLETE).collect();
    assert!(names.len() > 400, "{names:?}");
    // An action of its own for each, so that no two can be mixed up.
    for arch in 0..ARCHES.len() {
        let rules = names.iter().zip(100..).map(|(name, errno)| Rule {
            name: name.to_string(),
            action: ERRNO | errno,
            args: Vec::new(),
        });
        let profile = Profile { default: ALLOW, arches: vec![arch], rules: rules.collect() };
        let seen = compare(&mut peer, &profile, &mut Random::new(1), &numbers);
        assert_eq!((seen.libseccomp_is_wrong, seen.another_order), (0, 0));
    }
}

/// By docker's rule that is one profile for each set of capabilities.
#[test]
fn the_usual_profile_does_the_same() {
    let mut peer = Peer::start();
    let numbers = peer.numbers();
    let dockers = 0x0000_0000_a804_25fb;
    for bounding in [dockers, 0, u64::MAX] {
        let written = minirun::seccomp::usual::profile(bounding);
        let mut profile = Profile::from_json(&serde_json::to_value(&written).unwrap());
        profile.rules.retain(|rule| rule.name != INCOMPLETE);
        let seen = compare(&mut peer, &profile, &mut Random::new(bounding), &numbers);
        assert_eq!((seen.libseccomp_is_wrong, seen.another_order), (0, 0), "{bounding:#x}");
    }
}

#[test]
fn profiles_as_people_write_them_do_the_same() {
    // One condition a rule, or none.
    let seen = many(200, |names| Kind { conditions: 1, ..kind(names) });
    assert_eq!(seen.another_order, 0, "{seen:?}");
}

#[test]
fn rules_of_several_conditions_do_the_same() {
    let seen = many(80, |names| Kind { conditions: 4, repeated: 10, ..kind(names) });
    assert_eq!(seen.another_order, 0, "{seen:?}");
}

#[test]
fn where_rules_of_different_actions_meet_the_same_wins() {
    let actions = &[ALLOW, ERRNO | 22, 0x7ff0_0001];
    let seen = many(200, |names| Kind { actions, rules: 6, ..kind(names) });
    assert!(seen.refused > 0, "no two rules contradicted each other: {seen:?}");
    // Where libseccomp drops a rule because of one before it that says the same, it may lose that
    // rule's place among others.
    assert!(seen.another_order * 1_000_000 < seen.calls, "{seen:?}");
}

fn kind(names: &[String]) -> Kind<'_> {
    Kind {
        names,
        arches: &[0, 1, 2, 3, 4],
        rules: 12,
        actions: &[ALLOW],
        conditions: 3,
        repeated: 0,
    }
}

fn many(count: u64, kind: impl Fn(&[String]) -> Kind<'_>) -> Seen {
    let mut peer = Peer::start();
    let numbers = peer.numbers();
    let names: Vec<String> = numbers.values().filter(|n| *n != INCOMPLETE).cloned().collect();
    let mut seen = Seen::default();
    for seed in 0..count {
        let mut random = Random::new(seed);
        let profile = random::profile(&mut random, &kind(&names));
        let one = compare(&mut peer, &profile, &mut random, &numbers);
        seen.calls += one.calls;
        seen.refused += one.refused;
        seen.libseccomp_is_wrong += one.libseccomp_is_wrong;
        seen.another_order += one.another_order;
    }
    assert!(seen.libseccomp_is_wrong * 200 < seen.calls, "as often, it is we: {seen:?}");
    seen
}

#[derive(Debug, Default)]
struct Seen {
    /// Compared.
    calls: usize,
    /// Profiles that both refuse.
    refused: usize,
    /// Calls for which libseccomp's program does what no rule says, and ours does what one says.
    libseccomp_is_wrong: usize,
    /// Calls to which several rules apply, of which ours takes another than libseccomp.
    another_order: usize,
}

fn compare(peer: &mut Peer, profile: &Profile, random: &mut Random, numbers: &Numbers) -> Seen {
    let theirs = peer.compile(profile);
    // Newer calls than this libseccomp has would make a difference that says nothing.
    let mut profile = profile.clone();
    profile.rules.retain(|rule| !theirs.unknown.contains(&rule.name));
    let mut seen = Seen::default();
    let (ours, program) = match (profile.compile(), &theirs.program) {
        (Ok(ours), Ok(program)) => (ours, program),
        (Err(_), Err(_)) => return Seen { refused: 1, ..seen },
        (ours, theirs) => panic!("{ours:?}\n{theirs:?}\n{profile:#?}"),
    };
    for call in calls(&profile, random, numbers) {
        seen.calls += 1;
        let got = run(&ours, &call).0;
        let want = wanted(&profile, &theirs, program, &call);
        if got == want {
            continue;
        }
        let meant = meant(&profile, &call, numbers);
        let shown = || format!("got {got:#x}, want {want:#x} for {call:x?}\n{profile:#x?}");
        assert!(meant.contains(&got), "{}", shown());
        match meant.contains(&want) {
            true => seen.another_order += 1,
            false => seen.libseccomp_is_wrong += 1,
        }
    }
    seen
}

/// What runc's filter returns: libseccomp's behind the stub for newer calls.
fn wanted(profile: &Profile, theirs: &Compiled, program: &Program, call: &Call) -> u32 {
    let permissive = matches!(profile.default & 0xffff_0000, 0x7ff0_0000 | 0x7ffc_0000 | ALLOW);
    let last = interface(call).and_then(|i| theirs.last.get(ARCHES[i].0)).copied().unwrap_or(0);
    if !permissive && last > 0 && call.number > last { ENOSYS } else { run(program, call).0 }
}

/// Index in [`ARCHES`].
fn interface(call: &Call) -> Option<usize> {
    let is_x32 = call.arch == ARCHES[0].2 && call.number & X32_BIT != 0;
    ARCHES.iter().position(|(name, _, audit)| *audit == call.arch && (*name == "x32") == is_x32)
}

/// The actions of the rules that apply; by the words of the profile, without any notion of order.
/// Empty for what cannot be judged so: what 32-bit x86 has behind `socketcall` and `ipc`.
fn meant(profile: &Profile, call: &Call, numbers: &Numbers) -> BTreeSet<u32> {
    let Some(interface) = interface(call) else { return BTreeSet::new() };
    let name = numbers.get(&(interface, call.number));
    if ARCHES[interface].0 == "x86" && name.is_some_and(|n| n == "socketcall" || n == "ipc") {
        return BTreeSet::new();
    }
    let is_64_bit = ["x86_64", "aarch64"].contains(&ARCHES[interface].0);
    let mask = if is_64_bit { u64::MAX } else { u64::from(u32::MAX) };
    let named = |rule: &&Rule| Some(&rule.name) == name && rule.action != profile.default;
    let rules: Vec<&Rule> = profile.rules.iter().filter(named).collect();
    let holds = |rule: &Rule| {
        let indexes: BTreeSet<usize> = rule.args.iter().map(|a| a.index).collect();
        let mut held = rule.args.iter().map(|a| a.holds(&call.args, mask));
        if indexes.len() < rule.args.len() { held.any(|h| h) } else { held.all(|h| h) }
    };
    // The first without conditions takes all calls.
    if let Some(rule) = rules.iter().find(|rule| rule.args.is_empty()) {
        return BTreeSet::from([rule.action]);
    }
    let all: BTreeSet<u32> = rules.iter().filter(|r| holds(r)).map(|r| r.action).collect();
    if all.is_empty() { BTreeSet::from([profile.default]) } else { all }
}

/// Every number of every interface, and what lies between and above; with arguments drawn around the
/// profile's values.
fn calls(profile: &Profile, random: &mut Random, names: &Numbers) -> Vec<Call> {
    let mut numbers: Vec<u32> = (0..NUMBERS).collect();
    numbers.extend((0..NUMBERS).map(|n| n | X32_BIT));
    numbers.extend(0xf_0000..0xf_0008);
    numbers.extend([0x3fff_ffff, 0x7fff_ffff, 0x8000_0000, 0xbfff_ffff]);
    numbers.extend([0xc000_0000, 0xffff_fffe, u32::MAX]);
    let audits: BTreeSet<u32> = ARCHES.iter().map(|a| a.2).chain([0, 0x8000_0016]).collect();
    let conditional: Vec<&Rule> = profile.rules.iter().filter(|r| !r.args.is_empty()).collect();
    let values: Vec<u64> =
        conditional.iter().flat_map(|rule| &rule.args).flat_map(around).collect();
    let mut looked_at: BTreeSet<&str> = conditional.iter().map(|r| r.name.as_str()).collect();
    looked_at.extend(["socketcall", "ipc"]);
    let mut calls = Vec::new();
    for arch in audits {
        for &number in &numbers {
            let mut call = Call { number, arch, args: [0; 6] };
            let name = interface(&call).and_then(|i| names.get(&(i, number)));
            let drawn = if name.is_some_and(|n| looked_at.contains(n.as_str())) { 200 } else { 1 };
            calls.extend((0..drawn).map(|_| {
                call.args = [(); 6].map(|()| argument(random, &values));
                call
            }));
        }
    }
    calls
}

fn argument(random: &mut Random, values: &[u64]) -> u64 {
    if values.is_empty() || random.below(4) == 0 { random.value() } else { random.pick(values) }
}

/// The values where a comparison's outcome changes, in either half.
fn around(arg: &Arg) -> Vec<u64> {
    let at = if OPERATORS[arg.op] == "MASKED_EQ" { arg.second } else { arg.value };
    let steps = [0, 1, u64::MAX, 1 << 32, u64::MAX << 32];
    steps.iter().map(|step| at.wrapping_add(*step)).chain([at & 0xffff_ffff]).collect()
}
