//! A stock of sockets that are not connected, filled in batches by one thread: a batch costs the
//! helper a millisecond, which no connection should wait for.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;

use ctsys::SysError;
use nix::errno::Errno;
use tokio::sync::oneshot;

use crate::netns::{Family, Namespace};

/// Sockets asked for at once; a quarter of what one message can carry.
const BATCH: u8 = 64;
/// A stock smaller than this is filled up.
const LOW: usize = 24;
/// The most descriptors that the stock holds, of both families together.
pub const MAX_STOCK: usize = 2 * (LOW + BATCH as usize);

/// Hands out sockets made in the target's network.
#[derive(Debug)]
pub struct Pool {
    v4: Mutex<Shelf>,
    v6: Mutex<Shelf>,
    refill: mpsc::Sender<Family>,
}

#[derive(Debug, Default)]
struct Shelf {
    stock: Vec<OwnedFd>,
    waiting: VecDeque<oneshot::Sender<Result<OwnedFd, SysError>>>,
    /// A refill has been asked for and is not done.
    refilling: bool,
}

impl Pool {
    /// A pool that is filled from `namespace` by a thread of its own, which ends with the pool.
    pub fn new(namespace: Arc<Namespace>) -> std::io::Result<(Arc<Self>, JoinHandle<()>)> {
        let (refill, requests) = mpsc::channel();
        let pool = Arc::new(Self { v4: Mutex::default(), v6: Mutex::default(), refill });
        let weak = Arc::downgrade(&pool);
        let thread = std::thread::Builder::new().name("sockets".into()).spawn(move || {
            while let Ok(family) = requests.recv() {
                let Some(pool) = weak.upgrade() else { return };
                pool.fill(&namespace, family);
            }
        })?;
        // The first connection finds a socket ready.
        pool.lock(Family::V4).refilling = true;
        let _ = pool.refill.send(Family::V4);
        Ok((pool, thread))
    }

    /// A socket of `family`; waits while none is in stock.
    pub async fn take(&self, family: Family) -> Result<OwnedFd, SysError> {
        let gone = || SysError::new("socket", "helper", Errno::EPIPE);
        let arrival = {
            let mut shelf = self.lock(family);
            let socket = shelf.stock.pop();
            if shelf.stock.len() < LOW && !shelf.refilling {
                self.refill.send(family).map_err(|_| gone())?;
                shelf.refilling = true;
            }
            match socket {
                Some(socket) => return Ok(socket),
                None => {
                    let (sender, arrival) = oneshot::channel();
                    shelf.waiting.push_back(sender);
                    arrival
                }
            }
        };
        arrival.await.map_err(|_| gone())?
    }

    fn fill(&self, namespace: &Namespace, family: Family) {
        loop {
            let batch = namespace.sockets(family, BATCH);
            let mut shelf = self.lock(family);
            match batch {
                Ok(sockets) => shelf.hand_out(sockets),
                Err(error) => {
                    for waiter in shelf.waiting.drain(..) {
                        let _ = waiter.send(Err(error.clone()));
                    }
                }
            }
            if shelf.waiting.is_empty() {
                shelf.refilling = false;
                return;
            }
        }
    }

    fn lock(&self, family: Family) -> MutexGuard<'_, Shelf> {
        let shelf = match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        };
        shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shelf {
    /// To those who wait first, the rest to the stock.
    fn hand_out(&mut self, sockets: Vec<OwnedFd>) {
        for mut socket in sockets {
            loop {
                let Some(waiter) = self.waiting.pop_front() else {
                    self.stock.push(socket);
                    break;
                };
                match waiter.send(Ok(socket)) {
                    // A connection that gave up meanwhile gives its socket back.
                    Err(Ok(back)) => socket = back,
                    Ok(()) | Err(Err(_)) => break,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_waiters_get_a_socket_each() {
        let (pool, _) = Pool::new(Arc::new(Namespace::Own)).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let sockets = runtime.block_on(async {
            let mut taken = Vec::new();
            for _ in 0..200 {
                taken.push(pool.take(Family::V4).await.unwrap());
            }
            taken
        });
        assert_eq!(sockets.len(), 200);
        assert!(pool.lock(Family::V4).stock.len() <= MAX_STOCK);
    }

    #[test]
    fn one_who_gave_up_does_not_keep_a_socket() {
        let mut shelf = Shelf::default();
        let (gave_up, receiver) = oneshot::channel();
        drop(receiver);
        let (waits, mut receiver) = oneshot::channel();
        shelf.waiting.extend([gave_up, waits]);
        shelf.hand_out(Namespace::Own.sockets(Family::V4, 2).unwrap());
        assert!(receiver.try_recv().unwrap().is_ok());
        assert_eq!(shelf.stock.len(), 1);
    }
}
