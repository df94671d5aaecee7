//! Containers managed by docker's names for it: stop, rm, wait, inspect, top, labels.

#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

mod common;
mod container;

use common::{As, give, read_json, unique};
use container::{Container, Detached, assert_refused, wait_until};
use serde_json::{Value, json};
use testkit::programs::{Finished, process_runs};
use testkit::user::TestUser;

const WAITS: &str = "while :; do sleep 0.05; done";

fn detach<'a>(c: &'a Container, options: &[&str], script: &str) -> Detached<'a> {
    let words = [&["--rootless", "-d"], options, &["--", "/bin/sh", "-c", script]].concat();
    c.minirun(&words).assert_code(0).assert_stdout(&format!("{}\n", c.name));
    Detached(c)
}

/// Gives a container's root filesystem the record of an image.
fn image(c: &Container, config: Value) {
    let path = c.bundle.join("rootfs.image.json");
    std::fs::write(&path, common::record(c.who.ownership(), config).to_string()).unwrap();
    give(&path, &c.who);
}

/// A name of the test's own in the container's bundle; removed with it.
fn another(c: &Container, options: &[&str]) -> String {
    let name = unique("other");
    let words = ["--rootless", "-d", "--name", &name];
    c.minirun(&[&words, options, &["--", "sh", "-c", WAITS]].concat()).assert_code(0);
    name
}

fn inspect(c: &Container) -> Value {
    let done = c.minirun(&["inspect", &c.name]);
    done.assert_success();
    serde_json::from_slice::<Value>(&done.stdout).unwrap()[0].take()
}

fn exit_code(c: &Container) -> Value {
    inspect(c)["exitCode"].clone()
}

#[test]
fn stop_asks_by_the_signal_that_the_container_wants() {
    let script = |signal: &str| {
        format!("trap 'echo bye; exit 3' {signal}; trap '' TERM; echo up; {WAITS}")
            .replace(&format!("trap '' {signal}"), ":")
    };
    for (of_image, option, signal) in [
        (None, None, "TERM"),
        (Some("SIGUSR1"), None, "USR1"),
        (Some("SIGUSR1"), Some("INT"), "INT"),
    ] {
        let c = Container::single();
        image(&c, json!({ "StopSignal": of_image }));
        let options: Vec<_> = option.iter().flat_map(|o| ["--stop-signal", o]).collect();
        let running = detach(&c, &options, &script(signal));
        wait_until("its start", || c.log() == "up\n");
        c.minirun(&["stop", "-t", "-1", &c.name])
            .assert_code(0)
            .assert_stdout(&format!("{}\n", c.name))
            .assert_stderr("");
        // Nothing has to be waited for any more.
        assert_eq!(
            (c.status(), exit_code(&c), c.log()),
            ("stopped".into(), 3.into(), "up\nbye\n".into())
        );
        c.minirun(&["stop", &c.name]).assert_code(0).assert_stdout(&format!("{}\n", c.name));
        drop(running);
    }
}

#[test]
fn stop_kills_what_takes_too_long() {
    for (stop, run) in [(&["-t", "0"][..], &[][..]), (&[], &["--stop-timeout", "0"])] {
        let c = Container::single();
        let running = detach(&c, run, &format!("trap '' TERM; echo up; {WAITS}"));
        wait_until("its start", || c.log() == "up\n");
        let init = c.init_pid();
        c.minirun(&[&["stop"], stop, &[&c.name]].concat()).assert_code(0);
        assert!(!process_runs(init));
        assert_eq!((c.status(), exit_code(&c)), ("stopped".into(), 137.into()));
        drop(running);
    }
}

#[test]
fn several_are_stopped_and_removed_whatever_becomes_of_one() {
    let c = Container::single();
    let (one, two) = (another(&c, &[]), another(&c, &[]));
    let done = c.minirun(&["stop", "-t", "20", &one, "nosuch", &two]);
    assert_refused(&done, 1, "\"nosuch\" does not exist", "minirun list");
    done.assert_stdout(&format!("{one}\n{two}\n"));
    let done = c.minirun(&["rm", &one, "nosuch", &two]);
    assert_refused(&done, 1, "\"nosuch\" does not exist", "minirun list");
    done.assert_stdout(&format!("{one}\n{two}\n"));

    let (one, two) = (another(&c, &[]), another(&c, &[]));
    let done = c.minirun(&["rm", &one]);
    assert_refused(&done, 1, "that is not stopped: running", "--force");
    c.minirun(&["rm", "-f", &one, "nosuch"]).assert_code(0).assert_stdout(&format!("{one}\n"));
    c.minirun(&["stop", "--all"]).assert_code(0).assert_stdout(&format!("{two}\n"));
    let three = another(&c, &[]);
    c.minirun(&["rm", "--all"]).assert_code(0).assert_stdout(&format!("{two}\n"));
    c.minirun(&["rm", "--all", "--force"]).assert_code(0).assert_stdout(&format!("{three}\n"));
    c.minirun(&["list", "-q"]).assert_code(0).assert_stdout("");
    for command in ["stop", "rm", "wait", "inspect"] {
        assert_refused(&c.minirun(&[command]), 1, "<CONTAINER>", "help");
    }
}

#[test]
fn stop_and_kill_reach_a_container_in_the_foreground() {
    let c = Container::single();
    let running = c.start(&format!("trap 'exit 5' TERM; echo up; {WAITS}"));
    running.wait_stdout("up");
    c.minirun(&["stop", &c.name]).assert_code(0).assert_stdout(&format!("{}\n", c.name));
    running.finish().assert_code(5);
    assert!(!c.state_dir().exists());
}

#[test]
fn rm_in_the_background_leaves_nothing() {
    for c in Container::all() {
        let script = "while [ ! -e /go ]; do sleep 0.02; done; exit 9";
        let running = detach(&c, &["--rm"], script);
        assert_eq!(inspect(&c)["autoRemove"], true);
        let waiter = testkit::programs::Run::new(c.command(&["wait", &c.name])).spawn();
        // It has the container's directory open before it waits.
        let waits = |pid: i32| {
            let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
            let links = fds.flatten().filter_map(|fd| std::fs::read_link(fd.path()).ok());
            links.into_iter().any(|to| to == c.state_dir().join("exit"))
        };
        wait_until("who waits", || descendants(waiter.pid()).into_iter().any(waits));
        std::fs::write(c.bundle.join("rootfs/go"), "").unwrap();
        waiter.finish().assert_code(0).assert_stdout("9\n");
        assert!(!c.state_dir().exists());
        let refused = c.minirun(&["wait", &c.name]);
        assert_refused(&refused, 1, "does not exist", "minirun list");
        drop(running);
    }
    let c = Container::single();
    c.minirun(&["--rootless", "--rm", "-d", "--", "sh", "-c", WAITS]).assert_code(0);
    c.minirun(&["stop", &c.name]).assert_code(0);
    assert!(!c.state_dir().exists());
}

/// A process and its child, which it may have become.
fn descendants(pid: i32) -> Vec<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let children = text.unwrap_or_default();
    std::iter::once(pid).chain(children.split_whitespace().map(|p| p.parse().unwrap())).collect()
}

#[test]
fn wait_prints_the_codes_in_the_order_of_the_names() {
    let c = Container::single();
    let running = c.detach("exit 200");
    let other = another(&c, &[]);
    let waiter = testkit::programs::Run::new(c.command(&["wait", &other, &c.name])).spawn();
    c.minirun(&["kill", &other, "KILL"]).assert_code(0);
    waiter.finish().assert_code(0).assert_stdout("137\n200\n");
    c.minirun(&["rm", &other]).assert_code(0);
    drop(running);
}

#[test]
fn inspect_tells_all_that_is_known() {
    for c in Container::all() {
        image(&c, json!({ "ExposedPorts": { "80/tcp": {} }, "Labels": { "of": "image" } }));
        let volume = format!("{}:/data:ro", c.bundle.display());
        let options = ["--label", "tier=web", "-l", "bare", "-v", &volume];
        let running = detach(&c, &options, &format!("echo up; {WAITS}"));
        wait_until("its start", || c.log() == "up\n");
        let told = inspect(&c);
        assert_eq!((&told["name"], &told["status"]), (&c.name.as_str().into(), &"running".into()));
        assert_eq!(told["pid"], c.init_pid());
        let state = read_json(&c.state_dir().join("state.json"));
        assert_eq!(told["mainPid"], state["main"]["pid"]);
        assert_eq!(told["monitorPid"], state["monitor"]["pid"]);
        for time in ["created", "started"] {
            assert!(told[time].as_str().unwrap().ends_with('Z'), "{told}");
        }
        assert!(told["created"].as_str() <= told["started"].as_str(), "{told}");
        assert_eq!((&told["finished"], &told["exitCode"]), (&Value::Null, &Value::Null));
        assert_eq!(told["image"]["reference"], "example.org/test:latest");
        assert_eq!(told["image"]["manifestDigest"], "sha256:1");
        assert_eq!(told["exposedPorts"], json!(["80/tcp"]));
        let labels = &told["annotations"];
        assert_eq!(
            (&labels["tier"], &labels["bare"], &labels["of"]),
            (&"web".into(), &"".into(), &"image".into())
        );
        let mounts = told["mounts"].as_array().unwrap();
        assert!(mounts.iter().any(|m| m["destination"] == "/data"), "{told}");
        assert_eq!(told["config"], read_json(&c.state_dir().join("config.json")));
        assert_eq!(told["logPath"], c.state_dir().join("log").to_str().unwrap());
        assert_eq!((&told["logBytes"], &told["autoRemove"]), (&3.into(), &false.into()));

        c.minirun(&["kill", &c.name, "KILL"]).assert_success();
        c.minirun(&["wait", &c.name]).assert_stdout("137\n");
        let told = inspect(&c);
        assert_eq!((&told["exitCode"], &told["status"]), (&137.into(), &"stopped".into()));
        assert!(told["finished"].as_str().unwrap() > told["started"].as_str().unwrap(), "{told}");
        assert_eq!((&told["mainPid"], &told["pid"]), (&Value::Null, &0.into()));
        assert!(told.get("error").is_none(), "{told}");
        drop(running);
    }
}

#[test]
fn labels_and_states_choose_what_is_listed() {
    let c = Container::single();
    let (web, db) = (another(&c, &["-l", "app=web"]), another(&c, &["-l", "app=db", "-l", "slow"]));
    let list = |filters: &[&str]| {
        let filters = filters.iter().flat_map(|f| ["--filter", f]);
        let words: Vec<_> = ["list", "-q"].into_iter().chain(filters).collect();
        let done = c.minirun(&words);
        done.assert_code(0).assert_stderr("");
        done.stdout_text().split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let both = list(&[]);
    assert_eq!(both.len(), 2);
    assert_eq!(list(&["label=app"]), both);
    assert_eq!(list(&["label=app=web"]), [web.as_str()]);
    assert_eq!(list(&["label=app", "label=slow"]), [db.as_str()]);
    assert_eq!(list(&["label=app=web", "label=slow"]).len(), 0);
    assert_eq!(list(&[&format!("name={web}"), &format!("name={db}")]), both);
    assert_eq!(list(&["status=stopped"]).len(), 0);
    c.minirun(&["stop", &web]).assert_code(0);
    assert_eq!(list(&["status=exited"]), [web.as_str()]);
    assert_eq!(list(&["status=exited", "status=running"]), both);
    let table = c.minirun(&["list"]).stdout_text();
    assert!(table.contains("stopped (143)") && table.contains("running"), "{table}");
    assert_refused(&c.minirun(&["list", "--filter", "color=red"]), 1, "invalid filter", "running");
    c.minirun(&["rm", "-f", &web, &db]).assert_code(0);
    for bad in ["", "=x", "minirun.stopTimeout=0"] {
        let done = c.minirun(&["--rootless", "--label", bad, "--", "true"]);
        assert_refused(&done, 125, "invalid label", "--label app=web");
    }
    for (option, bad, says) in [
        ("--stop-signal", "NOPE", "unknown signal \"NOPE\""),
        ("--stop-timeout", "soon", "invalid stop timeout \"soon\""),
        ("--stop-timeout", "-2", "invalid stop timeout \"-2\""),
    ] {
        let done = c.minirun(&["--rootless", option, bad, "--", "true"]);
        assert_refused(&done, 125, says, "");
    }
}

#[test]
fn top_shows_the_processes_of_the_container_alone() {
    for c in Container::all() {
        image(&c, json!({}));
        let script = "sleep 1001 & setsid sleep 1002 & \
             [ \"$(id -u)\" != 0 ] || su -s /bin/sh web -c 'sleep 1003' & wait";
        let passwd = "root:x:0:0:root:/:/bin/sh\nweb:x:33:33:web:/:/bin/sh\n";
        std::fs::write(c.bundle.join("rootfs/etc/passwd"), passwd).unwrap();
        let has_ids = c.who.ownership() != "single";
        let script = if has_ids { script } else { "sleep 1001 & setsid sleep 1002 & wait" };
        let running = detach(&c, &[], script);
        let entered = c.command(&["exec", &c.name, "--", "sleep", "1004"]);
        let entered = testkit::programs::Run::new(entered).spawn();
        let top = || c.minirun(&["top", &c.name]).stdout_text();
        let last = if has_ids { "sleep 1003" } else { "sleep 1002" };
        let mut text = String::new();
        wait_until("all of them", || {
            text = top();
            text.contains(last) && text.contains("sleep 1004")
        });
        let rows: Vec<Vec<&str>> =
            text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[0], ["PID", "HPID", "USER", "TIME", "COMMAND"]);
        let init = c.init_pid().to_string();
        assert_eq!(rows[1], ["1", &init, "root", "00:00:00", "[minirun]"], "{text}");
        for (seconds, user) in [("1001", "root"), ("1002", "root"), ("1003", "web")] {
            if !has_ids && user == "web" {
                continue;
            }
            let row = rows.iter().find(|row| row.ends_with(&["sleep", seconds]));
            let row = row.unwrap_or_else(|| panic!("no {seconds}\n{text}"));
            assert_eq!(row[2], user, "{text}");
            let outside = std::fs::read_to_string(format!("/proc/{}/status", row[1])).unwrap();
            let inside = outside.lines().find(|line| line.starts_with("NSpid:")).unwrap();
            assert!(inside.ends_with(&format!("\t{}", row[0])), "{inside}\n{text}");
        }
        let commands: Vec<_> = rows.iter().map(|row| row[4]).collect();
        let is_known =
            |c: &&str| ["COMMAND", "[minirun]", "/bin/sh", "sleep", "su", "sh"].contains(c);
        assert!(commands.iter().all(is_known), "{text}");
        c.minirun(&["stop", "-t", "0", &c.name]).assert_code(0);
        assert_refused(&c.minirun(&["top", &c.name]), 1, "container not running", "delete");
        entered.finish();
        drop(running);
    }
}

#[test]
fn a_file_of_variables_is_read_as_docker_reads_it() {
    let c = Container::new(As::User(TestUser::without_subids().isolated()));
    let file = c.bundle.join("vars");
    let run = |text: &str, args: &[&str]| -> Finished {
        std::fs::write(&file, text).unwrap();
        let mut inner = c.command(&["--rootless", "--env-file", "vars"]);
        inner.args(args).args(["--", "sh", "-c", "echo $A; echo $B; echo ${C-unset}; echo $D"]);
        inner.env("C", "caller");
        testkit::programs::Run::new(inner).finish()
    };
    let text = "# comment\n\n  A='one two'\nB=1\r\nC\nNOTHING\nD=x # y\n";
    run(text, &[]).assert_code(0).assert_stdout("'one two'\n1\ncaller\nx # y\n");
    run(text, &["-e", "B=2"]).assert_stdout("'one two'\n2\ncaller\nx # y\n");
    run("", &[]).assert_code(0).assert_stdout("\n\nunset\n\n");
    let done = run("A=1\nB C=2\n", &[]);
    assert_refused(&done, 125, "line 2 of \"vars\": its name has white space", "NAME=VALUE");
    assert_refused(&run("=1", &[]), 125, "line 1 of \"vars\": it has no name", "NAME=VALUE");
    std::fs::remove_file(&file).unwrap();
    let done = c.minirun(&["--rootless", "--env-file", "vars", "--", "true"]);
    let says = "cannot read variables from \"vars\": No such file";
    assert_refused(&done, 125, says, "--env-file takes");
    let huge = std::fs::File::create(&file).unwrap();
    huge.set_len(1 << 40).unwrap();
    let done = c.minirun(&["--rootless", "--env-file", "vars", "--", "true"]);
    assert_refused(&done, 125, "larger than", "--env-file takes");

    std::fs::write(&file, "A=file\n").unwrap();
    let running = c.detach(WAITS);
    let words = ["exec", "--env-file", "vars", &c.name, "sh", "-c", "echo $A"];
    c.minirun(&words).assert_code(0).assert_stdout("file\n");
    drop(running);
}
