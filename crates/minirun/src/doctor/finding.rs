//! What one check says.

use serde::Serialize;

/// How it stands with something that containers need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Fine,
    /// Containers run, but not all of them, or not with everything.
    Warning,
    /// No container runs without it.
    Missing,
}

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub check: &'static str,
    /// How it stands.
    pub status: Status,
    /// What was found; for what is not fine, why.
    pub cause: String,
    /// What to do about it, as a command to paste where there is one.
    pub remedy: Option<String>,
}

impl Finding {
    /// Nothing to be done.
    pub(super) fn fine(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, status: Status::Fine, cause: found.into(), remedy: None }
    }

    /// Something that some containers miss.
    pub(super) fn warning(
        check: &'static str,
        cause: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let remedy = Some(remedy.into());
        Self { check, status: Status::Warning, cause: cause.into(), remedy }
    }

    /// Something that all containers miss.
    pub(super) fn missing(
        check: &'static str,
        cause: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { status: Status::Missing, ..Self::warning(check, cause, remedy) }
    }
}
