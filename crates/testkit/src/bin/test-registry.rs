//! The test registry as a program: for scripts, and for trying things by hand.

// What a failure here needs is a message and an end.
#![allow(clippy::panic, clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use testkit::images;
use testkit::registry::{Registry, RegistryOptions};
use tokio::signal::unix::{SignalKind, signal};

const USAGE: &str = "\
usage: test-registry [--addr ADDR:PORT] [--ready-file FILE] [IMAGE]...

Serves images over plain HTTP until SIGTERM or SIGINT. Its address (127.0.0.1 and a free port unless
given) is printed on standard output and, once it answers, written to FILE. Tools can push to it.

  --busybox REPO:TAG          Debian's static busybox for this machine, a web server on port 8080
  --centos REPO:TAG           the recorded docker manifest list of centos:latest
  --oci-layout DIR REPO:TAG   an image out of an OCI layout";

fn main() -> ExitCode {
    // The library fails by panic; to a person that is one line.
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("test-registry: {}", panic.payload_as_str().unwrap_or("failed"));
        std::process::exit(1);
    }));
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(message) => {
            eprintln!("test-registry: {message}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    // Installed before anybody can know that we are there.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (mut terminate, mut interrupt) = {
        let _entered = runtime.enter();
        (signal(SignalKind::terminate()).unwrap(), signal(SignalKind::interrupt()).unwrap())
    };
    let registry = Registry::start(RegistryOptions { addr: options.addr, ..Default::default() });
    options.images.iter().for_each(|image| image.push(&registry));
    println!("{}", registry.host());
    if let Some(file) = &options.ready_file {
        write_ready(file, &registry.host());
    }
    runtime.block_on(async {
        tokio::select! {
            _ = terminate.recv() => (),
            _ = interrupt.recv() => (),
        }
    });
    ExitCode::SUCCESS
}

struct Options {
    addr: SocketAddr,
    ready_file: Option<PathBuf>,
    images: Vec<Source>,
}

enum Source {
    Busybox(Name),
    Centos(Name),
    Layout(PathBuf, Name),
}

struct Name {
    repository: String,
    tag: String,
}

impl Options {
    /// `None`: help was asked for.
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Option<Self>, String> {
        let mut options =
            Self { addr: ([127, 0, 0, 1], 0).into(), ready_file: None, images: Vec::new() };
        while let Some(option) = args.next() {
            let mut value =
                |what: &str| args.next().ok_or_else(|| format!("{option} needs {what}"));
            match option.as_str() {
                "-h" | "--help" => return Ok(None),
                "--addr" => {
                    let text = value("ADDR:PORT")?;
                    options.addr = text.parse().map_err(|e| format!("--addr {text}: {e}"))?;
                }
                "--ready-file" => options.ready_file = Some(value("FILE")?.into()),
                "--busybox" => options.images.push(Source::Busybox(name(value("REPO:TAG")?)?)),
                "--centos" => options.images.push(Source::Centos(name(value("REPO:TAG")?)?)),
                "--oci-layout" => {
                    let dir = value("DIR")?.into();
                    options.images.push(Source::Layout(dir, name(value("DIR REPO:TAG")?)?));
                }
                other => return Err(format!("unknown option {other}")),
            }
        }
        Ok(Some(options))
    }
}

impl Source {
    fn push(&self, registry: &Registry) {
        match self {
            Self::Busybox(name) => {
                images::busybox().push(registry, &name.repository, &name.tag);
            }
            Self::Centos(name) => {
                images::centos_recorded().push(registry, &name.repository, &name.tag);
            }
            Self::Layout(dir, name) => {
                registry.load_oci_layout(dir, &name.repository, &name.tag);
            }
        }
    }
}

fn name(text: String) -> Result<Name, String> {
    match text.rsplit_once(':') {
        Some((repository, tag)) if !repository.is_empty() && !tag.is_empty() => {
            Ok(Name { repository: repository.into(), tag: tag.into() })
        }
        _ => Err(format!("{text} is not REPO:TAG")),
    }
}

/// By rename, so that a reader never sees half of it.
fn write_ready(file: &Path, host: &str) {
    let dir = match file.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let mut part = tempfile::NamedTempFile::new_in(dir)
        .unwrap_or_else(|e| panic!("cannot create a file in {}: {e}", dir.display()));
    writeln!(part, "{host}").unwrap();
    part.persist(file).unwrap_or_else(|e| panic!("cannot write {}: {e}", file.display()));
}
