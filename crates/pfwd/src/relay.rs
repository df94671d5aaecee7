//! Two connections made one: what either peer sends, ends or breaks off reaches the other just so.
//!
//! Two half-copies run side by side, each with a direction of its own:
//!
//! ```text
//! data            what was read is written; what cannot be written yet is kept, and nothing read
//! end (FIN)       shutdown(SHUT_WR) on the other side; the other direction goes on, for ever if
//!                 need be
//! break (RST)     both sides closed with SO_LINGER 0, which sends RST
//! ```
//!
//! Little is copied through one buffer; bulk moves through a pipe. Urgent data (MSG_OOB) arrives in
//! its place in the stream, but no longer marked as urgent.
//!
//! A peer can break off a connection while nothing is read from it: after its end, or while the other
//! side takes no data. So errors are watched for apart from reading then.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::os::fd::AsRawFd;
use std::pin::pin;
use std::task::{Context, Poll, ready};

use nix::sys::socket::{MsgFlags, recv, send};
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::pipe::Lease;

/// One buffer a thread is enough: it is empty again whenever a task is put aside. It bounds what a
/// direction that is stuck keeps, too.
const BUFFER_BYTES: usize = 64 << 10;

/// After so many full reads in a row the data is taken for bulk, and moved without being copied.
const BULK_READS: u8 = 3;
/// A direction that has moved this much lets the thread's other connections have their turn.
const TURN_BYTES: usize = 1 << 20;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER_BYTES].into());
}

/// A connection that is reset when it is dropped, unless it came to its end: whoever gives up half
/// way, or is stopped, must not look like one who has said all.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    is_over: bool,
}

/// Why a relayed connection ended early.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// Reading from a side failed, as after its RST.
    #[error("cannot read")]
    Read(#[source] io::Error),
    /// Writing to a side failed.
    #[error("cannot write")]
    Write(#[source] io::Error),
    /// A side that nothing is read from any more has reset the connection.
    #[error("reset by a peer")]
    Reset,
}

impl Connection {
    /// Guards `stream`.
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, is_over: false }
    }

    /// Waits until the peer has broken off the connection.
    pub async fn broken(&self) {
        // An error here means that the runtime is being shut down.
        let _ = self.stream.ready(Interest::ERROR).await;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if !self.is_over {
            // Nothing is left to be done if it fails: then the close is a plain one.
            let _ = self.stream.set_zero_linger();
        }
    }
}

/// Relays between `a` and `b` until both directions have ended, or one broke; then both are reset.
pub async fn relay(mut a: Connection, mut b: Connection) -> Result<(), Broken> {
    both_ways(&a.stream, &b.stream).await?;
    a.is_over = true;
    b.is_over = true;
    Ok(())
}

async fn both_ways(a: &TcpStream, b: &TcpStream) -> Result<(), Broken> {
    let (mut there, mut back) = (Half::default(), Half::default());
    let mut a_broken = pin!(a.ready(Interest::ERROR));
    let mut b_broken = pin!(b.ready(Interest::ERROR));
    std::future::poll_fn(|cx| {
        let first = there.poll(cx, a, b);
        let second = back.poll(cx, b, a);
        // One that can no longer be written to may have said something before: it was read by the
        // other half just now, as in a server's answer to a request that it did not want whole.
        if let (Poll::Ready(Err(broken)), _) | (_, Poll::Ready(Err(broken))) = (first, second) {
            return Poll::Ready(Err(broken));
        }
        // Only now, as a side whose error has been told to the half that writes ends for the half
        // that reads: that end must not be passed on.
        there.pass_end(b)?;
        back.pass_end(a)?;
        if there.is_over() && back.is_over() {
            return Poll::Ready(Ok(()));
        }
        if !there.is_reading() && a_broken.as_mut().poll(cx).is_ready()
            || !back.is_reading() && b_broken.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(Broken::Reset));
        }
        Poll::Pending
    })
    .await
}

/// One direction.
#[derive(Debug, Default)]
struct Half {
    state: State,
    /// Reads in a row that filled the buffer.
    full_reads: u8,
}

#[derive(Debug, Default)]
enum State {
    /// Waiting for data.
    #[default]
    Reading,
    /// Data read that the other side did not take yet, from an offset on.
    Writing(Box<[u8]>, usize),
    /// Bulk data, by a pipe.
    Piping(Lease),
    /// The end was read.
    Ended,
    /// The end was passed on.
    Over,
}

impl Half {
    /// Whether the source is being read from, so that its errors are seen.
    fn is_reading(&self) -> bool {
        match &self.state {
            State::Reading => true,
            State::Piping(pipe) => pipe.is_empty(),
            State::Writing(..) | State::Ended | State::Over => false,
        }
    }

    fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    /// Ends the other side's receiving if this half has just come to its end.
    fn pass_end(&mut self, to: &TcpStream) -> Result<(), Broken> {
        if matches!(self.state, State::Ended) {
            shutdown_write(to).map_err(Broken::Write)?;
            self.state = State::Over;
        }
        Ok(())
    }

    /// Copies until there is nothing to read, no room to write, or the end.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &TcpStream,
        to: &TcpStream,
    ) -> Poll<Result<(), Broken>> {
        let mut moved = 0;
        loop {
            if moved >= TURN_BYTES {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            match &mut self.state {
                State::Ended | State::Over => return Poll::Ready(Ok(())),
                State::Writing(data, start) => {
                    while let Some(rest) = data.get(*start..).filter(|rest| !rest.is_empty()) {
                        *start += ready!(poll_write(to, cx, rest)).map_err(Broken::Write)?;
                    }
                    self.state = State::Reading;
                }
                State::Reading => {
                    self.state = ready!(self.copy_once(cx, from, to))?;
                    moved += BUFFER_BYTES;
                }
                State::Piping(pipe) => {
                    while !pipe.is_empty() {
                        let drain =
                            poll_io(to, cx, Interest::WRITABLE, || pipe.drain(to).map(some));
                        ready!(drain).map_err(Broken::Write)?;
                    }
                    let Poll::Ready(ready) = from.poll_read_ready(cx) else {
                        // Gives the pipe back while there is nothing.
                        self.state = State::Reading;
                        return Poll::Pending;
                    };
                    match ready.and_then(|()| pipe.fill(from)) {
                        Ok(0) => self.state = State::Ended,
                        Ok(length) => {
                            moved += length;
                            // Little at a time is cheaper copied.
                            if length < BUFFER_BYTES {
                                self.full_reads = 0;
                            }
                        }
                        // Nothing, or urgent data, at which splice(2) stops for ever: reading finds
                        // out which.
                        Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                            self.state = State::Reading;
                        }
                        Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => return Poll::Ready(Err(Broken::Read(error))),
                    }
                }
            }
        }
    }

    /// Reads once and writes what was read, as far as that goes.
    fn copy_once(
        &mut self,
        cx: &mut Context<'_>,
        from: &TcpStream,
        to: &TcpStream,
    ) -> Poll<Result<State, Broken>> {
        BUFFER.with_borrow_mut(|buffer| {
            let length = ready!(poll_read(from, cx, buffer)).map_err(Broken::Read)?;
            let is_full = length == buffer.len();
            self.full_reads = if is_full { self.full_reads.saturating_add(1) } else { 0 };
            let mut rest = buffer.get(..length).unwrap_or_default();
            if rest.is_empty() {
                return Poll::Ready(Ok(State::Ended));
            }
            while !rest.is_empty() {
                match poll_write(to, cx, rest) {
                    Poll::Ready(Ok(written)) => rest = rest.get(written..).unwrap_or_default(),
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(Broken::Write(error))),
                    Poll::Pending => return Poll::Ready(Ok(State::Writing(rest.into(), 0))),
                }
            }
            let pipe = if self.full_reads >= BULK_READS { Lease::take() } else { None };
            Poll::Ready(Ok(pipe.map_or(State::Reading, State::Piping)))
        })
    }
}

/// Of an amount that says nothing about what is left.
fn some(moved: usize) -> (usize, bool) {
    (moved, false)
}

fn shutdown_write(stream: &TcpStream) -> io::Result<()> {
    use nix::sys::socket::{Shutdown, shutdown};
    Ok(shutdown(stream.as_raw_fd(), Shutdown::Write)?)
}

fn poll_read(
    stream: &TcpStream,
    cx: &mut Context<'_>,
    buffer: &mut [u8],
) -> Poll<io::Result<usize>> {
    poll_io(stream, cx, Interest::READABLE, || {
        // Little need not be all there is: reading stops before urgent data, too (tcp(7)).
        recv(stream.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT).map(some).map_err(io::Error::from)
    })
}

fn poll_write(stream: &TcpStream, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
    poll_io(stream, cx, Interest::WRITABLE, || {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let length = send(stream.as_raw_fd(), data, flags)?;
        Ok((length, length < data.len()))
    })
}

/// Runs `io` when `stream` is ready for `interest`. `io` says how much it moved, and whether that
/// was all there is or fits: the kernel then reports the next change by itself (epoll(7), question
/// 9), which spares a call that would find nothing.
fn poll_io(
    stream: &TcpStream,
    cx: &mut Context<'_>,
    interest: Interest,
    mut io: impl FnMut() -> io::Result<(usize, bool)>,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(if interest.is_readable() {
            stream.poll_read_ready(cx)
        } else {
            stream.poll_write_ready(cx)
        })?;
        let mut moved = 0;
        let done = stream.try_io(interest, || {
            let (length, is_all) = io()?;
            moved = length;
            // The way to tell tokio that the stream is not ready any more.
            if is_all { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        match done {
            Ok(()) => return Poll::Ready(Ok(moved)),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock && moved > 0 => {
                return Poll::Ready(Ok(moved));
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Poll::Ready(Err(e)),
        }
    }
}
