use super::*;

fn plan_of(change: impl FnOnce(&mut serde_json::Value)) -> Result<Plan> {
    let mut json = serde_json::json!({
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs"},
        "process": {"user": {"uid": 0, "gid": 0}, "args": ["sh"], "cwd": "/"},
        "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "user"}]},
    });
    change(&mut json);
    let spec: Spec = serde_json::from_value(json).unwrap();
    Plan::new(&spec, Path::new("/r"), &IdMaps::single(1000, 1000))
}

fn error_of(change: impl FnOnce(&mut serde_json::Value)) -> String {
    plan_of(change).unwrap_err().to_string()
}

#[test]
fn nothing_that_cannot_be_honoured_is_passed_over() {
    use serde_json::json;
    for (pointer, key, value, want) in [
        ("", "hooks", json!({"poststop": [{"path": "/x"}]}), "hooks"),
        (
            "/linux",
            "seccomp",
            json!({"defaultAction": "SCMP_ACT_NOTIFY"}),
            "SCMP_ACT_NOTIFY in linux.seccomp",
        ),
        ("/linux", "mountLabel", json!("x"), "linux.mountLabel"),
        ("/process", "apparmorProfile", json!("x"), "process.apparmorProfile"),
        ("/process", "selinuxLabel", json!("x"), "process.selinuxLabel"),
    ] {
        let error = error_of(|c| c.pointer_mut(pointer).unwrap()[key] = value);
        assert_eq!(error, format!("config asks for {want}, which minirun does not support yet"));
    }
}

#[test]
fn namespaces_are_new_or_joined_with_the_user_namespace_first() {
    use serde_json::json;
    let of = |list: serde_json::Value| plan_of(|c| c["linux"]["namespaces"] = list);
    let plan = of(json!([
        {"type": "network", "path": "/run/netns/x"}, {"type": "mount"},
        {"type": "pid", "path": "/proc/7/ns/pid"}, {"type": "user", "path": "/proc/7/ns/user"},
        {"type": "ipc"},
    ]));
    let plan = plan.unwrap();
    assert_eq!(plan.namespaces, CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC);
    let joined: Vec<_> = plan.joined.iter().map(|j| (j.kind, j.path.to_str().unwrap())).collect();
    let want = [
        (CloneFlags::CLONE_NEWUSER, "/proc/7/ns/user"),
        (CloneFlags::CLONE_NEWNET, "/run/netns/x"),
        (CloneFlags::CLONE_NEWPID, "/proc/7/ns/pid"),
    ];
    assert_eq!(joined, want);
    assert!(plan.joins(CloneFlags::CLONE_NEWPID) && !plan.joins(CloneFlags::CLONE_NEWIPC));
    let user_and = |other: serde_json::Value| {
        of(json!([{"type": "user"}, {"type": "pid"}, {"type": "mount"}, other])).unwrap_err()
    };
    let relative = user_and(json!({"type": "network", "path": "x"}));
    assert!(relative.to_string().contains("absolute path"), "{relative}");
    let twice = user_and(json!({"type": "pid", "path": "/x"}));
    assert!(twice.to_string().contains("each type once"), "{twice}");
    let mount = of(json!([{"type": "user"}, {"type": "pid"}, {"type": "mount", "path": "/x"}]));
    assert_eq!(mount.unwrap_err(), PlanError::Unsupported("an existing mnt namespace".into()));
}

#[test]
fn resources_of_device_rules_alone_are_accepted() {
    let rules = serde_json::json!({"devices": [{"allow": false, "access": "rwm"}]});
    plan_of(|c| c["linux"]["resources"] = rules).unwrap();
    plan_of(|c| c["hooks"] = serde_json::json!({"prestart": []})).unwrap();
}

#[test]
fn a_user_namespace_and_mapped_ids_are_needed() {
    let none = |c: &mut serde_json::Value| {
        c["linux"]["namespaces"] = serde_json::json!([{"type": "pid"}, {"type": "mount"}]);
    };
    assert_eq!(plan_of(none).unwrap_err(), PlanError::NoUserNamespace);
    let unmapped = plan_of(|c| c["process"]["user"]["uid"] = 1.into()).unwrap_err();
    assert_eq!(unmapped, PlanError::Unmapped { what: "user", id: 1 });
    let groups = plan_of(|c| c["process"]["user"]["additionalGids"] = serde_json::json!([5]));
    assert_eq!(groups.unwrap_err(), PlanError::GroupsDenied);
}

#[test]
fn mount_options_become_flags_attributes_and_data() {
    use ctsys::mount::attr;
    let mounts = serde_json::json!([
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
         "options": ["nosuid", "strictatime", "mode=755", "ro", "rw"]},
        {"destination": "/data", "type": "none", "source": "/srv",
         "options": ["rbind", "rro", "rslave", "noexec"]},
    ]);
    let plan = plan_of(|c| c["mounts"] = mounts).unwrap();
    let [dev, data] = &plan.mounts[..] else { panic!("{plan:?}") };
    assert_eq!(dev.set, attr::NOSUID | attr::STRICTATIME);
    let MountSource::New { options, .. } = &dev.source else { panic!("{dev:?}") };
    assert_eq!(options, &[("mode".to_owned(), Some("755".to_owned()))]);
    assert_eq!(data.set, attr::NOEXEC);
    assert_eq!(data.set_recursive, attr::RDONLY);
    assert_eq!(data.propagation, Some(Propagation::Slave));
    assert_eq!(data.source, MountSource::Bind { path: "/srv".into(), recursive: true });
}

#[test]
fn proc_is_procfs_and_nothing_is_mounted_into_it() {
    for mount in [
        serde_json::json!({"destination": "/proc", "type": "tmpfs", "source": "tmpfs"}),
        serde_json::json!({"destination": "/proc/sys", "type": "tmpfs", "source": "tmpfs"}),
        serde_json::json!({"destination": "/proc/self/x", "source": "/x", "options": ["bind"]}),
    ] {
        let error = plan_of(|c| c["mounts"] = serde_json::json!([mount])).unwrap_err();
        assert!(matches!(error, PlanError::Invalid { .. }), "{error}");
    }
}

#[test]
fn only_parameters_of_own_namespaces_can_be_set() {
    let sysctl = |key: &'static str| {
        plan_of(move |c| {
            c["linux"]["namespaces"]
                .as_array_mut()
                .unwrap()
                .push(serde_json::json!({"type": "network"}));
            c["linux"]["sysctl"] = serde_json::json!({key: "1"});
        })
    };
    let plan = sysctl("net.ipv4.ip_forward").unwrap();
    assert_eq!(plan.sysctls, [("net/ipv4/ip_forward".into(), "1".to_owned())]);
    for bad in ["vm.swappiness", "kernel.shmmax", "net/../vm/x"] {
        assert!(sysctl(bad).is_err(), "{bad}");
    }
}

#[test]
fn capabilities_become_masks_and_ambient_stays_within_inheritable() {
    let sets = serde_json::json!({
        "bounding": ["CAP_CHOWN", "CAP_CHECKPOINT_RESTORE"], "permitted": ["CAP_KILL"],
        "effective": ["CAP_KILL"], "ambient": ["CAP_KILL"],
    });
    let plan = plan_of(|c| c["process"]["capabilities"] = sets).unwrap();
    let caps = plan.process.capabilities;
    assert_eq!(caps.bounding, 1 | 1 << 40);
    assert_eq!((caps.permitted, caps.effective), (1 << 5, 1 << 5));
    assert_eq!((caps.inheritable, caps.ambient), (0, 0));
}
