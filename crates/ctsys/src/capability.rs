//! Capability sets (capabilities(7)) of the calling thread, as bit masks: bit n is capability n.

use nix::errno::Errno;

use crate::error::{Context, Result, SysError};

/// `_LINUX_CAPABILITY_VERSION_3`: 64 bits in two halves.
const VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Half {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Drops all capabilities that are not in `keep` from the bounding set. Needs CAP_SETPCAP.
pub fn limit_bounding(keep: u64) -> Result<()> {
    for number in 0..u64::BITS {
        if keep >> number & 1 == 1 {
            continue;
        }
        match prctl(libc::PR_CAPBSET_DROP, number, 0) {
            // Past the last one that this kernel knows.
            Err(Errno::EINVAL) => break,
            other => other.call("prctl", || format!("PR_CAPBSET_DROP, {number}"))?,
        }
    }
    Ok(())
}

/// Sets the thread's effective, permitted and inheritable capabilities (capset(2)).
pub fn set(effective: u64, permitted: u64, inheritable: u64) -> Result<()> {
    let header = Header { version: VERSION_3, pid: 0 };
    let half = |shift: u32| Half {
        effective: low_half(effective >> shift),
        permitted: low_half(permitted >> shift),
        inheritable: low_half(inheritable >> shift),
    };
    let data = [half(0), half(32)];
    // SAFETY: header and data have the layout of version 3 (capset(2)) and outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) };
    Errno::result(result).map(drop).map_err(|errno| {
        let shown = format!("e={effective:#x} p={permitted:#x} i={inheritable:#x}");
        SysError::new("capset", shown, errno)
    })
}

/// The thread's effective capabilities (capget(2)).
pub fn effective() -> Result<u64> {
    let mut header = Header { version: VERSION_3, pid: 0 };
    let mut data = [Half::default(); 2];
    // SAFETY: header and data have the layout of version 3 (capset(2)) and outlive the call, which
    // writes to both.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) };
    Errno::result(result).call("capget", String::new)?;
    let [low, high] = data.map(|half| u64::from(half.effective));
    Ok(high << 32 | low)
}

/// Raises ambient capabilities; each must be permitted and inheritable already.
pub fn raise_ambient(set: u64) -> Result<()> {
    for number in (0..u64::BITS).filter(|n| set >> n & 1 == 1) {
        prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE.cast_unsigned(), number)
            .call("prctl", || format!("PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, {number}"))?;
    }
    Ok(())
}

fn low_half(bits: u64) -> u32 {
    u32::try_from(bits & u64::from(u32::MAX)).unwrap_or(0)
}

fn prctl(option: i32, a: u32, b: u32) -> std::result::Result<(), Errno> {
    let (a, b) = (libc::c_ulong::from(a), libc::c_ulong::from(b));
    // SAFETY: the two options used here take integers only, and zeros for the rest.
    let result = unsafe { libc::prctl(option, a, b, 0 as libc::c_ulong, 0 as libc::c_ulong) };
    Errno::result(result).map(drop)
}
