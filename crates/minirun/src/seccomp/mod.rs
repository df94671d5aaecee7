//! Seccomp profiles (runtime-spec, config-linux.md, "Seccomp") compiled to what the kernel runs.
//!
//! ```text
//! syscalls     names to numbers, by architecture
//! arch         interfaces that calls come through
//! condition    rules on arguments -> a tree of comparisons
//! assemble     instructions
//! filter       what each call gets -> a program
//! compile      a profile -> what each call gets
//! usual        the profile of containers without one of their own
//! profile      docker's form of a profile file -> runtime-spec's
//! ```
//!
//! What a call gets is, call by call, what it gets from runc with libseccomp: unknown names are passed
//! over; a rule with the default action says nothing; a rule that names an argument twice holds when
//! either condition does; calls newer than the newest that the profile names get ENOSYS, so that
//! programs fall back on older ones, unless the default lets calls pass.

use ctsys::report::Explain;
use ctsys::seccomp::Instruction;

mod arch;
mod assemble;
mod compile;
mod condition;
mod filter;
pub mod profile;
mod syscalls;
pub mod usual;

pub use compile::compile;

/// The most instructions that the kernel takes: BPF_MAXINSNS (linux/bpf_common.h).
pub const MAX_INSTRUCTIONS: usize = 4096;

/// A profile as the kernel takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// What is run at each system call.
    pub program: Vec<Instruction>,
    /// `SECCOMP_FILTER_FLAG_*` (seccomp(2)).
    pub flags: u32,
}

/// Why a profile cannot be compiled.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SeccompError {
    /// minirun has no table of this machine's system calls.
    #[error("linux.seccomp is not supported on this machine's architecture")]
    Architecture,
    /// `SCMP_ACT_NOTIFY`, or what only makes sense with it.
    #[error("config asks for {0} in linux.seccomp, which minirun does not support yet")]
    Notify(&'static str),
    /// `errnoRet` with an action that returns none.
    #[error("linux.seccomp has an errnoRet for {0}, which returns none")]
    NoErrno(String),
    /// More than the kernel passes on.
    #[error("linux.seccomp has an invalid errnoRet: got {got}, want at most {most}")]
    Errno {
        /// As in the profile.
        got: u32,
        /// What fits.
        most: u32,
    },
    /// A condition on an argument that no call has.
    #[error("linux.seccomp has an invalid argument index for {call}: got {got}, want 0 to 5")]
    Argument {
        /// Name of the system call.
        call: String,
        /// As in the profile.
        got: usize,
    },
    /// Two rules that apply to the same arguments.
    #[error("linux.seccomp has rules for {call} that contradict each other")]
    Conflict {
        /// Name of the system call.
        call: String,
    },
    /// Past what the kernel takes.
    #[error("linux.seccomp is too long: the kernel takes {MAX_INSTRUCTIONS} instructions")]
    TooLong,
}

impl Explain for SeccompError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Architecture | Self::Notify(_) => {
                "run without it: --security-opt seccomp=unconfined".into()
            }
            Self::TooLong => "give it fewer rules with args, or fewer architectures".into(),
            Self::NoErrno(_)
            | Self::Errno { .. }
            | Self::Argument { .. }
            | Self::Conflict { .. } => "correct the profile".into(),
        })
    }

    fn exit_code(&self) -> u8 {
        125
    }
}
