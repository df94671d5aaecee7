//! Our compiler and libseccomp in turn, on the usual profile: `scripts/bench seccomp`.
//!
//! Prints a table in markdown.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a measurement")]

#[path = "../tests/seccomp/mod.rs"]
mod seccomp;

use std::hint::black_box;
use std::time::{Duration, Instant};

use minirun::seccomp::{compile, usual};
use seccomp::machine::{Call, Program, run};
use seccomp::peer::Peer;
use seccomp::{ARCHES, Profile};

/// What docker gives to a container.
const BOUNDING: u64 = 0x0000_0000_a804_25fb;
/// Above every number in use.
const NUMBERS: u32 = 600;

fn main() {
    let rounds = std::env::args().skip_while(|word| word != "--rounds").nth(1);
    let rounds: usize = rounds.map_or(100, |text| text.parse().unwrap());
    let written = usual::profile(BOUNDING);
    let profile = Profile::from_json(&serde_json::to_value(&written).unwrap());
    let mut peer = Peer::start();
    let mut times: [Vec<Duration>; 3] = Default::default();
    let mut programs: [Program; 2] = Default::default();
    for round in 0..=rounds {
        let ours = Instant::now();
        let filter = compile(&written).unwrap();
        let ours = ours.elapsed();
        let table = Instant::now();
        black_box(usual::filter(BOUNDING).unwrap());
        let table = table.elapsed();
        let theirs = peer.compile(&profile);
        let taken = theirs.taken;
        programs = [
            filter.program.iter().map(|i| (i.code, i.jt, i.jf, i.k)).collect(),
            theirs.program.unwrap(),
        ];
        // The first round brings things into the caches.
        if round > 0 {
            times[0].push(ours);
            times[1].push(table);
            times[2].push(taken);
        }
    }
    let [ours, table, theirs] = times.map(median);
    let ratio = theirs.as_secs_f64() / ours.as_secs_f64();
    println!("| the usual profile | compiled in | instructions | at most run for a call |");
    println!("|---|---|---|---|");
    let row = |what: &str, time: Duration, program: &Program| {
        println!(
            "| {what} | {:.1} µs | {} | {} |",
            time.as_secs_f64() * 1e6,
            program.len(),
            worst(program)
        );
    };
    row("libseccomp", theirs, &programs[1]);
    row("minirun, from a profile", ours, &programs[0]);
    row("minirun, from its table, as at a start", table, &programs[0]);
    let reached = if ratio >= 10.0 { "reached" } else { "missed" };
    println!("\nFrom a profile {ratio:.0} times faster than libseccomp (10 to reach: {reached}).");
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// The most instructions that any call runs, through the interfaces of this machine.
fn worst(program: &Program) -> usize {
    let numbers = (0..NUMBERS).chain((0..NUMBERS).map(|n| n | seccomp::X32_BIT));
    // Values that go through all of a condition's comparisons.
    let args = [[0; 6], [u64::MAX; 6], [40; 6], [0xffff_fffe; 6]];
    let calls = numbers.flat_map(|number| args.map(|args| (number, args)));
    let calls = calls.flat_map(|(number, args)| {
        ARCHES.iter().map(move |arch| Call { number, arch: arch.2, args })
    });
    calls.map(|call| run(program, &call).1).max().unwrap_or_default()
}
