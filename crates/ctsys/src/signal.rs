//! Signals: sets, masks, waiting, sending by pidfd, names. Real-time signals included, which nix's
//! enumeration lacks.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::Instant;

use nix::errno::Errno;

use crate::error::{Context, Result};

/// The highest signal number on Linux (`_NSIG`).
pub const MAX_SIGNAL: i32 = 64;

/// The two signals below the real-time ones that C libraries take for themselves (nptl(7)): never
/// blocked here, as a change of user in a program with threads waits for them.
const RESERVED: [i32; 2] = [32, 33];

/// Bytes of a set as the kernel has it: a bit for each signal.
const SET_BYTES: usize = size_of::<u64>();

/// A set of signals, as the kernel has it. The C libraries' sets leave signals out that they use
/// themselves: musl's one more than glibc's, which programs in a container may well be sent.
#[derive(Clone, Copy)]
pub struct SignalSet(u64);

impl SignalSet {
    /// All signals but those given (and KILL and STOP, which cannot be blocked).
    pub fn all_but(without: &[i32]) -> Self {
        let left_out = without.iter().chain(&RESERVED);
        Self(
            left_out
                .filter(|n| (1..=MAX_SIGNAL).contains(*n))
                .fold(!0, |set, n| set & !(1 << (n - 1))),
        )
    }

    /// Makes these the thread's blocked signals; returns what was blocked before.
    pub fn block(&self) -> Result<Self> {
        let mut old = 0_u64;
        // SAFETY: both pointers are to sets of the size told that outlive the call.
        let result = unsafe {
            libc::syscall(
                libc::SYS_rt_sigprocmask,
                libc::SIG_SETMASK,
                &raw const self.0,
                &raw mut old,
                SET_BYTES,
            )
        };
        Errno::result(result).call("rt_sigprocmask", || "SIG_SETMASK".into())?;
        Ok(Self(old))
    }

    /// Waits until one of them, which should all be blocked, is pending, and takes it.
    pub fn wait(&self) -> Result<i32> {
        loop {
            match self.take(std::ptr::null()) {
                // A stop and continuation of the process.
                Err(Errno::EINTR) => {}
                other => return other.call("rt_sigtimedwait", String::new),
            }
        }
    }

    /// As [`SignalSet::wait`], until `deadline` at the latest: `None` when none came before.
    pub fn wait_until(&self, deadline: Instant) -> Result<Option<i32>> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let limit = libc::timespec {
                // More than the kernel counts is as good as for ever.
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            };
            match self.take(&raw const limit) {
                Err(Errno::EAGAIN) => return Ok(None),
                Err(Errno::EINTR) => {}
                other => return other.map(Some).call("rt_sigtimedwait", String::new),
            }
        }
    }

    /// `limit` is null, for none, or points to one that outlives the call.
    fn take(&self, limit: *const libc::timespec) -> std::result::Result<i32, Errno> {
        let no_details = std::ptr::null_mut::<libc::siginfo_t>();
        // SAFETY: the set, of the size told, and the limit outlive the call.
        let signal = unsafe {
            libc::syscall(
                libc::SYS_rt_sigtimedwait,
                &raw const self.0,
                no_details,
                limit,
                SET_BYTES,
            )
        };
        Errno::result(signal).map(|signal| i32::try_from(signal).unwrap_or(0))
    }

    /// A descriptor that is readable when one of them is pending; not blocking, close-on-exec.
    pub fn fd(&self) -> Result<OwnedFd> {
        let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
        // SAFETY: the set, of the size told, outlives the call.
        let fd =
            unsafe { libc::syscall(libc::SYS_signalfd4, -1, &raw const self.0, SET_BYTES, flags) };
        let fd = Errno::result(fd).call("signalfd4", String::new)?;
        // SAFETY: the call succeeded, so `fd` is a fresh descriptor that nothing else owns.
        Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).unwrap_or(-1)) })
    }
}

/// Takes the next signal from a descriptor of [`SignalSet::fd`]; `None` when none is pending.
pub fn read(fd: impl AsFd) -> Result<Option<i32>> {
    let fd = fd.as_fd();
    let mut info = [0_u8; size_of::<libc::signalfd_siginfo>()];
    match nix::unistd::read(fd, &mut info) {
        Ok(_) => {
            let [a, b, c, d, ..] = info;
            Ok(i32::try_from(u32::from_ne_bytes([a, b, c, d])).ok())
        }
        Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
        Err(errno) => Err(errno).call("read", || format!("signalfd {}", fd.as_raw_fd())),
    }
}

/// pidfd_send_signal(2).
pub fn send(pidfd: impl AsFd, signal: i32) -> Result<()> {
    let fd = pidfd.as_fd().as_raw_fd();
    let none = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: no details are given (null); the rest are integers.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, none, 0) };
    Errno::result(result).map(drop).call("pidfd_send_signal", || format!("{fd}, {}", name(signal)))
}

/// kill(2), for numbers that nix's enumeration lacks.
pub fn kill(pid: i32, signal: i32) -> Result<()> {
    // SAFETY: two integers.
    let result = unsafe { libc::kill(pid, signal) };
    Errno::result(result).map(drop).call("kill", || format!("{pid}, {}", name(signal)))
}

/// Whether the caller ignores a signal, as nohup(1) and a shell's `&` have their programs do.
pub fn is_ignored(signal: i32) -> Result<bool> {
    let mut current = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: without a new action the call only writes the present one to `current`.
    let result = unsafe { libc::sigaction(signal, std::ptr::null(), current.as_mut_ptr()) };
    Errno::result(result).call("sigaction", || signal.to_string())?;
    // SAFETY: the call succeeded, so all of it is written.
    let current = unsafe { current.assume_init() };
    Ok(current.sa_sigaction == libc::SIG_IGN)
}

/// What a signal did before [`ignore`].
#[derive(Clone, Copy)]
pub struct Disposition {
    signal: i32,
    action: libc::sigaction,
}

/// Ignores a signal; returns what it did before.
pub fn ignore(signal: i32) -> Result<Disposition> {
    // SAFETY: a sigaction is plain data, for which all zeros are valid: an empty mask, no flags.
    let mut ignored: libc::sigaction = unsafe { std::mem::zeroed() };
    ignored.sa_sigaction = libc::SIG_IGN;
    let mut before = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: SIG_IGN installs no handler; both pointers outlive the call.
    let result = unsafe { libc::sigaction(signal, &raw const ignored, before.as_mut_ptr()) };
    Errno::result(result).call("sigaction", || format!("{}, SIG_IGN", name(signal)))?;
    // SAFETY: the call succeeded, so all of it is written.
    Ok(Disposition { signal, action: unsafe { before.assume_init() } })
}

impl Disposition {
    /// Lets the signal do again what it did.
    pub fn restore(&self) -> Result<()> {
        // SAFETY: the action is one that the kernel has given out for this very signal.
        let result =
            unsafe { libc::sigaction(self.signal, &raw const self.action, std::ptr::null_mut()) };
        Errno::result(result).map(drop).call("sigaction", || name(self.signal))
    }
}

/// Gives one signal its default action.
pub fn set_default(signal: i32) {
    // The kernel's `struct sigaction`: handler, flags, restorer, mask. All zeros are SIG_DFL.
    let action = [0_u64; 4];
    let old = std::ptr::null_mut::<u64>();
    // SAFETY: the action outlives the call and installs no handler; the old one is not asked for. A
    // number that cannot be changed is refused.
    unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, action.as_ptr(), old, SET_BYTES) };
}

/// Gives every signal its default action, as a program expects it that is started: Rust's runtime
/// ignores SIGPIPE, and an ignored signal stays so through execve(2).
pub fn reset_dispositions() {
    for signal in 1..=MAX_SIGNAL {
        set_default(signal);
    }
}

const NAMES: &[(&str, i32)] = &[
    ("HUP", libc::SIGHUP),
    ("INT", libc::SIGINT),
    ("QUIT", libc::SIGQUIT),
    ("ILL", libc::SIGILL),
    ("TRAP", libc::SIGTRAP),
    ("ABRT", libc::SIGABRT),
    ("BUS", libc::SIGBUS),
    ("FPE", libc::SIGFPE),
    ("KILL", libc::SIGKILL),
    ("USR1", libc::SIGUSR1),
    ("SEGV", libc::SIGSEGV),
    ("USR2", libc::SIGUSR2),
    ("PIPE", libc::SIGPIPE),
    ("ALRM", libc::SIGALRM),
    ("TERM", libc::SIGTERM),
    ("STKFLT", libc::SIGSTKFLT),
    ("CHLD", libc::SIGCHLD),
    ("CONT", libc::SIGCONT),
    ("STOP", libc::SIGSTOP),
    ("TSTP", libc::SIGTSTP),
    ("TTIN", libc::SIGTTIN),
    ("TTOU", libc::SIGTTOU),
    ("URG", libc::SIGURG),
    ("XCPU", libc::SIGXCPU),
    ("XFSZ", libc::SIGXFSZ),
    ("VTALRM", libc::SIGVTALRM),
    ("PROF", libc::SIGPROF),
    ("WINCH", libc::SIGWINCH),
    ("IO", libc::SIGIO),
    ("POLL", libc::SIGPOLL),
    ("PWR", libc::SIGPWR),
    ("SYS", libc::SIGSYS),
    ("RTMIN", 34),
    ("RTMAX", 64),
];

/// The number that `text` means: a name with or without `SIG` in either case (`TERM`, `sigterm`,
/// `RTMIN+3`, `RTMAX-1`), or a number from 1 to 64.
pub fn parse(text: &str) -> Option<i32> {
    let number = if text.bytes().all(|b| b.is_ascii_digit()) {
        text.parse().ok()?
    } else {
        let upper = text.to_ascii_uppercase();
        let plain = upper.strip_prefix("SIG").unwrap_or(&upper);
        let (base, offset) = match plain.find(['+', '-']) {
            // Only the two ends of the real-time range are counted from.
            Some(at) if plain.starts_with("RT") => {
                let (base, offset) = plain.split_at_checked(at)?;
                (base, offset.parse::<i32>().ok()?)
            }
            _ => (plain, 0),
        };
        NAMES.iter().find(|(name, _)| *name == base)?.1.checked_add(offset)?
    };
    (1..=MAX_SIGNAL).contains(&number).then_some(number)
}

/// The name with `SIG`, or the number.
pub fn name(signal: i32) -> String {
    match NAMES.iter().find(|(_, number)| *number == signal) {
        Some((name, _)) => format!("SIG{name}"),
        None => format!("signal {signal}"),
    }
}

/// What glibc's strsignal(3) says of the signals 1 to 31.
const TEXTS: [&str; 31] = [
    "Hangup",
    "Interrupt",
    "Quit",
    "Illegal instruction",
    "Trace/breakpoint trap",
    "Aborted",
    "Bus error",
    "Floating point exception",
    "Killed",
    "User defined signal 1",
    "Segmentation fault",
    "User defined signal 2",
    "Broken pipe",
    "Alarm clock",
    "Terminated",
    "Stack fault",
    "Child exited",
    "Continued",
    "Stopped (signal)",
    "Stopped",
    "Stopped (tty input)",
    "Stopped (tty output)",
    "Urgent I/O condition",
    "CPU time limit exceeded",
    "File size limit exceeded",
    "Virtual timer expired",
    "Profiling timer expired",
    "Window changed",
    "I/O possible",
    "Power failure",
    "Bad system call",
];

/// What glibc calls it, whichever C library this is built with: `Terminated`, `Real-time signal 3`.
pub fn describe(signal: i32) -> String {
    let text = usize::try_from(signal - 1).ok().and_then(|at| TEXTS.get(at));
    match text {
        Some(text) => (*text).to_owned(),
        None if (34..=MAX_SIGNAL).contains(&signal) => format!("Real-time signal {}", signal - 34),
        None => format!("Unknown signal {signal}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_understood() {
        for text in ["TERM", "SIGTERM", "sigterm", "15"] {
            assert_eq!(parse(text), Some(15), "{text}");
        }
        assert_eq!(parse("RTMIN+3"), Some(37));
        assert_eq!(parse("SIGRTMAX-1"), Some(63));
        for bad in ["", "0", "65", "SIG", "TERM+1", "RTMIN+99", "RTMIN+", "-1", "99999999999"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
