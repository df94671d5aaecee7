//! Runs the bundle in a directory, without the command line around it.
#![allow(missing_docs, clippy::print_stderr, clippy::print_stdout, clippy::unwrap_used)]
use ctsys::idmap::{IdMaps, IdRange, MapWriter};
use ctsys::report::report;
use minirun::{exec, launch::Launch, lifecycle, run};
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let a: Vec<&str> = args.iter().map(String::as_str).collect();
    match a[..] {
        ["run", bundle, id] => go(bundle, id, false),
        ["run-d", bundle, id] => go(bundle, id, true),
        ["list"] => {
            print!("{}", lifecycle::list_table(&lifecycle::list().unwrap()));
            ExitCode::SUCCESS
        }
        ["list-json"] => {
            print!("{}", lifecycle::list_json(&lifecycle::list().unwrap()));
            ExitCode::SUCCESS
        }
        ["state", id] => match lifecycle::find(id) {
            Ok(c) => {
                print!("{}", lifecycle::state_json(&c));
                ExitCode::SUCCESS
            }
            Err(e) => report("launch", &e),
        },
        ["kill", id, sig] => done(lifecycle::kill(id, sig)),
        ["delete", id] => done(lifecycle::delete(id, false)),
        ["delete-f", id] => done(lifecycle::delete(id, true)),
        ["exec", id, ..] | ["exec-t", id, ..] => {
            let o = exec::ExecOptions {
                container: id.into(),
                args: args[2..].to_vec(),
                env: vec!["X=y".into()],
                cwd: None,
                user: None,
                tty: a[0] == "exec-t",
            };
            match exec::exec(&o) {
                Ok(c) => c.into(),
                Err(e) => report("launch", &e),
            }
        }
        _ => ExitCode::from(2),
    }
}
fn done(r: Result<(), lifecycle::LifecycleError>) -> ExitCode {
    match r {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => report("launch", &e),
    }
}
fn go(bundle: &str, id: &str, detach: bool) -> ExitCode {
    let bundle = std::fs::canonicalize(bundle).unwrap();
    let text = std::fs::read(bundle.join("config.json")).unwrap();
    let spec: oci_spec::runtime::Spec = serde_json::from_slice(&text).unwrap();
    let one = |m: &Option<Vec<oci_spec::runtime::LinuxIdMapping>>| {
        m.iter()
            .flatten()
            .map(|m| IdRange { inside: m.container_id(), outside: m.host_id(), count: m.size() })
            .collect::<Vec<_>>()
    };
    let l = spec.linux().as_ref().unwrap();
    let maps = if std::env::var_os("SUBIDS").is_some() {
        IdMaps::subordinate(nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw())
            .unwrap()
            .unwrap()
    } else {
        IdMaps {
            uids: one(l.uid_mappings()),
            gids: one(l.gid_mappings()),
            writer: if nix::unistd::getuid().is_root() {
                MapWriter::Privileged
            } else {
                MapWriter::Direct
            },
        }
    };
    let launch = Launch {
        id: id.into(),
        name: id.into(),
        rootfs: bundle.join(spec.root().as_ref().unwrap().path()),
        bundle,
        spec,
        maps,
        detach,
        exposed_ports: vec![],
        stop_signal: None,
    };
    match run::run(&launch, &mut |t| eprintln!("launch: note: {t}")) {
        Ok(code) => {
            if detach {
                println!("{id}");
            }
            code.into()
        }
        Err(e) => report("launch", &e),
    }
}
