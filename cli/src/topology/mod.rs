//! `modshift topology`: the files that the servers of dual-master pairs need, before, during and after
//! a change of modulus. From the plan alone: no server is asked, and the same plan gives the same files.
//!
//! `pairs` says which pairs there are at which stage, `settings`, `sql`, `scripts` and `guide` turn them
//! into text, and `folder` puts that into a folder without undoing what somebody has edited there.

mod folder;
mod guide;
mod pairs;
mod scripts;
mod settings;
mod sql;

use std::path::PathBuf;
use std::sync::Arc;

use modshift_proto::plan::{Plan, Topology};

use self::folder::{Folder, State};
use self::pairs::{Pair, Stage};
use crate::exit::{BadPlan, Exit};
use crate::{answer, args};

/// One file, below the folder that is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    pub path: String,
    /// Who may read it on this machine, and should on the server.
    pub mode: u32,
    pub text: String,
}

pub const PUBLIC: u32 = 0o644;
/// It holds a password.
pub const SECRET: u32 = 0o600;
/// A script, which is root's.
pub const PROGRAM: u32 = 0o755;

#[expect(clippy::unused_async, reason = "a command like the others")]
pub async fn run(plan: Arc<Plan>, args: &args::Topology) -> anyhow::Result<Exit> {
    let files = files(&plan).map_err(BadPlan)?;
    let folder = Folder::open(&args.out)?;
    let listed = folder.compare(files)?;
    let edited = listed.iter().filter(|(_, state)| *state == State::Edited).count();
    for (file, state) in &listed {
        answer::line(format_args!("{:8} {:o} {}", state.word(), file.mode, file.path));
    }
    let left = folder.left(&listed);
    for path in &left {
        answer::line(format_args!("{:8}     {path}", "left"));
    }
    if !left.is_empty() {
        answer::line(
            "left: an earlier plan wrote them, and this one does not; remove them yourself",
        );
    }
    if edited > 0 && !args.overwrite {
        answer::line(format_args!(
            "edited: changed since they were written here, or written by somebody else; {edited} such \
             {}, so nothing was written. Take them away, or use --overwrite, which keeps each of them \
             beside the new one as FILE.edited",
            if edited == 1 { "file" } else { "files" },
        ));
        return Ok(Exit::No);
    }
    if args.dry_run {
        answer::line("nothing was written: --dry-run");
        return Ok(Exit::Done);
    }
    folder.write(&listed)?;
    answer::line(format_args!(
        "{} files in {}; begin with {}",
        listed.len(),
        args.out.display(),
        args.out.join(guide::FILE).display()
    ));
    Ok(Exit::Done)
}

/// Every file that the plan asks for, in the order of their paths.
pub fn files(plan: &Plan) -> Result<Vec<File>, String> {
    let Some(topology) = &plan.topology else {
        return Err("the plan has no [topology], and so no accounts for replication and for \
                    keepalived: see [topology] and [old.peers] in deploy/plan.example.toml"
            .to_owned());
    };
    if !plan.has_peers() {
        return Err(
            "no shard of the plan is a pair of masters ([old.peers] or [new.peers]): there \
                    is nothing to write"
                .to_owned(),
        );
    }
    let mut files = vec![guide::overview(plan, topology)?];
    let movers = pairs::movers(plan)?;
    let crowded = pairs::crowded(plan)?;
    for stage in [Stage::Before, Stage::After] {
        for pair in pairs::of(plan, stage)? {
            let servers = [0, 1].map(|index| Placed {
                dir: pairs::dir(topology, pair.server(index), &crowded),
                moves: stage == Stage::After
                    && movers.iter().any(|mover| mover.server().at == pair.server(index).at),
            });
            files.extend(of_pair(&pair, topology, &servers));
        }
    }
    files.extend(guide::during(plan)?);
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

/// What a server of a pair is beyond it.
struct Placed {
    /// Where its files lie on its host.
    dir: PathBuf,
    /// It comes from another pair with its rows: whatever would empty it is not written.
    moves: bool,
}

fn of_pair(pair: &Pair, topology: &Topology, servers: &[Placed; 2]) -> Vec<File> {
    let mut files = Vec::new();
    for (index, Placed { dir, moves }) in servers.iter().enumerate() {
        let mut add = |name: &str, mode, text| {
            files.push(File { path: format!("{}/{name}", pair.folder(index)), mode, text });
        };
        add("my.cnf", PUBLIC, settings::my_cnf(pair, index));
        add("accounts.sql", SECRET, sql::accounts(pair, index, topology));
        add(
            "replication.sql",
            SECRET,
            sql::replication(pair, index, topology, (dir.as_path(), *moves)),
        );
        // Either may be the one that holds the rows, or the one that lost its disk.
        if !moves {
            add("seed-from-backup.sh", PROGRAM, scripts::seed_from_backup(pair, index));
            add("seed-from-dump.sh", PROGRAM, scripts::seed_from_dump(pair, index));
        }
        add("watch.cnf", SECRET, settings::watch_cnf(pair, topology, dir));
        add("check.sh", PROGRAM, scripts::check(pair, index, topology, dir));
        add("notify.sh", PROGRAM, scripts::notify(pair, index, topology, dir));
        if let Some(text) = settings::keepalived(pair, index, topology, dir) {
            add("keepalived.conf", PUBLIC, text);
        }
    }
    files
}

#[cfg(test)]
mod tests;
