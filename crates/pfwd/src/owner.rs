//! Who holds a port: the sockets of proc_net_tcp(5), then whose descriptors they are.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

/// A line a socket of 150 bytes, so a quarter of a million sockets; more than that go unsearched.
const MAX_TABLE_BYTES: u64 = 40 << 20;
/// A command name has 15 bytes; the kernel's own threads may show more.
const MAX_COMM_BYTES: u64 = 64;
/// The state LISTEN.
const LISTEN: &str = "0A";

/// The holder of a port, as far as the caller may see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// A process.
    Process {
        /// Its number.
        pid: i32,
        /// Its command name; any bytes of the process's choice.
        command: String,
    },
    /// A process that the caller may not look into, of this user.
    Hidden {
        /// The user.
        uid: u32,
    },
    /// Nothing listens there (any more): a socket that is bound only, or connected.
    Unknown,
}

/// Who listens where `address` would, its own address or the wildcard.
pub fn of(address: SocketAddr) -> Owner {
    let sockets = ["/proc/self/net/tcp", "/proc/self/net/tcp6"].into_iter().flat_map(|path| {
        let table = File::open(path).map(|f| BufReader::new(f.take(MAX_TABLE_BYTES)));
        let lines = table.into_iter().flat_map(|t| t.lines().map_while(Result::ok));
        lines.filter_map(|line| parse_line(&line)).collect::<Vec<_>>()
    });
    let holder = sockets
        .filter(|s| s.address.port() == address.port())
        .find(|s| covers(s.address.ip(), address.ip()));
    match holder {
        None => Owner::Unknown,
        Some(socket) => process_with(socket.inode).unwrap_or(Owner::Hidden { uid: socket.uid }),
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { pid, command } => write!(f, "{command} (pid {pid})"),
            Self::Hidden { uid } => {
                write!(f, "a process of uid {uid} that this user may not look at")
            }
            Self::Unknown => f.write_str("a socket that does not listen"),
        }
    }
}

/// Whether a socket bound to `bound` keeps another from `wanted`; `::` may take IPv4 as well.
fn covers(bound: IpAddr, wanted: IpAddr) -> bool {
    // A program that makes IPv6 sockets only has 127.0.0.1 as ::ffff:127.0.0.1.
    let bound = bound.to_canonical();
    let any = bound.is_unspecified() || wanted.is_unspecified();
    bound == wanted
        || any && bound.is_ipv4() == wanted.is_ipv4()
        || bound.is_unspecified() && bound.is_ipv6()
}

struct Listening {
    address: SocketAddr,
    uid: u32,
    inode: u64,
}

/// `sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode …`; `None` for other
/// states and the heading.
fn parse_line(line: &str) -> Option<Listening> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let address = parse_address(fields.next()?)?;
    if fields.nth(1)? != LISTEN {
        return None;
    }
    let uid = fields.nth(3)?.parse().ok()?;
    let inode = fields.nth(1)?.parse().ok()?;
    Some(Listening { address, uid, inode })
}

/// `0100007F:1F90`: the address as 32-bit words in the machine's byte order, each in hexadecimal.
fn parse_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut bytes = Vec::with_capacity(16);
    for word in address.as_bytes().chunks(8) {
        let word = u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    let ip: IpAddr = match <[u8; 4]>::try_from(bytes.as_slice()) {
        Ok(v4) => Ipv4Addr::from(v4).into(),
        Err(_) => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into(),
    };
    Some(SocketAddr::new(ip, port))
}

/// The process that has the socket with this inode number open, if the caller may see that.
fn process_with(inode: u64) -> Option<Owner> {
    let link = format!("socket:[{inode}]");
    let processes = std::fs::read_dir("/proc").ok()?.filter_map(Result::ok);
    processes.into_iter().find_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let mut open = std::fs::read_dir(entry.path().join("fd")).ok()?.filter_map(Result::ok);
        open.any(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to == Path::new(&link)))
            .then(|| Owner::Process { pid, command: command_name(pid) })
    })
}

fn command_name(pid: i32) -> String {
    let mut name = Vec::new();
    if let Ok(file) = File::open(format!("/proc/{pid}/comm")) {
        // A name that cannot be read is shown as none: the number is the answer.
        let _ = file.take(MAX_COMM_BYTES).read_to_end(&mut name);
    }
    String::from_utf8_lossy(&name).trim_end_matches('\n').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_line_is_understood() {
        let line = "   1: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  \
                    1000        0 31337 1 0000000000000000 100 0 0 10 0";
        let socket = parse_line(line).unwrap();
        assert_eq!(socket.address, "127.0.0.1:8080".parse().unwrap());
        assert_eq!((socket.uid, socket.inode), (1000, 31337));
        let line = "   0: 00000000000000000000000001000000:0050 0000000000000000:0000 0A \
                    00000000:00000000 00:00000000 00000000     0        0 7 1";
        assert_eq!(parse_line(line).unwrap().address, "[::1]:80".parse().unwrap());
        assert!(parse_line("  sl  local_address rem_address   st tx_queue").is_none());
        assert!(parse_line(&line.replace(" 0A ", " 01 ")).is_none());
    }

    #[test]
    fn a_wildcard_on_either_side_and_a_mapped_address_are_in_the_way() {
        let covers = |bound: &str, wanted: &str| {
            super::covers(bound.parse().unwrap(), wanted.parse().unwrap())
        };
        for (bound, wanted) in [
            ("0.0.0.0", "127.0.0.1"),
            ("127.0.0.1", "0.0.0.0"),
            ("::", "127.0.0.1"),
            ("::1", "::"),
            ("::ffff:127.0.0.1", "127.0.0.1"),
            ("::ffff:127.0.0.1", "0.0.0.0"),
        ] {
            assert!(covers(bound, wanted), "{bound} {wanted}");
        }
        for (bound, wanted) in [
            ("127.0.0.1", "::1"),
            ("127.0.0.2", "127.0.0.1"),
            ("::1", "0.0.0.0"),
            ("0.0.0.0", "::"),
        ] {
            assert!(!covers(bound, wanted), "{bound} {wanted}");
        }
    }

    #[test]
    fn this_process_is_found_as_the_owner_of_its_port() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let Owner::Process { pid, .. } = of(listener.local_addr().unwrap()) else {
            panic!("not found");
        };
        assert_eq!(pid.unsigned_abs(), std::process::id());
    }
}
