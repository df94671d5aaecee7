//! Variables as they are typed.

use crate::prepare::{Error, Result};

/// As docker has it: a name alone takes the caller's value, and nothing when there is none.
pub(super) fn environment(
    typed: &[String],
    lookup: impl Fn(&str) -> Option<String>,
) -> Result<Vec<String>> {
    let mut env = Vec::with_capacity(typed.len());
    for entry in typed {
        let (name, value) = match entry.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (entry.as_str(), lookup(entry)),
        };
        if name.is_empty() {
            return Err(Error::Variable(entry.clone()));
        }
        env.extend(value.map(|value| format!("{name}={value}")));
    }
    Ok(env)
}
