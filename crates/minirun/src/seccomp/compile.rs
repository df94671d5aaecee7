//! From a profile to what each system call gets.

use nix::libc;
use oci_spec::runtime::LinuxSeccompFilterFlag as Flag;
use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction as Action, LinuxSyscall};

use super::arch::{self, Arch};
use super::condition::{self, Branch, Condition, MAX_ARGUMENTS};
use super::filter::{self, Calls, Verdict};
use super::{Filter, MAX_INSTRUCTIONS, SeccompError};

type Result<T> = std::result::Result<T, SeccompError>;

/// `SECCOMP_RET_DATA`: the part of a return value that goes with the action.
const MAX_DATA: u32 = 0xffff;
/// `MAX_ERRNO` (linux/err.h): the kernel cuts higher ones down to this.
const MAX_ERRNO: u32 = 4095;
/// Rules with conditions, by system call and interface. As each takes an instruction at least, this
/// many fit only where most say the same.
const MAX_CONDITIONAL: usize = 4 * MAX_INSTRUCTIONS;

/// Compiles `profile` for this machine.
pub fn compile(profile: &LinuxSeccomp) -> Result<Filter> {
    let native = Arch::NATIVE.ok_or(SeccompError::Architecture)?;
    refuse_notify(profile)?;
    let default = value_of(profile.default_action(), profile.default_errno_ret())?;
    let rules = rules(profile, default)?;
    let mut interfaces = vec![native];
    for arch in profile.architectures().iter().flatten().filter_map(|a| Arch::from_profile(*a)) {
        if !interfaces.contains(&arch) {
            interfaces.push(arch);
        }
    }
    let mut budget = MAX_CONDITIONAL;
    let newer = newer_calls(default);
    let calls = interfaces.into_iter().map(|arch| calls(arch, &rules, newer, &mut budget));
    let program = filter::program(&calls.collect::<Result<Vec<_>>>()?, default);
    if program.len() > MAX_INSTRUCTIONS {
        return Err(SeccompError::TooLong);
    }
    Ok(Filter { program, flags: flags(profile)? })
}

/// What calls that are newer than the profile get, if not the default. Not where the default lets
/// calls pass, to a tracer too: that one knows what it does with new ones.
pub(super) fn newer_calls(default: u32) -> Option<u32> {
    let passes = [libc::SECCOMP_RET_ALLOW, libc::SECCOMP_RET_LOG, libc::SECCOMP_RET_TRACE];
    let refused = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned();
    (!passes.contains(&(default & !MAX_DATA))).then_some(refused)
}

/// An entry of a profile's `syscalls`.
struct Rule<'a> {
    names: &'a [String],
    /// `None`: it is the default action, so the rule only says that the profile knows the calls.
    action: Option<u32>,
    /// Each alone is enough; none: always.
    alternatives: Vec<Vec<Condition>>,
}

fn rules(profile: &LinuxSeccomp, default: u32) -> Result<Vec<Rule<'_>>> {
    let rule = |entry| {
        let action = value_of(LinuxSyscall::action(entry), entry.errno_ret())?;
        let action = Some(action).filter(|action| *action != default);
        Ok(Rule { names: entry.names(), action, alternatives: alternatives(entry)? })
    };
    profile.syscalls().iter().flatten().map(rule).collect()
}

/// The conditions of an entry: one set, all of which have to hold; or, where two are about the same
/// argument, each a set of its own.
fn alternatives(entry: &LinuxSyscall) -> Result<Vec<Vec<Condition>>> {
    let mut seen = [false; MAX_ARGUMENTS];
    let mut all = Vec::new();
    let mut is_repeated = false;
    for arg in entry.args().iter().flatten() {
        let condition = Condition::from_profile(arg).ok_or_else(|| SeccompError::Argument {
            call: entry.names().first().cloned().unwrap_or_default(),
            got: arg.index(),
        })?;
        let seen = &mut seen[usize::from(condition.argument)];
        is_repeated |= *seen;
        *seen = true;
        all.push(condition);
    }
    Ok(match all.is_empty() {
        true => Vec::new(),
        false if is_repeated => all.into_iter().map(|condition| vec![condition]).collect(),
        false => vec![all],
    })
}

fn calls(arch: Arch, rules: &[Rule<'_>], newer: Option<u32>, budget: &mut usize) -> Result<Calls> {
    let mut newest = 0;
    let mut verdicts = Vec::new();
    for rule in rules {
        for name in rule.names {
            let direct = arch.number(name);
            let behind = if arch == Arch::X86 { arch::multiplexed(name) } else { None };
            // runc does not know that a call behind another one may have a number of its own too.
            newest = newest.max(direct.filter(|_| behind.is_none()).unwrap_or(0));
            let mut add = |number, verdict| verdicts.push((number, name.as_str(), verdict));
            let Some(action) = rule.action else { continue };
            *budget = budget.checked_sub(rule.alternatives.len()).ok_or(SeccompError::TooLong)?;
            let always = [Vec::new()];
            let alternatives =
                if rule.alternatives.is_empty() { &always[..] } else { &rule.alternatives };
            for conditions in alternatives {
                if let Some(number) = direct {
                    add(number, when(conditions, arch, action));
                }
                if let Some(behind) = behind {
                    // Its first argument says which call is meant, not what the rule is about.
                    let others = conditions.iter().filter(|c| c.argument != 0).copied();
                    let selected = Condition::equals(0, behind.selector.into());
                    let conditions: Vec<_> = others.chain([selected]).collect();
                    add(behind.number, when(&conditions, arch, action));
                }
            }
        }
    }
    let above = newer.filter(|_| newest > 0).map(|action| (newest, action));
    Ok(Calls { arch, verdicts: united(verdicts)?, above })
}

fn when(conditions: &[Condition], arch: Arch, action: u32) -> Verdict {
    match condition::rule(conditions, arch.is_64_bit(), action) {
        Branch::Level(level) => Verdict::Depends(level),
        Branch::Return(_) | Branch::Next => Verdict::Always(action),
    }
}

/// One verdict a call: of those for all arguments the first counts, and no other beside it.
fn united(mut all: Vec<(u32, &str, Verdict)>) -> Result<Vec<(u32, Verdict)>> {
    // Stable: rules for the same call stay in the profile's order.
    all.sort_by_key(|(number, ..)| *number);
    let mut united: Vec<(u32, Verdict)> = Vec::with_capacity(all.len());
    for (number, name, new) in all {
        match (united.last_mut().filter(|last| last.0 == number), new) {
            (None, new) => united.push((number, new)),
            (Some((_, Verdict::Always(_))), _) => {}
            (Some((_, old)), new @ Verdict::Always(_)) => *old = new,
            (Some((_, Verdict::Depends(level))), Verdict::Depends(new)) => new
                .into_iter()
                .try_for_each(|node| condition::insert(level, node))
                .map_err(|_| SeccompError::Conflict { call: name.to_owned() })?,
        }
    }
    Ok(united)
}

/// What the filter returns for an action (linux/seccomp.h).
fn value_of(action: Action, errno: Option<u32>) -> Result<u32> {
    let takes_data = matches!(action, Action::ScmpActErrno | Action::ScmpActTrace);
    if errno.is_some() && !takes_data {
        return Err(SeccompError::NoErrno(action.to_string()));
    }
    let most = if action == Action::ScmpActErrno { MAX_ERRNO } else { MAX_DATA };
    let data = errno.unwrap_or(libc::EPERM.cast_unsigned());
    if data > most {
        return Err(SeccompError::Errno { got: data, most });
    }
    Ok(match action {
        Action::ScmpActKill | Action::ScmpActKillThread => libc::SECCOMP_RET_KILL_THREAD,
        Action::ScmpActKillProcess => libc::SECCOMP_RET_KILL_PROCESS,
        Action::ScmpActTrap => libc::SECCOMP_RET_TRAP,
        Action::ScmpActErrno => libc::SECCOMP_RET_ERRNO | data,
        Action::ScmpActTrace => libc::SECCOMP_RET_TRACE | data,
        Action::ScmpActLog => libc::SECCOMP_RET_LOG,
        Action::ScmpActAllow => libc::SECCOMP_RET_ALLOW,
        Action::ScmpActNotify => return Err(SeccompError::Notify("SCMP_ACT_NOTIFY")),
    })
}

fn refuse_notify(profile: &LinuxSeccomp) -> Result<()> {
    let path = profile.listener_path().as_ref().is_some_and(|path| !path.as_os_str().is_empty());
    let metadata = profile.listener_metadata().as_ref().is_some_and(|text| !text.is_empty());
    match (path, metadata) {
        (true, _) => Err(SeccompError::Notify("a listenerPath")),
        (_, true) => Err(SeccompError::Notify("listenerMetadata")),
        _ => Ok(()),
    }
}

/// As runc: where a profile says no flags at all, the mitigation of speculative store bypass is left
/// as it is without a filter. Since Linux 5.16 that is the kernel's own default too.
pub(super) fn default_flags() -> u32 {
    flag(libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW)
}

fn flags(profile: &LinuxSeccomp) -> Result<u32> {
    let Some(flags) = profile.flags() else { return Ok(default_flags()) };
    flags.iter().try_fold(0, |all, name| {
        Ok(all
            | match name {
                // About other threads, of which there are none.
                Flag::SeccompFilterFlagTsync => 0,
                Flag::SeccompFilterFlagLog => flag(libc::SECCOMP_FILTER_FLAG_LOG),
                Flag::SeccompFilterFlagSpecAllow => flag(libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW),
                Flag::SeccompFilterFlagWaitKillableRecv => {
                    return Err(SeccompError::Notify("WAIT_KILLABLE_RECV"));
                }
            })
    })
}

fn flag(bit: libc::c_ulong) -> u32 {
    u32::try_from(bit).unwrap_or(0)
}
