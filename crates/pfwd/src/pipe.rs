//! Pipes that carry bulk data from socket to socket inside the kernel (splice(2)).
//!
//! A pipe is leased while it holds data and goes back to its thread's stock when it is empty, so an
//! idle connection has none.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::unistd::pipe2;

/// What a pipe is asked to hold. The pages of all pipes together count against
/// `fs.pipe-user-pages-soft` (64 MiB), above which the kernel gives its small default: still right,
/// but slower.
const PIPE_BYTES: usize = 512 << 10;
/// The most pipes of a thread, leased or in stock; those who get none copy.
pub const MAX_PIPES: usize = 32;

thread_local! {
    static STOCK: RefCell<Stock> = const { RefCell::new(Stock { pipes: Vec::new(), leased: 0 }) };
}

struct Stock {
    pipes: Vec<Pipe>,
    leased: usize,
}

#[derive(Debug)]
struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
}

/// A pipe on loan from the thread's stock.
#[derive(Debug)]
pub struct Lease {
    pipe: Option<Pipe>,
    held_bytes: usize,
}

impl Lease {
    /// An empty pipe; `None` when there are too many, or none can be made.
    pub fn take() -> Option<Self> {
        STOCK.with_borrow_mut(|stock| {
            if stock.leased == MAX_PIPES {
                return None;
            }
            let pipe = stock.pipes.pop().or_else(Pipe::open)?;
            stock.leased += 1;
            Some(Self { pipe: Some(pipe), held_bytes: 0 })
        })
    }

    /// Whether it holds no data.
    pub fn is_empty(&self) -> bool {
        self.held_bytes == 0
    }

    /// Moves what `from` has into the pipe, which must be empty: only then does `WouldBlock` say that
    /// `from` has nothing, and not that the pipe is full. Returns the bytes moved, 0 at the end.
    pub fn fill(&mut self, from: impl AsFd) -> io::Result<usize> {
        let Some(pipe) = self.pipe.as_ref().filter(|_| self.held_bytes == 0) else { return Ok(0) };
        let flags = SpliceFFlags::SPLICE_F_NONBLOCK | SpliceFFlags::SPLICE_F_MOVE;
        self.held_bytes = splice(from, None, &pipe.writer, None, PIPE_BYTES, flags)?;
        Ok(self.held_bytes)
    }

    /// Moves what the pipe holds into `to`, as far as that takes it. Returns the bytes moved.
    pub fn drain(&mut self, to: impl AsFd) -> io::Result<usize> {
        let Some(pipe) = &self.pipe else { return Ok(0) };
        let flags = SpliceFFlags::SPLICE_F_NONBLOCK | SpliceFFlags::SPLICE_F_MOVE;
        let moved = splice(&pipe.reader, None, to, None, self.held_bytes, flags)?;
        self.held_bytes = self.held_bytes.saturating_sub(moved);
        Ok(moved)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // The stock of a thread that is ending may be gone already; the pipe then simply closes.
        let _ = STOCK.try_with(|stock| {
            let Ok(mut stock) = stock.try_borrow_mut() else { return };
            stock.leased = stock.leased.saturating_sub(1);
            // What a broken connection left in it must not reach another.
            if self.held_bytes == 0 {
                stock.pipes.extend(self.pipe.take());
            }
        });
    }
}

impl Pipe {
    fn open() -> Option<Self> {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).ok()?;
        let size = i32::try_from(PIPE_BYTES).ok()?;
        // Refused above the user's share: the default size works as well.
        let _ = fcntl(&writer, FcntlArg::F_SETPIPE_SZ(size));
        Some(Self { reader, writer })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    #[test]
    fn a_pipe_with_data_left_is_not_used_again() {
        let (mut a, b) = pair();
        let (c, mut d) = pair();
        a.write_all(b"left behind").unwrap();
        let mut broken = Lease::take().unwrap();
        assert_eq!(broken.fill(&b).unwrap(), 11);
        drop(broken);
        a.write_all(b"passed on").unwrap();
        let mut lease = Lease::take().unwrap();
        assert_eq!(lease.fill(&b).unwrap(), 9);
        while !lease.is_empty() {
            lease.drain(&c).unwrap();
        }
        let mut text = [0; 9];
        d.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"passed on");
    }

    #[test]
    fn only_so_many_are_lent() {
        let leases: Vec<Lease> = std::iter::from_fn(Lease::take).collect();
        assert_eq!(leases.len(), MAX_PIPES);
        drop(leases);
        assert!(Lease::take().is_some());
    }
}
