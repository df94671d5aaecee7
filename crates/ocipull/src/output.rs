//! The options that say how much is told of a run, and in which form.

use clap::{Args, ValueEnum};

/// What every command takes that asks a registry.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct TypedTrace {
    /// Print a line a request on standard error: method, URL, status, type, digest, bytes, time
    #[arg(short, long)]
    verbose: bool,
    /// Print for every request when, counted from its start, its host's name was looked up, TCP was
    /// connected, TLS was ready, the answer began and ended; its size and rate
    #[arg(long)]
    timing: bool,
}

/// What those take as well that fetch layers.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct TypedOutput {
    #[command(flatten)]
    trace: TypedTrace,
    /// How progress is shown on standard error: bars on a terminal and lines elsewhere, lines, or
    /// an object a line for programs
    #[arg(long, value_enum, value_name = "FORM", default_value_t = Form::Auto)]
    progress: Form,
    /// Print errors only
    #[arg(short, long, conflicts_with_all = ["verbose", "timing", "progress"])]
    quiet: bool,
}

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    Auto,
    Plain,
    Json,
}

/// What it means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Output {
    pub(crate) form: Form,
    /// Errors only.
    pub(crate) quiet: bool,
    /// A line a request.
    pub(crate) requests: bool,
    /// A line a request with its steps.
    pub(crate) timing: bool,
}

impl Output {
    /// For who asked for nothing.
    pub(crate) const USUAL: Self =
        Self { form: Form::Auto, quiet: false, requests: false, timing: false };
}

impl TypedTrace {
    pub(crate) fn meaning(self) -> Output {
        Output { requests: self.verbose, timing: self.timing, ..Output::USUAL }
    }
}

impl TypedOutput {
    pub(crate) fn meaning(self) -> Output {
        Output { form: self.progress, quiet: self.quiet, ..self.trace.meaning() }
    }

    /// Whether a program reads what is told.
    pub(crate) fn is_json(self) -> bool {
        self.progress == Form::Json
    }
}
