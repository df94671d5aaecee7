//! Many connections, much data, bad neighbours; and nothing left of them afterwards.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panic")]

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::thread;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use sha2::{Digest as _, Sha256};
use support::{Pfwd, Pod, Who, ask, descriptors, echo, patient, reset, wait_until};
use testkit::programs::{Run, binary};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Barrier;

const CONNECTIONS: usize = 3000;
const TRANSFER_BYTES: u64 = 200 << 20;

#[test]
fn thousands_of_connections_are_open_at_once_and_each_gets_its_own_data() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    for who in Who::each() {
        let pod = Pod::start(&who);
        let (listener, port) = pod.listen();
        let pfwd = Pfwd::start(&who, &pod.target(), &[port]);
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            listener.set_nonblocking(true).unwrap();
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            tokio::spawn(async move {
                loop {
                    let (mut stream, _) = listener.accept().await.unwrap();
                    tokio::spawn(async move {
                        let (mut reader, mut writer) = stream.split();
                        tokio::io::copy(&mut reader, &mut writer).await
                    });
                }
            });
            let all_open = Arc::new(Barrier::new(CONNECTIONS));
            let address = pfwd.address(port);
            let clients: Vec<_> = (0..CONNECTIONS)
                .map(|number| tokio::spawn(converse(address, number, Arc::clone(&all_open))))
                .collect();
            for client in clients {
                client.await.unwrap();
            }
        });
        wait_until("pfwd has closed them", || descriptors(pfwd.pid).len() < CONNECTIONS / 2);
    }
}

/// A first word, and a second when all others have had their first.
async fn converse(address: SocketAddr, number: usize, all_open: Arc<Barrier>) {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    for round in ["first", "second"] {
        let text = format!("{round} word of {number}");
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut back = vec![0; text.len()];
        stream.read_exact(&mut back).await.unwrap();
        assert_eq!(String::from_utf8(back).unwrap(), text);
        all_open.wait().await;
    }
    stream.shutdown().await.unwrap();
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
}

#[test]
fn much_data_passes_both_ways_at_once_unchanged() {
    for who in Who::each() {
        let pod = Pod::start(&who);
        let (listener, port) = pod.listen();
        let pfwd = Pfwd::start(&who, &pod.target(), &[port]);
        let client = pfwd.connect(port);
        let server = patient(listener.accept().unwrap().0);
        thread::scope(|scope| {
            let sent_up = scope.spawn(|| send(&client, 1));
            let sent_down = scope.spawn(|| send(&server, 2));
            let got_down = scope.spawn(|| receive(&client));
            let got_up = scope.spawn(|| receive(&server));
            assert_eq!(got_up.join().unwrap(), sent_up.join().unwrap());
            assert_eq!(got_down.join().unwrap(), sent_down.join().unwrap());
        });
    }
}

/// Sends noise in writes of odd sizes, then the end; returns what was sent by length and digest.
fn send(mut stream: &TcpStream, seed: u64) -> (u64, [u8; 32]) {
    let mut noise = vec![0; 300_007];
    let mut state = seed;
    for byte in &mut noise {
        // Knuth's MMIX generator; its high bits are the good ones.
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *byte = (state >> 56) as u8;
    }
    let (mut hash, mut sent) = (Sha256::new(), 0);
    for round in 0_usize.. {
        let part = &noise[round * 7919 % 200_000..];
        stream.write_all(part).unwrap();
        hash.update(part);
        sent += part.len() as u64;
        if sent >= TRANSFER_BYTES {
            break;
        }
    }
    stream.shutdown(Shutdown::Write).unwrap();
    (sent, hash.finalize().into())
}

fn receive(mut stream: &TcpStream) -> (u64, [u8; 32]) {
    let (mut hash, mut got) = (Sha256::new(), 0);
    let mut buffer = vec![0; 1 << 20];
    loop {
        match stream.read(&mut buffer).unwrap() {
            0 => return (got, hash.finalize().into()),
            length => {
                hash.update(&buffer[..length]);
                got += length as u64;
            }
        }
    }
}

#[test]
fn no_descriptor_or_thread_is_left_after_much_coming_and_going() {
    for who in Who::each() {
        let pod = Pod::start(&who);
        let good = pod.serve(echo);
        let rude = pod.serve(reset);
        let (listener, closed) = pod.listen();
        drop(listener);
        let pfwd = Pfwd::start(&who, &pod.target(), &[good, rude, closed]);
        let round = || {
            assert_eq!(ask(pfwd.connect(good), "hello").unwrap(), "hello");
            reset(pfwd.connect(good));
            let _ = ask(pfwd.connect(rude), "hello").unwrap_err();
            let _ = ask(pfwd.connect(closed), "hello").unwrap_err();
        };
        (0..50).for_each(|_| round());
        let threads = || std::fs::read_dir(format!("/proc/{}/task", pfwd.pid)).unwrap().count();
        let before = threads();
        (0..500).for_each(|_| round());
        // What stays is the stock of sockets, whose size varies.
        let most = 64 + pfwd::pool::MAX_STOCK;
        wait_until("pfwd has closed them", || descriptors(pfwd.pid).len() <= most);
        wait_until("the helper has, too", || descriptors(pfwd.helper()).len() == 4);
        assert_eq!(threads(), before);
        // Some of the refusals are told, and how many were not.
        assert!(pfwd.process.stderr_text().lines().count() < 500);
    }
}

#[test]
fn more_clients_than_descriptors_wait_for_their_turn() {
    let who = Who::Root;
    let pod = Pod::start(&who);
    let port = pod.serve(echo);
    let mut command = Command::new("prlimit");
    command.args(["--nofile=512:512", "--"]).arg(binary("pfwd"));
    command.args([pod.target(), format!(":{port}")]);
    let pfwd = Pfwd::spawn(command);
    // Far more than can be served; those that are hold on until they have been answered.
    let waiting: Vec<TcpStream> = (0..600).map(|_| pfwd.connect(port)).collect();
    for mut stream in waiting {
        stream.write_all(b"turn").unwrap();
        let mut back = [0; 4];
        stream.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"turn");
    }
    assert_eq!(ask(pfwd.connect(port), "after").unwrap(), "after");
}

#[test]
fn accepting_pauses_while_descriptors_are_out_and_goes_on_after() {
    let pod = Pod::start(&Who::Root);
    let port = pod.serve(echo);
    let pfwd = Pfwd::start(&Who::Root, &pod.target(), &[port]);
    assert_eq!(ask(pfwd.connect(port), "before").unwrap(), "before");
    let limit = |count: &str| {
        let pid = pfwd.pid.to_string();
        Run::program("prlimit", &["--pid", &pid, &format!("--nofile={count}:")])
            .finish()
            .assert_success();
    };
    limit("4");
    let waiting = pfwd.connect(port);
    pfwd.process.wait_stderr("pfwd: accepting no connections for now: Too many open files");
    limit("4096");
    assert_eq!(ask(waiting, "waited").unwrap(), "waited");
    // One line a pause, a pause a tenth of a second, five lines a second: no spinning.
    assert!(pfwd.process.stderr_text().lines().count() < 1000);
}

/// A script that started it and looks away, or a terminal stopped by Ctrl-S.
#[test]
fn a_standard_error_that_nobody_reads_stops_nothing() {
    let pod = Pod::start(&Who::Root);
    let port = pod.serve(echo);
    let (listener, closed) = pod.listen();
    drop(listener);
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut command = Command::new(binary("pfwd"));
    command.args([pod.target(), format!(":{port}"), format!(":{closed}")]);
    let mut pfwd = Killed(command.stderr(writer.try_clone().unwrap()).spawn().unwrap());
    let mut said = String::new();
    while !said.ends_with(&format!(":{closed}\n")) {
        let mut some = [0; 512];
        let length = reader.read(&mut some).unwrap();
        assert_ne!(length, 0, "pfwd ended: {said}");
        said.push_str(std::str::from_utf8(&some[..length]).unwrap());
    }
    let address = |remote: u16| -> std::net::SocketAddr {
        let line = said.lines().find(|l| l.ends_with(&format!(":{remote}"))).unwrap();
        line.split(' ').nth(1).unwrap().parse().unwrap()
    };
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    let mut full = &writer;
    while full.write(&[b'x'; 4096]).is_ok() {}
    while full.write(b"x").is_ok() {}
    // The description is shared with pfwd, whose own writes block again.
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
    // More refusals than there are threads that could be caught in telling of them.
    for _ in 0..20 {
        let mut refused = patient(TcpStream::connect(address(closed)).unwrap());
        let error = refused.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
    for _ in 0..20 {
        let stream = patient(TcpStream::connect(address(port)).unwrap());
        assert_eq!(ask(stream, "goes on").unwrap(), "goes on");
    }
    let process = rustix::process::Pid::from_child(&pfwd.0);
    rustix::process::kill_process(process, rustix::process::Signal::TERM).unwrap();
    wait_until("a signal still ends it", || pfwd.0.try_wait().unwrap().is_some());
    assert_eq!(pfwd.0.wait().unwrap().code(), Some(143));
}

/// A child that does not outlive a failing test.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn peers_that_flood_or_never_read_disturb_nobody_else() {
    let who = Who::Root;
    let pod = Pod::start(&who);
    let port = pod.serve(echo);
    let flooding = pod.serve(|mut stream| while stream.write_all(&[7; 65536]).is_ok() {});
    let pfwd = Pfwd::start(&who, &pod.target(), &[port, flooding]);
    let stuck: Vec<TcpStream> = (0..20).map(|_| pfwd.connect(flooding)).collect();
    let drains: Vec<_> = (0..2)
        .map(|_| {
            let mut stream = pfwd.connect(flooding);
            thread::spawn(move || {
                let mut buffer = vec![0; 65536];
                while stream.read(&mut buffer).is_ok_and(|length| length > 0) {}
            })
        })
        .collect();
    for _ in 0..50 {
        assert_eq!(ask(pfwd.connect(port), "among them").unwrap(), "among them");
    }
    drop(stuck);
    drop(pfwd);
    drains.into_iter().for_each(|drain| drain.join().unwrap());
}
