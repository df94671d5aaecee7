//! Forward ports into the network namespace of a container or pod.
//!
//! ```text
//! spec      [[BIND:]LOCAL:]REMOTE -> Forward; pure
//! cli       what was typed -> what it means
//! target    a name -> a process, by its pidfd, and its network
//! netns     the helper that has joined that network and hands out sockets
//! pool      a stock of them
//! owner     who has a busy port
//! listen    every listener bound, or none
//! dial      a socket of the pool, connected to 127.0.0.1 or ::1 in the target
//! pipe      pipes to splice through, leased while they hold data
//! relay     two half-copies; FIN and RST passed on
//! notice    what is worth a line to the program; the library prints nothing
//! serve     the event loops: accept, dial, relay; the target's end, signals
//! ```

pub mod cli;
pub mod dial;
pub mod listen;
pub mod netns;
pub mod notice;
pub mod owner;
pub mod pipe;
pub mod pool;
pub mod relay;
pub mod serve;
pub mod spec;
pub mod target;

use std::sync::Arc;

use ctsys::report::Explain;
use nix::errno::Errno;

use listen::ListenError;
use netns::{Namespace, NetnsError};
use notice::Notices;
use serve::{Ended, ServeError};
use spec::Forward;
use target::{Target, TargetError};

/// What to do.
#[derive(Debug)]
pub struct Options {
    /// Whose ports: a container of minirun's, or `pid:N`.
    pub target: String,
    /// Which; none for those that the target declares.
    pub forwards: Vec<Forward>,
}

/// Why nothing is forwarded (any more).
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The target.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// Its network.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// The local side.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The event loops.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// No port was given, and the target declares none.
    #[error("no port to forward: {target} declares none")]
    NoPorts {
        /// The target's name.
        target: String,
    },
}

/// Forwards until the target ends or a signal comes. The caller must have one thread only, as the
/// helper is a copy of it.
pub fn run(options: &Options, notices: Arc<Notices>) -> Result<Ended, Error> {
    let target = Target::find(&options.target)?;
    let forwards =
        if options.forwards.is_empty() { declared(&target)? } else { options.forwards.clone() };
    let namespace = Arc::new(Namespace::enter(&target)?);
    let routes = listen::bind_all(&forwards, matches!(*namespace, Namespace::Own))?;
    Ok(serve::serve(&target, namespace, routes, notices)?)
}

fn declared(target: &Target) -> Result<Vec<Forward>, Error> {
    if target.exposed_ports.is_empty() {
        return Err(Error::NoPorts { target: target.name.clone() });
    }
    Ok(target.exposed_ports.iter().map(|&port| Forward::same(port)).collect())
}

impl Explain for Error {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Target(error) => error.hint(),
            Self::Netns(NetnsError::Join { source, .. }) if source.errno() == Errno::EPERM => {
                Some("run pfwd as the user who owns the target's user namespace, or as root".into())
            }
            Self::Netns(_) => None,
            Self::Listen(error) => error.hint(),
            Self::Serve(error) => error.hint(),
            Self::NoPorts { target } => Some(format!("name one: pfwd {target} 8080:80")),
        }
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Target(error) => error.exit_code(),
            Self::Listen(error) => error.exit_code(),
            Self::NoPorts { .. } => 2,
            Self::Netns(_) | Self::Serve(_) => 1,
        }
    }
}
