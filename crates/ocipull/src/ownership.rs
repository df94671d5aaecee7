//! Stand-in until the real one is merged.
use ctsys::record::Ownership;
/// Stand-in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnershipChoice {
    /// a
    Auto,
    /// r
    Root,
    /// s
    Subuid,
    /// s
    Single,
}
/// Stand-in.
#[derive(Debug)]
pub struct Entered {
    /// o
    pub ownership: Ownership,
    /// w
    pub warning: Option<String>,
}
/// Stand-in.
#[derive(Debug, thiserror::Error)]
#[error("ownership")]
pub struct OwnershipError;
impl ctsys::report::Explain for OwnershipError {}
/// Stand-in.
pub fn enter(_choice: OwnershipChoice) -> Result<Entered, OwnershipError> {
    Ok(Entered { ownership: Ownership::Root, warning: None })
}
