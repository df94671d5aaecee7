//! The event loops: one thread accepts and watches, others each relay a share of the connections.
//!
//! ```text
//! main thread    accept --(least loaded)--> worker thread    dial, relay
//!                the target's end, the helper's end, signals
//! ```

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use ctsys::report::Explain;
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::dial::Port;
use crate::listen::Route;
use crate::netns::Namespace;
use crate::notice::{Notice, Notices};
use crate::pipe;
use crate::pool::{self, Pool};
use crate::relay::{Connection, relay};
use crate::target::Target;

/// More threads than this gain nothing that a machine's loopback could carry.
const MAX_WORKERS: usize = 8;
/// Descriptors of the process itself: standard ones, channel, pidfds.
const OWN_DESCRIPTORS: usize = 32;
/// Of signal(7), the same on all architectures.
const SIGTERM: i32 = 15;
/// Descriptors of an event loop: epoll, its waker, the signal pipe.
const DESCRIPTORS_PER_LOOP: usize = 8;
/// Both ends of a pipe.
const DESCRIPTORS_PER_PIPE: usize = 2;
/// Each connection has one descriptor here and one towards the target.
const DESCRIPTORS_PER_CONNECTION: usize = 2;
/// A bound for machines without a limit of descriptors: memory for their bookkeeping is ours.
const MAX_CONNECTIONS: usize = 1 << 19;
/// How long accepting pauses when descriptors ran out.
const PAUSE: Duration = Duration::from_millis(100);
/// How long connections may go on after the target's end, for its last words to arrive: its own ends
/// are closed by then, and what it had sent is in this machine's memory.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Why forwarding ended, where nothing is wrong with pfwd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The target ended.
    Target,
    /// This signal asked for it.
    Signal(i32),
}

/// Why forwarding could not begin or go on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Threads, descriptors or memory are missing.
    #[error("cannot set up the event loop")]
    Setup(#[source] io::Error),
    /// The limit of descriptors leaves none for connections.
    #[error("too few descriptors: got a limit of {got}, want at least {want}")]
    Descriptors {
        /// The limit.
        got: u64,
        /// Enough for one connection.
        want: usize,
    },
    /// Somebody killed the helper.
    #[error("the helper in the target's namespaces was killed")]
    Helper,
}

/// All that connections share.
#[derive(Debug)]
struct Shared {
    pool: Arc<Pool>,
    notices: Arc<Notices>,
    target: String,
    connections: Arc<Semaphore>,
    limit: u32,
}

/// Forwards until the target ends or a signal comes. On return every connection is closed, every
/// thread ended.
pub fn serve(
    target: &Target,
    namespace: Arc<Namespace>,
    routes: Vec<Route>,
    notices: Arc<Notices>,
) -> Result<Ended, ServeError> {
    let count = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_WORKERS);
    let listeners: usize = routes.iter().map(|r| r.listeners.len()).sum();
    let limit = connection_limit(count, listeners)?;
    let (pool, filler) = Pool::new(Arc::clone(&namespace)).map_err(ServeError::Setup)?;
    let shared = Arc::new(Shared {
        pool,
        notices,
        target: target.name.clone(),
        connections: Arc::new(Semaphore::new(limit as usize)),
        limit,
    });
    let workers: io::Result<Vec<Worker>> = (0..count).map(|_| Worker::start(&shared)).collect();
    let workers = Arc::new(workers.map_err(ServeError::Setup)?);
    let ended = event_loop()
        .map_err(ServeError::Setup)?
        .block_on(accept_and_watch(target, &namespace, routes, &shared, &workers));
    for worker in Arc::into_inner(workers).unwrap_or_default() {
        worker.stop();
    }
    drop(shared);
    // A thread that panicked has said so itself.
    let _ = filler.join();
    ended
}

impl Ended {
    /// The exit code: 128 + n by a signal, and 1 when the target ended, as the forwarding that was
    /// asked for is no longer there.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Target => 1,
            Self::Signal(number) => u8::try_from(128 + number).unwrap_or(1),
        }
    }
}

impl Explain for ServeError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Setup(_) => Some("see ulimit -a for this user's limits".into()),
            Self::Descriptors { want, .. } => Some(format!(
                "raise the hard limit of open files, as by ulimit -n {}",
                want.next_power_of_two()
            )),
            Self::Helper => Some("run pfwd again".into()),
        }
    }
}

/// A thread that relays.
#[derive(Debug)]
struct Worker {
    accepted: mpsc::UnboundedSender<Accepted>,
    load: Arc<AtomicUsize>,
    thread: JoinHandle<()>,
}

/// A client's connection on its way to a worker.
#[derive(Debug)]
struct Accepted {
    client: std::net::TcpStream,
    port: Arc<Port>,
    _permit: OwnedSemaphorePermit,
    _load: Load,
}

/// One connection in the count of a worker's.
#[derive(Debug)]
struct Load(Arc<AtomicUsize>);

impl Drop for Load {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Worker {
    fn start(shared: &Arc<Shared>) -> io::Result<Self> {
        // Unbounded, but for the permit that each entry holds.
        let (accepted, mut arrivals) = mpsc::unbounded_channel::<Accepted>();
        let runtime = event_loop()?;
        let shared = Arc::clone(shared);
        let thread = std::thread::Builder::new().name("relay".into()).spawn(move || {
            runtime.block_on(async {
                while let Some(accepted) = arrivals.recv().await {
                    tokio::spawn(forward(accepted, Arc::clone(&shared)));
                }
            });
            // Dropping the runtime drops its connections, which resets those that are not over.
        })?;
        Ok(Self { accepted, load: Arc::default(), thread })
    }

    fn stop(self) {
        drop(self.accepted);
        let _ = self.thread.join();
    }
}

/// One client's connection, from accept to its end.
async fn forward(accepted: Accepted, shared: Arc<Shared>) {
    let Accepted { client, port, _permit, _load } = accepted;
    let client = match TcpStream::from_std(client) {
        Ok(stream) => Connection::new(stream),
        Err(error) => return shared.notices.tell_some(&Notice::Exhausted(error)),
    };
    let dialled = tokio::select! {
        biased;
        dialled = port.dial(&shared.pool) => dialled,
        () = client.broken() => return,
    };
    match dialled {
        // A connection that breaks is its peers' affair, and both have been told.
        Ok(stream) => drop(relay(client, Connection::new(stream)).await),
        Err(error) => {
            // The client learns it first, by RST.
            drop(client);
            let (target, remote) = (shared.target.clone(), port.number());
            shared.notices.tell_some(&Notice::Refused { target, remote, error });
        }
    }
}

async fn accept_and_watch(
    target: &Target,
    namespace: &Namespace,
    routes: Vec<Route>,
    shared: &Arc<Shared>,
    workers: &Arc<Vec<Worker>>,
) -> Result<Ended, ServeError> {
    let setup = ServeError::Setup;
    let mut ending = ending_signals().map_err(setup)?;
    let mut accepting = JoinSet::new();
    let announced: Vec<Notice> = routes.iter().flat_map(|r| announcement(target, r)).collect();
    for route in routes {
        let port = Arc::new(Port::new(route.remote));
        for listener in route.listeners {
            let listener = readable(TcpListener::from(listener.socket)).map_err(setup)?;
            let (shared, workers) = (Arc::clone(shared), Arc::clone(workers));
            accepting.spawn(accept(listener, Arc::clone(&port), shared, workers));
        }
    }
    // Only now, when all is set up: whoever reads this may connect, or send a signal.
    announced.iter().for_each(|notice| shared.notices.tell(notice));
    let ended = tokio::select! {
        Some(number) = ending.join_next() => Ended::Signal(number.unwrap_or(SIGTERM)),
        end = end_of(Some(&target.pidfd)) => end.map(|()| Ended::Target).map_err(setup)?,
        end = end_of(namespace.helper_pidfd()) => {
            end.map_err(setup)?;
            return Err(ServeError::Helper);
        }
    };
    accepting.shutdown().await;
    if ended == Ended::Target {
        let all = shared.connections.acquire_many(shared.limit);
        // Those that are not over by then are reset.
        let _ = tokio::time::timeout(LAST_WORDS, all).await;
    }
    Ok(ended)
}

/// Waits for the signals that end the forwarding: each task gives its signal's number. One that the
/// caller has ignored, by nohup(1) or a shell's `&`, stays so.
fn ending_signals() -> io::Result<JoinSet<i32>> {
    let mut ending = JoinSet::new();
    for kind in [SignalKind::hangup(), SignalKind::interrupt(), SignalKind::terminate()] {
        let number = kind.as_raw_value();
        if ctsys::signal::is_ignored(number).map_err(|e| io::Error::from(e.errno()))? {
            continue;
        }
        let mut stream = signal(kind)?;
        ending.spawn(async move {
            stream.recv().await;
            number
        });
    }
    Ok(ending)
}

fn announcement(target: &Target, route: &Route) -> impl Iterator<Item = Notice> {
    let (local, remote) = (route.to_string(), route.remote);
    let forwarding = Notice::Forwarding { local, target: target.name.clone(), remote };
    let missing = route.missing.clone();
    let missing = missing.map(|(address, error)| Notice::Missing { address, error });
    std::iter::once(forwarding).chain(missing)
}

/// Waits for the end of a process; for ever without one.
async fn end_of(pidfd: Option<impl AsFd>) -> io::Result<()> {
    let Some(pidfd) = pidfd else { return std::future::pending().await };
    readable(pidfd.as_fd())?.readable().await.map(drop)
}

/// Has the event loop look when `inner` is readable.
#[allow(deprecated, reason = "its successor is unsafe; `AsFd` promises what that one asks for")]
fn readable<T: AsFd + AsRawFd>(inner: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(inner, Interest::READABLE)
}

/// Accepts for ever. No failure ends it: the next connection may go well.
async fn accept(
    listener: AsyncFd<TcpListener>,
    port: Arc<Port>,
    shared: Arc<Shared>,
    workers: Arc<Vec<Worker>>,
) {
    loop {
        let accepted = listener.async_io(Interest::READABLE, TcpListener::accept).await;
        let client = match accepted.and_then(|(c, _)| c.set_nonblocking(true).map(|()| c)) {
            Ok(client) => client,
            Err(error) if is_peers_doing(&error) => continue,
            Err(error) => {
                shared.notices.tell_some(&Notice::Exhausted(error));
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let permits = Arc::clone(&shared.connections);
        // The semaphore is never closed.
        let Ok(permit) = permits.acquire_owned().await else { return };
        let Some(worker) = workers.iter().min_by_key(|w| w.load.load(Ordering::Relaxed)) else {
            return;
        };
        worker.load.fetch_add(1, Ordering::Relaxed);
        let load = Load(Arc::clone(&worker.load));
        let port = Arc::clone(&port);
        // A worker is gone only when all are being stopped.
        let _ = worker.accepted.send(Accepted { client, port, _permit: permit, _load: load });
        // Under a flood of connections, signals and the target's end have their turn.
        tokio::task::coop::consume_budget().await;
    }
}

/// The client gave up before it was accepted (accept(2), "Error handling").
fn is_peers_doing(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::ECONNABORTED | Errno::EPROTO | Errno::EINTR | Errno::EPERM))
}

fn event_loop() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

/// How many connections the limit of descriptors allows, which is raised as far as may be.
fn connection_limit(workers: usize, listeners: usize) -> Result<u32, ServeError> {
    let (soft, hard) =
        getrlimit(Resource::RLIMIT_NOFILE).map_err(|errno| ServeError::Setup(errno.into()))?;
    let descriptors = match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(_) => soft,
    };
    let reserved = OWN_DESCRIPTORS
        + DESCRIPTORS_PER_LOOP * (workers + 1)
        + DESCRIPTORS_PER_PIPE * pipe::MAX_PIPES * workers
        // Each listener may hold one connection that waits for its turn.
        + 2 * listeners
        + pool::MAX_STOCK;
    let free = usize::try_from(descriptors).unwrap_or(usize::MAX).saturating_sub(reserved);
    let connections = (free / DESCRIPTORS_PER_CONNECTION).min(MAX_CONNECTIONS);
    match u32::try_from(connections) {
        Ok(limit) if limit > 0 => Ok(limit),
        _ => {
            let want = reserved + DESCRIPTORS_PER_CONNECTION;
            Err(ServeError::Descriptors { got: descriptors, want })
        }
    }
}
