//! The options that limit a container.

use clap::Args;

use crate::config::limits::{LimitError, Limits};

/// Limits, as typed.
#[derive(Debug, Args)]
#[command(next_help_heading = "Limits (cgroup v2)")]
pub(super) struct LimitArgs {
    /// Memory, as 512m or 1.5g; beyond it the kernel kills
    #[arg(short, long, value_name = "SIZE")]
    memory: Option<String>,
    /// Memory and swap together; -1 for any swap [default: twice the memory]
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    memory_swap: Option<String>,
    /// Processor time: 0.4 is 40 ms in each 100 ms, 2 is two whole processors
    #[arg(long, value_name = "NUMBER")]
    cpus: Option<String>,
    /// Processes and threads, the container's init among them; -1 for any number
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pids_limit: Option<String>,
    /// How readily the kernel kills it where memory is short, -1000 to 1000
    #[arg(long, value_name = "SCORE", allow_hyphen_values = true)]
    oom_score_adj: Option<String>,
}

impl LimitArgs {
    pub(super) fn limits(&self) -> Result<Limits, LimitError> {
        let limits = Limits {
            memory: parsed(self.memory.as_ref())?,
            memory_swap: parsed(self.memory_swap.as_ref())?,
            cpus: parsed(self.cpus.as_ref())?,
            pids: parsed(self.pids_limit.as_ref())?,
            oom_score_adj: self.oom_score_adj.as_deref().map(score).transpose()?,
        };
        limits.check()?;
        Ok(limits)
    }
}

fn parsed<T: std::str::FromStr>(text: Option<&String>) -> Result<Option<T>, T::Err> {
    text.map(|text| text.parse()).transpose()
}

fn score(text: &str) -> Result<i32, LimitError> {
    let score = text.parse().ok().filter(|score| (-1000..=1000).contains(score));
    score.ok_or_else(|| LimitError {
        option: "--oom-score-adj",
        got: text.into(),
        want: "-1000 to 1000",
    })
}
