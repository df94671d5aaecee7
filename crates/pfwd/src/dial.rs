//! A connection to a port in the target: its sockets, connected from outside.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream as StdStream};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use tokio::net::{TcpSocket, TcpStream};

use crate::netns::Family;
use crate::pool::Pool;

/// A port in the target, and which of its two loopback addresses last answered.
#[derive(Debug)]
pub struct Port {
    number: u16,
    v6_first: AtomicBool,
}

/// Why neither address could be connected to.
#[derive(Debug, thiserror::Error)]
pub struct DialError {
    first: (Family, io::Error),
    /// Only tried when nothing answers at the first.
    second: Option<(Family, io::Error)>,
}

impl Port {
    /// The port `number`; 127.0.0.1 is tried first.
    pub fn new(number: u16) -> Self {
        Self { number, v6_first: AtomicBool::new(false) }
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// Connects to it on 127.0.0.1, then on ::1, or the other way round if that answered last.
    pub async fn dial(&self, pool: &Pool) -> Result<TcpStream, DialError> {
        let v6_first = self.v6_first.load(Ordering::Relaxed);
        let order = if v6_first { [Family::V6, Family::V4] } else { [Family::V4, Family::V6] };
        let [first, second] = order;
        let error = match connect(pool, first, self.number).await {
            Ok(stream) => return Ok(stream),
            Err(error) if is_absence(&error) => error,
            Err(error) => return Err(DialError { first: (first, error), second: None }),
        };
        match connect(pool, second, self.number).await {
            Ok(stream) => {
                self.v6_first.store(!v6_first, Ordering::Relaxed);
                Ok(stream)
            }
            Err(other) => Err(DialError { first: (first, error), second: Some((second, other)) }),
        }
    }
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |error: &io::Error| match error.raw_os_error() {
            Some(code) => Errno::from_raw(code).desc().to_lowercase(),
            None => error.to_string(),
        };
        let (family, first) = (self.first.0, shown(&self.first.1));
        match &self.second {
            // That the other family is not there either is no news.
            Some((other, second)) if !is_absence(second) => {
                let (a, b) = (loopback(family), loopback(*other));
                write!(f, "{first} on {a}, {} on {b}", shown(second))
            }
            _ => f.write_str(&first),
        }
    }
}

/// Whether nothing is there: nobody listens, or the family does not exist or is not set up.
fn is_absence(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(
            Errno::ECONNREFUSED
                | Errno::EADDRNOTAVAIL
                | Errno::EAFNOSUPPORT
                | Errno::ENETUNREACH
                | Errno::EHOSTUNREACH
        )
    )
}

async fn connect(pool: &Pool, family: Family, port: u16) -> io::Result<TcpStream> {
    let address = SocketAddr::new(loopback(family), port);
    let socket = pool.take(family).await.map_err(|e| io::Error::from(e.errno()))?;
    let stream = TcpSocket::from_std_stream(StdStream::from(socket)).connect(address).await?;
    // With nobody listening on a port of the range that clients get theirs from, the kernel may pick
    // the very port as the source: the socket then meets itself and is "connected".
    if stream.local_addr()? == address {
        stream.set_zero_linger()?;
        return Err(Errno::ECONNREFUSED.into());
    }
    Ok(stream)
}

fn loopback(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::LOCALHOST.into(),
        Family::V6 => Ipv6Addr::LOCALHOST.into(),
    }
}
