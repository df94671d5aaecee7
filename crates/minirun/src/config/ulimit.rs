//! `--ulimit` and `--sysctl`.

use nix::sys::resource::Resource;
use oci_spec::runtime::{PosixRlimitBuilder, PosixRlimitType, Process};

use super::value::BadValue;

/// No limit, as getrlimit(2) has it.
pub const UNLIMITED: u64 = u64::MAX;

/// Docker's names, and `as` and the kernel's other ones: each without its `RLIMIT_`.
const NAMES: &str = "as, core, cpu, data, fsize, locks, memlock, msgqueue, nice, nofile, nproc, rss, \
    rtprio, rttime, sigpending, stack";

/// A resource limit as asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ulimit {
    /// As typed, for messages.
    pub typed: String,
    /// Of what.
    pub typ: PosixRlimitType,
    /// What is enforced.
    pub soft: u64,
    /// Up to where the process may raise it.
    pub hard: u64,
}

/// Parses a `--ulimit TYPE=SOFT[:HARD]`; one number is both. `unlimited` and `-1` are no limit.
pub fn parse_ulimit(text: &str) -> Result<Ulimit, BadValue> {
    let bad = |problem: String| {
        let hint = "give a type, and one limit or two: --ulimit nofile=1024:4096, --ulimit core=0, --ulimit stack=unlimited";
        BadValue::new("ulimit", text, problem, hint)
    };
    let (name, limits) = text.split_once('=').ok_or_else(|| bad("want TYPE=SOFT[:HARD]".into()))?;
    let known = format!("RLIMIT_{}", name.to_ascii_uppercase()).parse();
    let typ = known.map_err(|_| bad(format!("unknown type {name:?}: want one of {NAMES}")))?;
    let number = |typed: &str| match typed {
        "-1" | "unlimited" => Ok(UNLIMITED),
        _ if typed.starts_with('+') => Err(bad(format!("no number {typed:?}"))),
        _ => typed.parse::<u64>().map_err(|_| bad(format!("no number {typed:?}"))),
    };
    let (soft, hard) = match limits.split_once(':') {
        Some((soft, hard)) => (number(soft)?, number(hard)?),
        None => (number(limits)?, number(limits)?),
    };
    if soft > hard {
        return Err(bad("the soft limit is above the hard one".into()));
    }
    Ok(Ulimit { typed: text.into(), typ, soft, hard })
}

/// Parses a `--sysctl NAME=VALUE`. Which may be set is for the plan to say, by the namespaces.
pub fn parse_sysctl(text: &str) -> Result<(String, String), BadValue> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !text.contains('\0') => {
            Ok((name.trim().into(), value.trim().into()))
        }
        _ => {
            let hint = "for example: --sysctl net.ipv4.ip_forward=1";
            Err(BadValue::new("sysctl", text, "want NAME=VALUE", hint))
        }
    }
}

/// Sets the limits in `process`, each instead of one of the same type.
pub(super) fn apply(process: &mut Process, ulimits: &[Ulimit]) {
    if ulimits.is_empty() {
        return;
    }
    let mut limits = process.rlimits().clone().unwrap_or_default();
    for ulimit in ulimits {
        limits.retain(|limit| limit.typ() != ulimit.typ);
        let limit = PosixRlimitBuilder::default().typ(ulimit.typ);
        // Every field has a default, so the builder cannot fail.
        limits.push(limit.soft(ulimit.soft).hard(ulimit.hard).build().unwrap_or_default());
    }
    process.set_rlimits(Some(limits));
}

/// What setrlimit(2) calls it.
pub(crate) fn resource(kind: PosixRlimitType) -> Resource {
    match kind {
        PosixRlimitType::RlimitCpu => Resource::RLIMIT_CPU,
        PosixRlimitType::RlimitFsize => Resource::RLIMIT_FSIZE,
        PosixRlimitType::RlimitData => Resource::RLIMIT_DATA,
        PosixRlimitType::RlimitStack => Resource::RLIMIT_STACK,
        PosixRlimitType::RlimitCore => Resource::RLIMIT_CORE,
        PosixRlimitType::RlimitRss => Resource::RLIMIT_RSS,
        PosixRlimitType::RlimitNproc => Resource::RLIMIT_NPROC,
        PosixRlimitType::RlimitNofile => Resource::RLIMIT_NOFILE,
        PosixRlimitType::RlimitMemlock => Resource::RLIMIT_MEMLOCK,
        PosixRlimitType::RlimitAs => Resource::RLIMIT_AS,
        PosixRlimitType::RlimitLocks => Resource::RLIMIT_LOCKS,
        PosixRlimitType::RlimitSigpending => Resource::RLIMIT_SIGPENDING,
        PosixRlimitType::RlimitMsgqueue => Resource::RLIMIT_MSGQUEUE,
        PosixRlimitType::RlimitNice => Resource::RLIMIT_NICE,
        PosixRlimitType::RlimitRtprio => Resource::RLIMIT_RTPRIO,
        PosixRlimitType::RlimitRttime => Resource::RLIMIT_RTTIME,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_dockers() {
        let parse = |text: &str| parse_ulimit(text).map(|u| (u.typ, u.soft, u.hard));
        let nofile = PosixRlimitType::RlimitNofile;
        assert_eq!(parse("nofile=1024:4096"), Ok((nofile, 1024, 4096)));
        assert_eq!(parse("NOFILE=7"), Ok((nofile, 7, 7)));
        assert_eq!(parse("core=0:unlimited"), Ok((PosixRlimitType::RlimitCore, 0, UNLIMITED)));
        assert_eq!(parse("as=-1"), Ok((PosixRlimitType::RlimitAs, UNLIMITED, UNLIMITED)));
        for text in [
            "",
            "nofile",
            "nofile=",
            "=1",
            "files=1",
            "nofile=2:1",
            "nofile=-1:5",
            "nofile=+1",
            "nofile=-2",
            "nofile=1:2:3",
            "nofile=1k",
            "nofile=99999999999999999999",
            "rlimit_core=1",
        ] {
            assert!(parse(text).is_err_and(|e| e.value == text), "{text:?}");
        }
    }

    #[test]
    fn every_name_is_known() {
        for name in NAMES.split(", ") {
            assert!(parse_ulimit(&format!("{name}=1")).is_ok(), "{name}");
        }
    }

    #[test]
    fn the_last_of_a_type_counts() {
        let mut process = Process::default();
        let ulimits = ["nofile=1", "core=2", "nofile=3"].map(|text| parse_ulimit(text).unwrap());
        apply(&mut process, &ulimits);
        let all: Vec<_> = process.rlimits().iter().flatten().map(|l| (l.typ(), l.soft())).collect();
        assert_eq!(all, [(PosixRlimitType::RlimitCore, 2), (PosixRlimitType::RlimitNofile, 3)]);
    }

    #[test]
    fn a_parameter_has_a_name_and_a_value() {
        assert_eq!(parse_sysctl("a.b=1 2"), Ok(("a.b".into(), "1 2".into())));
        assert_eq!(parse_sysctl("a = "), Ok(("a".into(), String::new())));
        for text in ["", "a", "=1", "a=\0"] {
            assert!(parse_sysctl(text).is_err(), "{text:?}");
        }
    }
}
