//! Which containers `list --filter` means: docker's filters, of what there is here.

use std::str::FromStr;

use ctsys::report::Explain;
use ctsys::state::{ContainerState, Status};

/// One condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filter {
    /// It has this label; with a value, of this value.
    Label(String, Option<String>),
    /// Its name has this in it.
    Name(String),
    /// Its id begins so.
    Id(String),
    /// It is in this state.
    Status(Status),
}

/// A word that is no filter; implements `Explain` (exit code 1).
#[derive(Debug, thiserror::Error)]
#[error(
    "invalid filter {0:?}: want label=KEY, label=KEY=VALUE, name=PART, id=START or status=STATUS"
)]
pub struct FilterError(String);

impl Explain for FilterError {
    fn hint(&self) -> Option<String> {
        Some("a status is creating, created, running or stopped (docker's word: exited)".into())
    }
}

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let wrong = || FilterError(text.to_owned());
        let (key, value) = text.split_once('=').filter(|(_, v)| !v.is_empty()).ok_or_else(wrong)?;
        let owned = value.to_owned();
        Ok(match key {
            "label" => match value.split_once('=') {
                Some((label, wanted)) => Self::Label(label.into(), Some(wanted.into())),
                None => Self::Label(owned, None),
            },
            "name" => Self::Name(owned),
            "id" => Self::Id(owned),
            "status" => Self::Status(match value {
                "creating" => Status::Creating,
                "created" => Status::Created,
                "running" => Status::Running,
                "stopped" | "exited" => Status::Stopped,
                _ => return Err(wrong()),
            }),
            _ => return Err(wrong()),
        })
    }
}

impl Filter {
    fn is_met_by(&self, container: &ContainerState) -> bool {
        match self {
            Self::Label(key, value) => {
                let found = container.annotations.get(key);
                found.is_some_and(|found| value.as_ref().is_none_or(|value| value == found))
            }
            Self::Name(part) => container.name.contains(part.as_str()),
            Self::Id(start) => container.id.starts_with(start.as_str()),
            Self::Status(status) => container.status == *status,
        }
    }
}

/// Those containers that have all of the labels asked for and, of every other kind of condition that
/// was given, meet one: docker's rule.
pub fn matching(mut containers: Vec<ContainerState>, filters: &[Filter]) -> Vec<ContainerState> {
    let kind = |filter: &Filter| std::mem::discriminant(filter);
    containers.retain(|container| {
        filters.iter().all(|filter| match filter {
            Filter::Label(..) => filter.is_met_by(container),
            other => {
                let alike = filters.iter().filter(|f| kind(f) == kind(other));
                alike.into_iter().any(|f| f.is_met_by(container))
            }
        })
    });
    containers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_dockers() {
        let parse = |text: &str| text.parse::<Filter>();
        assert_eq!(parse("label=a").unwrap(), Filter::Label("a".into(), None));
        let with_value = Filter::Label("a".into(), Some("b=c".into()));
        assert_eq!(parse("label=a=b=c").unwrap(), with_value);
        assert_eq!(parse("status=exited").unwrap(), Filter::Status(Status::Stopped));
        for bad in ["", "label", "label=", "status=up", "ancestor=x", "=x"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
