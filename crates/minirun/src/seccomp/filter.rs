//! From what each system call gets to a program: a search over their numbers, sorted, in which
//! neighbours that get the same are one range.

use ctsys::seccomp::Instruction;

use super::arch::{Arch, X32_BIT};
use super::assemble::{Assembler, Target};
use super::condition::{Branch, Level, Test};

/// `SECCOMP_RET_KILL_THREAD`: what a call through an interface that the profile does not name gets,
/// as libseccomp has it.
pub(super) const BAD_ARCH: u32 = 0;
/// The number that a tracer leaves to have a call skipped (seccomp(2)).
const SKIPPED: u32 = u32::MAX;

/// What the system calls of an interface get.
#[derive(Debug)]
pub(super) struct Calls {
    pub(super) arch: Arch,
    /// By number, rising. Those left out get the default.
    pub(super) verdicts: Vec<(u32, Verdict)>,
    /// What calls above the profile's newest get, if not the default: that one's number, and the
    /// action.
    pub(super) above: Option<(u32, u32)>,
}

/// What a system call gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The same whatever its arguments.
    Always(u32),
    /// That of the first condition that holds; else the default.
    Depends(Level),
}

/// The program. `interfaces` are in the order in which they are looked for: the usual one first.
pub(super) fn program(interfaces: &[Calls], default: u32) -> Vec<Instruction> {
    let mut out = Assembler::default();
    let mut entry = Target::Return(BAD_ARCH);
    for calls in interfaces.iter().rev() {
        // x32 is looked at together with x86-64.
        if calls.arch == Arch::X32 {
            continue;
        }
        let is_x32 = |c: &&Calls| calls.arch == Arch::X86_64 && c.arch == Arch::X32;
        let ranges = ranges(calls, interfaces.iter().find(is_x32), default);
        let search = search(&mut out, &ranges, default);
        let section = out.load_number(search);
        entry = out.branch(Test::Equal, calls.arch.audit(), section, entry);
    }
    let entry = out.load_arch(entry);
    out.finish(entry)
}

/// From this number on, to the next one's.
type Range<'a> = (u32, Given<'a>);

#[derive(Debug, Clone, Copy, PartialEq)]
enum Given<'a> {
    Return(u32),
    Depends(&'a Level),
}

fn ranges<'a>(calls: &'a Calls, x32: Option<&'a Calls>, default: u32) -> Vec<Range<'a>> {
    let mut all = Vec::with_capacity(2 * calls.verdicts.len());
    add_calls(&mut all, 0, calls, default);
    if calls.arch == Arch::X86_64 {
        // Without that bit it is x86-64's, though far above any that exists.
        const ABOVE_64: u32 = 1 << 31;
        const ABOVE_X32: u32 = ABOVE_64 | X32_BIT;
        if let Some(x32) = x32 {
            add_calls(&mut all, X32_BIT, x32, default);
            add(&mut all, ABOVE_64, rest(calls, default));
            add(&mut all, ABOVE_X32, rest(x32, default));
        } else {
            add(&mut all, X32_BIT, Given::Return(BAD_ARCH));
            add(&mut all, ABOVE_64, rest(calls, BAD_ARCH));
            add(&mut all, ABOVE_X32, Given::Return(BAD_ARCH));
            add(&mut all, SKIPPED, Given::Return(default));
        }
    }
    all
}

fn add_calls<'a>(all: &mut Vec<Range<'a>>, first: u32, calls: &'a Calls, default: u32) {
    add(all, first, Given::Return(default));
    let newest = calls.above.map_or(u32::MAX, |(newest, _)| newest);
    for (number, verdict) in calls.verdicts.iter().take_while(|(number, _)| *number <= newest) {
        let given = match verdict {
            Verdict::Always(action) => Given::Return(*action),
            Verdict::Depends(level) => Given::Depends(level),
        };
        add(all, *number, given);
        add(all, number.saturating_add(1), Given::Return(default));
    }
    if let Some((newest, action)) = calls.above {
        add(all, newest.saturating_add(1), Given::Return(action));
    }
}

/// What a number gets that is far above those in use.
fn rest<'a>(calls: &Calls, otherwise: u32) -> Given<'a> {
    Given::Return(calls.above.map_or(otherwise, |(_, action)| action))
}

/// Starts a range. One that starts where the last one does takes its place; one that gives the same
/// goes on with it.
fn add<'a>(all: &mut Vec<Range<'a>>, start: u32, given: Given<'a>) {
    if all.last().is_some_and(|last| last.0 == start) {
        all.pop();
    }
    if all.last().is_none_or(|last| last.1 != given) {
        all.push((start, given));
    }
}

fn search(out: &mut Assembler, ranges: &[Range<'_>], default: u32) -> Target {
    match ranges {
        [] => Target::Return(default),
        [(_, Given::Return(action))] => Target::Return(*action),
        [(_, Given::Depends(level))] => conditions(out, level, Target::Return(default)).cold,
        _ => {
            let (lower, upper) = ranges.split_at(ranges.len() / 2);
            let start = upper.first().map_or(0, |range| range.0);
            let upper = search(out, upper, default);
            let lower = search(out, lower, default);
            out.branch(Test::GreaterOrEqual, start, upper, lower)
        }
    }
}

/// Where a level's code begins.
struct Entry {
    /// Loads the word first.
    cold: Target,
    /// For those who have the word and mask named here in the accumulator already.
    warm: Option<(u32, u32, Target)>,
}

/// The code of a level; `next` is where to go when nothing in it holds.
fn conditions(out: &mut Assembler, level: &Level, next: Target) -> Entry {
    let mut entry = Entry { cold: next, warm: None };
    for node in level.iter().rev() {
        let (offset, mask) = (node.word.offset(), node.mask);
        let mut branch = |branch: &Branch| match branch {
            Branch::Next => match entry.warm {
                Some((o, m, warm)) if (o, m) == (offset, mask) => warm,
                _ => entry.cold,
            },
            Branch::Return(action) => Target::Return(*action),
            Branch::Level(level) => conditions(out, level, entry.cold).cold,
        };
        let then = branch(&node.then);
        // Masked with nothing it is zero, and so is what it is compared with.
        if mask == 0 && node.test != Test::Greater {
            entry = Entry { cold: then, warm: None };
            continue;
        }
        let otherwise = branch(&node.otherwise);
        let test = out.branch(node.test, node.value, then, otherwise);
        if then == otherwise {
            entry = Entry { cold: test, warm: None };
            continue;
        }
        entry =
            Entry { cold: out.load_masked(offset, mask, test), warm: Some((offset, mask, test)) };
    }
    entry
}
