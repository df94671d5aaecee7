//! For the test `race`: in every staging directory of ocipull below a directory it exchanges directories for
//! symbolic links to another one, and back, over and over, until it is killed.
//!
//! ```text
//! attacker PARENT BAIT TARGET PAUSE_US
//! ```
//!
//! PARENT is where ocipull works. BAIT, a directory on the same file system, is where the links are
//! kept; they lead to TARGET. After each exchange it waits PAUSE_US microseconds, so that an attack can
//! be so slow that a pull comes far. For each round it prints how many exchanges it did.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

/// How deep it goes into a staging directory.
const MAX_DEPTH: usize = 3;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [parent, bait, target, pause] = arguments.as_slice() else {
        panic!("usage: attacker PARENT BAIT TARGET PAUSE_US");
    };
    let pause = Duration::from_micros(pause.parse().unwrap());
    let mut attack = Attack {
        parent: fs::canonicalize(parent).unwrap(),
        bait: bait.into(),
        target: target.into(),
        pause,
        slot: 0,
        exchanges: 0,
    };
    loop {
        for name in names(Path::new(parent)) {
            if name.file_name().is_some_and(|n| n.to_string_lossy().contains(".ocipull-")) {
                attack.exchange(&name);
                attack.below(&name, 0);
            }
        }
        if attack.exchanges > 0 {
            println!("{}", std::mem::take(&mut attack.exchanges));
            // Nobody who listens: the test is over.
            if std::io::stdout().flush().is_err() {
                return;
            }
        }
    }
}

struct Attack {
    parent: PathBuf,
    bait: PathBuf,
    target: PathBuf,
    pause: Duration,
    slot: u64,
    exchanges: u64,
}

impl Attack {
    fn below(&mut self, dir: &Path, depth: usize) {
        for path in names(dir) {
            if fs::symlink_metadata(&path).is_ok_and(|m| m.is_dir()) {
                self.exchange(&path);
                if depth < MAX_DEPTH {
                    self.below(&path, depth + 1);
                }
            }
        }
    }

    /// A link in the directory's place for a moment. One that cannot be put back, as somebody else
    /// was faster, stays where it is.
    fn exchange(&mut self, dir: &Path) {
        // A link that could not be put back leads its own way out, which would change the target.
        let real = dir.parent().and_then(|parent| fs::canonicalize(parent).ok());
        if !real.is_some_and(|real| real.starts_with(&self.parent)) {
            return;
        }
        let link = self.bait.join(self.slot.to_string());
        if fs::symlink_metadata(&link).is_err() {
            symlink(&self.target, &link).unwrap();
        }
        let exchange = RenameFlags::RENAME_EXCHANGE;
        let swap = || renameat2(AT_FDCWD, dir, AT_FDCWD, &link, exchange);
        if swap().is_err() {
            return;
        }
        self.exchanges += 1;
        wait(self.pause.min(Duration::from_micros(300)));
        if swap().is_err() {
            self.slot += 1;
        }
        wait(self.pause);
    }
}

/// Without sleeping: a sleep takes longer than the shortest pauses.
fn wait(pause: Duration) {
    let start = Instant::now();
    while start.elapsed() < pause {
        std::thread::yield_now();
    }
}

fn names(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}
