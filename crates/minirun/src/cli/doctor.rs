//! What this machine lacks for containers.

use clap::Args;

/// `doctor`, as typed.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Print JSON: an array of {check, status, cause, remedy}
    #[arg(long)]
    pub json: bool,
}
