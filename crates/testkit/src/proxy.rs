//! An HTTP proxy: CONNECT for TLS, whole URLs without. It takes every name for one address, so that
//! a test can use names that no name server knows.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A running proxy. Its threads end with the test's process.
#[derive(Debug)]
pub struct Proxy {
    addr: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// Starts one that leads everything to `target`.
    pub fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&seen);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let noted = Arc::clone(&noted);
                // A client that goes away ends its connection and nothing else.
                std::thread::spawn(move || serve(client, target, &noted));
            }
        });
        Self { addr, seen }
    }

    /// `http://127.0.0.1:PORT`, for HTTP_PROXY and HTTPS_PROXY.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// The request lines so far.
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

fn serve(client: TcpStream, target: SocketAddr, seen: &Mutex<Vec<String>>) -> Option<()> {
    let mut reader = BufReader::new(client.try_clone().ok()?);
    let mut head = String::new();
    reader.read_line(&mut head).ok()?;
    let line = head.trim_end().to_owned();
    while !head.ends_with("\r\n\r\n") {
        (reader.read_line(&mut head).ok()? > 0).then_some(())?;
    }
    seen.lock().unwrap().push(line.clone());
    let mut server = TcpStream::connect(target).ok()?;
    if line.starts_with("CONNECT ") {
        (&client).write_all(b"HTTP/1.1 200 connected\r\n\r\n").ok()?;
    } else {
        // One request a connection: the next could be for another host.
        let (method, rest) = line.split_once(" http://")?;
        let path = rest.find('/')?;
        let rewritten = format!("{method} {}\r\nConnection: close", &rest[path..]);
        server.write_all(head.replacen(&line, &rewritten, 1).as_bytes()).ok()?;
    }
    let (answers, to_client) = (server.try_clone().ok()?, client.try_clone().ok()?);
    let back = std::thread::spawn(move || pump(answers, to_client));
    pump(reader, server);
    let _ = back.join();
    Some(())
}

fn pump(mut from: impl Read, mut to: TcpStream) {
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}
