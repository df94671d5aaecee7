//! The command line: what was typed becomes [`Options`].

use clap::Parser;

use crate::Options;
use crate::spec::SpecError;

const EXIT_CODES: &str = "\
Each SPEC is [[BIND:]LOCAL:]REMOTE:
  8080                 port 8080 here and in the target
  8080:80              port 8080 here, port 80 in the target
  :80                  any free port here, which is printed
  192.0.2.1:8080:80    listen on this address alone
  [::1]:8080:80        an IPv6 address stands in brackets
Without BIND, 127.0.0.1 and ::1 are listened on.

Exit codes:
  1      failure, or the target ended
  2      usage
  129    ended by SIGHUP: its terminal is gone
  130    ended by SIGINT
  143    ended by SIGTERM";

/// Forward ports of this machine into the network namespace of a container.
///
/// Nothing is needed in the container, and no process is started in it. Without root, the container
/// has to be this user's own.
#[derive(Debug, Parser)]
#[command(name = "pfwd", version, after_help = EXIT_CODES)]
pub struct Arguments {
    /// The container: its minirun name or id, or pid:N for any process
    #[arg(value_name = "TARGET")]
    target: String,
    /// What to forward; the ports that the container's image declares if none is given
    #[arg(value_name = "SPEC", allow_hyphen_values = true)]
    specs: Vec<String>,
}

impl TryFrom<Arguments> for Options {
    type Error = SpecError;

    fn try_from(typed: Arguments) -> Result<Self, SpecError> {
        let forwards = typed.specs.iter().map(|spec| spec.parse()).collect::<Result<_, _>>()?;
        Ok(Self { target: typed.target, forwards })
    }
}
