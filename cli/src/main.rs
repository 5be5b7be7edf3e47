//! The one binary: daemons, operator commands, metrics and HTTP, logging, signals.
//!
//! It wires what the other crates do and decides nothing about data. Daemons start in two phases:
//! everything is parsed and checked and all faults are reported at once; only then does anything
//! run.
#![allow(clippy::print_stderr, reason = "the last word of a command that failed")]

mod answer;
mod args;
mod audit;
mod check;
mod cleanup;
mod control;
mod cutover;
mod daemon;
#[cfg(test)]
mod deploy_tests;
mod exit;
mod fits;
mod gate;
mod http;
mod logs;
mod metrics;
mod obstacles;
mod progress;
mod promotion;
mod rearm;
mod rehearse;
mod restart;
mod resync;
mod schema;
mod session;
mod signals;
mod skip;
mod status;
mod tell;
mod terminal;
mod topology;
mod verify;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::Parser;
use modshift_cutover::Direction;
use modshift_proto::plan::Plan;

use args::{Cli, Command};
use control::command::{self as controlling, Action};
use daemon::Role;
use exit::{BadPlan, Exit, code_of, hint_of};
use signals::Signals;
use tell::Form;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are answers, not mistakes.
            let exit = if error.use_stderr() { Exit::BadPlan } else { Exit::Done };
            let _ = error.print();
            return exit.into();
        }
    };
    let daemon =
        matches!(cli.command, Command::Replicator(_) | Command::Consumer(_) | Command::Run(_));
    logs::start(cli.log_format, daemon);
    let json = answers_programs(&cli.command);
    let (exit, text, hint) = match run(cli) {
        Ok(exit) => (exit, "ended at once by a second signal".to_owned(), None),
        Err(error) => {
            let (text, hint) = (format!("{error:#}"), hint_of(&error));
            eprintln!("modshift: {text}");
            if let Some(hint) = hint.as_ref().filter(|hint| !text.contains(*hint)) {
                eprintln!("hint: {hint}");
            }
            (code_of(&error), text, hint)
        }
    };
    // However it ended: a program that reads on would wait for what never comes.
    if json && !answer::has_ended() {
        Form::Json.end(&text, hint.as_deref(), exit);
    }
    exit.into()
}

fn run(cli: Cli) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let exit = runtime.block_on(answer(cli));
    // What still blocks a thread (a broker that does not answer) must not hold up the end.
    runtime.shutdown_background();
    exit
}

async fn answer(cli: Cli) -> anyhow::Result<Exit> {
    let plan = Arc::new(plan(&cli)?);
    promotion::fits(&plan, &cli.command)?;
    let by_plan = match &cli.command {
        Command::Verify(_) | Command::Resync(_) | Command::Rearm(_) | Command::Skip(_) => true,
        // A run that was begun is ended with whatever plan is at hand.
        Command::Cutover(args) => !(args.common.resume || args.common.abort),
        Command::Rollback(args) => !(args.common.resume || args.common.abort),
        _ => false,
    };
    if by_plan && !plan.scheme.is_promotion() {
        fits::tables(&plan).await?;
    }
    // These know themselves how they end.
    let drains = matches!(
        cli.command,
        Command::Replicator(_)
            | Command::Consumer(_)
            | Command::Run(_)
            | Command::Verify(_)
            | Command::Resync(_)
            | Command::Rehearse(_)
            | Command::Cutover(_)
            | Command::Rollback(_)
    );
    if drains {
        return Box::pin(command(plan, &cli.command)).await;
    }
    let signals = Signals::listen().context("listening for signals")?;
    tokio::select! {
        exit = Box::pin(command(plan, &cli.command)) => exit,
        signal = signals.first() => {
            let text = format!("ended by {signal}{}", left_by(&cli.command));
            eprintln!("modshift: {text}");
            if answers_programs(&cli.command) && !answer::has_ended() {
                Form::Json.end(&text, None, Exit::CannotTell);
            }
            Ok(Exit::CannotTell)
        }
    }
}

/// With a document, or an object a line: the last of them says how it ended, however that was.
fn answers_programs(command: &Command) -> bool {
    match command {
        Command::Check(args) => args.json,
        Command::Status(args) => args.json,
        Command::Gate(args) => args.json,
        Command::Verify(args) => args.json,
        Command::Resync(args) => args.json,
        Command::Skip(args) => args.json,
        Command::RestartCopy(args) => args.json,
        Command::Cleanup(args) => args.json,
        Command::Audit(args) => args.json,
        Command::Schema(args) => args.json,
        Command::Rehearse(args) => args.json,
        Command::Rearm(args) => args.json,
        Command::Cutover(args) => args.common.json,
        Command::Rollback(args) => args.common.json,
        Command::Finish(args) => args.json,
        Command::Unfence(args) => args.json,
        _ => false,
    }
}

/// What a command may leave that was ended in its middle, and how one goes on.
fn left_by(command: &Command) -> &'static str {
    match command {
        Command::Check(args) if args.trial => {
            "; table modshift_trial may be left on new shards: the next modshift check --trial removes it"
        }
        Command::Schema(args) if args.apply => {
            "; what was created is there: the same command creates the rest"
        }
        Command::Topology(args) if !args.dry_run => {
            "; some files may be written: the same command writes the rest"
        }
        Command::Rearm(_) => "; the stream may be rearmed in part: give the same command again",
        Command::Skip(args) if !args.dry_run => {
            "; the group may be passed over all the same: give the same command again"
        }
        Command::RestartCopy(args) if !args.dry_run => {
            "; it may be done in part, and no daemon starts before the same command has done the rest"
        }
        Command::Cleanup(args) if !args.dry_run => {
            "; some of it may be gone: the same command removes the rest"
        }
        Command::Finish(_) | Command::Unfence(_) => {
            "; some shards may be done and others not: the same command does the rest"
        }
        Command::Pause(_) | Command::Resume(_) | Command::Throttle(_) => {
            "; a daemon may have done it all the same: see its /status"
        }
        _ => "",
    }
}

async fn command(plan: Arc<Plan>, command: &Command) -> anyhow::Result<Exit> {
    match command {
        Command::Check(args) => check::run(plan, args).await,
        Command::Schema(args) => schema::run(plan, args).await,
        Command::Topology(args) => topology::run(plan, args).await,
        Command::Replicator(args) => {
            daemon::run(plan, Role::Replicator, &args.shards, &args.http).await
        }
        Command::Consumer(args) => {
            daemon::run(plan, Role::Consumer, &args.shards, &args.http).await
        }
        Command::Run(args) => {
            daemon::run(plan, Role::Run, &args::Shards::default(), &args.http).await
        }
        Command::Status(args) => status::run(plan, args).await,
        Command::Gate(args) => gate::run(plan, args).await,
        Command::Verify(args) => verify::run(plan, args).await,
        Command::Resync(args) => resync::run(plan, args).await,
        Command::Rehearse(args) => rehearse::run(plan, args).await,
        Command::Rearm(args) => rearm::run(plan, args).await,
        Command::Skip(args) => skip::run(plan, args).await,
        Command::RestartCopy(args) => restart::run(plan, args).await,
        Command::Cutover(args) => {
            cutover::run(plan, Direction::Cutover, &args.common, args.stop_writes, &[]).await
        }
        Command::Rollback(args) => {
            let (common, lost) = (&args.common, &args.accept_loss);
            cutover::run(plan, Direction::Rollback, common, false, lost).await
        }
        Command::Finish(args) => cutover::finish(plan, args).await,
        Command::Unfence(args) => cutover::unfence(plan, args).await,
        Command::Cleanup(args) => cleanup::run(plan, args).await,
        Command::Pause(daemons) => controlling::run(plan, daemons, Action::Pause).await,
        Command::Resume(daemons) => controlling::run(plan, daemons, Action::Resume).await,
        Command::Throttle(args) => {
            controlling::run(plan, &args.daemons, Action::throttle(args)).await
        }
        Command::Audit(args) => audit::run(plan, args).await,
    }
}

fn plan(cli: &Cli) -> anyhow::Result<Plan> {
    let Some(file) = &cli.plan else {
        let message = "no plan: give --plan FILE or set MODSHIFT_PLAN";
        return Err(BadPlan(message.to_owned()).into());
    };
    Plan::load(file).map_err(|errors| {
        BadPlan(format!("the plan is refused\n{errors}\nhint: {}", errors.hint())).into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_has_json_answers_programs() {
        use clap::CommandFactory;
        let needs: &[(&str, &[&str])] = &[
            ("resync", &["--table", "t"]),
            ("rearm", &["--shard", "0"]),
            ("skip", &["--source", "0", "--gtid", "0-1-1", "--why", "x"]),
        ];
        let mut commands = 0;
        for command in Cli::command().get_subcommands() {
            if !command.get_arguments().any(|argument| argument.get_id() == "json") {
                continue;
            }
            let name = command.get_name();
            let more = needs.iter().find(|(of, _)| *of == name).map_or(&[][..], |(_, more)| more);
            let answers = |args: &[&str]| {
                let cli = Cli::try_parse_from([&["modshift", name], more, args].concat());
                answers_programs(&cli.unwrap().command)
            };
            assert!(answers(&["--json"]) && !answers(&[]), "{name}");
            commands += 1;
        }
        assert_eq!(commands, 16);
    }
}
