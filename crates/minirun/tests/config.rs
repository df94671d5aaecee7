//! The generated configuration: hand-checked golden files, and each rule of image-spec's
//! conversion.md by itself.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panic")]

use std::path::{Path, PathBuf};

use clap::Parser as _;
use ctsys::idmap::{IdMaps, IdRange, MapWriter};
use ctsys::record::ImageRecord;
use minirun::caller::Caller;
use minirun::cli::Cli;
use minirun::config::image::Image;
use minirun::config::{self, Inputs, overrides};
use minirun::json;
use minirun::user::Accounts;
use oci_spec::runtime::{Capability, Spec};
use serde_json::{Value, json};

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:44::/srv/home:/bin/sh\n";
const GROUP: &str = "root:x:0:\nweb:x:44:\naudio:x:29:web\nhuge:x:700000:web\n";

fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/minirun").join(name)
}

fn accounts() -> Accounts {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("etc")).unwrap();
    std::fs::write(dir.path().join("etc/passwd"), PASSWD).unwrap();
    std::fs::write(dir.path().join("etc/group"), GROUP).unwrap();
    Accounts::read(dir.path())
}

fn caller(uid: u32, cgroup2: bool) -> Caller {
    Caller { uid, gid: uid, cgroup2, on_terminal: false }
}

fn subordinate() -> IdMaps {
    let ranges = vec![
        IdRange { inside: 0, outside: 1000, count: 1 },
        IdRange { inside: 1, outside: 100_000, count: 65_536 },
    ];
    let helper = |name: &str| PathBuf::from("/usr/bin").join(name);
    let (newuidmap, newgidmap) = (helper("newuidmap"), helper("newgidmap"));
    IdMaps {
        uids: ranges.clone(),
        gids: ranges,
        writer: MapWriter::Helpers { newuidmap, newgidmap },
    }
}

fn generate(
    image: Option<&Image>,
    caller: &Caller,
    maps: &IdMaps,
    terminal: bool,
) -> Result<Spec, minirun::user::UserError> {
    let accounts = accounts();
    let root_path = Path::new("rootfs");
    let user = image.map_or("", |image| &image.user).parse()?;
    let (accounts, user, hostname) = (&accounts, &user, "pod");
    let inputs = Inputs { image, caller, maps, accounts, user, root_path, hostname, terminal };
    config::generate(&inputs)
}

fn web() -> ImageRecord {
    serde_json::from_slice(&std::fs::read(testdata("web.record.json")).unwrap()).unwrap()
}

/// The record with something else in its image's `config`.
fn web_with(key: &str, value: Value) -> Image {
    let mut record = web();
    record.config["config"][key] = value;
    Image::from_record(&record).unwrap()
}

fn spec_of(image: &Image) -> Spec {
    generate(Some(image), &caller(1000, false), &subordinate(), false).unwrap()
}

fn assert_golden(name: &str, spec: &Spec) {
    let got = json::to_text(spec).unwrap() + "\n";
    let path = testdata(name);
    // UPDATE_GOLDEN=1 writes the files anew; what changed in them is to be checked by hand.
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &got).unwrap();
    }
    let want = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
    let differs = got.lines().zip(want.lines()).position(|(got, want)| got != want);
    assert!(got == want, "{name} differs from line {differs:?} on; got:\n{got}");
}

#[test]
fn an_image_with_everything_in_subordinate_ids() {
    let image = Image::from_record(&web()).unwrap();
    let spec = generate(Some(&image), &caller(1000, true), &subordinate(), true).unwrap();
    assert_golden("web.subuid.config.json", &spec);
}

#[test]
fn no_record_and_one_id() {
    let spec = generate(None, &caller(1000, false), &IdMaps::single(1000, 1000), false).unwrap();
    assert_golden("plain.single.config.json", &spec);
}

#[test]
fn no_record_and_root() {
    let spec = generate(None, &caller(0, false), &IdMaps::identity(), true).unwrap();
    assert_golden("plain.root.config.json", &spec);
}

/// Each option that changes the configuration, on the image with everything.
const OPTIONS: &[&str] = &[
    "minirun",
    "-v",
    "./src:/src:ro,nosuid",
    "-v",
    "/srv/www:/var/www",
    "--mount",
    "type=bind,source=/data,target=/data,bind-propagation=rslave,bind-nonrecursive",
    "--mount",
    "type=tmpfs,dst=/scratch,tmpfs-size=1m,tmpfs-mode=700",
    "--tmpfs",
    "/cache:exec,size=10%",
    "--device",
    "/dev/fuse",
    "--shm-size",
    "1g",
    "--read-only",
    "--read-only-tmpfs",
    "--image-volume",
    "tmpfs",
    "--ephemeral=64m",
    "--cap-drop",
    "all",
    "--cap-add",
    "net_bind_service,chown",
    "-u",
    "web",
    "--group-add",
    "7",
    "--umask",
    "027",
    "--ulimit",
    "nofile=64:128",
    "--ulimit",
    "core=unlimited",
    "--sysctl",
    "net.ipv4.ip_forward=1",
    "--domainname",
    "example.org",
    "--hostname",
    "other",
    "-w",
    "/work",
    "-e",
    "A=b",
    "--",
    "run",
];

#[test]
fn options_change_the_configuration() {
    let run = Cli::try_parse_from(OPTIONS).unwrap().run;
    let options = run.into_options(Path::new("/home/eva"), |_| None).unwrap();
    let image = web_with("Volumes", json!({ "/var/lib/db": {}, "/data": {} }));
    let maps = subordinate();
    let mut spec = generate(Some(&image), &caller(1000, true), &maps, false).unwrap();
    let context = overrides::Context {
        entrypoint: &image.entrypoint,
        accounts: &accounts(),
        maps: &maps,
        terminal: false,
        profile: None,
        volumes: &image.volumes,
    };
    overrides::apply(&mut spec, &options.overrides, &context).unwrap();
    assert_golden("web.options.config.json", &spec);
}

#[test]
fn args_are_entrypoint_and_cmd() {
    let args = |entrypoint: Value, cmd: Value| {
        let mut record = web();
        record.config["config"]["Entrypoint"] = entrypoint;
        record.config["config"]["Cmd"] = cmd;
        let spec = spec_of(&Image::from_record(&record).unwrap());
        spec.process().as_ref().unwrap().args().clone().unwrap()
    };
    assert_eq!(args(json!(["e", "f"]), json!(["c"])), ["e", "f", "c"]);
    assert_eq!(args(json!(["e"]), Value::Null), ["e"]);
    assert_eq!(args(Value::Null, json!(["c"])), ["c"]);
    assert!(args(Value::Null, json!([])).is_empty(), "nothing is made up for an image");
}

#[test]
fn the_working_directory_is_taken_over_and_absolute() {
    let cwd = |dir: Value| {
        let spec = spec_of(&web_with("WorkingDir", dir));
        spec.process().as_ref().unwrap().cwd().clone()
    };
    assert_eq!(cwd(json!("/srv/www")), Path::new("/srv/www"));
    assert_eq!(cwd(json!("")), Path::new("/"));
    assert_eq!(cwd(Value::Null), Path::new("/"));
    assert_eq!(cwd(json!("srv")), Path::new("/srv"));
}

#[test]
fn the_environment_is_the_images_and_only_what_it_lacks_is_added() {
    let env = |env: Value, terminal| {
        let image = web_with("Env", env);
        let spec = generate(Some(&image), &caller(1000, false), &subordinate(), terminal).unwrap();
        (spec.process().as_ref().unwrap().env().clone().unwrap(), image.notes)
    };
    let path = format!("PATH={}", minirun::spec::DEFAULT_PATH);
    assert_eq!(env(Value::Null, false).0, [&path, "HOME=/srv/home"]);
    assert_eq!(env(json!(["A=b"]), true).0, ["A=b", &path, "HOME=/srv/home", "TERM=xterm"]);
    let own = ["PATH=", "HOME=/h", "TERM=dumb"];
    assert_eq!(env(json!(own), true).0, own);
    let (left, notes) = env(json!(["PATH=/p", "HOME=/h", "bare", "=x"]), false);
    assert_eq!(left, ["PATH=/p", "HOME=/h"]);
    assert!(notes.iter().any(|n| n.contains("\"bare\"")), "{notes:?}");
}

#[test]
fn the_user_is_looked_up_and_an_unknown_one_refused() {
    let user = |text: &str| {
        let image = web_with("User", json!(text));
        let spec = generate(Some(&image), &caller(1000, false), &subordinate(), false)?;
        let user = spec.process().as_ref().unwrap().user().clone();
        Ok::<_, minirun::user::UserError>((
            user.uid(),
            user.gid(),
            user.additional_gids().clone().unwrap_or_default(),
        ))
    };
    // The group `huge` is not mapped, so that its id cannot be given.
    assert_eq!(user("web").unwrap(), (33, 44, vec![29]));
    assert_eq!(user("33").unwrap(), (33, 44, vec![]));
    assert_eq!(user("5:6").unwrap(), (5, 6, vec![]));
    assert_eq!(user("").unwrap(), (0, 0, vec![]));
    assert!(user("nobody").is_err());
    for overflow in ["4294967295", "4294967296", "0:99999999999"] {
        assert!(user(overflow).is_err(), "{overflow}");
    }
}

#[test]
fn supplementary_groups_are_left_out_where_the_kernel_denies_them() {
    let image = Image::from_record(&web()).unwrap();
    let single = IdMaps::single(1000, 1000);
    let spec = generate(Some(&image), &caller(1000, false), &single, false).unwrap();
    assert_eq!(*spec.process().as_ref().unwrap().user().additional_gids(), None);
}

#[test]
fn annotations_follow_the_image_and_labels_stand_above() {
    let image = Image::from_record(&web()).unwrap();
    let get = |key: &str| image.annotations.get(key).map(String::as_str);
    let of_image = |key: &str| get(&format!("org.opencontainers.image.{key}"));
    assert_eq!(of_image("os"), Some("linux"));
    assert_eq!(of_image("architecture"), Some("arm64"));
    assert_eq!(of_image("variant"), Some("v8"));
    assert_eq!(of_image("os.version"), Some("6.1"));
    assert_eq!(of_image("os.features"), Some("one,two"));
    assert_eq!(of_image("created"), Some("2024-02-03T04:05:06Z"));
    assert_eq!(of_image("author"), Some("the label's"));
    assert_eq!(of_image("stopSignal"), Some("SIGQUIT"));
    assert_eq!(of_image("exposedPorts"), Some("443/tcp,53/udp,8080/tcp"));
    assert_eq!(get("org.example.note"), Some("<a & b>"));
}

#[test]
fn a_label_gives_no_orders_to_a_runtime() {
    for key in ["run.oci.hooks.stdout", "org.systemd.property.X", "minirun.generated", ""] {
        let image = web_with("Labels", json!({ key: "x", "kept": "y" }));
        assert!(!image.annotations.contains_key(key), "{key}");
        assert_eq!(image.annotations["kept"], "y");
        assert!(image.notes.iter().any(|note| note.contains(&format!("{key:?}"))), "{key}");
    }
}

#[test]
fn a_null_or_missing_config_is_an_image_that_wants_nothing() {
    for config in [json!(null), json!({}), json!({ "Labels": null, "ExposedPorts": null })] {
        let mut record = web();
        record.config["config"] = config;
        let image = Image::from_record(&record).unwrap();
        assert!(image.args().is_empty() && image.env.is_empty());
        assert_eq!((image.cwd.as_str(), image.user.as_str()), ("/", ""));
    }
}

#[test]
fn a_config_that_is_none_is_refused() {
    let mut record = web();
    record.config = json!({ "config": 5 });
    assert!(Image::from_record(&record).is_err());
}

#[test]
fn only_root_holds_capabilities_and_none_is_passed_on() {
    let held = |user: &str| {
        let spec = spec_of(&web_with("User", json!(user)));
        let sets = spec.process().as_ref().unwrap().capabilities().clone().unwrap();
        assert_eq!((sets.inheritable(), sets.ambient()), (&None, &None));
        let bounding = sets.bounding().clone().unwrap();
        assert_eq!(bounding.len(), 14);
        assert!(!bounding.contains(&Capability::SysAdmin));
        assert_eq!(sets.effective(), sets.permitted());
        sets.effective().as_ref().map(std::collections::HashSet::len)
    };
    assert_eq!(held("0"), Some(14));
    assert_eq!(held("33"), Some(0));
}

#[test]
fn the_terminals_group_is_named_where_it_is_mapped() {
    let names_it = |maps: &IdMaps| {
        let spec = generate(None, &caller(1000, false), maps, false).unwrap();
        json::to_text(&spec).unwrap().contains("\"gid=5\"")
    };
    assert!(names_it(&subordinate()));
    assert!(names_it(&IdMaps::identity()));
    assert!(!names_it(&IdMaps::single(1000, 1000)));
}
