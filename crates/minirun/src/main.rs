//! The `minirun` command: parses, calls, reports.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::CommandFactory;
use ctsys::report::{Explain, Usage, escape, report};
use ctsys::state::{ContainerState, Status};
use minirun::caller::Caller;
use minirun::cli::{
    Cli, Command, DoctorArgs, ExecArgs, ListArgs, ListFormat, LogsArgs, RmArgs, RunArgs, SpecArgs,
    StopArgs,
};
use minirun::config::security;
use minirun::exec::ExecOptions;
use minirun::launch::Launch;
use minirun::lifecycle::{Filter, LifecycleError, LogOptions, Stopping};
use minirun::plan::Plan;
use minirun::prepare::{self, EXIT_OWN_FAILURE};
use minirun::{doctor, json, lifecycle, spec_file, tini};

const PROGRAM: &str = "minirun";

#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> ExitCode {
    // Before all else: an init in an image is to start at once, and tini's words are its own.
    if let Some(init) = tini::CommandLine::recognise(std::env::args_os()) {
        return ExitCode::from(init.run());
    }
    let cli = match Cli::parse_from_args(std::env::args_os().collect()) {
        Ok(cli) => cli,
        Err(error) => return not_understood(&error),
    };
    match cli.command {
        None => run(cli.run),
        Some(Command::Spec(args)) => finish(write_spec(&args)),
        Some(Command::List(args)) => list(&args),
        Some(Command::State { container }) => {
            finish(lifecycle::find(&container).map(|c| print(&lifecycle::state_json(&c))))
        }
        Some(Command::Kill { container, signal }) => finish(lifecycle::kill(&container, &signal)),
        Some(Command::Delete { container, force }) => {
            finish(lifecycle::delete(&container, force).map(drop))
        }
        Some(Command::Exec(args)) => exec(args),
        Some(Command::Logs(args)) => logs(&args),
        Some(Command::Stop(args)) => stop(args),
        Some(Command::Wait { containers }) => {
            each(&containers, |name| lifecycle::wait(name).map(|code| Some(code.to_string())))
        }
        Some(Command::Rm(args)) => rm(args),
        Some(Command::Inspect { containers }) => {
            finish(lifecycle::inspect(&containers).map(|text| print(&text)))
        }
        Some(Command::Top { container }) => {
            finish(lifecycle::top(&container).map(|text| print(&text)))
        }
        Some(Command::Doctor(args)) => examine(&args),
        // Only where an option stands before it: else this is not reached.
        Some(Command::Init { .. }) => {
            report(PROGRAM, &Usage::new(PROGRAM, "init must be the first word", EXIT_OWN_FAILURE))
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
                // It runs: that nobody can be told its id is no failure of it.
                let _ = try_print(&format!("{}\n", prepared.launch.id));
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
    let mut spec = launch.spec.clone();
    security::write_out(&mut spec);
    match json::to_text(&spec) {
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

fn list(args: &ListArgs) -> ExitCode {
    let filters = args.filter.iter().map(|text| text.parse());
    let filters = match filters.collect::<Result<Vec<Filter>, _>>() {
        Ok(filters) => filters,
        Err(error) => return report(PROGRAM, &error),
    };
    finish(lifecycle::list().map(|all| {
        let containers = lifecycle::matching(all, &filters);
        print(&if args.quiet {
            containers.iter().map(|c| format!("{}\n", c.id)).collect::<String>()
        } else if args.json || args.format == ListFormat::Json {
            lifecycle::list_json(&containers)
        } else {
            lifecycle::list_table(&containers)
        });
    }))
}

fn logs(args: &LogsArgs) -> ExitCode {
    let options = LogOptions { follow: args.follow, tail: args.tail };
    finish(lifecycle::logs(&args.container, options, std::io::stdout().lock()))
}

/// All are asked to stop before the first is waited for.
fn stop(args: StopArgs) -> ExitCode {
    let running = |c: &ContainerState| c.status == Status::Running;
    let names = match named_or_all(args.containers, args.all, running) {
        Ok(names) => names,
        Err(error) => return report(PROGRAM, &error),
    };
    let asked: Vec<_> = names.iter().map(|name| Stopping::begin(name, args.time)).collect();
    let mut asked = asked.into_iter();
    each(&names, |name| {
        if let Some(stopping) = asked.next().transpose()?.flatten() {
            stopping.finish()?;
        }
        Ok(Some(name.to_owned()))
    })
}

fn rm(args: RmArgs) -> ExitCode {
    let removable = |c: &ContainerState| args.force || c.status == Status::Stopped;
    match named_or_all(args.containers, args.all, removable) {
        Ok(names) => {
            let remove = |name: &str| lifecycle::delete(name, args.force);
            each(&names, |name| Ok(remove(name)?.then(|| name.to_owned())))
        }
        Err(error) => report(PROGRAM, &error),
    }
}

fn named_or_all(
    names: Vec<String>,
    all: bool,
    meant: impl Fn(&ContainerState) -> bool,
) -> Result<Vec<String>, LifecycleError> {
    if !all {
        return Ok(names);
    }
    Ok(lifecycle::list()?.into_iter().filter(meant).map(|c| c.id).collect())
}

/// Does it to each container, and prints the answer: one that fails does not keep it from the others.
fn each(
    names: &[String],
    mut action: impl FnMut(&str) -> Result<Option<String>, LifecycleError>,
) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for name in names {
        match action(name) {
            Ok(answer) => answer.iter().for_each(|answer| print(&format!("{answer}\n"))),
            Err(error) => code = report(PROGRAM, &error),
        }
    }
    code
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
    let env = args.env.read(own_variable).map_err(failed)?;
    let user = args.user.map(|text| text.parse()).transpose();
    let user = user.map_err(|error| failed(prepare::Error::User(error)))?;
    let tty = args.tty.unwrap_or_else(|| Caller::look().on_terminal);
    let (container, cwd) = (args.container, args.workdir);
    Ok(ExecOptions { container, args: args.command, env, cwd, user, tty })
}

/// What containers need: 0 where they can run, whatever may be better.
fn examine(args: &DoctorArgs) -> ExitCode {
    let findings = doctor::examine(&Caller::look());
    let coloured = std::io::stdout().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    print(&if args.json { doctor::json(&findings) } else { doctor::table(&findings, coloured) });
    ExitCode::from(u8::from(!doctor::can_run(&findings)))
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
    match try_print(text) {
        // A reader that has gone away wants no more of it.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            let _ = writeln!(
                std::io::stderr(),
                "{PROGRAM}: cannot write to standard output: {error}\nhint: is the disk full? (df -h)"
            );
            std::process::exit(1);
        }
        _ => {}
    }
}

fn try_print(text: &str) -> std::io::Result<()> {
    let mut stdout = std::io::stdout();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
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
