//! A new shard of its own, and old shards played by hand.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use modshift_changelog::{DirectLog, DirectWriter, LogWriter};
use modshift_consumer::{ApplierStatus, ApplyError, Phase, run_applier};
use modshift_mariadb::{Session, catalog, connect, control};
use modshift_proto::message::{
    Change, Envelope, Op, Start, Token, TokenPhase, encode_change, encode_start, encode_token,
};
use modshift_proto::plan::Plan;
use modshift_proto::row::RowWriter;
use modshift_proto::{GroupDigest, Gtid, NewShard, OldShard, Position};
use modshift_tests::{Address, MariaDbOptions, MariaDbServer, Proxy};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub const SCHEMA: &str = "s";
pub const TARGET: NewShard = NewShard(0);
pub const LIMIT: Duration = Duration::from_secs(30);

/// Owner under the old modulus 2: parity of `uid`.
const USERS: &str = "CREATE TABLE t_user (id BIGINT NOT NULL, uid BIGINT NOT NULL, \
    name VARCHAR(40) COLLATE utf8mb4_general_ci NOT NULL, body LONGBLOB NULL, \
    twice BIGINT AS (uid * 2), PRIMARY KEY (id), UNIQUE KEY by_name (name)) ENGINE=InnoDB";
const COUNTRIES: &str = "CREATE TABLE t_country (code CHAR(2) COLLATE utf8mb4_general_ci NOT NULL, \
    PRIMARY KEY (code)) ENGINE=InnoDB";

pub struct Shard {
    pub server: Arc<MariaDbServer>,
    pub plan: Arc<Plan>,
    pub log: DirectLog,
    pub fingerprints: Vec<u32>,
}

pub struct Applier {
    pub task: JoinHandle<Result<(), ApplyError>>,
    pub status: Arc<ApplierStatus>,
    pub cancel: CancellationToken,
}

impl Shard {
    pub async fn start(apply: &str) -> Result<Shard> {
        Shard::start_with(MariaDbOptions::default(), apply, None).await
    }

    /// `port`: of a proxy, given the server's.
    pub async fn start_with(
        options: MariaDbOptions,
        apply: &str,
        proxy: Option<&mut Option<Arc<Proxy>>>,
    ) -> Result<Shard> {
        let server = Arc::new(MariaDbServer::start(options).await?);
        server.run(format!("CREATE DATABASE {SCHEMA}")).await?;
        let address = server.address().with_schema(SCHEMA);
        for table in control::SHARD_TABLES.iter().chain(&[USERS, COUNTRIES]) {
            address.run(table).await?;
        }
        let mut port = server.port();
        if let Some(slot) = proxy {
            let through = Proxy::start(server.host(), port).await?;
            port = through.port();
            *slot = Some(through);
        }
        let plan = Arc::new(plan(&address, port, apply)?);
        let mut conn = connect(&plan.new[0], Session::Exact).await?;
        let mut fingerprints = Vec::new();
        for table in &plan.tables {
            let schema = catalog::table(&mut conn, SCHEMA, &table.name).await?;
            fingerprints.push(schema.fingerprint());
        }
        let log = DirectLog::new(2, 1, 8 << 20);
        Ok(Shard { server, plan, log, fingerprints })
    }

    pub fn address(&self) -> Address {
        self.server.address().with_schema(SCHEMA)
    }

    pub fn applier(&self) -> Applier {
        let status = Arc::new(ApplierStatus::new(&self.plan, TARGET));
        let cancel = CancellationToken::new();
        let log = self.log.clone();
        let task = tokio::spawn(run_applier(
            Arc::clone(&self.plan),
            TARGET,
            move |_| std::future::ready(log.reader(TARGET)),
            Arc::clone(&status),
            cancel.clone(),
        ));
        Applier { task, status, cancel }
    }

    /// A reader of an old shard, its start marker sent.
    pub async fn source(&self, shard: u16, epoch: u64) -> Result<Source> {
        let mut source = Source {
            writer: self.log.writer(OldShard(shard), epoch),
            shard: OldShard(shard),
            epoch,
            number: 0,
            seq: 10,
            clock_us: 1_000_000,
            fingerprints: self.fingerprints.clone(),
        };
        let gtids = [source.gtid()].into_iter().collect();
        let (digest, anew, skipped) = (None, vec![], vec![]);
        source.start(Start { gtids, digest, initial: true, anew, tables: 0, skipped }).await?;
        Ok(source)
    }

    pub async fn users(&self) -> Result<Vec<String>> {
        let rows = self.address().query("SELECT id, uid, name FROM t_user ORDER BY id").await?;
        let show = |row| {
            let (id, uid, name): (i64, i64, String) = mysql_async::from_row(row);
            format!("{id} {uid} {name}")
        };
        Ok(rows.into_iter().map(show).collect())
    }

    pub async fn parked(&self) -> Result<u64> {
        self.address().value("SELECT COUNT(*) FROM modshift_parked").await
    }
}

impl Applier {
    pub async fn stop(self) -> Result<()> {
        self.cancel.cancel();
        self.task.await??;
        assert_eq!(self.status.view().phase, Phase::Stopped);
        Ok(())
    }

    pub async fn halted(self) -> Result<ApplyError> {
        let ended = tokio::time::timeout(LIMIT, self.task).await.context("no halt")??;
        assert_eq!(self.status.view().phase, Phase::Halted);
        Ok(ended.expect_err("the applier ended well"))
    }
}

fn plan(address: &Address, port: u16, apply: &str) -> Result<Plan> {
    let new = format!("host = \"{}\"\nport = {port}\nschema = \"{SCHEMA}\"", address.host);
    let text = format!(
        "name = \"t\"\nmodulus = {{ old = 2, new = 1 }}\n[log]\nkind = \"direct\"\n\
         [defaults]\nuser = \"{}\"\npassword = \"{}\"\ntls = \"off\"\n\
         [[old]]\nhost = \"127.0.0.1\"\nport = 1\nschema = \"a\"\n\
         [[old]]\nhost = \"127.0.0.1\"\nport = 2\nschema = \"b\"\n\
         [[new]]\n{new}\n\
         [[table]]\nname = \"t_user\"\nkey = \"uid\"\nrule = \"floor_mod\"\n\
         [[table]]\nname = \"t_country\"\nbroadcast = 1\n\
         [apply]\n{apply}\n",
        address.user, address.password
    );
    Ok(Plan::parse(&text, &|_| None)?)
}

pub struct Source {
    pub writer: DirectWriter,
    pub shard: OldShard,
    pub epoch: u64,
    /// Of the next message.
    pub number: u64,
    pub seq: u64,
    pub clock_us: i64,
    pub fingerprints: Vec<u32>,
}

/// A row of `t_user`; the owner follows from `uid`.
pub type User<'a> = (i64, i64, &'a str);

impl Source {
    fn gtid(&self) -> Gtid {
        Gtid { domain: 0, server: 1, seq: self.seq }
    }

    fn envelope(&mut self) -> Envelope {
        let number = self.number;
        self.number += 1;
        Envelope { source: self.shard, epoch: self.epoch, number }
    }

    async fn send(&mut self, message: Vec<u8>) -> Result<()> {
        self.writer.send(TARGET, b"", &message).await?;
        Ok(())
    }

    async fn start(&mut self, start: Start) -> Result<()> {
        let mut message = Vec::new();
        encode_start(&self.envelope(), &start, &mut message);
        self.send(message).await
    }

    async fn change(&mut self, table: u32, op: Op, row: &[u8]) -> Result<()> {
        self.seq += 1;
        let change = Change {
            table,
            fingerprint: self.fingerprints[table as usize],
            position: Some(Position { gtid: self.gtid(), ordinal: 0 }),
            op,
            row,
        };
        let mut message = Vec::new();
        encode_change(&self.envelope(), &change, &mut message);
        self.send(message).await
    }

    pub async fn upsert(&mut self, user: User<'_>) -> Result<()> {
        self.upsert_with(user, None).await
    }

    pub async fn upsert_with(
        &mut self,
        (id, uid, name): User<'_>,
        body: Option<&[u8]>,
    ) -> Result<()> {
        self.upsert_bytes((id, uid), name.as_bytes(), body).await
    }

    /// The name as bytes, whether they are text or not.
    pub async fn upsert_bytes(
        &mut self,
        (id, uid): (i64, i64),
        name: &[u8],
        body: Option<&[u8]>,
    ) -> Result<()> {
        let mut wire = Vec::new();
        let mut row = RowWriter::new(&mut wire, 4);
        row.int(id);
        row.int(uid);
        row.bytes(name);
        match body {
            Some(body) => row.bytes(body),
            None => row.null(),
        }
        row.finish();
        self.change(0, Op::Upsert, &wire).await
    }

    pub async fn delete(&mut self, id: i64) -> Result<()> {
        let mut wire = Vec::new();
        let mut row = RowWriter::new(&mut wire, 1);
        row.int(id);
        row.finish();
        self.change(0, Op::Delete, &wire).await
    }

    pub async fn country(&mut self, op: Op, code: &str) -> Result<()> {
        let mut wire = Vec::new();
        let mut row = RowWriter::new(&mut wire, 1);
        row.bytes(code.as_bytes());
        row.finish();
        self.change(1, op, &wire).await
    }

    pub async fn token(&mut self) -> Result<()> {
        self.seq += 1;
        let gtid = self.gtid();
        let token = Token {
            gtids: [gtid].into_iter().collect(),
            digest: GroupDigest { gtid, checksum: gtid.seq as u32 },
            writes: 1,
            clock_us: self.clock_us,
            copied: true,
            phase: TokenPhase::Serving,
            fence: None,
            beat: false,
        };
        let mut message = Vec::new();
        encode_token(&self.envelope(), &token, &mut message);
        self.send(message).await
    }

    /// Until everything sent so far is durable on the new shard.
    pub async fn applied(&mut self) -> Result<()> {
        self.writer.flush().await?;
        let all = async {
            while self.writer.acked(TARGET) < self.number {
                self.writer.acknowledged().await?;
            }
            Ok(())
        };
        tokio::time::timeout(LIMIT, all).await.context("not applied in time")?
    }
}
