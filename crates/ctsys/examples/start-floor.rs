//! The floor for `scripts/bench start`: a program that knows beforehand what a container of
//! `runc spec --rootless` needs, and makes those system calls and no others. It reads no
//! configuration, keeps no state, forwards no signal and explains no error.
//!
//! ```text
//! start-floor [--init] [--net] ROOTFS PROGRAM     as an ordinary user
//!   --init   keep a PID 1 in the container that waits for PROGRAM, as minirun does
//!   --net    a network namespace of its own, with lo up
//! ```

// It is a test's helper: it fails by panic.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::ffi::CString;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use ctsys::idmap::IdMaps;
use ctsys::mount::{
    Change, NewFilesystem, Propagation, attach, attr, change, clone_tree, pivot_root,
};
use ctsys::{capability, clone, netif, wait};
use nix::fcntl::{OFlag, open, openat};
use nix::mount::{MsFlags, mount};
use nix::sched::CloneFlags;
use nix::sys::stat::Mode;
use nix::unistd::{execve, getgid, getuid, sethostname, setsid, symlinkat};

/// CAP_KILL, CAP_NET_BIND_SERVICE and CAP_AUDIT_WRITE.
const CAPABILITIES: u64 = 1 << 5 | 1 << 10 | 1 << 29;

const NO_PROGRAMS: u64 = attr::NOSUID | attr::NODEV | attr::NOEXEC;

/// Target, type, options, flags.
type NewMount = (&'static str, &'static str, &'static [(&'static str, &'static str)], u64);

/// What `runc spec --rootless` mounts, but for /sys.
const MOUNTS: &[NewMount] = &[
    ("proc", "proc", &[], 0),
    ("dev", "tmpfs", &[("mode", "755"), ("size", "65536k")], attr::NOSUID | attr::STRICTATIME),
    ("dev/pts", "devpts", &[("ptmxmode", "0666"), ("mode", "0620")], attr::NOSUID | attr::NOEXEC),
    ("dev/shm", "tmpfs", &[("mode", "1777"), ("size", "65536k")], NO_PROGRAMS),
    ("dev/mqueue", "mqueue", &[], NO_PROGRAMS),
];
const DEVICES: &[&str] = &["null", "zero", "full", "random", "urandom", "tty"];
const LINKS: &[(&str, &str)] = &[
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
    ("ptmx", "pts/ptmx"),
];
const READONLY: &[&str] = &["proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger"];
const MASKED: &[&str] = &[
    "proc/acpi",
    "proc/asound",
    "proc/kcore",
    "proc/keys",
    "proc/latency_stats",
    "proc/timer_list",
    "proc/timer_stats",
    "proc/sched_debug",
    "sys/firmware",
    "proc/scsi",
];

fn main() -> std::process::ExitCode {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let mut option = |name: &str| {
        let found = args.first().is_some_and(|a| a == name);
        if found {
            args.remove(0);
        }
        found
    };
    let (init, net) = (option("--init"), option("--net"));
    let [rootfs, program] = args.as_slice() else { panic!("want ROOTFS and PROGRAM") };
    let mut namespaces = CloneFlags::CLONE_NEWUSER
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWCGROUP;
    namespaces.set(CloneFlags::CLONE_NEWNET, net);
    let (mut here, mut there) = UnixStream::pair().unwrap();
    let child = clone::spawn(namespaces, || {
        there.read_exact(&mut [0]).unwrap();
        setsid().unwrap();
        sethostname("floor").unwrap();
        if net {
            netif::loopback_up().unwrap();
        }
        build(Path::new(rootfs));
        if !init {
            become_program(program);
        }
        let command = clone::spawn(CloneFlags::empty(), || become_program(program)).unwrap();
        wait::wait(&command.pidfd).unwrap()
    });
    let child = child.unwrap();
    IdMaps::single(getuid().as_raw(), getgid().as_raw()).install(child.pid).unwrap();
    here.write_all(&[0]).unwrap();
    wait::wait(&child.pidfd).unwrap().into()
}

fn build(rootfs: &Path) {
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)
        .unwrap();
    let place = open(rootfs, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).unwrap();
    let root = copy(&place, "", true);
    let private =
        Change { propagation: Some(Propagation::Private), recursive: true, ..<_>::default() };
    change(&root, private).unwrap();
    attach(&root, &place).unwrap();
    let target = |path: &str| find(root.as_fd(), path).unwrap();
    for (path, kind, options, flags) in MOUNTS {
        let filesystem = NewFilesystem::open(kind).unwrap();
        for (key, value) in *options {
            filesystem.set(key, Some(value)).unwrap();
        }
        let tree = filesystem.mount(*flags).unwrap();
        if path.starts_with("dev/") {
            nix::sys::stat::mkdirat(&root, *path, Mode::from_bits_truncate(0o755)).unwrap();
        }
        attach(&tree, target(path)).unwrap();
    }
    let sys = clone_tree(None, Path::new("/sys"), true).unwrap();
    change(&sys, Change { set: attr::RDONLY | NO_PROGRAMS, ..<_>::default() }).unwrap();
    attach(&sys, target("sys")).unwrap();
    let cgroup = NewFilesystem::open("cgroup2").unwrap().mount(attr::RDONLY | NO_PROGRAMS).unwrap();
    attach(&cgroup, target("sys/fs/cgroup")).unwrap();
    fill_dev(root.as_fd());
    for path in READONLY {
        let Some(place) = find(root.as_fd(), path) else { continue };
        let tree = copy(&place, "", true);
        change(&tree, Change { set: attr::RDONLY, ..<_>::default() }).unwrap();
        attach(&tree, &place).unwrap();
    }
    mask(root.as_fd());
    change(&root, Change { set: attr::RDONLY, ..<_>::default() }).unwrap();
    pivot_root(&root).unwrap();
}

fn fill_dev(root: BorrowedFd<'_>) {
    let dev = find(root, "dev").unwrap();
    for name in DEVICES {
        let tree = clone_tree(None, &Path::new("/dev").join(name), false).unwrap();
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        let onto = openat(&dev, *name, flags, Mode::from_bits_truncate(0o644)).unwrap();
        attach(&tree, &onto).unwrap();
    }
    for (name, to) in LINKS {
        symlinkat(*to, &dev, *name).unwrap();
    }
}

/// A directory is covered by the same empty one, a file by /dev/null.
fn mask(root: BorrowedFd<'_>) {
    let mut empty: Option<OwnedFd> = None;
    for path in MASKED {
        let Some(place) = find(root, path) else { continue };
        let stat = nix::sys::stat::fstat(&place).unwrap();
        if stat.st_mode & nix::libc::S_IFMT != nix::libc::S_IFDIR {
            attach(clone_tree(None, Path::new("/dev/null"), false).unwrap(), &place).unwrap();
        } else if let Some(first) = &empty {
            attach(copy(first, "", false), &place).unwrap();
        } else {
            let tree = NewFilesystem::open("tmpfs").unwrap().mount(attr::RDONLY | NO_PROGRAMS);
            attach(empty.insert(tree.unwrap()), &place).unwrap();
        }
    }
}

fn become_program(program: &str) -> ! {
    capability::limit_bounding(CAPABILITIES).unwrap();
    capability::set(CAPABILITIES, CAPABILITIES, CAPABILITIES).unwrap();
    capability::raise_ambient(CAPABILITIES).unwrap();
    nix::sys::prctl::set_no_new_privs().unwrap();
    let program = CString::new(program).unwrap();
    let Err(errno) = execve(&program, &[&program], &[c"PATH=/bin"]);
    panic!("execve {program:?}: {errno}");
}

fn find(root: BorrowedFd<'_>, path: &str) -> Option<OwnedFd> {
    openat(root, path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).ok()
}

fn copy(fd: impl AsFd, path: &str, recursive: bool) -> OwnedFd {
    clone_tree(Some(fd.as_fd()), Path::new(path), recursive).unwrap()
}
