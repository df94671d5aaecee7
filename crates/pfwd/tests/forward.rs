//! What a connection through pfwd does, compared with what a direct one would.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panic")]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::process::Command;
use std::time::Duration;

use nix::sys::socket::{MsgFlags, send};
use rustix::process::Signal;
use support::{
    PATIENCE, Pfwd, Pod, Who, ask, echo, has_ipv6, patient, read_all, reset, wait_until,
};
use testkit::programs::{Run, binary, process_runs};
use testkit::user::TestUser;

/// Longer than the time that peers keep half a connection for.
const LATE: Duration = Duration::from_millis(2500);

#[test]
fn curl_fetches_pages_from_nginx() {
    for who in Who::each() {
        let pod = Pod::start(&who);
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("page"), "a page\n".repeat(10_000)).unwrap();
        let (listener, port) = pod.listen();
        drop(listener);
        let path = dir.path().display();
        let config = format!(
            "daemon off; user root; pid {path}/pid; error_log stderr; events {{}} http {{ \
             access_log off; client_body_temp_path {path}/b; proxy_temp_path {path}/p; \
             fastcgi_temp_path {path}/f; uwsgi_temp_path {path}/u; scgi_temp_path {path}/s; \
             server {{ listen 127.0.0.1:{port}; root {path}; }} }}"
        );
        std::fs::write(dir.path().join("conf"), config).unwrap();
        let mut nginx = Command::new("nsenter");
        nginx.arg(format!("--net=/proc/{}/ns/net", pod.pid)).args(["nginx", "-c"]);
        nginx.arg(dir.path().join("conf"));
        let _nginx = Run::new(nginx).spawn();
        wait_until("nginx listens", || {
            pod.inside(|| TcpStream::connect(("127.0.0.1", port))).is_ok()
        });
        let pfwd = Pfwd::start(&who, &pod.target(), &[port]);
        let local = pfwd.address(port).port();
        let hosts = if has_ipv6() { &["127.0.0.1", "[::1]"][..] } else { &["127.0.0.1"] };
        for host in hosts {
            let url = format!("http://{host}:{local}/page");
            // Twice, over one connection.
            let done = Run::program("curl", &["-sSf", "--noproxy", "*", &url, &url]).finish();
            done.assert_success().assert_stdout(&"a page\n".repeat(20_000));
        }
    }
}

#[test]
fn an_answer_arrives_long_after_the_question_ended() {
    for who in Who::each() {
        let pod = Pod::start(&who);
        let port = pod.serve(|mut stream| {
            let question = read_all(&mut stream).unwrap();
            std::thread::sleep(LATE);
            stream.write_all(format!("answer to {question}").as_bytes()).unwrap();
        });
        let pfwd = Pfwd::start(&who, &pod.target(), &[port]);
        assert_eq!(ask(pfwd.connect(port), "question").unwrap(), "answer to question");
    }
}

#[test]
fn a_client_may_go_on_long_after_the_server_ended() {
    for who in Who::each() {
        let pod = Pod::start(&who);
        let (listener, port) = pod.listen();
        let pfwd = Pfwd::start(&who, &pod.target(), &[port]);
        let mut client = pfwd.connect(port);
        let mut server = patient(listener.accept().unwrap().0);
        server.write_all(b"all I have").unwrap();
        server.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&mut client).unwrap(), "all I have");
        std::thread::sleep(LATE);
        client.write_all(b"a late word").unwrap();
        drop(client);
        assert_eq!(read_all(&mut server).unwrap(), "a late word");
    }
}

#[test]
fn a_reset_reaches_the_other_side_whatever_was_ended_before() {
    for who in Who::each() {
        let pod = Pod::start(&who);
        let (listener, port) = pod.listen();
        let pfwd = Pfwd::start(&who, &pod.target(), &[port]);
        let pair = || (pfwd.connect(port), patient(listener.accept().unwrap().0));

        let (mut client, server) = pair();
        reset(server);
        assert_reset(&mut client, "server resets");

        let (client, mut server) = pair();
        reset(client);
        assert_reset(&mut server, "client resets");

        let (mut client, mut server) = pair();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&mut server).unwrap(), "");
        reset(server);
        assert_reset(&mut client, "server resets after the client's end");

        // Nothing is read from a side that has ended, so its reset shows in no read.
        let (client, mut server) = pair();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&mut server).unwrap(), "");
        reset(client);
        wait_until("client resets after its end", || server.take_error().unwrap().is_some());

        let (mut client, server) = pair();
        server.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&mut client).unwrap(), "");
        reset(server);
        wait_until("server resets after its end", || client.take_error().unwrap().is_some());
    }
}

#[test]
fn a_reset_is_passed_on_while_the_other_side_takes_no_data() {
    let pod = Pod::start(&Who::Root);
    let (listener, port) = pod.listen();
    let pfwd = Pfwd::start(&Who::Root, &pod.target(), &[port]);
    let stuck = || {
        let (client, mut server) = (pfwd.connect(port), listener.accept().unwrap().0);
        fill(&mut server);
        (client, server)
    };

    let (client, server) = stuck();
    reset(client);
    wait_until("the server learns of it", || server.take_error().unwrap().is_some());

    // Nothing is read from the server meanwhile, nor can anything be written to the client.
    let (client, server) = stuck();
    reset(server);
    wait_until("the client learns of it", || client.take_error().unwrap().is_some());
}

/// Writes until every buffer on the way is full: for a while, nothing was taken.
fn fill(stream: &mut TcpStream) {
    stream.set_nonblocking(true).unwrap();
    let mut quiet = 0;
    while quiet < 20 {
        match stream.write(&[0; 65536]) {
            Ok(_) => quiet = 0,
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                quiet += 1;
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(e) => panic!("{e}"),
        }
    }
}

#[test]
fn what_a_server_said_before_its_reset_is_delivered() {
    let pod = Pod::start(&Who::Root);
    let (listener, port) = pod.listen();
    let pfwd = Pfwd::start(&Who::Root, &pod.target(), &[port]);
    let (mut client, mut server) = (pfwd.connect(port), listener.accept().unwrap().0);
    server.write_all(b"no more of that").unwrap();
    let mut word = [0; 15];
    client.read_exact(&mut word).unwrap();
    server.write_all(b", please").unwrap();
    reset(server);
    let mut rest = Vec::new();
    let error = client.read_to_end(&mut rest).unwrap_err();
    assert_eq!((error.kind(), rest), (ErrorKind::ConnectionReset, b", please".to_vec()));
}

/// The error of a socket is told once, to whichever call comes first: when that was a write, reading
/// finds an end where there was a reset.
#[test]
fn a_reset_at_once_is_never_taken_for_an_end() {
    let pod = Pod::start(&Who::Root);
    let port = pod.serve(reset);
    let pfwd = Pfwd::start(&Who::Root, &pod.target(), &[port]);
    for round in 0..500 {
        let answer = ask(pfwd.connect(port), "hello");
        assert!(answer.is_err(), "round {round}: {answer:?}");
    }
}

/// Reading stops before urgent data with more behind it; what waits for the next arrival then waits
/// for ever.
#[test]
fn urgent_data_is_passed_on_in_its_place_and_stops_nothing() {
    let pod = Pod::start(&Who::Root);
    let (listener, port) = pod.listen();
    let pfwd = Pfwd::start(&Who::Root, &pod.target(), &[port]);
    let urgent = |mut stream: &TcpStream| {
        let sent = send(stream.as_raw_fd(), b"!", MsgFlags::MSG_OOB);
        assert_eq!(sent, Ok(1));
        stream.write_all(b"after").unwrap();
    };

    let (mut client, mut server) = (pfwd.connect(port), patient(listener.accept().unwrap().0));
    client.write_all(b"first").unwrap();
    server.read_exact(&mut [0; 5]).unwrap();
    // All of it is there when pfwd reads next.
    pfwd.process.signal(Signal::STOP);
    client.write_all(b"before").unwrap();
    urgent(&client);
    pfwd.process.signal(Signal::CONT);
    let mut text = [0; 12];
    server.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"before!after");

    // The same amid bulk.
    let (mut client, mut server) = (pfwd.connect(port), patient(listener.accept().unwrap().0));
    let rounds = 50;
    let bulk = vec![0; 1 << 20];
    let total = rounds * (bulk.len() + 6);
    let sender = std::thread::spawn(move || {
        for _ in 0..rounds {
            client.write_all(&bulk).unwrap();
            urgent(&client);
        }
        client
    });
    let mut buffer = vec![0; 1 << 16];
    let (mut length, mut marks) = (0, 0);
    while length < total {
        let read = server.read(&mut buffer).unwrap();
        assert_ne!(read, 0, "after {length} of {total} bytes");
        marks += buffer[..read].iter().filter(|&&byte| byte == b'!').count();
        length += read;
    }
    assert_eq!(marks, rounds);
    drop(sender.join().unwrap());
}

#[test]
fn without_ipv6_here_or_there_ipv4_alone_is_used() {
    // The forward's own side is a network without IPv6, too.
    let here = Pod::start(&Who::Root);
    let there = Pod::start(&Who::Root);
    for pod in [&here, &there] {
        pod.inside(|| {
            let off = std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1");
            let missing = std::io::ErrorKind::NotFound;
            assert!(
                off.is_ok() || off.is_err_and(|e| e.kind() == missing),
                "no way to switch it off"
            );
        });
    }
    let port = there.serve(echo);
    let (listener, closed) = there.listen();
    drop(listener);
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/proc/{}/ns/net", here.pid)).arg(binary("pfwd"));
    command.args([there.target(), format!(":{port}"), format!(":{closed}")]);
    let pfwd = Pfwd::spawn(command);
    let text = pfwd.process.wait_stderr(&format!(":{closed}\n"));
    assert!(!text.contains("[::1]"), "{text}");
    let (open, shut) = (pfwd.address(port), pfwd.address(closed));
    let stream = here.inside(|| TcpStream::connect(open).unwrap());
    assert_eq!(ask(patient(stream), "four").unwrap(), "four");
    let mut stream = patient(here.inside(|| TcpStream::connect(shut).unwrap()));
    assert_reset(&mut stream, "nobody listens");
    let line = format!("cannot connect to {}:{closed}: connection refused\n", there.target());
    pfwd.process.wait_stderr(&line);
}

/// Its owner is an id that only the container's namespace gives to the user.
#[test]
fn a_command_that_runs_as_a_subordinate_id_is_reached() {
    let who = Who::User(Box::new(TestUser::with_subids()));
    let script = "exec setpriv --reuid=33 --regid=33 --clear-groups sleep infinity";
    let pod = Pod::running(&who, script);
    wait_until("the command has its id", || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", pod.pid)).unwrap();
        status.contains("Name:\tsleep\n")
    });
    let port = pod.serve(echo);
    let pfwd = Pfwd::start(&who, &pod.target(), &[port]);
    assert_eq!(ask(pfwd.connect(port), "through").unwrap(), "through");
}

#[test]
fn a_refused_connection_ends_nothing_else() {
    for who in Who::each() {
        let pod = Pod::start(&who);
        let good = pod.serve(echo);
        let (listener, bad) = pod.listen();
        drop(listener);
        let pfwd = Pfwd::start(&who, &pod.target(), &[good, bad]);
        let mut open = pfwd.connect(good);
        open.write_all(b"be").unwrap();
        assert_reset(&mut pfwd.connect(bad), "nobody listens");
        let line = format!("pfwd: cannot connect to pid:{}:{bad}: connection refused\n", pod.pid);
        pfwd.process.wait_stderr(&line);
        assert_eq!(ask(pfwd.connect(good), "still there").unwrap(), "still there");
        assert_eq!(ask(open, "fore").unwrap(), "before");
        // A server that comes up later is reached.
        let listener = pod.inside(|| TcpListener::bind(("127.0.0.1", bad)).unwrap());
        std::thread::spawn(move || echo(listener.accept().unwrap().0));
        assert_eq!(ask(pfwd.connect(bad), "now").unwrap(), "now");
    }
}

#[test]
fn a_server_on_ipv6_only_is_reached() {
    if !has_ipv6() {
        return;
    }
    for who in Who::each() {
        let pod = Pod::start(&who);
        let listener = pod.inside(|| TcpListener::bind("[::1]:0").unwrap());
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || listener.incoming().for_each(|s| echo(s.unwrap())));
        let pfwd = Pfwd::start(&who, &pod.target(), &[port]);
        for word in ["first", "second"] {
            assert_eq!(ask(pfwd.connect(port), word).unwrap(), word);
        }
        // One that takes its place on IPv4, too.
        let other = pod.serve(echo);
        let pfwd = Pfwd::start(&who, &pod.target(), &[other]);
        assert_eq!(ask(pfwd.connect(other), "third").unwrap(), "third");
    }
}

#[test]
fn the_end_of_the_target_ends_pfwd_and_its_connections() {
    for who in Who::each() {
        let pod = Pod::start(&who);
        let port = pod.serve(echo);
        let target = pod.target();
        let pfwd = Pfwd::start(&who, &target, &[port]);
        let mut open = pfwd.connect(port);
        open.write_all(b"x").unwrap();
        open.read_exact(&mut [0]).unwrap();
        let (address, helper) = (pfwd.address(port), pfwd.helper());
        pod.kill();
        let done = pfwd.process.finish();
        done.assert_code(1).assert_stderr(&format!("pfwd: target {target} ended\n"));
        assert_reset(&mut open, "the server's side is held by the test");
        assert!(!process_runs(helper), "the helper goes with pfwd");
        let error = TcpStream::connect(address).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    }
}

#[test]
fn the_last_words_of_a_target_arrive() {
    let script = "exec busybox nc -l -p 7777 -e echo goodbye";
    let pod = Pod::running(&Who::Root, script);
    wait_until("nc listens", || {
        let table = std::fs::read_to_string(format!("/proc/{}/net/tcp", pod.pid)).unwrap();
        let table6 = std::fs::read_to_string(format!("/proc/{}/net/tcp6", pod.pid));
        (table + &table6.unwrap_or_default()).contains(":1E61 ")
    });
    let pfwd = Pfwd::start(&Who::Root, &pod.target(), &[7777]);
    assert_eq!(read_all(&mut pfwd.connect(7777)).unwrap(), "goodbye\n");
    pfwd.process.finish().assert_code(1);
}

#[test]
fn signals_end_it_and_leave_nothing() {
    for who in Who::each() {
        let pod = Pod::start(&who);
        let port = pod.serve(echo);
        for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
            let pfwd = Pfwd::start(&who, &pod.target(), &[port]);
            let mut open = pfwd.connect(port);
            open.write_all(b"x").unwrap();
            open.read_exact(&mut [0]).unwrap();
            let helper = pfwd.helper();
            pfwd.process.signal(signal);
            pfwd.process.finish().assert_code(code);
            assert!(!process_runs(helper), "the helper goes with pfwd");
            assert_reset(&mut open, "cut short, so not as if all had been said");
        }
        // Even when it cannot say goodbye.
        let pfwd = Pfwd::start(&who, &pod.target(), &[port]);
        let helper = pfwd.helper();
        pfwd.process.signal(Signal::KILL);
        pfwd.process.finish();
        wait_until("the helper dies with pfwd", || !process_runs(helper));
    }
}

#[test]
fn a_signal_that_nohup_or_a_shell_has_it_ignore_does_not_end_it() {
    for who in Who::each() {
        let pod = Pod::start(&who);
        let port = pod.serve(echo);
        let ignored = "--ignore-signal=HUP,INT";
        let pfwd = Pfwd::start_with(&who, ignored, &pod.target(), &[port]);
        pfwd.process.signal(Signal::HUP);
        pfwd.process.signal(Signal::INT);
        let mut open = pfwd.connect(port);
        open.write_all(b"x").unwrap();
        open.read_exact(&mut [0]).unwrap();
        pfwd.process.signal(Signal::TERM);
        pfwd.process.finish().assert_code(143);
    }
}

#[track_caller]
fn assert_reset(stream: &mut TcpStream, when: &str) {
    let result = stream.read(&mut [0; 16]);
    let kind = result.as_ref().map_err(std::io::Error::kind);
    assert_eq!(kind, Err(ErrorKind::ConnectionReset), "{when}, within {PATIENCE:?}");
}
