//! The `minirun` command: parses, calls, reports.

use std::io::Write as _;
use std::process::ExitCode;

use clap::CommandFactory;
use ctsys::report::{Explain, Usage, escape, report};
use minirun::caller::Caller;
use minirun::cli::{Cli, Command, ExecArgs, ListArgs, ListFormat, RunArgs, SpecArgs};
use minirun::exec::ExecOptions;
use minirun::launch::Launch;
use minirun::plan::Plan;
use minirun::prepare::{self, EXIT_OWN_FAILURE};
use minirun::{json, lifecycle, spec_file};

const PROGRAM: &str = "minirun";

#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> ExitCode {
    let cli = match Cli::parse_from_args(std::env::args_os().collect()) {
        Ok(cli) => cli,
        Err(error) => return not_understood(&error),
    };
    match cli.command {
        None => run(cli.run),
        Some(Command::Spec(args)) => finish(write_spec(&args)),
        Some(Command::List(args)) => finish(list(&args)),
        Some(Command::State { container }) => {
            finish(lifecycle::find(&container).map(|c| print(&lifecycle::state_json(&c))))
        }
        Some(Command::Kill { container, signal }) => finish(lifecycle::kill(&container, &signal)),
        Some(Command::Delete { container, force }) => finish(lifecycle::delete(&container, force)),
        Some(Command::Exec(args)) => exec(args),
        Some(Command::Init { .. }) => {
            report(PROGRAM, &Usage::new(PROGRAM, "init is reserved: ./init is the directory", 1))
        }
    }
}

fn run(args: RunArgs) -> ExitCode {
    let caller = Caller::look();
    let dry_run = args.dry_run;
    let prepared = std::env::current_dir()
        .map_err(prepare::Error::CurrentDir)
        .and_then(|dir| args.into_options(&dir, own_variable))
        .and_then(|options| prepare::prepare(&options, &caller));
    let prepared = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return report(PROGRAM, &error),
    };
    prepared.notes.iter().for_each(|note| notice(note));
    if dry_run {
        return show(&prepared.launch);
    }
    match minirun::run::run(&prepared.launch, &mut notice) {
        Ok(code) => {
            if prepared.launch.detach {
                print(&format!("{}\n", prepared.launch.id));
            }
            ExitCode::from(code)
        }
        Err(error) => report(PROGRAM, &error),
    }
}

/// What would run, checked as a run checks it.
fn show(launch: &Launch) -> ExitCode {
    if let Err(error) = Plan::new(&launch.spec, &launch.rootfs, &launch.maps) {
        return report(PROGRAM, &error);
    }
    match json::to_text(&launch.spec) {
        Ok(text) => {
            print(&format!("{text}\n"));
            ExitCode::SUCCESS
        }
        Err(error) => report(PROGRAM, &prepare::Error::Json(error)),
    }
}

fn write_spec(args: &SpecArgs) -> Result<(), spec_file::SpecError> {
    spec_file::write(&args.bundle, args.rootless, &Caller::look())
}

fn list(args: &ListArgs) -> Result<(), lifecycle::LifecycleError> {
    let containers = lifecycle::list()?;
    if args.quiet {
        print(&containers.iter().map(|c| format!("{}\n", c.id)).collect::<String>());
    } else if args.json || args.format == ListFormat::Json {
        print(&lifecycle::list_json(&containers));
    } else {
        print(&lifecycle::list_table(&containers));
    }
    Ok(())
}

fn exec(args: ExecArgs) -> ExitCode {
    let options = match exec_options(args) {
        Ok(options) => options,
        Err(code) => return code,
    };
    match minirun::exec::exec(&options) {
        Ok(code) => ExitCode::from(code),
        Err(error) => report(PROGRAM, &error),
    }
}

fn exec_options(args: ExecArgs) -> Result<ExecOptions, ExitCode> {
    let failed = |error: prepare::Error| report(PROGRAM, &error);
    let env = args.environment(own_variable).map_err(failed)?;
    let user = args.user.map(|text| text.parse()).transpose();
    let user = user.map_err(|error| failed(prepare::Error::User(error)))?;
    let tty = args.tty.unwrap_or_else(|| Caller::look().on_terminal);
    let (container, cwd) = (args.container, args.workdir);
    Ok(ExecOptions { container, args: args.command, env, cwd, user, tty })
}

/// A variable of the caller's; one that is not UTF-8 cannot stand in a configuration.
fn own_variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The code of a subcommand, which is runc's: 0 or 1.
fn finish<E: Explain>(result: Result<(), E>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(PROGRAM, &error),
    }
}

fn print(text: &str) {
    // A reader that has gone away wants no more of it.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn notice(text: &str) {
    // A closed standard error leaves nobody to tell.
    let _ = writeln!(std::io::stderr(), "{PROGRAM}: note: {}", escape(text));
}

/// Help and version, which are no failure, or what is wrong on one line.
fn not_understood(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        print(&error.render().to_string());
        return ExitCode::SUCCESS;
    }
    let exit_code = if names_a_subcommand() { 1 } else { EXIT_OWN_FAILURE };
    report(PROGRAM, &Usage::new(PROGRAM, &error.render().to_string(), exit_code))
}

/// The subcommands' codes are runc's, also when their arguments are wrong.
fn names_a_subcommand() -> bool {
    let lenient = Cli::command().ignore_errors(true).try_get_matches();
    lenient.is_ok_and(|matches| matches.subcommand_name().is_some())
}
