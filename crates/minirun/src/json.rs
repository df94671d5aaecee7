//! A runtime configuration as text, the way runc and docker write it: tabs, and keys in the order
//! of runtime-spec's Go types, which is the order people know from every other config.json.

use oci_spec::runtime::Spec;
use serde_json::{Map, Value};

/// The objects of a configuration by the key they stand under, and the order of their keys. Keys
/// that are not listed follow in alphabetical order.
const KEY_ORDER: &[(&str, &[&str])] = &[
    (
        "",
        &[
            "ociVersion",
            "process",
            "root",
            "hostname",
            "domainname",
            "mounts",
            "hooks",
            "annotations",
            "linux",
        ],
    ),
    (
        "process",
        &[
            "terminal",
            "consoleSize",
            "user",
            "args",
            "commandLine",
            "env",
            "cwd",
            "capabilities",
            "rlimits",
            "noNewPrivileges",
            "apparmorProfile",
            "oomScoreAdj",
            "selinuxLabel",
        ],
    ),
    ("user", &["uid", "gid", "umask", "additionalGids", "username"]),
    ("capabilities", &["bounding", "effective", "inheritable", "permitted", "ambient"]),
    ("rlimits", &["type", "hard", "soft"]),
    ("root", &["path", "readonly"]),
    ("mounts", &["destination", "type", "source", "options", "uidMappings", "gidMappings"]),
    (
        "linux",
        &[
            "uidMappings",
            "gidMappings",
            "sysctl",
            "resources",
            "cgroupsPath",
            "namespaces",
            "devices",
            "seccomp",
            "rootfsPropagation",
            "maskedPaths",
            "readonlyPaths",
        ],
    ),
    ("uidMappings", &["containerID", "hostID", "size"]),
    ("gidMappings", &["containerID", "hostID", "size"]),
    ("namespaces", &["type", "path"]),
    (
        "seccomp",
        &[
            "defaultAction",
            "defaultErrnoRet",
            "architectures",
            "flags",
            "listenerPath",
            "listenerMetadata",
            "syscalls",
        ],
    ),
    ("syscalls", &["names", "action", "errnoRet", "args"]),
    ("args", &["index", "value", "valueTwo", "op"]),
    ("devices", &["allow", "type", "path", "major", "minor", "access", "fileMode", "uid", "gid"]),
];

/// The configuration as runc would write it: no newline at the end.
///
/// # Errors
/// When a path in it is not UTF-8, which JSON cannot say.
pub fn to_text(spec: &Spec) -> Result<String, serde_json::Error> {
    Ok(value_to_text(&to_value(spec)?))
}

/// As [`to_text`], of a configuration that is JSON already.
pub fn value_to_text(value: &Value) -> String {
    let mut text = String::with_capacity(8 << 10);
    write(&mut text, "", 0, value);
    text
}

/// The configuration as JSON that is the same for equal configurations: the sets of capabilities,
/// which have no order, are sorted.
pub fn to_value(spec: &Spec) -> Result<Value, serde_json::Error> {
    let mut value = serde_json::to_value(spec)?;
    let sets = value.pointer_mut("/process/capabilities").and_then(Value::as_object_mut);
    for set in sets.into_iter().flat_map(Map::values_mut).filter_map(Value::as_array_mut) {
        set.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
    }
    Ok(value)
}

fn write(text: &mut String, under: &str, depth: usize, value: &Value) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            text.push('{');
            for (i, (key, item)) in in_order(under, map).into_iter().enumerate() {
                begin_item(text, i, depth + 1);
                text.push_str(&Value::from(key.as_str()).to_string());
                text.push_str(": ");
                write(text, key, depth + 1, item);
            }
            end_items(text, depth);
            text.push('}');
        }
        Value::Array(items) if under == "names" => write_words(text, depth, items),
        Value::Array(items) if !items.is_empty() => {
            text.push('[');
            for (i, item) in items.iter().enumerate() {
                begin_item(text, i, depth + 1);
                write(text, under, depth + 1, item);
            }
            end_items(text, depth);
            text.push(']');
        }
        other => text.push_str(&other.to_string()),
    }
}

/// The names of system calls, of which there are hundreds: as many on a line as fit.
fn write_words(text: &mut String, depth: usize, items: &[Value]) {
    const WIDTH: usize = 100;
    text.push('[');
    let mut column = WIDTH;
    for (i, item) in items.iter().enumerate() {
        let word = item.to_string();
        if column + word.len() > WIDTH {
            begin_item(text, i, depth + 1);
            column = 0;
        } else {
            text.push_str(", ");
        }
        column += word.len() + 2;
        text.push_str(&word);
    }
    end_items(text, depth);
    text.push(']');
}

fn begin_item(text: &mut String, index: usize, depth: usize) {
    if index > 0 {
        text.push(',');
    }
    end_items(text, depth);
}

fn end_items(text: &mut String, depth: usize) {
    text.push('\n');
    text.extend(std::iter::repeat_n('\t', depth));
}

fn in_order<'a>(under: &str, map: &'a Map<String, Value>) -> Vec<(&'a String, &'a Value)> {
    let order = KEY_ORDER.iter().find(|(name, _)| *name == under).map_or(&[][..], |(_, keys)| keys);
    let rank = |key: &str| order.iter().position(|&k| k == key).unwrap_or(order.len());
    let mut items: Vec<_> = map.iter().collect();
    items.sort_by(|(a, _), (b, _)| rank(a).cmp(&rank(b)).then_with(|| a.cmp(b)));
    items
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_follow_the_specification_then_the_alphabet() {
        let value = serde_json::json!({
            "zz": 1, "linux": {"namespaces": [{"path": "/p", "type": "pid"}]}, "aa": [], "root": {},
            "process": {"cwd": "/\n", "terminal": true},
        });
        let text = value_to_text(&value);
        let want = "{\n\t\"process\": {\n\t\t\"terminal\": true,\n\t\t\"cwd\": \"/\\n\"\n\t},\n\t\"root\": {},\n\t\
            \"linux\": {\n\t\t\"namespaces\": [\n\t\t\t{\n\t\t\t\t\"type\": \"pid\",\n\t\t\t\t\"path\": \"/p\"\n\t\t\t}\n\t\t]\n\t},\n\t\
            \"aa\": [],\n\t\"zz\": 1\n}";
        assert_eq!(text, want);
    }

    #[test]
    fn the_text_reads_back_as_the_same_configuration() {
        let spec = crate::spec::example(true);
        let text = to_text(&spec).unwrap();
        assert_eq!(serde_json::from_str::<Spec>(&text).unwrap(), spec);
        assert_eq!(to_text(&spec).unwrap(), text);
    }
}
