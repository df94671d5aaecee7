//! The built binaries, and running programs so that a failing test says everything.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use std::fmt;
use std::io::{Read, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// How long a program may run unless told otherwise: far more than any needs on a busy machine.
pub const DEFAULT_LIMIT: Duration = Duration::from_secs(60);

/// How long output may go on after its program has ended, when a child of it holds the pipe: a busy
/// machine takes its time to end a container's processes. Waited for only where one does.
const GRACE: Duration = Duration::from_secs(5);

/// The binary `name` of this workspace, in the profile that the test itself was built in.
///
/// cargo tells a test only of its own package's binaries; for the others this looks beside them. It
/// can be older than its source: build the workspace first, as `scripts/test` does. Where the variable
/// `TESTKIT_BINARIES` names a directory, those in it are tested.
pub fn binary(name: &str) -> PathBuf {
    if let Some(dir) = std::env::var_os("TESTKIT_BINARIES") {
        return PathBuf::from(dir).join(name);
    }
    let test = std::env::current_exe().expect("the path of the running test");
    // target/TRIPLE/PROFILE/deps/TEST-HASH; documentation tests and binaries lie elsewhere below it.
    let found = test.ancestors().skip(1).take(3).map(|dir| dir.join(name)).find(|p| p.is_file());
    found.unwrap_or_else(|| {
        let built = test.display();
        panic!("no binary {name} beside {built}: build it by `cargo build -p PACKAGE --bin {name}`")
    })
}

/// A command to be run to its end, with a limit on its time.
///
/// ```
/// use testkit::programs::Run;
/// let done = Run::program("sh", &["-c", "echo data; echo words >&2; exit 3"]).finish();
/// done.assert_code(3);
/// assert_eq!((done.stdout_text(), done.stderr_text()), ("data\n".into(), "words\n".into()));
/// ```
#[derive(Debug)]
pub struct Run {
    command: Command,
    limit: Duration,
    stdin: Option<Vec<u8>>,
}

impl Run {
    /// Takes a command; its standard streams are set here.
    pub fn new(command: Command) -> Self {
        Self { command, limit: DEFAULT_LIMIT, stdin: None }
    }

    /// A program and its arguments.
    pub fn program(program: impl AsRef<std::ffi::OsStr>, args: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.args(args);
        Self::new(command)
    }

    /// Another limit; past it the process group is killed and [`Finished::timed_out`] is set.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// What the program reads; nothing (`/dev/null`) unless set.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// Starts it in a process group of its own and goes on.
    pub fn spawn(mut self) -> Background {
        let text = format!("{:?}", self.command);
        let stdin = if self.stdin.is_some() { Stdio::piped() } else { Stdio::null() };
        let command = self.command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child =
            command.process_group(0).spawn().unwrap_or_else(|e| panic!("cannot run {text}: {e}"));
        if let (Some(bytes), Some(mut pipe)) = (self.stdin, child.stdin.take()) {
            // A program need not read all that it is given.
            std::thread::spawn(move || pipe.write_all(&bytes));
        }
        let stdout = Capture::of(child.stdout.take().unwrap());
        let stderr = Capture::of(child.stderr.take().unwrap());
        Background { text, child, stdout, stderr, limit: self.limit, ended: false }
    }

    /// Runs it to its end.
    pub fn finish(self) -> Finished {
        self.spawn().finish()
    }
}

/// A program that runs; its process group is killed when this is dropped.
pub struct Background {
    text: String,
    child: Child,
    stdout: Arc<Capture>,
    stderr: Arc<Capture>,
    limit: Duration,
    ended: bool,
}

impl Background {
    /// Process id.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    /// Sends a signal to the process (not its group).
    pub fn signal(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_child(&self.child), signal)
            .unwrap_or_else(|e| panic!("cannot signal {}: {e}", self.text));
    }

    /// Standard error so far.
    pub fn stderr_text(&self) -> String {
        self.stderr.text()
    }

    /// Standard output so far.
    pub fn stdout_text(&self) -> String {
        self.stdout.text()
    }

    /// Waits until standard error contains `text`, and returns all of it; panics when it ends without.
    pub fn wait_stderr(&self, text: &str) -> String {
        self.wait_text(&self.stderr, text)
    }

    /// Waits until standard output contains `text`, and returns all of it; panics when it ends without.
    pub fn wait_stdout(&self, text: &str) -> String {
        self.wait_text(&self.stdout, text)
    }

    /// Whether the process has not ended yet.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for the end, or kills the group when the limit is over.
    pub fn finish(mut self) -> Finished {
        let timed_out = !self.wait_end(self.limit);
        if timed_out {
            self.kill();
        }
        let status = self.child.wait().unwrap();
        self.ended = true;
        let deadline = Instant::now() + GRACE;
        let closed = [&self.stdout, &self.stderr].map(|capture| capture.wait_closed(deadline));
        Finished {
            text: self.text.clone(),
            status,
            stdout: self.stdout.bytes(),
            stderr: self.stderr.bytes(),
            timed_out,
            held_open: closed.contains(&false),
        }
    }

    fn wait_text(&self, capture: &Capture, text: &str) -> String {
        capture.wait_for(text, Instant::now() + self.limit).unwrap_or_else(|| {
            let (stdout, stderr) = (self.stdout.text(), self.stderr.text());
            let command = &self.text;
            panic!("no {text:?} from {command}\n-- stdout --\n{stdout}\n-- stderr --\n{stderr}\n--")
        })
    }

    fn wait_end(&self, limit: Duration) -> bool {
        end_within(&self.child, limit)
    }

    fn kill(&self) {
        // The leader is not reaped yet, so the number is still that of its group.
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if !self.ended {
            self.kill();
            let _ = self.child.wait();
        }
    }
}

/// A program that has ended.
#[derive(Clone, Debug)]
pub struct Finished {
    text: String,
    status: ExitStatus,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
    /// It was killed because its time was over.
    pub timed_out: bool,
    /// Something still held standard output or error open after the program had ended.
    pub held_open: bool,
}

impl Finished {
    /// Exit code; `None` when a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// The signal that ended it.
    pub fn signal(&self) -> Option<i32> {
        self.status.signal()
    }

    /// Standard output as text.
    pub fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    pub fn stderr_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Panics with everything known unless the code is 0.
    #[track_caller]
    pub fn assert_success(&self) -> &Self {
        self.assert_code(0)
    }

    /// Panics with everything known unless the exit code is `code`.
    #[track_caller]
    pub fn assert_code(&self, code: i32) -> &Self {
        assert!(self.code() == Some(code) && !self.timed_out, "want exit code {code}\n{self}");
        self
    }

    /// Panics with everything known unless standard error contains `text`.
    #[track_caller]
    pub fn assert_stderr(&self, text: &str) -> &Self {
        assert!(self.stderr_text().contains(text), "want {text:?} on standard error\n{self}");
        self
    }

    /// Panics with everything known unless standard output is `text`.
    #[track_caller]
    pub fn assert_stdout(&self, text: &str) -> &Self {
        assert!(self.stdout_text() == text, "want {text:?} on standard output\n{self}");
        self
    }
}

impl fmt::Display for Finished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{}", self.text, self.status)?;
        if self.timed_out {
            writeln!(f, "killed: its time was over")?;
        }
        writeln!(f, "-- stdout --\n{}", self.stdout_text())?;
        write!(f, "-- stderr --\n{}\n--", self.stderr_text())
    }
}

/// Waits for the end of a child that was not reaped; whether it came in time.
pub(crate) fn end_within(child: &Child, limit: Duration) -> bool {
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty()).unwrap();
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).unwrap();
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&left)) {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(rustix::io::Errno::INTR) => (),
            Err(e) => panic!("poll: {e}"),
        }
    }
}

/// Whether a process of that id runs. A zombie does not: where PID 1 reaps nobody, as in many
/// containers, orphans stay so for ever.
pub fn process_runs(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The state follows the name, which is in parentheses and may hold any byte: proc_pid_stat(5).
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}

/// What came through a pipe so far.
#[derive(Default)]
pub(crate) struct Capture {
    state: Mutex<(Vec<u8>, bool)>,
    changed: Condvar,
}

impl Capture {
    /// Reads to the end on a thread.
    pub(crate) fn of(mut pipe: impl Read + Send + 'static) -> Arc<Self> {
        let capture = Arc::new(Self::default());
        let shared = Arc::clone(&capture);
        std::thread::spawn(move || {
            let mut buffer = [0; 8192];
            loop {
                let len = pipe.read(&mut buffer).unwrap_or(0);
                let mut state = shared.state.lock().unwrap();
                state.0.extend_from_slice(&buffer[..len]);
                state.1 = len == 0;
                shared.changed.notify_all();
                if len == 0 {
                    return;
                }
            }
        });
        capture
    }

    fn bytes(&self) -> Vec<u8> {
        self.state.lock().unwrap().0.clone()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }

    /// `None` when the pipe closes, or the time is over, without the text.
    pub(crate) fn wait_for(&self, text: &str, deadline: Instant) -> Option<String> {
        let has = |bytes: &[u8]| String::from_utf8_lossy(bytes).contains(text);
        let state = self.wait(deadline, |state| state.1 || has(&state.0));
        has(&state.0).then(|| String::from_utf8_lossy(&state.0).into_owned())
    }

    /// Whether the pipe was closed in time.
    fn wait_closed(&self, deadline: Instant) -> bool {
        self.wait(deadline, |state| state.1).1
    }

    fn wait(
        &self,
        deadline: Instant,
        done: impl Fn(&(Vec<u8>, bool)) -> bool,
    ) -> std::sync::MutexGuard<'_, (Vec<u8>, bool)> {
        let left = deadline.saturating_duration_since(Instant::now());
        let state = self.state.lock().unwrap();
        self.changed.wait_timeout_while(state, left, |state| !done(state)).unwrap().0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collects_code_and_streams() {
        let done = Run::program("sh", &["-c", "cat; echo e >&2; exit 7"]).stdin("in").finish();
        assert_eq!((done.code(), done.stdout_text(), done.stderr_text()), {
            (Some(7), "in".into(), "e\n".into())
        });
        assert!(!done.timed_out && !done.held_open);
        let text = std::panic::catch_unwind(|| {
            done.assert_success();
        });
        let text = *text.unwrap_err().downcast::<String>().unwrap();
        for part in ["want exit code 0", "exit status: 7", "-- stdout --\nin", "-- stderr --\ne"] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn the_limit_kills_the_whole_group() {
        let limit = Duration::from_millis(300);
        let done = Run::program("sh", &["-c", "sleep 60 & echo $!; wait"]).limit(limit).finish();
        assert!(done.timed_out && done.signal() == Some(9), "{done}");
        assert!(!done.held_open, "the child that held the pipe is gone too: {done}");
    }

    #[test]
    fn a_child_left_behind_is_seen_by_the_pipe_it_holds() {
        let run = Run::program("sh", &["-c", "sleep 60 & echo $!"]);
        let done = run.finish();
        assert!(done.held_open, "{done}");
        let pid = done.stdout_text().trim().parse().ok().and_then(Pid::from_raw).unwrap();
        rustix::process::kill_process(pid, Signal::KILL).unwrap();
    }

    #[test]
    fn background_programs_are_heard_and_end_with_their_handle() {
        let run = Run::program("sh", &["-c", "echo ready >&2; sleep 60"]);
        let mut background = run.spawn();
        assert_eq!(background.wait_stderr("ready"), "ready\n");
        assert!(background.is_running());
        let pid = background.pid();
        drop(background);
        assert!(!process_runs(pid));
        let mut ended =
            Run::program("sh", &["-c", "trap 'exit 4' TERM; echo up; sleep 60 & wait"]).spawn();
        ended.wait_stdout("up");
        ended.signal(Signal::TERM);
        assert!(ended.wait_end(DEFAULT_LIMIT) && !ended.is_running());
    }

    #[test]
    fn finds_binaries_of_the_workspace_and_says_how_to_build_others() {
        let text = std::panic::catch_unwind(|| binary("no-such-tool")).unwrap_err();
        let text = text.downcast::<String>().unwrap();
        assert!(text.contains("cargo build -p PACKAGE --bin no-such-tool"), "{text}");
    }
}
