//! Installing a seccomp filter (seccomp(2)).

use nix::errno::Errno;

use crate::error::{Result, SysError};

/// `struct sock_filter` (linux/filter.h): one instruction of classic BPF.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// What it does.
    pub code: u16,
    /// How many instructions to skip when the condition holds.
    pub jt: u8,
    /// How many to skip when it does not.
    pub jf: u8,
    /// Its operand.
    pub k: u32,
}

/// `struct sock_fprog`.
#[repr(C)]
struct Program {
    len: u16,
    filter: *const Instruction,
}

/// Filters the calling thread's system calls from now on, its children's and across execve(2) too.
/// Needs no_new_privs, or CAP_SYS_ADMIN in the user namespace. `flags` are `SECCOMP_FILTER_FLAG_*`
/// without those that make the call return something.
pub fn install(program: &[Instruction], flags: u32) -> Result<()> {
    let shown = || format!("SECCOMP_SET_MODE_FILTER, {flags:#x}, {} instructions", program.len());
    // The kernel takes 4096; a longer program must not pass as a shorter one.
    let Ok(len) = u16::try_from(program.len()) else {
        return Err(SysError::new("seccomp", shown(), Errno::EINVAL));
    };
    let program = Program { len, filter: program.as_ptr() };
    let (operation, flags) = (libc::SECCOMP_SET_MODE_FILTER, libc::c_ulong::from(flags));
    // SAFETY: `program` has the layout of `struct sock_fprog` and points to `len` instructions with
    // that of `struct sock_filter`; the kernel copies them before the call returns.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, operation, flags, &raw const program) };
    match result {
        0 => Ok(()),
        _ => Err(SysError::last("seccomp", shown())),
    }
}
