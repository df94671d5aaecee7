//! The profile of containers that bring none: what docker allows, which images are made for.
//!
//! Everything that a program in a container needs, but nothing that reaches into what the kernel
//! does not keep apart by namespaces, and no new namespaces: a kernel's faults are mostly found
//! there. What a capability stands for is allowed with that capability (docker's rule: where it is
//! in the bounding set).
//!
//! The filter is made from a table that is laid out by number when this program is built: a start
//! neither parses a profile nor looks a name up.

use std::cmp::Ordering;

use nix::libc;
use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg};
use oci_spec::runtime::{LinuxSeccompArgBuilder, LinuxSeccompOperator as Operator, LinuxSyscall};

use super::arch::{Arch, X32_BIT};
use super::compile::{default_flags, newer_calls};
use super::condition::{self, Branch, Condition, Level};
use super::filter::{self, Calls, Verdict};
use super::syscalls::{NONE, SYSCALLS};
use super::{Filter, SeccompError};

mod table;

use table::{ABSENT, ALWAYS, CAP_SYS_ADMIN, CONDITIONAL, GROUPS};

/// The annotation that stands for the profile in a configuration which does not write it out, as
/// that would cost each start time; its value is [`NAME`].
pub const ANNOTATION: &str = "minirun.seccomp";
/// What [`ANNOTATION`] says.
pub const NAME: &str = "usual";

/// What calls get that are not allowed.
const DENIED: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned();
const MISSING: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned();

/// The interfaces that a program of this machine may use.
const ARCHES: &[Arch] = match Arch::NATIVE {
    Some(Arch::X86_64) => &[Arch::X86_64, Arch::X86, Arch::X32],
    Some(Arch::Aarch64) => &[Arch::Aarch64, Arch::Arm],
    _ => &[],
};

/// The filter for a container with these capabilities in its bounding set, bit n for number n. The
/// same as [`super::compile`] makes of [`profile`].
pub fn filter(bounding: u64) -> Result<Filter, SeccompError> {
    if ARCHES.is_empty() {
        return Err(SeccompError::Architecture);
    }
    let calls: Vec<Calls> = ARCHES.iter().map(|&arch| calls(arch, bounding)).collect();
    Ok(Filter { program: filter::program(&calls, DENIED), flags: default_flags() })
}

/// The profile as a configuration has it, for every runtime.
pub fn profile(bounding: u64) -> LinuxSeccomp {
    let exists = |row: &usize| ARCHES.iter().any(|arch| arch.number_in(*row).is_some());
    let rows = (0..SYSCALLS.len()).filter(exists).filter(|row| is_allowed(*row, bounding));
    let mut syscalls = vec![entry(rows.map(|row| SYSCALLS[row].0))];
    for rule in CONDITIONAL.iter().filter(|rule| rule.unless & bounding == 0) {
        let mut entry = entry([rule.name]);
        entry.set_args(Some(vec![argument(&rule.condition)]));
        syscalls.push(entry);
    }
    if bounding & CAP_SYS_ADMIN == 0 {
        let mut absent = entry([ABSENT]);
        absent.set_action(Action::ScmpActErrno).set_errno_ret(Some(libc::ENOSYS.cast_unsigned()));
        syscalls.push(absent);
    }
    let mut profile = LinuxSeccomp::default();
    profile
        .set_default_action(Action::ScmpActErrno)
        .set_default_errno_ret(Some(libc::EPERM.cast_unsigned()))
        .set_architectures(Some(ARCHES.iter().map(|arch| arch.to_profile()).collect()))
        .set_syscalls(Some(syscalls));
    profile
}

fn entry<'a>(names: impl IntoIterator<Item = &'a str>) -> LinuxSyscall {
    let mut entry = LinuxSyscall::default();
    let names = names.into_iter().map(str::to_owned).collect();
    entry.set_names(names).set_action(Action::ScmpActAllow);
    entry
}

fn argument(condition: &Condition) -> LinuxSeccompArg {
    let Condition { argument, operator, mask, value } = *condition;
    let arg = LinuxSeccompArgBuilder::default().index(argument).op(operator);
    let arg = match operator {
        Operator::ScmpCmpMaskedEq => arg.value(mask).value_two(value),
        _ => arg.value(value),
    };
    // Every field has a default, so nothing can be missing.
    arg.build().unwrap_or_default()
}

fn calls(arch: Arch, bounding: u64) -> Calls {
    let mut verdicts = Vec::with_capacity(SYSCALLS.len());
    let mut newest = 0;
    let ordinary = BY_NUMBER[arch as usize].iter().zip(first_number(arch)..);
    let private = PRIVATE.iter().filter(|_| arch == Arch::Arm);
    let private = private.filter_map(|&row| Some((row, arch.number_in(row.into())?)));
    for (row, number) in ordinary.map(|(&row, number)| (row, number)).chain(private) {
        if row == NO_ROW {
            continue;
        }
        if let Some(verdict) = verdict(row.into(), arch, bounding) {
            newest = number;
            verdicts.push((number, verdict));
        }
    }
    Calls { arch, verdicts, above: newer_calls(DENIED).map(|action| (newest, action)) }
}

fn verdict(row: usize, arch: Arch, bounding: u64) -> Option<Verdict> {
    if is_allowed(row, bounding) {
        return Some(Verdict::Always(libc::SECCOMP_RET_ALLOW));
    }
    if !IS_CONDITIONAL[row] {
        return None;
    }
    let name = SYSCALLS[row].0;
    if name == ABSENT {
        return Some(Verdict::Always(MISSING));
    }
    let mut level = Level::new();
    let rules = CONDITIONAL.iter().filter(|r| r.name == name && r.unless & bounding == 0);
    for rule in rules {
        let allowed = condition::rule(&[rule.condition], arch.is_64_bit(), libc::SECCOMP_RET_ALLOW);
        if let Branch::Level(nodes) = allowed {
            // All allow, so none contradicts another.
            let _ = nodes.into_iter().try_for_each(|node| condition::insert(&mut level, node));
        }
    }
    Some(Verdict::Depends(level))
}

fn is_allowed(row: usize, bounding: u64) -> bool {
    match GROUP_OF[row] {
        NO_GROUP => false,
        group => {
            let needed = GROUPS[usize::from(group)].capabilities;
            needed == ALWAYS || needed & bounding != 0
        }
    }
}

/// Numbers from the interface's first one on that are in use: those above are 32-bit arm's own.
const NUMBERS: usize = 576;
const NO_ROW: u16 = u16::MAX;
const NO_GROUP: u8 = u8::MAX;

/// The row in [`SYSCALLS`] of a number, by interface.
static BY_NUMBER: [[u16; NUMBERS]; 5] = by_number();
/// The group of a row.
static GROUP_OF: [u8; SYSCALLS.len()] = group_of();
/// Rows that are allowed under a condition, or said to be absent.
static IS_CONDITIONAL: [bool; SYSCALLS.len()] = is_conditional();
/// 32-bit arm's private calls, in the order of their numbers.
const PRIVATE: [u16; 3] = [row("breakpoint"), row("cacheflush"), row("set_tls")];

const fn first_number(arch: Arch) -> u32 {
    if matches!(arch, Arch::X32) { X32_BIT } else { 0 }
}

const fn by_number() -> [[u16; NUMBERS]; 5] {
    const ALL: [Arch; 5] = [Arch::X86_64, Arch::X86, Arch::X32, Arch::Aarch64, Arch::Arm];
    let mut all = [[NO_ROW; NUMBERS]; 5];
    let mut row = 0;
    while row < SYSCALLS.len() {
        let mut arch = 0;
        while arch < ALL.len() {
            let number = SYSCALLS[row].1[arch];
            let place = number.wrapping_sub(first_number(ALL[arch])) as usize;
            if number != NONE && place < NUMBERS {
                all[arch][place] = row as u16;
            }
            arch += 1;
        }
        row += 1;
    }
    all
}

const fn group_of() -> [u8; SYSCALLS.len()] {
    let mut all = [NO_GROUP; SYSCALLS.len()];
    let mut group = 0;
    while group < GROUPS.len() {
        let words = GROUPS[group].names.as_bytes();
        let mut start = 0;
        while start < words.len() {
            let mut end = start;
            while end < words.len() && words[end] != b' ' {
                end += 1;
            }
            all[row_of(words.split_at(end).0.split_at(start).1) as usize] = group as u8;
            start = end + 1;
        }
        group += 1;
    }
    all
}

const fn is_conditional() -> [bool; SYSCALLS.len()] {
    let mut all = [false; SYSCALLS.len()];
    all[row(ABSENT) as usize] = true;
    let mut i = 0;
    while i < CONDITIONAL.len() {
        all[row(CONDITIONAL[i].name) as usize] = true;
        i += 1;
    }
    all
}

const fn row(name: &str) -> u16 {
    row_of(name.as_bytes())
}

/// The row of a name; a name that is not there fails the build.
const fn row_of(name: &[u8]) -> u16 {
    let (mut low, mut high) = (0, SYSCALLS.len());
    while low < high {
        let middle = (low + high) / 2;
        match compare(SYSCALLS[middle].0.as_bytes(), name) {
            Ordering::Less => low = middle + 1,
            Ordering::Greater => high = middle,
            Ordering::Equal => return middle as u16,
        }
    }
    #[expect(clippy::panic, reason = "only while this program is built")]
    {
        panic!("the usual profile has a name that the table of calls lacks")
    }
}

const fn compare(a: &[u8], b: &[u8]) -> Ordering {
    let mut i = 0;
    while i < a.len() && i < b.len() {
        if a[i] != b[i] {
            return if a[i] < b[i] { Ordering::Less } else { Ordering::Greater };
        }
        i += 1;
    }
    match (i < a.len(), i < b.len()) {
        (true, _) => Ordering::Greater,
        (_, true) => Ordering::Less,
        _ => Ordering::Equal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_what_the_written_profile_does() {
        let capabilities = (0..41).map(|n| 1_u64 << n);
        for bounding in capabilities.chain([0, u64::MAX, 0x0000_0000_a804_25fb]) {
            let written = super::super::compile(&profile(bounding)).unwrap();
            assert_eq!(filter(bounding).unwrap(), written, "{bounding:#x}");
        }
    }
}
