//! What filters do, seen from outside: running them as the kernel would, and libseccomp's beside
//! ours.

#![allow(dead_code, reason = "each test program uses its own part")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panic")]

pub(crate) mod machine;
pub(crate) mod peer;
pub(crate) mod random;

use serde_json::Value;

/// Interfaces as libseccomp's and ours are asked for: its name, runtime-spec's name, what the kernel
/// has in `seccomp_data.arch`.
pub(crate) const ARCHES: [(&str, &str, u32); 5] = [
    ("x86_64", "SCMP_ARCH_X86_64", 0xc000_003e),
    ("x86", "SCMP_ARCH_X86", 0x4000_0003),
    ("x32", "SCMP_ARCH_X32", 0xc000_003e),
    ("aarch64", "SCMP_ARCH_AARCH64", 0xc000_00b7),
    ("arm", "SCMP_ARCH_ARM", 0x4000_0028),
];

pub(crate) const ALLOW: u32 = 0x7fff_0000;
pub(crate) const ERRNO: u32 = 0x0005_0000;
pub(crate) const ENOSYS: u32 = ERRNO | 38;
pub(crate) const X32_BIT: u32 = 0x4000_0000;

/// A profile, in runtime-spec's form and as its parts.
#[derive(Debug, Clone)]
pub(crate) struct Profile {
    /// What the filter returns, as the kernel has it.
    pub(crate) default: u32,
    /// Indexes in [`ARCHES`], beside this machine's own.
    pub(crate) arches: Vec<usize>,
    pub(crate) rules: Vec<Rule>,
}

#[derive(Debug, Clone)]
pub(crate) struct Rule {
    pub(crate) name: String,
    pub(crate) action: u32,
    pub(crate) args: Vec<Arg>,
}

/// A comparison: argument, operator by libseccomp's number, value, second value.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arg {
    pub(crate) index: usize,
    pub(crate) op: usize,
    pub(crate) value: u64,
    pub(crate) second: u64,
}

pub(crate) const OPERATORS: [&str; 8] = ["", "NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"];

impl Arg {
    pub(crate) fn holds(&self, args: &[u64; 6], mask: u64) -> bool {
        let (got, value) = (args[self.index] & mask, self.value & mask);
        match OPERATORS[self.op] {
            "NE" => got != value,
            "LT" => got < value,
            "LE" => got <= value,
            "EQ" => got == value,
            "GE" => got >= value,
            "GT" => got > value,
            "MASKED_EQ" => got & value == self.second & value,
            other => panic!("{other}"),
        }
    }
}

impl Profile {
    /// In runtime-spec's form.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        let (default, errno) = action(self.default);
        let arches: Vec<_> = self.arches.iter().map(|&i| ARCHES[i].1).collect();
        let rules: Vec<_> = self.rules.iter().map(Rule::to_json).collect();
        serde_json::json!({
            "defaultAction": default, "defaultErrnoRet": errno, "architectures": arches,
            "syscalls": rules,
        })
    }

    /// Of what runtime-spec's form says.
    pub(crate) fn from_json(json: &Value) -> Self {
        let number = |value: &Value| u32::try_from(value.as_u64().unwrap_or(1)).unwrap();
        let mut rules = Vec::new();
        for entry in json["syscalls"].as_array().unwrap() {
            let arg = |arg: &Value| Arg {
                index: number(&arg["index"]) as usize,
                op: operator(arg["op"].as_str().unwrap()),
                value: arg["value"].as_u64().unwrap(),
                second: arg["valueTwo"].as_u64().unwrap_or(0),
            };
            let args: Vec<Arg> = entry["args"].as_array().into_iter().flatten().map(arg).collect();
            let action = value_of(&entry["action"], number(&entry["errnoRet"]));
            rules.extend(entry["names"].as_array().unwrap().iter().map(|name| Rule {
                name: name.as_str().unwrap().into(),
                action,
                args: args.clone(),
            }));
        }
        let index = |arch: &Value| ARCHES.iter().position(|a| a.1 == arch).unwrap();
        Self {
            default: value_of(&json["defaultAction"], number(&json["defaultErrnoRet"])),
            arches: json["architectures"].as_array().unwrap().iter().map(index).collect(),
            rules,
        }
    }

    /// Compiled by minirun.
    pub(crate) fn compile(&self) -> Result<machine::Program, String> {
        let profile = serde_json::from_value(self.to_json()).unwrap();
        let filter = minirun::seccomp::compile(&profile).map_err(|e| e.to_string())?;
        Ok(filter.program.iter().map(|i| (i.code, i.jt, i.jf, i.k)).collect())
    }
}

impl Rule {
    fn to_json(&self) -> serde_json::Value {
        let (action, errno) = action(self.action);
        let args: Vec<_> = self.args.iter().map(|a| {
            let op = format!("SCMP_CMP_{}", OPERATORS[a.op]);
            serde_json::json!({ "index": a.index, "op": op, "value": a.value, "valueTwo": a.second })
        }).collect();
        serde_json::json!({ "names": [self.name], "action": action, "errnoRet": errno, "args": args })
    }
}

fn operator(name: &str) -> usize {
    OPERATORS.iter().position(|op| name == format!("SCMP_CMP_{op}")).unwrap()
}

fn value_of(action: &Value, data: u32) -> u32 {
    match action.as_str().unwrap() {
        "SCMP_ACT_ALLOW" => ALLOW,
        "SCMP_ACT_ERRNO" => ERRNO | data,
        other => panic!("{other}"),
    }
}

fn action(value: u32) -> (&'static str, Option<u32>) {
    let data = Some(value & 0xffff);
    match value & 0xffff_0000 {
        0x8000_0000 => ("SCMP_ACT_KILL_PROCESS", None),
        0 => ("SCMP_ACT_KILL", None),
        0x0003_0000 => ("SCMP_ACT_TRAP", None),
        ERRNO => ("SCMP_ACT_ERRNO", data),
        0x7ff0_0000 => ("SCMP_ACT_TRACE", data),
        0x7ffc_0000 => ("SCMP_ACT_LOG", None),
        ALLOW => ("SCMP_ACT_ALLOW", None),
        other => panic!("{other:#x}"),
    }
}
