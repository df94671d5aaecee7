//! The bytes of one connection: a body that can stop in any way, and a socket that obeys it.

use super::answer::{Answer, End, Sending};
use bytes::Bytes;
use hyper::body::{Body, Frame};
use std::convert::Infallible;
use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

/// How a connection ends before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Cut {
    /// By FIN, as a server that stops in the middle does.
    Close = 1,
    /// By RST.
    Reset = 2,
}

/// Asked for by a body, done by the socket once everything before it has been written.
#[derive(Clone, Default)]
pub(crate) struct Control(Arc<AtomicU8>);

impl Control {
    pub(crate) fn cut(&self, cut: Cut) {
        self.0.store(cut as u8, Ordering::SeqCst);
    }
}

/// The TCP stream, below TLS, that ends when [`Control`] says so.
pub(crate) struct Socket {
    stream: TcpStream,
    control: Control,
}

impl Socket {
    pub(crate) fn new(stream: TcpStream, control: Control) -> Self {
        Self { stream, control }
    }

    fn wanted(&self) -> Option<Cut> {
        match self.control.0.load(Ordering::SeqCst) {
            0 => None,
            cut if cut == Cut::Reset as u8 => Some(Cut::Reset),
            _ => Some(Cut::Close),
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.wanted() == Some(Cut::Reset) {
            // Without a time to linger, close(2) resets the connection.
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper (and rustls above us) flush only after all they hold was written: the place to cut.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        match self.wanted() {
            None => Poll::Ready(Ok(())),
            Some(_) => Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.wanted() == Some(Cut::Reset) {
            // A FIN now would reach the client before the reset does.
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The body of an answer. It never tells hyper its length: the header says what the test wants said.
pub(crate) struct AnswerBody {
    bytes: Bytes,
    sending: Sending,
    control: Control,
    sent: Arc<AtomicU64>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl AnswerBody {
    /// Counts in `sent` what it gives out.
    pub(crate) fn new(answer: &Answer, control: Control, sent: Arc<AtomicU64>) -> Self {
        let (bytes, sending) = (answer.body.clone(), answer.sending.clone());
        Self { bytes, sending, control, sent, sleep: None }
    }

    fn end(&self) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
        match self.sending.end {
            End::Finish => Poll::Ready(None),
            End::Zeros => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&ZEROS))))),
            End::Stall => Poll::Pending,
            End::Cut(cut) => {
                self.control.cut(cut);
                Poll::Pending
            }
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(sleep) = &mut self.sleep {
            ready!(sleep.as_mut().poll(cx));
            self.sleep = None;
        }
        if self.bytes.is_empty() {
            return self.end();
        }
        let piece = self.sending.piece.min(self.bytes.len());
        let frame = self.bytes.split_to(piece);
        self.sent.fetch_add(frame.len() as u64, Ordering::SeqCst);
        self.sleep = self.sending.pause.map(|pause| Box::pin(tokio::time::sleep(pause)));
        Poll::Ready(Some(Ok(Frame::data(frame))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_empty() && self.sending.end == End::Finish
    }
}
