//! Passing descriptors over a unix socket (SCM_RIGHTS, unix(7)).

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recv,
    recvmsg, sendmsg, socketpair,
};

use crate::error::{Context, Result, SysError};

/// The most descriptors that the kernel takes in one message (`SCM_MAX_FD`).
pub const MAX_FDS: usize = 253;

/// A connected pair that keeps message boundaries and tells the end of either side;
/// close-on-exec.
pub fn pair() -> Result<(OwnedFd, OwnedFd)> {
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
        .call("socketpair", || "AF_UNIX, SOCK_SEQPACKET".into())
}

/// Sends one message with descriptors; at least one byte, or the receiver takes it for the end.
pub fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
    let raw: Vec<i32> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &[][..] } else { &rights[..] };
    let socket = socket.as_fd().as_raw_fd();
    let data = [IoSlice::new(bytes)];
    loop {
        match sendmsg::<()>(socket, &data, control, MsgFlags::MSG_NOSIGNAL, None) {
            Err(Errno::EINTR) => {}
            Err(errno) => {
                let shown = format!("{socket}, {} bytes, {} fds", bytes.len(), raw.len());
                return Err(SysError::new("sendmsg", shown, errno));
            }
            Ok(_) => return Ok(()),
        }
    }
}

/// Waits for the next message and leaves it there: how many bytes it has, 0 at the peer's end.
pub fn next_length(socket: impl AsFd) -> Result<usize> {
    let socket = socket.as_fd().as_raw_fd();
    loop {
        match recv(socket, &mut [], MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC) {
            Err(Errno::EINTR) => {}
            other => return other.call("recv", || format!("{socket}, MSG_PEEK | MSG_TRUNC")),
        }
    }
}

/// Receives one message into `buffer`: the bytes it has (0 at the peer's end) and its descriptors,
/// close-on-exec. A message that did not fit is an error, its descriptors closed.
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> Result<(usize, Vec<OwnedFd>)> {
    let socket = socket.as_fd().as_raw_fd();
    let capacity = buffer.len();
    let shown = || format!("{socket}, {capacity} bytes");
    let mut space = nix::cmsg_space!([i32; MAX_FDS]);
    let mut fds = Vec::new();
    let mut data = [IoSliceMut::new(buffer)];
    let message = loop {
        match recvmsg::<()>(socket, &mut data, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC) {
            Err(Errno::EINTR) => {}
            other => break other.call("recvmsg", shown)?,
        }
    };
    for control in message.cmsgs().call("recvmsg", shown)? {
        if let ControlMessageOwned::ScmRights(raw) = control {
            // SAFETY: the kernel has just installed these descriptors for this message; nothing
            // else knows them, so each gets exactly one owner here.
            fds.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    if message.flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC) {
        return Err(SysError::new("recvmsg", shown(), Errno::EMSGSIZE));
    }
    Ok((message.bytes, fds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn a_descriptor_arrives_and_the_end_is_told() {
        let (a, b) = pair().unwrap();
        let (mut reader, writer) = std::io::pipe().unwrap();
        send(&a, b"x", &[writer.as_fd()]).unwrap();
        drop(writer);
        let mut buffer = [0; 8];
        let (length, mut fds) = receive(&b, &mut buffer).unwrap();
        assert_eq!((length, fds.len()), (1, 1));
        std::fs::File::from(fds.remove(0)).write_all(b"through").unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
        drop(a);
        assert_eq!(receive(&b, &mut buffer).unwrap().0, 0);
    }

    #[test]
    fn a_message_that_does_not_fit_is_an_error() {
        let (a, b) = pair().unwrap();
        send(&a, b"four", &[]).unwrap();
        assert_eq!(next_length(&b).unwrap(), 4);
        let error = receive(&b, &mut [0; 2]).unwrap_err();
        assert_eq!(error.errno(), Errno::EMSGSIZE);
    }
}
