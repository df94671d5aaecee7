//! Runs a program, and makes one of its system calls fail, or kills it there: so that tests can try
//! every step of a start.
//!
//! ```text
//! fault --list FILE PROGRAM -- COMMAND...           every call to FILE: "PROCESS NUMBER NTH"
//! fault --error PROCESS:NUMBER:NTH:ERRNO PROGRAM -- COMMAND...
//! fault --kill PROCESS:NUMBER:NTH PROGRAM -- COMMAND...
//! ```
//!
//! Counted are the calls of the process that executes a file named PROGRAM, which is 0, and of those
//! born of it, in the order of their births, until they execute something else. NTH counts a
//! process's calls of that NUMBER from 0. (strace injects into whichever process comes first, so an
//! init's n-th call is out of its reach where the launcher makes as many.) Ends with COMMAND's code,
//! or 128 and its signal, once all processes have ended; with 254 where the call was never made.
//! Knows the registers of x86-64 only.

// It is a test's helper: it fails by panic.
#![allow(clippy::unwrap_used, clippy::panic)]

#[cfg(target_arch = "x86_64")]
fn main() -> std::process::ExitCode {
    traced::main()
}

#[cfg(not(target_arch = "x86_64"))]
fn main() {
    panic!("only the registers of x86-64 are known here");
}

#[cfg(target_arch = "x86_64")]
mod traced {
    use std::collections::HashMap;
    use std::fs::File;
    use std::io::Write;
    use std::path::PathBuf;
    use std::process::{Command, ExitCode};

    use nix::errno::Errno;
    use nix::sys::ptrace::{self, Event, Options};
    use nix::sys::signal::{Signal, kill};
    use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
    use nix::unistd::Pid;

    const NOT_REACHED: u8 = 254;

    /// What is to happen at the chosen call.
    enum Fault {
        None,
        Error(u64),
        Kill,
    }

    /// A process whose calls are counted.
    struct Process {
        place: u64,
        /// How often it has made each.
        calls: HashMap<u64, u64>,
        /// The next stop is the end of a call.
        in_call: bool,
        /// The call that it is in is to fail.
        failing: bool,
    }

    struct Tracer {
        program: String,
        list: Option<File>,
        /// Process, number of the call, which of them.
        at: [u64; 3],
        reached: bool,
        fault: Fault,
        counted: HashMap<Pid, Process>,
        /// Stopped at their birth, of which their parent has not told yet.
        unborn: Vec<Pid>,
        born: Vec<Pid>,
        next: u64,
    }

    pub(crate) fn main() -> ExitCode {
        let args: Vec<String> = std::env::args().skip(1).collect();
        let [what, how, program, dashes, command @ ..] = &args[..] else {
            panic!("see the source")
        };
        assert_eq!(dashes, "--");
        let numbers: Vec<u64> = how.split(':').filter_map(|n| n.parse().ok()).collect();
        let at = || [numbers[0], numbers[1], numbers[2]];
        let (list, at, fault) = match what.as_str() {
            "--list" => (Some(File::create(how).unwrap()), [0; 3], Fault::None),
            "--error" => (None, at(), Fault::Error(numbers[3])),
            "--kill" => (None, at(), Fault::Kill),
            other => panic!("unknown option {other}"),
        };
        let list_only = list.is_some();
        let mut tracer = Tracer {
            program: program.clone(),
            list,
            at,
            reached: list_only,
            fault,
            counted: HashMap::new(),
            unborn: Vec::new(),
            born: Vec::new(),
            next: 0,
        };
        let first = start(command);
        ExitCode::from(tracer.run(first))
    }

    /// The command, seized before it is executed.
    #[allow(clippy::zombie_processes, reason = "the tracer waits for all that end")]
    fn start(command: &[String]) -> Pid {
        let mut shell = Command::new("sh");
        shell.args(["-c", "kill -STOP $$; exec \"$@\"", "sh"]).args(command);
        let child = shell.spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        waitpid(pid, Some(WaitPidFlag::WUNTRACED)).unwrap();
        let options = Options::PTRACE_O_TRACESYSGOOD
            | Options::PTRACE_O_TRACEFORK
            | Options::PTRACE_O_TRACEVFORK
            | Options::PTRACE_O_TRACECLONE
            | Options::PTRACE_O_TRACEEXEC
            | Options::PTRACE_O_EXITKILL;
        ptrace::seize(pid, options).unwrap();
        kill(pid, Signal::SIGCONT).unwrap();
        pid
    }

    impl Tracer {
        /// Until the last process has ended; the first one's code.
        fn run(&mut self, first: Pid) -> u8 {
            let mut code = 255;
            loop {
                match waitpid(None, Some(WaitPidFlag::__WALL)) {
                    Err(Errno::ECHILD) => return if self.reached { code } else { NOT_REACHED },
                    Err(errno) => panic!("waitpid: {errno}"),
                    Ok(WaitStatus::Exited(pid, status)) if pid == first => {
                        code = u8::try_from(status).unwrap();
                    }
                    Ok(WaitStatus::Signaled(pid, signal, _)) if pid == first => {
                        code = u8::try_from(128 + signal as i32).unwrap();
                    }
                    Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, _, _)) => {
                        self.counted.remove(&pid);
                    }
                    Ok(WaitStatus::PtraceEvent(pid, signal, event)) => {
                        self.event(pid, signal, event)
                    }
                    Ok(WaitStatus::PtraceSyscall(pid)) => {
                        self.call(pid);
                        self.go_on(pid, None);
                    }
                    Ok(WaitStatus::Stopped(pid, signal)) => self.go_on(pid, Some(signal)),
                    Ok(_) => {}
                }
            }
        }

        fn event(&mut self, pid: Pid, signal: Signal, event: i32) {
            if event == Event::PTRACE_EVENT_EXEC as i32 {
                self.executed(pid);
            } else if [
                Event::PTRACE_EVENT_FORK,
                Event::PTRACE_EVENT_VFORK,
                Event::PTRACE_EVENT_CLONE,
            ]
            .iter()
            .any(|birth| event == *birth as i32)
            {
                let child = Pid::from_raw(i32::try_from(ptrace::getevent(pid).unwrap()).unwrap());
                if self.counted.contains_key(&pid) {
                    self.count(child, false);
                }
                match self.unborn.iter().position(|unborn| *unborn == child) {
                    Some(at) => {
                        self.unborn.remove(at);
                        self.go_on(child, None);
                    }
                    None => self.born.push(child),
                }
            } else if event == Event::PTRACE_EVENT_STOP as i32 && signal == Signal::SIGTRAP {
                // A birth, unless it is the end of the stop that it was seized in.
                match self.born.iter().position(|born| *born == pid) {
                    Some(at) => drop(self.born.remove(at)),
                    None if self.is_known(pid) => {}
                    None => return self.unborn.push(pid),
                }
            }
            self.go_on(pid, None);
        }

        fn executed(&mut self, pid: Pid) {
            let file: PathBuf = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
            let is_program = file.file_name().is_some_and(|name| *name == *self.program);
            if !is_program {
                self.counted.remove(&pid);
            } else if self.next == 0 {
                self.count(pid, true);
            }
        }

        fn count(&mut self, pid: Pid, in_call: bool) {
            let process =
                Process { place: self.next, calls: HashMap::new(), in_call, failing: false };
            self.next += 1;
            self.counted.insert(pid, process);
        }

        /// Anything but a child that its parent has not told of has been stopped before.
        fn is_known(&self, pid: Pid) -> bool {
            self.counted.contains_key(&pid) || self.next == 0
        }

        /// The beginning or the end of a call.
        fn call(&mut self, pid: Pid) {
            let Some(process) = self.counted.get_mut(&pid) else { return };
            process.in_call = !process.in_call;
            let Ok(mut registers) = ptrace::getregs(pid) else { return };
            if !process.in_call {
                if std::mem::take(&mut process.failing)
                    && let Fault::Error(errno) = self.fault
                {
                    registers.rax = 0_u64.wrapping_sub(errno);
                    let _ = ptrace::setregs(pid, registers);
                }
                return;
            }
            let number = registers.orig_rax;
            let nth = process.calls.entry(number).or_default();
            let here = [process.place, number, *nth];
            *nth += 1;
            if let Some(list) = &mut self.list {
                writeln!(list, "{} {} {}", here[0], here[1], here[2]).unwrap();
                return;
            }
            if here != self.at {
                return;
            }
            self.reached = true;
            match self.fault {
                Fault::Error(_) => {
                    process.failing = true;
                    // No such call: the kernel does nothing.
                    registers.orig_rax = u64::MAX;
                    let _ = ptrace::setregs(pid, registers);
                }
                Fault::Kill => {
                    let _ = kill(pid, Signal::SIGKILL);
                }
                Fault::None => {}
            }
        }

        /// A process may have been killed meanwhile, so failures are none of ours.
        fn go_on(&self, pid: Pid, signal: Option<Signal>) {
            let _ = match self.counted.contains_key(&pid) {
                true => ptrace::syscall(pid, signal),
                false => ptrace::cont(pid, signal),
            };
        }
    }
}
