//! Network interfaces: the loopback of a new network namespace, which is born down.

use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::error::{Context, Result};

/// Brings `lo` up in the caller's network namespace. Needs CAP_NET_ADMIN there.
pub fn loopback_up() -> Result<()> {
    let socket = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
        .call("socket", || "AF_UNIX, SOCK_DGRAM".into())?;
    // SAFETY: an ifreq is a name and a union of plain data, for which all zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(*b"lo") {
        *to = from.cast_signed();
    }
    // A fresh `lo` has no other flags that would have to be kept.
    request.ifr_ifru.ifru_flags = i16::try_from(libc::IFF_UP | libc::IFF_RUNNING).unwrap_or(0);
    // SAFETY: SIOCSIFFLAGS reads an ifreq through the pointer, which outlives the call.
    let result =
        unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) };
    Errno::result(result).map(drop).call("ioctl", || "SIOCSIFFLAGS, \"lo\", IFF_UP".into())
}
