//! Architectures that a filter can be compiled for, and the numbers of their system calls.

use oci_spec::runtime;

use super::syscalls::{NONE, SYSCALLS};

/// Set in a number of the x86-64 interface when the caller uses the x32 one (asm/unistd.h).
pub(super) const X32_BIT: u32 = 0x4000_0000;

/// A system call interface with numbers of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Arch {
    X86_64,
    X86,
    /// 64-bit x86 with 32-bit pointers. To the kernel's filter it is x86-64 with [`X32_BIT`].
    X32,
    Aarch64,
    Arm,
}

impl Arch {
    /// This machine's; `None` where no table of numbers is at hand.
    pub(super) const NATIVE: Option<Self> = if cfg!(target_arch = "x86_64") {
        Some(Self::X86_64)
    } else if cfg!(target_arch = "aarch64") {
        Some(Self::Aarch64)
    } else {
        None
    };

    /// The architecture of a profile. One without a table gets no code: no machine that minirun
    /// runs on makes such calls, and if one did, they would end in [`super::filter::BAD_ARCH`].
    pub(super) fn from_profile(arch: runtime::Arch) -> Option<Self> {
        match arch {
            runtime::Arch::ScmpArchNative => Self::NATIVE,
            runtime::Arch::ScmpArchX86_64 => Some(Self::X86_64),
            runtime::Arch::ScmpArchX86 => Some(Self::X86),
            runtime::Arch::ScmpArchX32 => Some(Self::X32),
            runtime::Arch::ScmpArchAarch64 => Some(Self::Aarch64),
            runtime::Arch::ScmpArchArm => Some(Self::Arm),
            _ => None,
        }
    }

    /// The name in a profile.
    pub(super) fn to_profile(self) -> runtime::Arch {
        match self {
            Self::X86_64 => runtime::Arch::ScmpArchX86_64,
            Self::X86 => runtime::Arch::ScmpArchX86,
            Self::X32 => runtime::Arch::ScmpArchX32,
            Self::Aarch64 => runtime::Arch::ScmpArchAarch64,
            Self::Arm => runtime::Arch::ScmpArchArm,
        }
    }

    /// What stands in `seccomp_data.arch` (AUDIT_ARCH_*, linux/audit.h).
    pub(super) fn audit(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
            Self::Arm => 0x4000_0028,
        }
    }

    /// Whether arguments are compared with all of their 64 bits. libseccomp looks at the low half
    /// only for x32 too.
    pub(super) fn is_64_bit(self) -> bool {
        matches!(self, Self::X86_64 | Self::Aarch64)
    }

    /// The number of a call by name.
    pub(super) fn number(self, name: &str) -> Option<u32> {
        let row = SYSCALLS.binary_search_by(|(known, _)| (*known).cmp(name)).ok()?;
        self.number_in(row)
    }

    /// The number of a call by its row in [`SYSCALLS`].
    pub(super) fn number_in(self, row: usize) -> Option<u32> {
        let number = SYSCALLS.get(row)?.1.get(self as usize).copied()?;
        (number != NONE).then_some(number)
    }
}

/// A call that 32-bit x86 has behind another one as well, which tells by its first argument what is
/// meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Multiplexed {
    /// `socketcall` or `ipc`.
    pub(super) number: u32,
    /// Its first argument.
    pub(super) selector: u32,
}

const SOCKETCALL: u32 = 102;
const IPC: u32 = 117;

/// What `socketcall` or `ipc` has for `name` on 32-bit x86 (linux/net.h, linux/ipc.h).
pub(super) fn multiplexed(name: &str) -> Option<Multiplexed> {
    let (number, selector) = match name {
        "socket" => (SOCKETCALL, 1),
        "bind" => (SOCKETCALL, 2),
        "connect" => (SOCKETCALL, 3),
        "listen" => (SOCKETCALL, 4),
        "accept" => (SOCKETCALL, 5),
        "getsockname" => (SOCKETCALL, 6),
        "getpeername" => (SOCKETCALL, 7),
        "socketpair" => (SOCKETCALL, 8),
        "send" => (SOCKETCALL, 9),
        "recv" => (SOCKETCALL, 10),
        "sendto" => (SOCKETCALL, 11),
        "recvfrom" => (SOCKETCALL, 12),
        "shutdown" => (SOCKETCALL, 13),
        "setsockopt" => (SOCKETCALL, 14),
        "getsockopt" => (SOCKETCALL, 15),
        "sendmsg" => (SOCKETCALL, 16),
        "recvmsg" => (SOCKETCALL, 17),
        "accept4" => (SOCKETCALL, 18),
        "recvmmsg" => (SOCKETCALL, 19),
        "sendmmsg" => (SOCKETCALL, 20),
        "semop" => (IPC, 1),
        "semget" => (IPC, 2),
        "semctl" => (IPC, 3),
        "semtimedop" => (IPC, 4),
        "msgsnd" => (IPC, 11),
        "msgrcv" => (IPC, 12),
        "msgget" => (IPC, 13),
        "msgctl" => (IPC, 14),
        "shmat" => (IPC, 21),
        "shmdt" => (IPC, 22),
        "shmget" => (IPC, 23),
        "shmctl" => (IPC, 24),
        _ => return None,
    };
    Some(Multiplexed { number, selector })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_has_what_this_machines_kernel_headers_have() {
        assert!(SYSCALLS.is_sorted_by(|a, b| a.0 < b.0));
        for (name, number) in [
            ("read", nix::libc::SYS_read),
            ("clone3", nix::libc::SYS_clone3),
            ("openat2", nix::libc::SYS_openat2),
        ] {
            let native = Arch::NATIVE.unwrap().number(name).unwrap();
            assert_eq!(i64::from(native), number, "{name}");
        }
        assert_eq!(Arch::X86.number("socketcall"), Some(SOCKETCALL));
        assert_eq!(Arch::X86.number("ipc"), Some(IPC));
        assert_eq!(Arch::X32.number("read"), Some(X32_BIT));
        assert_eq!(Arch::X86_64.number("nothing"), None);
    }
}
