//! What pfwd does not do: one line with the cause, one hint, the right code, nothing half made.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panic")]

mod support;

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};

use ctsys::process::ProcessId;
use ctsys::state::{ContainerState, StateRoot, Status};
use rustix::process::{Pid, Signal, kill_process};
use support::{Pfwd, Pod, Who, ask, descriptors, echo, has_ipv6, pfwd, wait_until};
use testkit::programs::{Finished, Run, binary};

/// One line that begins so, one hint that has this in it, and the code.
#[track_caller]
fn assert_refused(done: &Finished, code: i32, line: &str, hint: &str) {
    done.assert_code(code).assert_stdout("");
    let text = done.stderr_text();
    let lines: Vec<&str> = text.lines().collect();
    let fits = matches!(lines[..], [first, second]
        if first.starts_with(&format!("pfwd: {line}")) && second.starts_with("hint: ") && second.contains(hint));
    assert!(fits, "want {line:?} and a hint with {hint:?}\n{done}");
}

#[test]
fn an_unknown_target_is_said_to_be_one() {
    let who = Who::user();
    assert_refused(&pfwd(&who, &["nosuch", "80"]), 1, "unknown target \"nosuch\"", "pid:N");
    assert_refused(&pfwd(&who, &["../x", "80"]), 1, "unknown target \"../x\"", "pid:N");
    assert_refused(&pfwd(&who, &["ftp:x", "80"]), 2, "unknown kind of target \"ftp\"", "pid:N");
    assert_refused(&pfwd(&who, &["pid:x", "80"]), 2, "invalid target \"pid:x\"", "pid:N");
    assert_refused(&pfwd(&who, &["pid:-1", "80"]), 2, "invalid target \"pid:-1\"", "pid:N");
    // Above the kernel's largest (PID_MAX_LIMIT).
    let done = pfwd(&who, &["pid:4194305", "80"]);
    assert_refused(&done, 1, "no process 4194305\n".trim_end(), "ps");
    let done = pfwd(&who, &["no\x1b[31m", "80"]);
    assert_refused(&done, 1, "unknown target \"no\\u{1b}[31m\"", "pid:N");
}

#[test]
fn a_hint_names_where_containers_were_looked_for() {
    let who = Who::user();
    let Who::User(user) = &who else { panic!("a user") };
    let dir = user.runtime_dir().join("minirun").display().to_string();
    // As when the variable differs from minirun's, or after sudo.
    assert_refused(&pfwd(&who, &["nosuch", "80"]), 1, "unknown target \"nosuch\"", &dir);
}

#[test]
fn a_thread_is_no_target_and_its_process_is_named() {
    let (told, id) = std::sync::mpsc::channel();
    let (stay, ended) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        told.send(nix::unistd::gettid()).unwrap();
        let _ = ended.recv();
    });
    let id = id.recv().unwrap();
    let done = pfwd(&Who::Root, &[&format!("pid:{id}"), ":80"]);
    let process = format!("pid:{}", std::process::id());
    assert_refused(&done, 1, &format!("{id} is a thread, not a process"), &process);
    drop(stay);
    thread.join().unwrap();
}

#[test]
fn too_few_descriptors_are_said_before_anything_is_announced() {
    let pod = Pod::start(&Who::Root);
    let mut command = Command::new("prlimit");
    command.args(["--nofile=64:64", "--"]).arg(binary("pfwd")).args([&pod.target(), ":80"]);
    let done = Run::new(command).finish();
    assert_refused(&done, 1, "too few descriptors: got a limit of 64, want at least", "ulimit -n");
}

#[test]
fn a_zombie_is_no_target() {
    let mut child = Command::new("true").stdin(Stdio::null()).spawn().unwrap();
    let pid = child.id().cast_signed();
    wait_until("true ends", || ProcessId::of(pid).unwrap().is_none());
    let done = pfwd(&Who::Root, &[&format!("pid:{pid}"), "80"]);
    assert_refused(&done, 1, &format!("process {pid} has ended already"), "ps");
    child.wait().unwrap();
}

#[test]
fn another_users_process_is_refused() {
    let pod = Pod::start(&Who::Root);
    let done = pfwd(&Who::user(), &[&pod.target(), ":80"]);
    let line = format!("not permitted to enter the network of pid:{}, a process of uid 0", pod.pid);
    assert_refused(&done, 1, &line, "as the user with uid 0, or as root");
}

#[test]
fn usage_errors_end_with_2() {
    let pod = Pod::start(&Who::Root);
    let target = pod.target();
    for (spec, part) in [
        ("80:0", "remote port: got \"0\""),
        ("80:65536", "remote port: got \"65536\""),
        ("99999:80", "local port: got \"99999\""),
        ("localhost:1:2", "bind address: got \"localhost\""),
        ("-5", "remote port: got \"-5\""),
        ("1:2:3:4", "got 4 parts"),
    ] {
        let done = pfwd(&Who::Root, &[&target, spec]);
        assert_refused(&done, 2, &format!("invalid forward \"{spec}\": {part}"), "8080:80");
    }
    let line = format!("no port to forward: {target} declares none");
    assert_refused(&pfwd(&Who::Root, &[&target]), 2, &line, "8080:80");
    let line = "the following required arguments were not provided: <TARGET>";
    assert_refused(&pfwd(&Who::Root, &[]), 2, line, "--help");
    let help = pfwd(&Who::Root, &["--help"]);
    help.assert_code(0);
    assert!(help.stdout_text().contains("Exit codes:"), "{help}");
}

#[test]
fn a_busy_port_names_its_owner_and_nothing_is_started() {
    for who in Who::each() {
        let pod = Pod::start(&who);
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        // Another pfwd of the same user has it.
        let first = Pfwd::start(&who, &pod.target(), &[80]);
        let busy = first.address(80).port();
        let specs = [format!("{free}:80"), format!("{busy}:80")];
        let done = pfwd(&who, &[&pod.target(), &specs[0], &specs[1]]);
        let owner = format!("pfwd (pid {})", first.pid);
        let line = format!("cannot listen on 127.0.0.1:{busy}: the port is in use by {owner}");
        assert_refused(&done, 1, &line, "another local port");
        assert!(TcpStream::connect(("127.0.0.1", free)).is_err());
    }
    // In one family only: a client that takes the other would reach another program.
    if has_ipv6() {
        let listener = TcpListener::bind("[::1]:0").unwrap();
        let busy = listener.local_addr().unwrap().port();
        let pod = Pod::start(&Who::Root);
        let done = pfwd(&Who::Root, &[&pod.target(), &format!("{busy}:80")]);
        let line = format!("cannot listen on [::1]:{busy}: the port is in use by ");
        assert_refused(&done, 1, &line, "another local port");
        assert!(done.stderr_text().contains(&format!("(pid {})", std::process::id())), "{done}");
        assert!(TcpStream::connect(("127.0.0.1", busy)).is_err());
    }
    // Wanted on every address, in use on one.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let busy = listener.local_addr().unwrap().port();
    let pod = Pod::start(&Who::Root);
    let done = pfwd(&Who::Root, &[&pod.target(), &format!("0.0.0.0:{busy}:80")]);
    assert_refused(&done, 1, &format!("cannot listen on 0.0.0.0:{busy}"), "another local port");
    assert!(done.stderr_text().contains(&format!("(pid {})", std::process::id())), "{done}");
    // An owner that the user may not look at.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let who = Who::user();
    let pod = Pod::start(&who);
    let busy = listener.local_addr().unwrap().port();
    let done = pfwd(&who, &[&pod.target(), &format!("{busy}:80")]);
    let line =
        format!("cannot listen on 127.0.0.1:{busy}: the port is in use by a process of uid 0");
    assert_refused(&done, 1, &line, "another local port");
}

#[test]
fn the_same_port_twice_and_an_address_that_is_not_ours_are_refused() {
    let pod = Pod::start(&Who::Root);
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let spec = format!("{free}:80");
    let done = pfwd(&Who::Root, &[&pod.target(), &spec, &spec]);
    let line = format!("cannot listen on 127.0.0.1:{free}: two forwards want it");
    assert_refused(&done, 2, &line, "of its own");
    let done = pfwd(&Who::Root, &[&pod.target(), "192.0.2.77:0:80"]);
    assert_refused(&done, 1, "cannot listen on 192.0.2.77:0: bind(", "ip address");
}

#[test]
fn the_own_network_is_dialled_directly_and_never_into_itself() {
    for who in Who::each() {
        let mut sleep = who.command("sleep");
        sleep.arg("infinity");
        let process = Run::new(sleep).spawn();
        let target = format!("pid:{}", process.pid());
        wait_until("setpriv has become sleep", || {
            std::fs::read(format!("/proc/{}/comm", process.pid())).unwrap() == b"sleep\n"
        });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || listener.incoming().for_each(|s| echo(s.unwrap())));
        let through = Pfwd::start(&who, &target, &[port]);
        assert_eq!(ask(through.connect(port), "direct").unwrap(), "direct");
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let done = pfwd(&who, &[&target, &free.to_string()]);
        let line = format!("cannot forward 127.0.0.1:{free} to itself");
        assert_refused(&done, 2, &line, "another local port");
    }
}

#[test]
fn a_container_of_minirun_is_found_by_name_and_its_declared_port_forwarded() {
    for who in Who::each() {
        let pod = Pod::start(&who);
        // Free on this machine, too: without a SPEC the port has the same number here.
        let port = pod.serve(echo);
        let name = format!("pod-{}", pod.pid);
        let record = Record::write(&who, &name, pod.pid, &[format!("{port}/tcp"), "53/udp".into()]);
        for typed in [&name, &record.id] {
            let mut command = who.command(binary("pfwd"));
            command.arg(typed);
            let pfwd = Pfwd::spawn(command);
            let line = format!("forwarding 127.0.0.1:{port}");
            let text = pfwd.process.wait_stderr(&line);
            assert!(!text.contains(":53"), "{text}");
            assert_eq!(ask(pfwd.connect(port), "by name").unwrap(), "by name");
        }
        let done = pfwd(&who, &["nosuch", "80"]);
        assert_refused(&done, 1, "unknown target \"nosuch\"", &name);
        // The record outlives the container.
        let pid = pod.pid;
        pod.kill();
        assert!(ProcessId::of(pid).unwrap().is_none());
        let done = pfwd(&who, &[&name, ":80"]);
        let line = format!("container \"{name}\" is stopped");
        assert_refused(&done, 1, &line, "minirun list");
    }
}

#[test]
fn the_helper_can_do_nothing_but_make_sockets() {
    for who in Who::each() {
        let pod = Pod::start(&who);
        let mut command = Command::new("sh");
        // A descriptor that a careless caller leaks.
        let user = who.command(binary("pfwd"));
        let shell = format!("exec 9</etc/passwd; exec \"$@\" {} :80", pod.target());
        command.args(["-c", &shell, "sh"]).arg(user.get_program()).args(user.get_args());
        let pfwd = Pfwd::spawn(command);
        pfwd.process.wait_stderr("forwarding");
        let helper = pfwd.helper();
        let status = std::fs::read_to_string(format!("/proc/{helper}/status")).unwrap();
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert!(status.contains(&format!("{set}:\t0000000000000000")), "{status}");
        }
        assert!(status.contains("NoNewPrivs:\t1"), "{status}");
        // A batch of sockets that it is just making goes away by itself.
        wait_until("it holds the null device three times and its channel", || {
            let mut open = descriptors(helper);
            open.sort();
            let (null, rest) = open.split_at(3.min(open.len()));
            null.iter().all(|path| path == Path::new("/dev/null"))
                && matches!(rest, [channel] if channel.to_string_lossy().starts_with("socket:"))
        });
        // What is not dumpable belongs to root in /proc (proc(5)), whoever it runs as.
        use std::os::unix::fs::MetadataExt as _;
        let meta = std::fs::metadata(format!("/proc/{helper}/environ")).unwrap();
        assert_eq!(meta.uid(), 0);
        let network = |pid| std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
        assert_eq!(network(helper), network(pod.pid));
        // Somebody kills it: pfwd says so and ends.
        kill_process(Pid::from_raw(helper).unwrap(), Signal::KILL).unwrap();
        pfwd.process.finish().assert_code(1).assert_stderr("helper in the target's namespaces");
    }
}

/// Whoever may trace processes in the target's user namespace must not find one there that can still
/// see this machine's files.
#[test]
fn the_helper_hides_before_it_joins() {
    for who in Who::each() {
        let pod = Pod::start(&who);
        let dir = tempfile::tempdir().unwrap();
        let trace = dir.path().join("trace");
        let run = who.command(binary("pfwd"));
        let mut command = Command::new("strace");
        command.args(["-f", "-e", "trace=prctl,setns", "-o"]).arg(&trace);
        command.arg(run.get_program()).args(run.get_args()).args([&pod.target(), ":80"]);
        let process = Run::new(command).spawn();
        process.wait_stderr("forwarding");
        let trace = std::fs::read_to_string(trace).unwrap();
        let at = |call: &str| trace.lines().position(|line| line.contains(call));
        let (hidden, joined) = (at("prctl(PR_SET_DUMPABLE, SUID_DUMP_DISABLE"), at("setns("));
        assert!(hidden.is_some() && hidden < joined, "{trace}");
    }
}

/// A container's record as minirun writes it; removed at the end.
struct Record {
    root: StateRoot,
    id: String,
}

impl Record {
    fn write(who: &Who, name: &str, pid: i32, exposed_ports: &[String]) -> Self {
        let root = match who {
            Who::Root => StateRoot::open_default().unwrap(),
            Who::User(user) => {
                let path = user.runtime_dir().join("minirun");
                drop(StateRoot::open(path.clone(), 0).unwrap());
                user.own(&path);
                StateRoot::open(path, user.uid()).unwrap()
            }
        };
        let main = ProcessId::of(pid).unwrap();
        let id = format!("id-of-{name}");
        let state = ContainerState {
            oci_version: "1.0.2".into(),
            id: id.clone(),
            status: Status::Running,
            pid,
            bundle: "/nonexistent".into(),
            annotations: Default::default(),
            name: name.into(),
            rootfs: "/nonexistent/rootfs".into(),
            created: "2026-01-01T00:00:00Z".into(),
            init: main,
            main,
            monitor: None,
            exposed_ports: exposed_ports.to_vec(),
            cgroup: None,
            oom_killed: false,
            exit_code: None,
            started: None,
            finished: None,
            transient: false,
        };
        let lock = root.lock().unwrap();
        let dir = root.create(&state, &lock).unwrap();
        if let Who::User(user) = who {
            user.own(&dir);
            user.own(&dir.join("state.json"));
        }
        Self { root, id }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let lock = self.root.lock().unwrap();
        let _ = self.root.remove(&self.id, &lock);
    }
}
