use super::*;
use serde_json::{Value, json};

fn resources(json: Value) -> Result<Option<Resources>> {
    Resources::new(&serde_json::from_value(json).unwrap())
}

/// `file=value`, in order.
fn lines(json: Value) -> Vec<String> {
    let all = resources(json).unwrap().map(|r| r.settings).unwrap_or_default();
    all.iter().map(|s| format!("{}={}", s.file, s.value)).collect()
}

#[test]
fn v1s_terms_become_v2s_files() {
    for (json, want) in [
        (json!({}), &[][..]),
        (json!({"devices": [{"allow": false, "access": "rwm"}]}), &[]),
        (json!({"cpu": {"shares": 1024}}), &["cpu.weight=100"]),
        (json!({"cpu": {"shares": 2}}), &["cpu.weight=1"]),
        (json!({"cpu": {"shares": 262_144}}), &["cpu.weight=10000"]),
        (json!({"cpu": {"quota": 40_000, "period": 100_000}}), &["cpu.max=40000 100000"]),
        (json!({"cpu": {"quota": 50_000}}), &["cpu.max=50000 100000"]),
        (json!({"cpu": {"quota": -1}}), &["cpu.max=max 100000"]),
        (json!({"cpu": {"period": 50_000}}), &["cpu.max=max 50000"]),
        (json!({"cpu": {"burst": 10, "idle": 1}}), &["cpu.max.burst=10", "cpu.idle=1"]),
        (json!({"cpu": {"cpus": "0-1", "mems": "0"}}), &["cpuset.cpus=0-1", "cpuset.mems=0"]),
        (
            json!({"memory": {"limit": 100, "reservation": 50}}),
            &["memory.max=100", "memory.low=50"],
        ),
        (
            json!({"memory": {"limit": 100, "swap": 300}}),
            &["memory.max=100", "memory.swap.max=200"],
        ),
        (json!({"memory": {"limit": 100, "swap": 100}}), &["memory.max=100", "memory.swap.max=0"]),
        (json!({"memory": {"limit": -1}}), &["memory.max=max", "memory.swap.max=max"]),
        (json!({"pids": {"limit": 10}}), &["pids.max=10"]),
        (json!({"pids": {"limit": -1}}), &["pids.max=max"]),
        (json!({"blockIO": {"weight": 1000}}), &["io.bfq.weight=default 1000"]),
        (
            json!({"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 9}],
                "throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 0}]}}),
            &["io.max=8:0 rbps=9", "io.max=8:0 wiops=max"],
        ),
        (
            json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 9}]}),
            &["hugetlb.2MB.max=9", "hugetlb.2MB.rsvd.max=9"],
        ),
        (json!({"rdma": {"mlx5_1": {"hcaHandles": 3}}}), &["rdma.max=mlx5_1 hca_handle=3"]),
        (
            json!({"unified": {"memory.high": "1\n", "cgroup.max.depth": "2"}}),
            &["cgroup.max.depth=2", "memory.high=1"],
        ),
    ] {
        assert_eq!(lines(json.clone()), want, "{json}");
    }
}

#[test]
fn what_cannot_be_honoured_is_refused() {
    for (json, want) in [
        (json!({"memory": {"kernel": 1}}), "cgroup v2 does not have"),
        (json!({"memory": {"swappiness": 0}}), "memory.swappiness"),
        (json!({"memory": {"disableOOMKiller": true}}), "disableOOMKiller"),
        (json!({"memory": {"limit": -2}}), "want a number of bytes, or -1"),
        (json!({"memory": {"swap": 100}}), "want memory.limit beside it"),
        (json!({"memory": {"limit": 100, "swap": 99}}), "want at least memory.limit"),
        (json!({"cpu": {"realtimeRuntime": 5}}), "cpu.realtimeRuntime"),
        (json!({"cpu": {"quota": 999}}), "want at least 1000"),
        (json!({"cpu": {"period": 999}}), "want 1000 to 1000000"),
        (json!({"cpu": {"cpus": "0\n1"}}), "want one line"),
        (json!({"network": {"classID": 1}}), "linux.resources.network"),
        (json!({"blockIO": {"leafWeight": 10}}), "blockIO.leafWeight"),
        (json!({"blockIO": {"weight": 9}}), "want 10 to 1000"),
        (json!({"hugepageLimits": [{"pageSize": "../x", "limit": 1}]}), "such as 2MB"),
        (json!({"unified": {"../../x.y": "1"}}), "want a file's name"),
        (json!({"unified": {"cgroup.procs": "1"}}), "want a limit's name"),
    ] {
        let error = resources(json.clone()).unwrap_err().to_string();
        assert!(error.contains(want), "{json}: {error}");
    }
}

#[test]
fn the_controllers_are_those_of_the_files() {
    let all = json!({"cpu": {"cpus": "0", "quota": 5000}, "memory": {"limit": 100, "swap": 100},
        "unified": {"cgroup.max.depth": "2", "misc.max": "x 1"}});
    let all = resources(all).unwrap().unwrap();
    assert_eq!(all.controllers(), ["cpu", "cpuset", "memory", "misc"]);
    assert_eq!(all.memory_bytes, Some(100));
}
