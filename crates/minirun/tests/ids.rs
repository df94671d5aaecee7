//! Which ids a container has: `--userns keep-id`, `--uidmap`, `--gidmap`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panic")]

mod common;
mod container;

use std::os::unix::fs::{MetadataExt, chown};

use common::{As, give, read_json, record};
use container::{Container, assert_refused};
use testkit::programs::Finished;
use testkit::user::TestUser;

/// The users, each with a container whose tree it unpacked, and a directory of its own beside it.
fn containers() -> [(Container, TestUser); 2] {
    let users = || [TestUser::with_subids().isolated(), TestUser::without_subids().isolated()];
    let [subids, single] = users();
    let container = |user| {
        let c = Container::new(As::User(user));
        let image = serde_json::json!({ "Cmd": ["/bin/sh"], "User": "0" });
        let text = record(c.who.ownership(), image).to_string();
        std::fs::write(c.bundle.join("rootfs.image.json"), text).unwrap();
        std::fs::create_dir(c.bundle.join("src")).unwrap();
        give(&c.bundle, &c.who);
        c
    };
    let [first, second] = users();
    [(container(subids), first), (container(single), second)]
}

fn run(c: &Container, options: &[&str], script: &str) -> Finished {
    c.minirun(&[options, &["--", "/bin/sh", "-c", script]].concat())
}

#[test]
fn the_caller_is_the_same_user_inside() {
    for (c, user) in containers() {
        let (uid, gid) = (user.uid(), user.gid());
        let script = "id -u; id -g; stat -c %u:%g /src; touch /src/made; stat -c %u:%g /src/made";
        let options = ["--userns", "keep-id", "-v", "./src:/src"];
        let want = format!("{uid}\n{gid}\n{uid}:{gid}\n{uid}:{gid}\n");
        run(&c, &options, script).assert_code(0).assert_stdout(&want);
        assert_eq!(std::fs::metadata(c.bundle.join("src/made")).unwrap().uid(), uid);
        let config = read_json(&c.bundle.join("config.json"));
        assert_eq!(config["process"]["user"]["uid"], 0, "the file is without flags");
        assert_eq!(config["linux"]["uidMappings"][0]["hostID"], uid);
    }
}

#[test]
fn the_rest_of_the_range_lies_around_the_kept_id() {
    let [(c, user), _] = containers();
    let ((first, count), uid) = (user.subuids().unwrap(), user.uid());
    // Of the image's own users all but root and the one of that number keep their files.
    for (name, owner) in [("thirty-three", first + 32), ("high", first + uid)] {
        let path = c.bundle.join("rootfs").join(name);
        std::fs::write(&path, "").unwrap();
        chown(path, Some(owner), Some(owner)).unwrap();
    }
    let script = "stat -c %u /thirty-three /high /etc; awk '{ print $1, $2, $3 }' /proc/self/uid_map; \
                  id -u; chown 0:0 /thirty-three && echo root";
    let done = run(&c, &["--userns", "keep-id", "-u", "0"], script);
    let want = [
        format!("33\n{}\n{uid}", uid + 1),
        format!("0 {} 1", first + uid - 1),
        format!("1 {first} {}", uid - 1),
        format!("{uid} {uid} 1"),
        format!("{} {} {}", uid + 1, first + uid, count - uid),
        "0\nroot\n".into(),
    ];
    done.assert_code(0).assert_stdout(&want.join("\n"));
}

#[test]
fn the_caller_can_have_other_numbers_inside() {
    for (c, user) in containers() {
        let script = "id -u; id -g; awk '$2 == uid { print $1, $3 }' uid=$1 /proc/self/uid_map";
        let uid = user.uid().to_string();
        let command = ["--", "/bin/sh", "-c", script, "sh", &uid];
        let done = c.minirun(&[&["--userns", "keep-id:uid=5,gid=6"], &command[..]].concat());
        done.assert_code(0).assert_stdout("5\n6\n5 1\n");
        let zero = run(&c, &["--userns=keep-id:uid=0,gid=0"], "id -u; id -g");
        zero.assert_code(0).assert_stdout("0\n0\n");
    }
}

#[test]
fn an_edited_configuration_gets_the_ids_of_the_flags() {
    let (c, user) = containers().into_iter().next_back().unwrap();
    c.configure(|config| config["process"]["args"] = serde_json::json!(["id", "-u"]));
    c.minirun(&[]).assert_code(0).assert_stdout("0\n");
    let kept = c.minirun(&["--userns", "keep-id"]);
    kept.assert_code(0).assert_stdout(&format!("{}\n", user.uid()));
    let edited = read_json(&c.bundle.join("config.json"));
    assert_eq!(edited["linux"]["uidMappings"][0]["containerID"], 0);
}

#[test]
fn maps_are_as_typed() {
    for (c, user) in containers() {
        let (uid, gid) = (user.uid(), user.gid());
        let (users, groups) = (format!("7:{uid}:1"), format!("8:@{gid}:1"));
        let own = ["--uidmap", &users, "--gidmap", &groups];
        let map = "awk '{ print $1, $2, $3 }' /proc/self/uid_map /proc/self/gid_map; id -u; id -g";
        let want = format!("7 {uid} 1\n8 {gid} 1\n7\n8\n");
        run(&c, &[&own[..], &["-u", "7:8"]].concat(), map).assert_code(0).assert_stdout(&want);
        assert_refused(&run(&c, &own, map), 125, "user 0 is not mapped", "-u");
    }
    let [(c, user), _] = containers();
    let ((uids, _), (gids, _)) = (user.subuids().unwrap(), user.subgids().unwrap());
    let line = |inside, outside: u32, count| format!("{inside}:{outside}:{count}");
    let users = [line(0, user.uid(), 1), line(1, uids + 100, 10)];
    let groups = [line(0, user.gid(), 1), line(5, gids, 3)];
    let options = ["--uidmap", &users[0], "--uidmap", &users[1], "--gidmap", &groups[0]];
    let options = [&options[..], &["--gidmap", &groups[1], "-u", "3:7"]].concat();
    let script = "id -u; id -g; wc -l </proc/self/uid_map; wc -l </proc/self/gid_map";
    run(&c, &options, script).assert_code(0).assert_stdout("3\n7\n2\n2\n");
}

#[test]
fn root_maps_what_it_likes() {
    let c = Container::new(As::Root);
    let options = ["--uidmap", "0:0:1", "--uidmap", "1:200000:9"];
    let script = "awk '{ print $1, $2, $3 }' /proc/self/uid_map /proc/self/gid_map";
    let want = "0 0 1\n1 200000 9\n".repeat(2);
    run(&c, &options, script).assert_code(0).assert_stdout(&want);
    let refused = run(&c, &["--userns", "keep-id"], "true");
    assert_refused(&refused, 125, "root keeps all of its ids", "leave it out");
}

#[test]
fn ids_that_are_not_the_callers_are_refused_with_those_that_are() {
    for (c, user) in containers() {
        let (uid, gid) = (user.uid(), user.gid());
        let refused = |options: &[&str], says: &str, hint: &str| {
            assert_refused(&run(&c, options, "true"), 125, says, hint);
        };
        let (own, foreign) = (format!("0:{uid}:1"), format!("0:{}:1", uid + 7));
        let groups = format!("0:{gid}:1");
        refused(&["--uidmap", &foreign], &format!("invalid uidmap \"{foreign}\""), "/etc/subuid");
        refused(&["--uidmap", "0:0:1"], "not all of its user ids", &format!("{uid}:1"));
        refused(&["--uidmap", &own, "--gidmap", "0:0:1"], "group ids", "/etc/subgid");
        let two = format!("1:{uid}:2");
        refused(&["--uidmap", &two, "--gidmap", &groups], "not all of its user ids", "");
        refused(&["--uidmap", &own, "--uidmap", &own], "an earlier line has", "INSIDE:OUTSIDE");
        refused(&["--uidmap", "0:1"], "not all of", "");
        refused(&["--uidmap", "x"], "want INSIDE:OUTSIDE:COUNT", "INSIDE:OUTSIDE");
        refused(&["--userns", "host"], "invalid userns", "--uidmap");
        refused(&["--userns", "keep-id", "--uidmap", &own], "cannot be used with", "--help");
        assert!(!c.state_dir().exists() && !c.bundle.join("config.json").exists());
    }
}
