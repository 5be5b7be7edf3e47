//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use modshift_mariadb::pace::RATIO_MIN;
use modshift_proto::Gtid;

const EXIT_CODES: &str = "\
Exit codes: 0 done or open, 1 no or closed, 2 cannot tell, 3 bad plan or usage, 4 halted.";

#[derive(Debug, Parser)]
#[command(
    name = "modshift",
    version,
    about = "Moves live, modulo-sharded MariaDB data to a new modulus",
    after_help = EXIT_CODES
)]
pub struct Cli {
    /// The plan: the TOML file that describes the reshard
    #[arg(long, global = true, env = "MODSHIFT_PLAN", value_name = "FILE")]
    pub plan: Option<PathBuf>,

    /// How log lines look; they go to standard error
    #[arg(long, global = true, value_enum, default_value = "text")]
    pub log_format: LogFormat,

    #[command(subcommand)]
    pub command: Command,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Look for everything that would stop the reshard, and report all of it at once
    Check(Check),
    /// Show what the new shards' tables lack; with --apply, create them
    Schema(Schema),
    /// Write what the servers of dual-master pairs need, before, during and after: settings, replication,
    /// seeding, keepalived
    Topology(Topology),
    /// Read the old shards into the change log
    Replicator(Daemon),
    /// Apply the change log to the new shards
    Consumer(Daemon),
    /// Both in one process, over the in-process change log
    Run(Run),
    /// How far every stream is
    Status(Status),
    /// May the application be switched now?
    Gate(Gate),
    /// Compare old and new rows, byte for byte, while both are written
    Verify(Verify),
    /// Copy a table, or a range of it, again through the change log, and compare it; the daemons must be
    /// running
    Resync(Resync),
    /// Let a stream that halted on a foreign write go on behind it; stop the daemons first
    Rearm(Rearm),
    /// Send a reader past the one group at which it has halted, or an applier past a record of somebody else
    Skip(Skip),
    /// Start over: forget what the streams remember, and empty the planned tables of the new shards;
    /// before the cutover only, and with the daemons stopped
    RestartCopy(RestartCopy),
    /// Go the whole way there and back on the shards of [rehearse], and predict the pause
    Rehearse(Rehearse),
    /// Make the new shards serve: fence, drain, publish, open
    Cutover(CutoverCommand),
    /// Make the old shards serve again, with everything written since
    Rollback(RollbackCommand),
    /// End the way back and remove modshift's tables; the old shards stay fenced
    Finish(Finish),
    /// Let applications write to the old shards again, after finish
    Unfence(Unfence),
    /// List what is left of modshift after finish and unfence, and remove what is its own
    Cleanup(Cleanup),
    /// Let running daemons start no further piece of copying or verifying; tailing and applying go
    /// on
    Pause(Daemons),
    /// End a pause
    Resume(Daemons),
    /// Slow the copying and verifying of running daemons down
    Throttle(Throttle),
    /// Who did what, newest first
    Audit(Audit),
}

#[derive(Debug, Args)]
pub struct Check {
    /// Print the report as one JSON document
    #[arg(long)]
    pub json: bool,
    /// Leave out what reads rows: strays, the move matrix, and whatever the other options add
    #[arg(long)]
    pub quick: bool,
    /// Make the move matrix from about so many rows of each table and shard instead of all
    #[arg(long, value_name = "ROWS", num_args = 0..=1, default_missing_value = "20000",
          value_parser = clap::value_parser!(u64).range(1..), conflicts_with = "quick")]
    pub sample: Option<u64>,
    /// Look for keys of different old shards that would meet on a new one: reads every unique key
    #[arg(long, conflicts_with = "quick")]
    pub deep: bool,
    /// Where --deep lists all of them; by default PLAN.collisions.tsv in the working directory
    #[arg(long, value_name = "FILE", requires = "deep")]
    pub collisions: Option<PathBuf>,
    /// Measure for some seconds how fast old shards are read and new ones written, into a scratch
    /// table modshift_trial, and say how long the copy takes
    #[arg(long, conflicts_with = "quick")]
    pub trial: bool,
}

#[derive(Debug, Args)]
pub struct Schema {
    /// Create the missing tables instead of printing their statements
    #[arg(long)]
    pub apply: bool,
    /// Print one JSON object a line, each with `at`
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Topology {
    /// The folder to write to
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// List the files, and whether they are there already; write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Replace files that somebody has edited, too; each is kept as FILE.edited
    #[arg(long)]
    pub overwrite: bool,
}

#[derive(Debug, Args)]
pub struct Daemon {
    #[command(flatten)]
    pub shards: Shards,
    #[command(flatten)]
    pub http: Http,
}

/// Which of its streams a daemon looks after; without either list all of them.
#[derive(Debug, Default, Args)]
pub struct Shards {
    /// Only these shards, by number: `0,2`. No stream of the way back without --back-shards
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    pub shards: Option<Vec<u16>>,
    /// On the way back only these shards: new ones are read, old ones applied to
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    pub back_shards: Option<Vec<u16>>,
}

#[derive(Debug, Args)]
pub struct Run {
    #[command(flatten)]
    pub http: Http,
}

#[derive(Debug, Args)]
pub struct Http {
    /// Where to serve /metrics, /healthz, /ready and /status
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<SocketAddr>,
}

#[derive(Debug, Args)]
pub struct Status {
    /// Draw again every second until interrupted
    #[arg(long)]
    pub watch: bool,
    /// Every shard, every stream and every reason on a line of its own
    #[arg(long, conflicts_with = "json")]
    pub verbose: bool,
    /// Print everything as one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Gate {
    /// Ask again until the gate opens, for at most this long: `90s`, `10m`, `1h`
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub wait: Option<Duration>,
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Verify {
    /// Only these tables
    #[arg(long = "table", value_name = "NAME")]
    pub tables: Vec<String>,
    /// The way back, after a cutover: are the rows of the old shards those of the new ones?
    #[arg(long)]
    pub back: bool,
    /// Copy rows that differ again, through the change log; the daemons must be running
    #[arg(long)]
    pub repair: bool,
    /// Go on, round after round, until interrupted
    #[arg(long, conflicts_with_all = ["repair", "tables", "json"])]
    pub continuous: bool,
    /// Begin anew where a round was interrupted
    #[arg(long)]
    pub fresh: bool,
    /// At most so many rows a second, counted on the old shards together
    #[arg(long, value_name = "ROWS", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_rows_per_s: Option<u32>,
    /// Print the report as one JSON document
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Resync {
    /// The table; with --cancel all tables where it is left out
    #[arg(long, value_name = "NAME", required_unless_present = "cancel")]
    pub table: Option<String>,
    /// Only the rows of these old shards: `0,2`
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    pub shards: Option<Vec<u16>>,
    /// Only rows whose primary key is one of these or lies between them; of several columns `7,x`, or
    /// the first of them alone. Times of a TIMESTAMP column are UTC
    #[arg(long = "key-between", num_args = 2, value_names = ["FIRST", "LAST"],
          allow_hyphen_values = true, conflicts_with = "cancel")]
    pub between: Vec<String>,
    /// The way back, after a cutover: rows of new shards (--shards) are copied to the old ones
    #[arg(long)]
    pub back: bool,
    /// Print what would be copied, and ask for nothing
    #[arg(long, conflicts_with = "cancel")]
    pub dry_run: bool,
    /// Take back what was asked for and is not done
    #[arg(long)]
    pub cancel: bool,
    /// Print what came of it as one JSON document
    #[arg(long, conflicts_with = "cancel")]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Rearm {
    /// The new shard that it comes from, which must not serve
    #[arg(long, value_name = "NUMBER")]
    pub shard: u16,
    /// It comes from the old shard of this number, after a cutover
    #[arg(long)]
    pub old: bool,
    /// Print one JSON object a line, each with `at`
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Skip {
    /// The shard whose reader has halted: an old one, or with --back a new one
    #[arg(long, value_name = "NUMBER", requires = "gtid", required_unless_present = "partition")]
    pub source: Option<u16>,
    /// The group at which it has halted, as the halt names it
    #[arg(long, value_name = "GTID", requires = "source")]
    pub gtid: Option<Gtid>,
    /// The partition of the change log whose applier has halted at a record of somebody else
    #[arg(long, value_name = "NUMBER", requires = "offset", conflicts_with = "source")]
    pub partition: Option<u16>,
    /// The offset of that record, as the halt names it
    #[arg(long, value_name = "OFFSET", requires = "partition")]
    pub offset: Option<i64>,
    /// Why it is passed over, for whoever reads the gate or the audit
    #[arg(long, value_name = "TEXT")]
    pub why: String,
    /// Of the way back
    #[arg(long)]
    pub back: bool,
    /// Say whether it would be passed over, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask before it acts
    #[arg(long)]
    pub yes: bool,
    /// Print the outcome as one JSON document
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct RestartCopy {
    /// Print what would be emptied, dropped and deleted, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask before it acts
    #[arg(long)]
    pub yes: bool,
    /// Print one JSON object a line, each with `at`
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Rehearse {
    /// Print one JSON object a line, each with `at`; the last one is the report
    #[arg(long)]
    pub json: bool,
    /// Leave the rehearsal's schemas as they are in the end; the next rehearsal empties them
    #[arg(long)]
    pub keep: bool,
}

#[derive(Debug, Args)]
pub struct CutoverCommand {
    #[command(flatten)]
    pub common: Cutover,
    /// Fence first, then wait for copy and comparison, then switch
    #[arg(long)]
    pub stop_writes: bool,
}

#[derive(Debug, Args)]
pub struct RollbackCommand {
    #[command(flatten)]
    pub common: Cutover,
    /// Go without these new shards, which are dead for good: what they took and the old shards do
    /// not have is lost. Without this a rollback is refused, and says how much that is
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',')]
    pub accept_loss: Vec<u16>,
}

#[derive(Debug, Args)]
pub struct Cutover {
    /// Print every statement that would be sent, and send none that changes anything
    #[arg(long)]
    pub dry_run: bool,
    /// With --dry-run: one line for each step and server, with how many statements it would get
    #[arg(long, requires = "dry_run")]
    pub summary: bool,
    /// Print one JSON object a line, each with `at`
    #[arg(long)]
    pub json: bool,
    /// Go on with the run that was begun
    #[arg(long, conflicts_with = "abort")]
    pub resume: bool,
    /// Undo the run that was begun
    #[arg(long)]
    pub abort: bool,
    /// With --abort: the server of the journal (new shard 0) is lost too; undo the run by what each
    /// shard itself holds, where that can never make both sides serve
    #[arg(long, requires = "abort", conflicts_with = "dry_run")]
    pub without_journal: bool,
    /// Wait for the gate, for at most this long: `90s`, `10m`, `1h`
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub wait: Option<Duration>,
}

#[derive(Debug, Args)]
pub struct Finish {
    /// Print every statement that would be sent, and send none that changes anything
    #[arg(long)]
    pub dry_run: bool,
    /// Print one JSON object a line, each with `at`
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Cleanup {
    /// Tables, views, topics, the schema modshift and modshift's accounts, after finish and unfence
    #[arg(long)]
    pub leftovers: bool,
    /// Also modshift_routing, which applications may follow
    #[arg(long, requires = "leftovers")]
    pub with_routing: bool,
    /// Old shards whose servers are gone for good: nothing is looked for there, and what they were
    /// before the fence is forgotten
    #[arg(long, value_name = "SHARDS", value_delimiter = ',', requires = "leftovers")]
    pub gone_old: Vec<u16>,
    /// The same of new shards, but for new shard 0, which has the journal
    #[arg(long, value_name = "SHARDS", value_delimiter = ',', requires = "leftovers")]
    pub gone_new: Vec<u16>,
    /// Print what is left and what would be removed, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask before it acts
    #[arg(long)]
    pub yes: bool,
    /// Print one JSON object a line, each with `at`
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Unfence {
    /// Print every statement that would be sent, and send none that changes anything
    #[arg(long)]
    pub dry_run: bool,
    /// Print one JSON object a line, each with `at`
    #[arg(long)]
    pub json: bool,
}

/// Which daemons; without any, those of the plan's log, where its [http] says
#[derive(Debug, Default, Args)]
pub struct Daemons {
    /// A replicator, `https://host:port`; may be repeated
    #[arg(long, value_name = "URL")]
    pub replicator: Vec<String>,
    /// A consumer
    #[arg(long, value_name = "URL")]
    pub consumer: Vec<String>,
    /// A `modshift run`
    #[arg(long, value_name = "URL")]
    pub run: Vec<String>,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("bounds").required(true).multiple(true))]
pub struct Throttle {
    /// Share of the time that may be spent on work: `0.25` or `25%`
    #[arg(long, group = "bounds", value_name = "SHARE", value_parser = parse_share)]
    pub ratio: Option<f64>,
    /// Rows a second, for each daemon
    #[arg(long, group = "bounds", value_name = "ROWS",
        value_parser = clap::value_parser!(u32).range(1..))]
    pub rows_per_second: Option<u32>,
    /// Lift what was set by hand; the limits of the plan stay
    #[arg(long, group = "bounds", conflicts_with_all = ["ratio", "rows_per_second"])]
    pub off: bool,
    #[command(flatten)]
    pub daemons: Daemons,
}

#[derive(Debug, Args)]
pub struct Audit {
    #[arg(long)]
    pub json: bool,
    /// The newest so many
    #[arg(long, value_name = "ROWS", default_value_t = 100)]
    pub limit: u32,
}

/// `0.25` or `25%`.
fn parse_share(text: &str) -> Result<f64, String> {
    let share = match text.strip_suffix('%') {
        Some(percent) => percent.trim().parse::<f64>().map(|percent| percent / 100.0),
        None => text.parse(),
    };
    share.ok().filter(|share| (RATIO_MIN..=1.0).contains(share)).ok_or_else(|| {
        format!(
            "'{text}' is not a share such as 0.25 or 25%, {RATIO_MIN} to 1; `modshift pause` stops"
        )
    })
}

/// A whole number and a unit: `500ms`, `90s`, `10m`, `1h`.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let bad = || format!("'{text}' is not a duration such as 90s, 10m or 1h");
    let number: u64 = digits.parse().map_err(|_| bad())?;
    let ms = match &text[digits.len()..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(bad()),
    };
    number.checked_mul(ms).map(Duration::from_millis).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_options_may_follow_the_command() {
        let cli = Cli::parse_from(["modshift", "replicator", "--shards", "0,2", "--plan", "p"]);
        assert_eq!(cli.plan, Some("p".into()));
        let Command::Replicator(daemon) = cli.command else { panic!("{:?}", cli.command) };
        assert_eq!(daemon.shards.shards, Some(vec![0, 2]));
    }

    #[test]
    fn a_throttle_says_what_it_sets() {
        let throttle = |args: &[&str]| {
            Cli::try_parse_from(["modshift", "throttle"].iter().chain(args)).ok().map(|cli| {
                let Command::Throttle(args) = cli.command else { panic!("{:?}", cli.command) };
                (args.ratio, args.rows_per_second, args.off)
            })
        };
        assert_eq!(throttle(&["--ratio", "25%"]), Some((Some(0.25), None, false)));
        let both = throttle(&["--ratio", "0.5", "--rows-per-second", "9"]);
        assert_eq!(both, Some((Some(0.5), Some(9), false)));
        assert_eq!(throttle(&["--off"]), Some((None, None, true)));
        for bad in [
            &[][..],
            &["--ratio", "0"],
            &["--ratio", "101%"],
            &["--ratio", "NaN"],
            &["--rows-per-second", "0"],
            &["--off", "--ratio", "1"],
        ] {
            assert_eq!(throttle(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(parse_duration("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        for bad in ["", "10", "m", "-1s", "1d", "1.5s", "99999999999999999999s"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
