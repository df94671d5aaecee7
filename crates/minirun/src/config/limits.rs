//! Limits as docker and podman write them, and what they are in a configuration.

use std::fmt;

use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxPids, Spec};

/// CFS period in microseconds: the kernel's default, so 0.4 processors are 40 ms in each 100 ms.
const PERIOD_US: u32 = 100_000;
/// Docker's minimum, too. The smallest container needs less than one; below some MiB the set-up
/// itself is what gets killed.
const MIN_MEMORY_BYTES: i64 = 6 << 20;
/// A hundredth of a processor is the kernel's smallest quota, a millisecond in each period; no Linux
/// has more processors (CONFIG_NR_CPUS).
const CPUS: std::ops::RangeInclusive<f64> = 0.01..=8192.0;
/// The init and the command.
const MIN_PIDS: i64 = 2;

/// What was asked for, for one run.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Limits {
    /// Of memory.
    pub memory: Option<Memory>,
    /// Of memory and swap together.
    pub memory_swap: Option<MemorySwap>,
    /// Of processor time.
    pub cpus: Option<Cpus>,
    /// Of processes.
    pub pids: Option<Pids>,
    /// How readily the kernel kills the container where memory is short.
    pub oom_score_adj: Option<i32>,
}

/// Bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory(i64);

/// Bytes of memory and swap together; -1 for any amount of swap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemorySwap(i64);

/// Processor time: microseconds in each 100 ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cpus(i64);

/// Processes and threads; -1 for any number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pids(i64);

/// A limit that cannot be one.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("invalid {option}: got {got:?}, want {want}")]
pub struct LimitError {
    /// With its dashes.
    pub option: &'static str,
    /// What was typed.
    pub got: String,
    /// What it takes.
    pub want: &'static str,
}

impl std::str::FromStr for Memory {
    type Err = LimitError;

    fn from_str(text: &str) -> Result<Self, LimitError> {
        let want = "a size of at least 6m, such as 512m or 1.5g";
        let bytes = bytes(text).filter(|&bytes| bytes >= MIN_MEMORY_BYTES);
        bytes.map(Self).ok_or_else(|| error("--memory", text, want))
    }
}

impl std::str::FromStr for MemorySwap {
    type Err = LimitError;

    fn from_str(text: &str) -> Result<Self, LimitError> {
        let want = "a size such as 1g for memory and swap together, or -1";
        let bytes = if text == "-1" { Some(-1) } else { bytes(text).filter(|&b| b > 0) };
        bytes.map(Self).ok_or_else(|| error("--memory-swap", text, want))
    }
}

impl std::str::FromStr for Cpus {
    type Err = LimitError;

    fn from_str(text: &str) -> Result<Self, LimitError> {
        let want = "a number of processors from 0.01 on, such as 0.4 or 2";
        let cpus = decimal(text).filter(|cpus| CPUS.contains(cpus));
        let cpus = cpus.ok_or_else(|| error("--cpus", text, want))?;
        Ok(Self(rounded(cpus * f64::from(PERIOD_US))))
    }
}

impl std::str::FromStr for Pids {
    type Err = LimitError;

    fn from_str(text: &str) -> Result<Self, LimitError> {
        let want = "a number from 2 on (the container's init is one), or -1";
        let most = text.parse().ok().filter(|&n| n == -1 || n >= MIN_PIDS);
        most.map(Self).ok_or_else(|| error("--pids-limit", text, want))
    }
}

impl Limits {
    /// Changes `spec` as they ask. What it has beside them stays.
    pub(super) fn apply(&self, spec: &mut Spec) {
        if let Some(process) = spec.process_mut().as_mut().filter(|_| self.oom_score_adj.is_some())
        {
            process.set_oom_score_adj(self.oom_score_adj);
        }
        if (self.memory, self.memory_swap, self.cpus, self.pids) == Default::default() {
            return;
        }
        let Some(linux) = spec.linux_mut() else { return };
        let resources = linux.resources_mut().get_or_insert_default();
        if self.memory.is_some() || self.memory_swap.is_some() {
            self.change_memory(resources.memory_mut().get_or_insert_default());
        }
        if let Some(Cpus(quota)) = self.cpus {
            let cpu: &mut LinuxCpu = resources.cpu_mut().get_or_insert_default();
            cpu.set_quota(Some(quota)).set_period(Some(PERIOD_US.into()));
        }
        if let Some(Pids(most)) = self.pids {
            let mut pids = LinuxPids::default();
            pids.set_limit(most);
            resources.set_pids(Some(pids));
        }
    }

    /// As with docker and podman, who asks for memory alone gets as much swap again: without a
    /// limit of that, a container would go on far beyond its memory, and slow the machine down.
    fn change_memory(&self, memory: &mut LinuxMemory) {
        if let Some(Memory(bytes)) = self.memory {
            memory.set_limit(Some(bytes)).set_swap(Some(bytes.saturating_mul(2)));
        }
        if let Some(MemorySwap(bytes)) = self.memory_swap {
            memory.set_swap(Some(bytes));
        }
    }

    /// Checks what each of them cannot see of the others.
    pub fn check(&self) -> Result<(), LimitError> {
        match (self.memory, self.memory_swap) {
            (Some(Memory(memory)), Some(MemorySwap(both))) if both != -1 && both < memory => {
                let want = "at least what --memory is, which it includes";
                Err(error("--memory-swap", &both.to_string(), want))
            }
            _ => Ok(()),
        }
    }
}

/// `bytes` as a person would write them: 64m, or the bare number where it is not round.
pub(crate) struct Size(pub i64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(30, "g"), (20, "m"), (10, "k")];
        match units.iter().find(|(bits, _)| self.0 > 0 && self.0 % (1 << bits) == 0) {
            Some((bits, unit)) => write!(f, "{}{unit}", self.0 >> bits),
            None => write!(f, "{} bytes", self.0),
        }
    }
}

/// Docker's form: a number, and b, k, m, g or t in either case, which count by 1024; `mb` and `MiB`
/// are m.
fn bytes(text: &str) -> Option<i64> {
    let lower = text.to_ascii_lowercase();
    let letters = lower.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(lower.len());
    let (digits, unit) = lower.split_at(letters);
    let unit = unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')).unwrap_or(unit);
    let factor = match unit {
        "" => 1,
        "k" => 1_i64 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        "t" => 1 << 40,
        _ => return None,
    };
    if let Ok(whole) = digits.parse::<u32>() {
        return i64::from(whole).checked_mul(factor);
    }
    #[expect(clippy::cast_precision_loss, reason = "a power of two is exact")]
    let bytes = decimal(digits)? * factor as f64;
    // Up to here, whole bytes are exact; no machine has as many.
    (bytes <= 9e15).then(|| rounded(bytes))
}

/// Digits with at most one point; no sign, exponent or word, all of which `f64` would take.
fn decimal(text: &str) -> Option<f64> {
    let digits = |c: char| c.is_ascii_digit() || c == '.';
    if text.chars().all(digits) { text.parse().ok() } else { None }
}

#[expect(clippy::cast_possible_truncation, reason = "callers give what fits")]
fn rounded(number: f64) -> i64 {
    number.round() as i64
}

fn error(option: &'static str, got: &str, want: &'static str) -> LimitError {
    LimitError { option, got: got.into(), want }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_dockers() {
        for (text, want) in [
            ("6m", Some(6 << 20)),
            ("7340032", Some(7 << 20)),
            ("7340032b", Some(7 << 20)),
            ("64M", Some(64 << 20)),
            ("64mb", Some(64 << 20)),
            ("64MiB", Some(64 << 20)),
            ("1.5g", Some(3 << 29)),
            ("9000k", Some(9000 << 10)),
            ("2t", Some(2 << 40)),
            ("5m", None),
            ("0", None),
            ("-1", None),
            ("", None),
            ("m", None),
            ("1e9", None),
            ("inf", None),
            ("64 m", None),
            ("64x", None),
            ("1.2.3g", None),
            ("99999999999999999999", None),
            ("99999999t", None),
        ] {
            assert_eq!(text.parse::<Memory>().ok().map(|m| m.0), want, "{text}");
        }
        assert_eq!("-1".parse(), Ok(MemorySwap(-1)));
        for (bytes, text) in [(64 << 20, "64m"), (3 << 29, "1536m"), (1000, "1000 bytes")] {
            assert_eq!(Size(bytes).to_string(), text);
        }
    }

    #[test]
    fn processors_become_a_quota_of_100_ms() {
        for (text, want) in [
            ("0.4", Some(40_000)),
            ("2", Some(200_000)),
            (".5", Some(50_000)),
            ("0.01", Some(1000)),
            ("0.33333", Some(33_333)),
            ("0.009", None),
            ("0", None),
            ("-1", None),
            ("nan", None),
            ("1e3", None),
            ("9999", None),
            (".", None),
        ] {
            assert_eq!(text.parse::<Cpus>().ok().map(|c| c.0), want, "{text}");
        }
        assert_eq!("-1".parse(), Ok(Pids(-1)));
        assert!(["0", "1", "-2", "x"].iter().all(|t| t.parse::<Pids>().is_err()));
    }
}
