//! What is left of an init's processes when the main one has ended.

use std::fs::{self, File};
use std::io::Read;
use std::time::{Duration, Instant};

use ctsys::error::Result;
use ctsys::signal::{self, SignalSet};
use ctsys::wait::{self, Reaped};
use nix::libc;

/// A process has at most this many bytes of children's numbers: all that Linux can count
/// (`PID_MAX_LIMIT`, 4,194,304), eight bytes each.
const MAX_CHILDREN_BYTES: u64 = 32 << 20;

/// Nested deeper than this no process is looked for. A tree of processes is a few deep; the kernel
/// has no limit.
const MAX_DEPTH: usize = 1000;

/// How often processes that fork while they are killed are gone after, and how long the killed
/// ones are waited for each time: the kernel ends them in no time unless a device holds them.
const KILL_ROUNDS: usize = 20;
const KILL_WAIT: Duration = Duration::from_millis(100);

/// Asks what is left to end (SIGTERM), and waits until all children are gone, `deadline` is over,
/// or one of the signals `enough` arrives; others are passed on. What is left then is killed.
pub(super) fn end(signals: &SignalSet, deadline: Option<Instant>, enough: &[i32]) -> Result<()> {
    if reap()? == Left::Nothing {
        return Ok(());
    }
    if deadline.is_none_or(|deadline| Instant::now() < deadline) {
        signal_all(libc::SIGTERM);
        // A stopped process cannot act on it.
        signal_all(libc::SIGCONT);
        if wait(signals, deadline, enough)? == Left::Nothing {
            return Ok(());
        }
    }
    kill(signals)
}

#[derive(PartialEq, Eq)]
enum Left {
    Nothing,
    Something,
}

fn wait(signals: &SignalSet, deadline: Option<Instant>, enough: &[i32]) -> Result<Left> {
    while reap()? == Left::Something {
        let arrived = match deadline {
            Some(deadline) => signals.wait_until(deadline)?,
            None => Some(signals.wait()?),
        };
        match arrived {
            Some(libc::SIGCHLD) => {}
            Some(signal) if !enough.contains(&signal) => signal_all(signal),
            Some(_) | None => return Ok(Left::Something),
        }
    }
    Ok(Left::Nothing)
}

fn reap() -> Result<Left> {
    loop {
        match wait::reap_any()? {
            Reaped::Child(_) => {}
            Reaped::NotYet => return Ok(Left::Something),
            Reaped::NoChildren => return Ok(Left::Nothing),
        }
    }
}

/// The end of a PID 1 kills all of its namespace anyway (pid_namespaces(7)).
fn kill(signals: &SignalSet) -> Result<()> {
    for _ in 0..KILL_ROUNDS {
        if is_pid_1() {
            break;
        }
        signal_all(libc::SIGKILL);
        let deadline = Instant::now() + KILL_WAIT;
        while reap()? == Left::Something {
            if signals.wait_until(deadline)?.is_none() {
                break;
            }
        }
        if reap()? == Left::Nothing {
            break;
        }
    }
    Ok(())
}

/// Every process of the namespace where this one is its PID 1, every descendant elsewhere.
fn signal_all(signal: i32) {
    if is_pid_1() {
        let _ = signal::kill(-1, signal);
    } else {
        descendants().into_iter().for_each(|pid| {
            // It may have ended meanwhile.
            let _ = signal::kill(pid, signal);
        });
    }
}

fn is_pid_1() -> bool {
    std::process::id() == 1
}

/// By /proc; without one, or where the kernel lists no children there (CONFIG_PROC_CHILDREN), none.
fn descendants() -> Vec<i32> {
    let mut all = Vec::new();
    let mut level = children_of_process("self");
    for _ in 0..MAX_DEPTH {
        if level.is_empty() {
            break;
        }
        all.extend(&level);
        level = level.iter().flat_map(|pid| children_of_process(&pid.to_string())).collect();
    }
    all
}

/// Each thread of a process lists the children it made.
fn children_of_process(process: &str) -> Vec<i32> {
    let threads = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    threads.flat_map(|thread| children(&thread.path().join("children"))).collect()
}

fn children(path: &std::path::Path) -> Vec<i32> {
    let mut text = String::new();
    let read = File::open(path)
        .and_then(|file| file.take(MAX_CHILDREN_BYTES + 1).read_to_string(&mut text));
    if read.is_err() || text.len() as u64 > MAX_CHILDREN_BYTES {
        return Vec::new();
    }
    // A /proc that somebody has put there must not turn one signal into one for everybody.
    let is_process = |pid: &i32| *pid > 1;
    text.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).filter(is_process).collect()
}
