//! `--ephemeral`: the root filesystem as it is, all changes thrown away.
//!
//! A configuration says so by an annotation of minirun's own. Other runtimes pass over it, and then
//! the root filesystem is simply written; in runtime-spec nothing stands for it.

use oci_spec::runtime::Spec;

use super::value::{BadValue, bytes};

/// The annotation. Its value is a number of bytes, or empty for the kernel's usual limit.
pub const ANNOTATION: &str = "minirun.ephemeral";

/// How much may be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ephemeral {
    /// Size of all changes; without one, half of the machine's memory (tmpfs(5)).
    pub size_bytes: Option<u64>,
}

/// Parses the value of `--ephemeral`, or of the annotation.
pub fn parse(text: &str) -> Result<Ephemeral, BadValue> {
    if text.is_empty() {
        return Ok(Ephemeral { size_bytes: None });
    }
    let size = bytes(text).filter(|size| *size > 0).ok_or_else(|| {
        let hint = "give how much may be changed: --ephemeral=512m; without a size it is half of the memory";
        BadValue::new("ephemeral", text, "no size", hint)
    })?;
    Ok(Ephemeral { size_bytes: Some(size) })
}

/// Writes it into a configuration.
pub(super) fn apply(spec: &mut Spec, ephemeral: Ephemeral) {
    let value = ephemeral.size_bytes.map(|size| size.to_string()).unwrap_or_default();
    spec.annotations_mut().get_or_insert_default().insert(ANNOTATION.into(), value);
}

/// What a configuration says.
pub(crate) fn of(spec: &Spec) -> Result<Option<Ephemeral>, BadValue> {
    let said = spec.annotations().as_ref().and_then(|all| all.get(ANNOTATION));
    said.map(|text| parse(text)).transpose()
}
