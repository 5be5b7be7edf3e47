//! The statements themselves. Each is a file or two that the server writes and flushes, 5 to 20 ms,
//! while the application waits: so tables are spread over several connections.
//!
//! Each waits until nobody holds its table: whoever does is ended, see [`holders`].
//!
//! Those beside the first are only a help. One that fails hands back what it had, and the first
//! connection does it, or says why it cannot.

use std::collections::VecDeque;
use std::sync::Mutex;

use futures_util::future::join_all;
use modshift_mariadb::program::{BEGIN, Named, Program, RESET};
use modshift_mariadb::{Conn, error};
use mysql_async::prelude::Queryable;

use crate::error::CutoverError;
use crate::holders::{self, Reach};
use crate::server::{LANES, Server};
use crate::shard::Shard;

const DROPPING: &str = "taking down triggers and events";
const MAKING: &str = "putting up triggers and events";

/// The last of a table goes first, so that those that are left are the first ones of it at any moment,
/// and putting back what is missing is to add it behind them.
///
/// `kept_out`: only where the shard's token says fenced. Who undoes a run without its journal lets a
/// shard serve under the locks of all these connections, so what is asked on one of them holds until
/// that connection ends.
pub(super) async fn drop_all(
    shard: &mut Shard,
    named: &[Named],
    kept_out: bool,
    reach: Reach,
) -> Result<(), CutoverError> {
    let mut groups: VecDeque<Vec<&Named>> = VecDeque::new();
    for one in named {
        match groups.iter_mut().find(|group| group[0].table == one.table) {
            Some(group) => group.insert(0, one),
            None => groups.push_back(vec![one]),
        }
    }
    spread(shard, groups, async |server: &mut Server, group: &Vec<&Named>| {
        if kept_out {
            still_fenced(server).await?;
        }
        let of_table = group.first().map_or("", |one| one.table.as_str());
        holders::past(server, of_table, reach, async |server: &mut Server| {
            for one in group {
                server.run(DROPPING, &one.drop()).await?;
            }
            Ok(())
        })
        .await
    })
    .await
}

pub(super) async fn still_fenced(server: &mut Server) -> Result<(), CutoverError> {
    let sql = "SELECT 1 FROM modshift_token WHERE id = 1 AND phase = 'serving'";
    let serves: Vec<u8> = server.ask(DROPPING, sql).await?;
    if serves.is_empty() || server.is_dry() {
        return Ok(());
    }
    let what = "it serves by now: somebody has undone this run".to_owned();
    Err(CutoverError::Unfit { server: server.name.clone(), what })
}

/// Those of one table in their order.
pub(super) async fn create_all(
    shard: &mut Shard,
    programs: &[&Program],
    reach: Reach,
) -> Result<(), CutoverError> {
    let mut groups: VecDeque<Vec<&Program>> = VecDeque::new();
    for &one in programs {
        match groups.iter_mut().find(|group| group[0].table == one.table) {
            Some(group) => group.push(one),
            None => groups.push_back(vec![one]),
        }
    }
    spread(shard, groups, async |server: &mut Server, group: &Vec<&Program>| {
        let of_table = group.first().map_or("", |one| one.table.as_str());
        holders::past(server, of_table, reach, async |server: &mut Server| {
            for one in group {
                create(server, one).await?;
            }
            Ok(())
        })
        .await
    })
    .await
}

/// Safe to repeat: one that an interrupted attempt left behind goes first.
async fn create(server: &mut Server, program: &Program) -> Result<(), CutoverError> {
    if server.is_dry() {
        let sql = String::from_utf8_lossy(&program.statement(None)).into_owned();
        return server.run(MAKING, &sql).await.map(drop);
    }
    server.run(MAKING, &program.drop()).await?;
    let name = server.name.clone();
    let of = |error| error::of(&name, MAKING, error);
    server
        .talk(MAKING, async |conn: &mut Conn| {
            conn.query_drop(BEGIN).await.map_err(of)?;
            let made = async {
                let header = match program.converted_header() {
                    Some(ask) => conn.query_first(ask).await?,
                    None => None,
                };
                conn.query_drop(program.session()).await?;
                conn.query_drop(program.statement(header)).await
            }
            .await;
            // The session is ours again, whatever came of it.
            conn.query_drop(RESET).await.map_err(of)?;
            made.map_err(of)
        })
        .await
}

/// Work on several tables, over as many connections as there may be.
pub(crate) async fn spread<G: Sync>(
    shard: &mut Shard,
    groups: VecDeque<G>,
    act: impl AsyncFn(&mut Server, &G) -> Result<(), CutoverError>,
) -> Result<(), CutoverError> {
    let count = groups.len();
    let queue = Mutex::new(groups);
    let take = || queue.lock().ok().and_then(|mut queue| queue.pop_front());
    let give_back = |group| {
        if let Ok(mut queue) = queue.lock() {
            queue.push_back(group);
        }
    };
    let help = match shard.primary.may_have_lanes() {
        false => 0,
        true => LANES.min(count.saturating_sub(1)),
    };
    let mut lanes: Vec<Server> = (0..help).map(|lane| shard.primary.lane(lane)).collect();
    let beside = join_all(lanes.iter_mut().map(async |lane| {
        while let Some(group) = take() {
            if let Err(error) = act(lane, &group).await {
                tracing::debug!(%error, "left to the first connection");
                give_back(group);
                return;
            }
        }
    }));
    let server = &mut shard.primary;
    let first = async {
        while let Some(group) = take() {
            act(server, &group).await?;
        }
        Ok::<_, CutoverError>(())
    };
    let (first, _) = futures_util::future::join(first, beside).await;
    for note in lanes.iter_mut().flat_map(Server::take_notes) {
        shard.primary.note(note);
    }
    first?;
    // What came back after the first had seen an empty queue.
    while let Some(group) = take() {
        act(&mut shard.primary, &group).await?;
    }
    Ok(())
}
