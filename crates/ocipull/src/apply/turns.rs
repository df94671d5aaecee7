//! The tree, handed from layer to layer in their order.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::tree::Tree;

/// No turn comes any more: a layer failed, or nobody wants the result.
#[derive(Debug, thiserror::Error)]
#[error("another layer failed")]
pub(super) struct Stopped;

/// Keeps the merged tree while no layer has it, and gives it to one layer after the other.
#[derive(Debug)]
pub(super) struct Turns {
    /// Of the layer whose turn it is, which may have it already. Written under the lock.
    next: AtomicUsize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    tree: Option<Tree>,
    stopped: bool,
}

impl Turns {
    /// The first turn is layer 0's.
    pub(super) fn new(tree: Tree) -> Self {
        let state = Mutex::new(State { tree: Some(tree), stopped: false });
        Self { next: AtomicUsize::new(0), state, changed: Condvar::new() }
    }

    /// Whether all layers below `index` are in the tree. Cheap enough to ask for every entry.
    pub(super) fn has_come(&self, index: usize) -> bool {
        self.next.load(Ordering::Acquire) == index
    }

    /// Waits until all layers below `index` are in the tree, and takes it.
    pub(super) fn take(&self, index: usize) -> Result<Tree, Stopped> {
        let mut state = self.state();
        loop {
            if state.stopped {
                return Err(Stopped);
            }
            if self.has_come(index)
                && let Some(tree) = state.tree.take()
            {
                return Ok(tree);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Gives the tree back, all of layer `index` in it: the next layer's turn comes.
    pub(super) fn pass_on(&self, index: usize, tree: Tree) {
        let mut state = self.state();
        state.tree = Some(tree);
        self.next.store(index + 1, Ordering::Release);
        self.changed.notify_all();
    }

    /// Ends all waiting, now and later.
    pub(super) fn stop(&self) {
        self.state().stopped = true;
        self.changed.notify_all();
    }

    /// Whether [`Turns::stop`] was called. Cheap enough to ask for every buffer.
    pub(super) fn has_stopped(&self) -> bool {
        self.state().stopped
    }

    /// The tree, unless a layer failed with it.
    pub(super) fn tree(&mut self) -> Option<&mut Tree> {
        self.state.get_mut().unwrap_or_else(PoisonError::into_inner).tree.as_mut()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
