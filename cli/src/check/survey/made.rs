//! Surveys made up for tests of rules: two old shards and three new ones with nothing wrong.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use modshift_mariadb::Grants;
use modshift_proto::plan::Plan;

use super::{Binlog, Facts, Server, Survey, Table, Unreached, all_sides, endpoint};
use crate::check::fault::Fault;

pub fn survey(change: impl Fn(usize, &mut Facts)) -> Survey {
    let mut text = "name = \"made\"\nmodulus = { old = 2, new = 3 }\n[log]\nkind = \"direct\"\n\
        [defaults]\nhost = \"h\"\nuser = \"u\"\npassword = \"p\"\n[[table]]\nname = \"t\"\n\
        key = \"uid\"\nrule = \"floor_mod\"\n"
        .to_owned();
    for which in 0..5 {
        let kind = if which < 2 { "old" } else { "new" };
        text += &format!("[[{kind}]]\nport = {}\nschema = \"s\"\n", 3306 + which);
    }
    let plan = Arc::new(Plan::parse(&text, &|_| None).unwrap());
    let server = |(which, side)| {
        let mut facts = facts();
        change(which, &mut facts);
        Server { side, endpoint: endpoint(&plan, side).clone(), facts: Ok(facts) }
    };
    let servers = all_sides(&plan).into_iter().enumerate().map(server).collect();
    Survey { plan, servers }
}

fn facts() -> Facts {
    let settings = [("log_bin", "ON"), ("binlog_expire_logs_seconds", "604800")];
    let schema = Err(Unreached {
        message: "not asked".into(),
        hint: None,
        passing: false,
        disturbed: false,
    });
    let table = Table {
        engine: "InnoDB".to_owned(),
        create: String::new(),
        schema,
        empty: true,
        rows: 0,
        bytes: 0,
        counter: None,
    };
    Facts {
        version: "10.11.6-MariaDB".to_owned(),
        variables: settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        grants: Grants::default(),
        fencing: None,
        accounts: None,
        writers: None,
        replica_ids: None,
        is_replica: None,
        objects: Vec::new(),
        unseen: Vec::new(),
        triggers: Vec::new(),
        events: None,
        bodies: None,
        sequences: BTreeMap::new(),
        tables: [("t".to_owned(), table)].into(),
        xa: Vec::new(),
        clock_ahead_us: 0,
        has_watermark: false,
        finished: false,
        room: None,
        binlog: Binlog {
            written_bytes: 0,
            uptime: Duration::from_secs(60),
            read_at: Instant::now(),
            oldest: None,
        },
        collisions: None,
    }
}

/// As the report has them.
pub fn lines(faults: &[Fault]) -> Vec<String> {
    faults.iter().map(|fault| format!("{}  {fault}", fault.severity)).collect()
}
