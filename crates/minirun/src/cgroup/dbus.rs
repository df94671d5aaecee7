//! As much of D-Bus as asking systemd for a scope takes: one connection, calls, replies, signals
//! (D-Bus specification, "Message Protocol", "Authentication Protocol").
//!
//! A library would bring an async runtime or a C one along; what is needed is a page of encoding.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use ctsys::SysError;
use ctsys::error::{Context, Result};
use nix::errno::Errno;

/// The bus allows 128 MiB; what systemd answers and signals here is below one kilobyte.
const MAX_MESSAGE_BYTES: usize = 256 << 10;
/// A line of the handshake: `OK` and the server's 32 digits.
const MAX_LINE_BYTES: usize = 512;
/// How long a call is waited for: D-Bus libraries' usual 25 s.
const CALL_LIMIT: Duration = Duration::from_secs(25);

/// Types of messages, and numbers of header fields (specification, "Header Fields").
const METHOD_CALL: u8 = 1;
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;
const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

/// Whom a call goes to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Callee<'a> {
    pub destination: &'a str,
    pub path: &'a str,
    pub interface: &'a str,
}

/// A message that came in.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Message {
    kind: u8,
    reply_serial: Option<u32>,
    /// The error's, where it is one.
    pub error: Option<String>,
    /// The signal's, where it is one.
    pub member: Option<String>,
    body: Vec<u8>,
}

/// A connection on which calls can be made.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    serial: u32,
    deadline: Instant,
    /// Signals that came while a reply was waited for.
    signals: Vec<Message>,
}

impl Connection {
    /// Connects and says who it is: the kernel vouches for the user id (EXTERNAL).
    pub(super) fn open(socket: &Path, uid: u32) -> Result<Self> {
        let stream = UnixStream::connect(socket).call("connect", || format!("{socket:?}"))?;
        let deadline = Instant::now() + CALL_LIMIT;
        let mut connection = Self { stream, serial: 0, deadline, signals: Vec::new() };
        let id: String = uid.to_string().bytes().map(|digit| format!("{digit:02x}")).collect();
        connection.write(format!("\0AUTH EXTERNAL {id}\r\n").as_bytes())?;
        let line = connection.line()?;
        if !line.starts_with(b"OK") {
            return Err(SysError::new("recv", format!("{socket:?}, AUTH"), Errno::EACCES));
        }
        connection.write(b"BEGIN\r\n")?;
        Ok(connection)
    }

    /// Calls a method and waits for its answer, which may be an error of the other side's.
    pub(super) fn call(
        &mut self,
        callee: Callee<'_>,
        method: &str,
        signature: &str,
        body: &[u8],
    ) -> Result<Message> {
        self.serial += 1;
        let serial = self.serial;
        self.write(&method_call(serial, callee, method, signature, body))?;
        loop {
            let message = self.receive()?;
            match message.kind {
                METHOD_RETURN | ERROR if message.reply_serial == Some(serial) => {
                    return Ok(message);
                }
                SIGNAL => self.signals.push(message),
                _ => {}
            }
        }
    }

    /// The next signal.
    pub(super) fn signal(&mut self) -> Result<Message> {
        if !self.signals.is_empty() {
            return Ok(self.signals.remove(0));
        }
        loop {
            let message = self.receive()?;
            if message.kind == SIGNAL {
                return Ok(message);
            }
        }
    }

    fn receive(&mut self) -> Result<Message> {
        let mut bytes = vec![0; FIXED_HEADER_BYTES];
        self.read(&mut bytes)?;
        let rest = rest_length(&bytes).ok_or_else(malformed)?;
        bytes.resize(FIXED_HEADER_BYTES + rest, 0);
        let (_, after) = bytes.split_at_mut(FIXED_HEADER_BYTES);
        self.read(after)?;
        parse(&bytes).ok_or_else(malformed)
    }

    fn line(&mut self) -> Result<Vec<u8>> {
        let mut line = Vec::new();
        // Byte by byte: what follows is none of the handshake's.
        while !line.ends_with(b"\r\n") {
            if line.len() == MAX_LINE_BYTES {
                return Err(malformed());
            }
            let mut byte = [0];
            self.read(&mut byte)?;
            line.extend(byte);
        }
        Ok(line)
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<()> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(SysError::new("recv", "D-Bus", Errno::ETIMEDOUT));
        }
        self.stream.set_read_timeout(Some(left)).call("setsockopt", || "SO_RCVTIMEO".into())?;
        self.stream.read_exact(buffer).call("recv", || "D-Bus".into())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).call("send", || "D-Bus".into())
    }
}

impl Message {
    /// The strings and object paths that the body begins with, where it has `count` of them.
    pub(super) fn strings<const N: usize>(&self) -> Option<[&str; N]> {
        let mut reader = Reader { bytes: &self.body, at: 0 };
        let mut all = [""; N];
        for text in &mut all {
            *text = reader.string()?;
        }
        Some(all)
    }

    /// The body's numbers and strings, one after the other, by its known signature.
    pub(super) fn body(&self) -> Reader<'_> {
        Reader { bytes: &self.body, at: 0 }
    }
}

/// Marshals values (specification, "Marshaling"): little-endian, each aligned to its size.
#[derive(Debug, Default)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    pub(super) fn align(&mut self, to: usize) -> &mut Self {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
        self
    }

    pub(super) fn u32(&mut self, number: u32) -> &mut Self {
        self.align(4).0.extend(number.to_le_bytes());
        self
    }

    pub(super) fn bool(&mut self, value: bool) -> &mut Self {
        self.u32(value.into())
    }

    pub(super) fn string(&mut self, text: &str) -> &mut Self {
        self.u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
        self.0.extend(text.as_bytes());
        self.0.push(0);
        self
    }

    pub(super) fn signature(&mut self, text: &str) -> &mut Self {
        self.0.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
        self.0.extend(text.as_bytes());
        self.0.push(0);
        self
    }

    /// An array whose elements `fill` writes; the length does not count the first one's padding.
    pub(super) fn array(&mut self, alignment: usize, fill: impl FnOnce(&mut Self)) -> &mut Self {
        self.u32(0);
        let length_at = self.0.len() - 4;
        self.align(alignment);
        let start = self.0.len();
        fill(self);
        let length = u32::try_from(self.0.len() - start).unwrap_or(u32::MAX);
        if let Some(place) = self.0.get_mut(length_at..length_at + 4) {
            place.copy_from_slice(&length.to_le_bytes());
        }
        self
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// Unmarshals; `None` where the bytes end or are none of the type's.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(count)?)?;
        self.at += count;
        Some(taken)
    }

    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn byte(&mut self) -> Option<u8> {
        Some(*self.take(1)?.first()?)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.align(4);
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    pub(super) fn string(&mut self) -> Option<&'a str> {
        let length = usize::try_from(self.u32()?).ok()?;
        let text = std::str::from_utf8(self.take(length)?).ok()?;
        self.take(1)?;
        Some(text)
    }

    fn signature(&mut self) -> Option<&'a str> {
        let length = self.byte()?.into();
        let text = std::str::from_utf8(self.take(length)?).ok()?;
        self.take(1)?;
        Some(text)
    }
}

/// Byte order, type, flags, version, body's length, serial, length of the fields.
const FIXED_HEADER_BYTES: usize = 16;

fn method_call(
    serial: u32,
    callee: Callee<'_>,
    method: &str,
    signature: &str,
    body: &[u8],
) -> Vec<u8> {
    let mut message = Writer(vec![b'l', METHOD_CALL, 0, 1]);
    message.u32(u32::try_from(body.len()).unwrap_or(u32::MAX)).u32(serial);
    let strings = [
        (PATH, "o", callee.path),
        (INTERFACE, "s", callee.interface),
        (MEMBER, "s", method),
        (DESTINATION, "s", callee.destination),
    ];
    message.array(8, |fields| {
        for (field, kind, value) in strings {
            fields.align(8).0.push(field);
            fields.signature(kind).string(value);
        }
        if !signature.is_empty() {
            fields.align(8).0.push(SIGNATURE);
            fields.signature("g").signature(signature);
        }
    });
    message.align(8);
    let mut bytes = message.into_bytes();
    bytes.extend(body);
    bytes
}

/// How many bytes follow the fixed part of a header.
fn rest_length(header: &[u8]) -> Option<usize> {
    // The bus passes messages on as they were sent; systemd's are this machine's order.
    if header.first() != Some(&b'l') {
        return None;
    }
    let mut reader = Reader { bytes: header, at: 4 };
    let body = usize::try_from(reader.u32()?).ok()?;
    reader.u32()?;
    let fields = usize::try_from(reader.u32()?).ok()?;
    let rest = fields.checked_next_multiple_of(8)?.checked_add(body)?;
    (rest <= MAX_MESSAGE_BYTES).then_some(rest)
}

fn parse(bytes: &[u8]) -> Option<Message> {
    let mut message = Message { kind: *bytes.get(1)?, ..Message::default() };
    let mut reader = Reader { bytes, at: 12 };
    let end = usize::try_from(reader.u32()?).ok()?.checked_add(FIXED_HEADER_BYTES)?;
    while reader.at < end {
        reader.align(8);
        let field = reader.byte()?;
        match reader.signature()? {
            "s" | "o" => {
                let value = reader.string()?;
                match field {
                    ERROR_NAME => message.error = Some(value.into()),
                    MEMBER => message.member = Some(value.into()),
                    _ => {}
                }
            }
            "g" => {
                reader.signature()?;
            }
            "u" => {
                let value = reader.u32()?;
                if field == REPLY_SERIAL {
                    message.reply_serial = Some(value);
                }
            }
            // No field of the specification has another type.
            _ => return None,
        }
    }
    message.body = bytes.get(end.checked_next_multiple_of(8)?..)?.to_vec();
    Some(message)
}

fn malformed() -> SysError {
    SysError::new("recv", "D-Bus", Errno::EBADMSG)
}

#[cfg(test)]
mod tests;
