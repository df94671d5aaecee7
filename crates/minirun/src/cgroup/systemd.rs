//! What only systemd can do for an unprivileged process: move it out of its login session, whose
//! cgroup is root's, into one that is delegated to it.
//!
//! ```text
//! minirun ── StartTransientUnit(scope, PIDs=[self], Delegate) ──▶ systemd --user
//!         ◀── the job's path ──
//!         ◀── JobRemoved(that job, "done") ── moved by PID 1, on the user manager's word
//! ```
//!
//! This is what `systemd-run --user --scope -p Delegate=yes` does, and podman and crun do
//! (org.freedesktop.systemd1(5)). Root asks the system's manager in the same way.

use std::path::{Path, PathBuf};

use ctsys::SysError;
use nix::errno::Errno;

use super::dbus::{Callee, Connection, Message, Writer};

const SYSTEMD: Callee<'static> = Callee {
    destination: "org.freedesktop.systemd1",
    path: "/org/freedesktop/systemd1",
    interface: "org.freedesktop.systemd1.Manager",
};
const BUS: Callee<'static> = Callee {
    destination: "org.freedesktop.DBus",
    path: "/org/freedesktop/DBus",
    interface: "org.freedesktop.DBus",
};
const JOB_REMOVED: &str = "type='signal',sender='org.freedesktop.systemd1',\
    interface='org.freedesktop.systemd1.Manager',member='JobRemoved'";

/// What a bus says of a name that nobody on it has, and of one whose program does not start:
/// systemd's is /bin/false, and stands for waiting until the manager has come to a bus that it has
/// just started.
const NOBODY: [&str; 2] =
    ["org.freedesktop.DBus.Error.ServiceUnknown", "org.freedesktop.DBus.Error.Spawn.ChildExited"];

/// Why systemd gave no cgroup.
#[derive(Debug, thiserror::Error)]
pub enum SystemdError {
    /// It cannot be reached, or does not answer.
    #[error("cannot ask systemd for a delegated one")]
    Unreachable(#[source] SysError),
    /// There is a bus, and systemd is not on it.
    #[error("no systemd manager is on the bus that could delegate one")]
    Absent,
    /// It says no.
    #[error("systemd refuses {method}: {name}: {message}")]
    Refused {
        /// The method called.
        method: &'static str,
        /// The error's name on the bus.
        name: String,
        /// What it says.
        message: String,
    },
    /// The scope could not be started.
    #[error("systemd started no scope: got {0:?}, want \"done\"")]
    Job(String),
}

type Result<T> = std::result::Result<T, SystemdError>;

/// Moves the calling process into a new scope that is delegated to the caller. The scope ends when
/// its last process does, and systemd then removes what is left of its cgroups.
pub(super) fn enter_new_scope(id: &str) -> Result<()> {
    let mut manager = Manager::connect()?;
    let pid = std::process::id();
    let unit = format!("minirun-{}-{pid}.scope", unit_name(id));
    if manager.on_bus {
        let mut rule = Writer::default();
        rule.string(JOB_REMOVED);
        manager.call(BUS, "AddMatch", "s", rule)?;
        manager.call(SYSTEMD, "Subscribe", "", Writer::default())?;
    }
    let reply =
        manager.call(SYSTEMD, "StartTransientUnit", "ssa(sv)a(sa(sv))", scope(&unit, id, pid))?;
    let [job] = reply.strings().ok_or_else(malformed)?;
    loop {
        let signal = manager.connection.signal().map_err(SystemdError::Unreachable)?;
        if signal.member.as_deref() != Some("JobRemoved") {
            continue;
        }
        let mut body = signal.body();
        // Its number, its path, its unit, how it ended.
        let mut removed = || Some((body.u32()?, body.string()?, body.string()?, body.string()?));
        let (_, path, _, result) = removed().ok_or_else(malformed)?;
        if path == job {
            return if result == "done" { Ok(()) } else { Err(SystemdError::Job(result.into())) };
        }
    }
}

/// Moves the calling process into `subgroup` (with a slash in front) of the delegated `unit`.
pub(super) fn enter(unit: &str, subgroup: &str) -> Result<()> {
    let mut body = Writer::default();
    body.string(unit).string(subgroup).array(4, |pids| {
        pids.u32(std::process::id());
    });
    Manager::connect()?.call(SYSTEMD, "AttachProcessesToUnit", "ssau", body).map(drop)
}

struct Manager {
    connection: Connection,
    /// Over a bus, rather than its own socket.
    on_bus: bool,
}

impl Manager {
    /// The message bus; without one, the socket that systemctl uses.
    fn connect() -> Result<Self> {
        let uid = nix::unistd::geteuid().as_raw();
        let (bus, own) = sockets(uid);
        match Connection::open(&bus, uid) {
            Ok(connection) => {
                let mut manager = Self { connection, on_bus: true };
                manager.call(BUS, "Hello", "", Writer::default())?;
                Ok(manager)
            }
            Err(error) => match Connection::open(&own, uid) {
                Ok(connection) => Ok(Self { connection, on_bus: false }),
                // The bus is what people know.
                Err(_) => Err(SystemdError::Unreachable(error)),
            },
        }
    }

    fn call(
        &mut self,
        callee: Callee<'_>,
        method: &'static str,
        signature: &str,
        body: Writer,
    ) -> Result<Message> {
        let reply = self.connection.call(callee, method, signature, &body.into_bytes());
        let reply = reply.map_err(SystemdError::Unreachable)?;
        match &reply.error {
            None => Ok(reply),
            Some(name) if NOBODY.contains(&name.as_str()) => Err(SystemdError::Absent),
            Some(name) => {
                let message = reply.strings().map_or("", |[text]: [&str; 1]| text).to_owned();
                Err(SystemdError::Refused { method, name: name.clone(), message })
            }
        }
    }
}

/// The bus's socket and the manager's own (systemd(1), "Sockets and FIFOs").
fn sockets(uid: u32) -> (PathBuf, PathBuf) {
    if uid == 0 {
        return ("/run/dbus/system_bus_socket".into(), "/run/systemd/private".into());
    }
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let runtime = runtime.filter(|dir| dir.is_absolute());
    let runtime = runtime.unwrap_or_else(|| format!("/run/user/{uid}").into());
    let address = std::env::var("DBUS_SESSION_BUS_ADDRESS").unwrap_or_default();
    let bus = address.split(';').find_map(socket_path).map(PathBuf::from);
    (bus.unwrap_or_else(|| runtime.join("bus")), runtime.join("systemd/private"))
}

/// Of an address such as `unix:path=/run/user/1000/bus,guid=…`; other kinds are nobody's default.
fn socket_path(address: &str) -> Option<&str> {
    let keys = address.strip_prefix("unix:")?.split(',');
    // A path with a byte that addresses escape is not worth a decoder.
    keys.filter_map(|key| key.strip_prefix("path="))
        .find(|p| Path::new(p).is_absolute() && !p.contains('%'))
}

/// The arguments of StartTransientUnit: name, mode, properties, no further units.
fn scope(unit: &str, id: &str, pid: u32) -> Writer {
    let mut body = Writer::default();
    body.string(unit).string("fail");
    body.array(8, |properties| {
        property(properties, "Description", "s").string(&format!("minirun container {id}"));
        property(properties, "PIDs", "au").array(4, |pids| {
            pids.u32(pid);
        });
        property(properties, "Delegate", "b").bool(true);
        // One that failed is not kept to be looked at: its name would stay taken.
        property(properties, "CollectMode", "s").string("inactive-or-failed");
    });
    body.array(8, |_| {});
    body
}

fn property<'a>(array: &'a mut Writer, name: &str, signature: &str) -> &'a mut Writer {
    array.align(8).string(name).signature(signature)
}

/// A unit's name takes fewer characters than a container's (systemd.unit(5)).
fn unit_name(id: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    id.chars().map(|c| if fits(c) { c } else { '_' }).collect()
}

fn malformed() -> SystemdError {
    SystemdError::Unreachable(SysError::new("recv", "systemd's answer", Errno::EBADMSG))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_local_paths_of_addresses_are_taken() {
        for (address, want) in [
            ("unix:path=/run/user/1/bus", Some("/run/user/1/bus")),
            ("unix:guid=1,path=/b,x=2", Some("/b")),
            ("unix:path=bus", None),
            ("unix:path=/a%20b", None),
            ("unix:abstract=/b", None),
            ("tcp:host=h,path=/b", None),
            ("", None),
        ] {
            assert_eq!(socket_path(address), want, "{address}");
        }
        assert_eq!(unit_name("a+b-c_d.1"), "a_b-c_d.1");
    }
}
