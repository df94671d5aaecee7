use std::path::Path;

use super::*;
use crate::config::ids::IdChoice;
use crate::config::mounts::Source;
use crate::config::network::Net;
use crate::prepare::{Error, RunOptions, Target};

fn parse(words: &[&str]) -> std::result::Result<Cli, clap::Error> {
    let args = ["minirun"].iter().chain(words).map(Into::into).collect();
    Cli::parse_from_args(args)
}

fn options(words: &[&str]) -> RunOptions {
    let run = parse(words).unwrap().run;
    let lookup = |name: &str| (name == "LANG").then(|| "C".to_owned());
    run.into_options(Path::new("/d"), lookup).unwrap()
}

fn error(words: &[&str]) -> Error {
    parse(words).unwrap().run.into_options(Path::new("/d"), |_| None).unwrap_err()
}

#[test]
fn the_definition_is_sound() {
    use clap::CommandFactory;
    Cli::command().debug_assert();
}

#[test]
fn no_name_of_a_subcommand_is_taken_for_a_root_filesystem() {
    use clap::CommandFactory;
    for command in Cli::command().get_subcommands() {
        for name in std::iter::once(command.get_name()).chain(command.get_all_aliases()) {
            assert!(Command::has_subcommand(name), "{name}");
            assert!(!parse(&[name]).is_ok_and(|cli| cli.command.is_none()), "{name}");
        }
    }
}

#[test]
fn targets_are_told_apart() {
    assert_eq!(options(&["--rootless"]).target, Target::Here);
    assert_eq!(options(&["--bundle", "b"]).target, Target::Bundle("/d/b".into()));
    assert_eq!(options(&["r"]).target, Target::Rootfs("/d/r".into()));
    assert_eq!(options(&["./list"]).target, Target::Rootfs("/d/./list".into()));
    assert!(matches!(parse(&["list"]).unwrap().command, Some(Command::List(_))));
    assert!(parse(&["r", "--bundle", "b"]).is_err());
}

#[test]
fn words_after_the_dashes_are_the_command() {
    let here = options(&["--", "list", "-e", "x"]);
    assert_eq!(here.target, Target::Here);
    assert_eq!(here.overrides.command, ["list", "-e", "x"]);
    assert_eq!(options(&["r", "--", "sh"]).overrides.command, ["sh"]);
    assert!(parse(&["r", "sh"]).is_err(), "without dashes it would be a guess");
}

#[test]
fn flags_mean_what_dockers_do() {
    let o = options(&[
        "-d",
        "-e",
        "A=b=c",
        "-e",
        "LANG",
        "-e",
        "NONE",
        "-w",
        "/srv",
        "-u",
        "1:2",
        "--net",
        "host",
        "--hostname",
        "h",
        "-v",
        "./a:/b",
        "--read-only",
        "--name",
        "n",
        "--entrypoint",
        "",
    ]);
    assert!(o.detach && o.overrides.read_only);
    assert_eq!(o.overrides.env, ["A=b=c", "LANG=C"]);
    assert_eq!(o.overrides.workdir.as_deref(), Some(Path::new("/srv")));
    assert_eq!(o.overrides.user.unwrap().to_string(), "1:2");
    assert_eq!(o.network.net, Some(Net::Host));
    assert_eq!(o.overrides.mounts.added[0].source, Source::Host("/d/a".into()));
    assert_eq!(o.overrides.entrypoint.as_deref(), Some(""));
    assert_eq!(options(&["--network", "none"]).network.net, Some(Net::None));
}

#[test]
fn a_terminal_is_asked_for_or_refused() {
    assert_eq!(options(&[]).terminal, None);
    for words in [&["-t"][..], &["-it"], &["-ti"], &["--tty", "r"], &["--tty=true"]] {
        assert_eq!(options(words).terminal, Some(true), "{words:?}");
    }
    assert_eq!(options(&["--tty=false"]).terminal, Some(false));
    assert_eq!(options(&["-t=false"]).terminal, Some(false));
}

#[test]
fn bad_values_are_named() {
    assert!(matches!(error(&["-e", "=x"]), Error::Variable(_)));
    assert!(matches!(error(&["-e", ""]), Error::Variable(_)));
    assert!(matches!(error(&["-u", "4294967295"]), Error::User(_)));
    assert!(matches!(error(&["-v", "a:/b"]), Error::Value(_)));
    assert!(matches!(error(&["-w", "srv"]), Error::Workdir(_)));
    assert!(matches!(error(&["--hostname", ""]), Error::Hostname(_)));
    assert!(parse(&["--net", "bridge"]).is_err());
}

#[test]
fn every_bad_value_says_which_option_and_what_helps() {
    for (words, option) in [
        (&["-v", "/a"][..], "volume"),
        (&["--mount", "type=volume,dst=/a"], "mount"),
        (&["--tmpfs", "a"], "tmpfs"),
        (&["--device", "a"], "device"),
        (&["--tmpfs", "/a", "-v", "/b:/a/"], "mount point"),
        (&["--shm-size", "0"], "shm-size"),
        (&["--ephemeral=much"], "ephemeral"),
        (&["--cap-add", "x"], "cap-add"),
        (&["--cap-drop", "x"], "cap-drop"),
        (&["--privileged"], "option"),
        (&["--ulimit", "x=1"], "ulimit"),
        (&["--sysctl", "x"], "sysctl"),
        (&["--group-add", "keep-groups"], "group-add"),
        (&["--umask", "9"], "umask"),
        (&["--domainname", ""], "domain name"),
        (&["--userns", "host"], "userns"),
        (&["--uidmap", "0"], "uidmap"),
        (&["--uidmap", "0:1:1", "--gidmap", "0"], "gidmap"),
    ] {
        match error(words) {
            Error::Value(bad) => {
                assert_eq!(bad.option, option, "{words:?}");
                assert!(!bad.hint.is_empty() && !bad.hint.contains('\n'), "{words:?}");
            }
            other => unreachable!("{words:?}: {other:?}"),
        }
    }
    assert!(matches!(error(&["--group-add", "4294967295"]), Error::User(_)));
    assert!(parse(&["--userns", "keep-id", "--uidmap", "0:0:1"]).is_err());
    assert!(parse(&["--read-only-tmpfs"]).is_err(), "it is for --read-only");
    assert!(parse(&["--image-volume", "bind"]).is_err());
}

#[test]
fn what_is_not_asked_for_changes_nothing() {
    let plain = options(&[]);
    assert_eq!(plain.overrides, crate::config::overrides::Overrides::default());
    assert_eq!((plain.ids, plain.dry_run), (IdChoice::Usual, false));
    assert!(options(&["--read-only", "--read-only-tmpfs"]).overrides.mounts.scratch);
    assert_eq!(options(&["--init"]).overrides, plain.overrides);
    let ephemeral = |words: &[&str]| options(words).overrides.ephemeral.unwrap().size_bytes;
    assert_eq!(ephemeral(&["--ephemeral", "rootfs"]), None);
    assert_eq!(ephemeral(&["--ephemeral=1m"]), Some(1 << 20));
}

#[test]
fn exec_leaves_the_commands_flags_alone() {
    let Some(Command::Exec(exec)) = parse(&["exec", "-u", "1", "pod", "ls", "-t"]).unwrap().command
    else {
        unreachable!("exec was parsed as something else")
    };
    assert_eq!((exec.container.as_str(), exec.command.len()), ("pod", 2));
    assert_eq!(exec.tty, None);
}
