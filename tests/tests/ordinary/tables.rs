//! Tables that estates have and that a copy by pages, a log by positions or a comparison by ranges could
//! stumble over: keys whose order in comparisons is not that of their index, a shard key that may be
//! NULL, text that its character set does not allow, a GTID domain that is deleted.

use anyhow::{Context, Result, ensure};
use modshift_proto::GtidSet;
use modshift_tests::{
    Estate, Rule, TableRule, drained, drained_back,
    estate::Shard,
    marker::{covered, mark_all},
    wait_until,
};
use mysql_async::prelude::Queryable;

use crate::{LIMIT, correct, daemon, estate, opens};

/// Small pages, so that many keys end one; and nothing compares but who is asked to.
const PAGES: &str = "[snapshot]\nchunk_rows_max = 100\n[verify]\ncontinuous = false\nchunk_rows_max = 150\n\
     [reader]\nprogress_interval = \"100ms\"\n";

async fn with_tables(tables: &[(&str, &str)]) -> Result<Estate> {
    let mut estate = estate(PAGES).await?;
    for (name, body) in tables {
        for shard in estate.old.iter().chain(&estate.new) {
            shard.run(&format!("CREATE TABLE {name} ({body})")).await?;
        }
        estate.rules.push(TableRule::new(name, Rule::floor_mod("uid")));
    }
    std::fs::write(estate.plan_path(), estate.plan())?;
    Ok(estate)
}

/// Rows of these tables that the server has read since its statistics were flushed.
async fn rows_read(shard: &Shard, tables: &str) -> Result<u64> {
    let sql = format!(
        "SELECT CAST(COALESCE(SUM(ROWS_READ), 0) AS UNSIGNED) FROM \
         information_schema.TABLE_STATISTICS WHERE TABLE_NAME IN ({tables})"
    );
    shard.value(&sql).await
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_any_order_are_copied_and_no_restart_reads_a_table_whole() -> Result<()> {
    let char = "id CHAR(9) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin PRIMARY KEY, \
                uid BIGINT NOT NULL, v INT";
    let uuid = "id UUID PRIMARY KEY, uid BIGINT, v INT";
    let estate = with_tables(&[("by_char", char), ("by_uuid", uuid)]).await?;
    let old = &estate.old[0];
    let digit = |place| {
        format!("ELT(1 + seq DIV {} % 5, 'a', CHAR(9), ' ', CHAR(1), 'é')", 5u32.pow(place))
    };
    let digits: Vec<String> = (0..5).map(digit).collect();
    old.run(&format!(
        "INSERT IGNORE INTO by_char SELECT CONVERT(CONCAT({}) USING utf8mb4), seq, 1 FROM \
         seq_1_to_3125",
        digits.join(", ")
    ))
    .await?;
    // Of all versions, and of the variant that has a standard.
    old.run(
        "INSERT INTO by_uuid SELECT UNHEX(INSERT(INSERT(MD5(seq), 13, 1, HEX(seq % 16)), 17, 1, 'A')), \
         seq, 1 FROM seq_1_to_3000",
    )
    .await?;
    schema_goes_on(&estate).await?;
    let (code, output) = estate.modshift(["check"]).finish(LIMIT).await?;
    ensure!(code == 0 && output.contains("shard key uid may be NULL"), "check: {code}\n{output}");
    let running = daemon(&estate)?;
    opens(&estate, &running).await?;
    for table in ["by_char", "by_uuid"] {
        old.run(&format!("UPDATE {table} SET v = 2 WHERE uid % 7 = 0")).await?;
        old.run(&format!("UPDATE {table} SET uid = uid + 1 WHERE uid % 7 = 1")).await?;
        old.run(&format!("DELETE FROM {table} WHERE uid % 7 = 3")).await?;
    }
    correct(&estate, &running).await?;
    let (code, output) = estate.modshift(["verify"]).finish(LIMIT).await?;
    ensure!(code == 0, "verify ended with {code}:\n{output}\n{}", running.last_words(40));

    let tables = "'by_char', 'by_uuid'";
    let shards: Vec<&Shard> = estate.old.iter().chain(&estate.new).collect();
    for shard in &shards {
        shard.run("SET GLOBAL userstat = 1; FLUSH TABLE_STATISTICS").await?;
    }
    running.stop(LIMIT).await?;
    let running = daemon(&estate)?;
    opens(&estate, &running).await?;
    for shard in &shards {
        let rows = rows_read(shard, tables).await?;
        ensure!(rows < 50, "{rows} rows read on {}:\n{}", shard.schema, running.last_words(40));
    }
    // It does count.
    old.run("UPDATE by_uuid SET v = 3").await?;
    ensure!(rows_read(old, tables).await? > 2000);
    drained(&estate, LIMIT).await.with_context(|| running.last_words(40))?;

    old.run("INSERT INTO by_uuid VALUES (UUID(), NULL, 1)").await?;
    let halted = running.wait_line("reader halted", LIMIT).await?;
    for words in ["table by_uuid", "the shard key is NULL", "give the row a value"] {
        ensure!(halted.contains(words), "{words}: {halted}");
    }
    let (code, output) = estate.modshift(["check"]).finish(LIMIT).await?;
    ensure!(code == 1 && output.contains("1 nowhere: it is NULL"), "check: {code}\n{output}");
    running.stop(LIMIT).await.map(drop)
}

/// At a table that it cannot take `modshift schema` goes on with the next, and says so in the end.
async fn schema_goes_on(estate: &Estate) -> Result<()> {
    let old = &estate.old[0];
    let plan = estate.plan();
    let versioned = "CREATE TABLE history (id INT PRIMARY KEY, uid INT) WITH SYSTEM VERSIONING";
    old.run(versioned).await?;
    old.run("CREATE TABLE later (id INT PRIMARY KEY, uid INT)").await?;
    estate.new[1].run("CREATE VIEW later AS SELECT 1").await?;
    let tables = ["history", "later"].map(|name| Rule::floor_mod("uid").plan_toml(name));
    let at = plan.find("[[table]]").context("no table in the plan")?;
    let (head, tail) = plan.split_at(at);
    std::fs::write(estate.plan_path(), format!("{head}{}{tail}", tables.concat()))?;
    let (code, output) = estate.modshift(["schema", "--apply"]).finish(LIMIT).await?;
    for words in [
        "old shard 0: table history is left out",
        "is a system versioned, not a plain table; modshift does not carry the history",
        "new shard 0: table later created",
        "new shard 1: table later is left out",
        "not as on old shard 0: old shard 0: history; new shard 1: later",
    ] {
        ensure!(code == 1 && output.contains(words), "{words}: {code}\n{output}");
    }
    std::fs::write(estate.plan_path(), plan)?;
    estate.new[1].run("DROP VIEW later").await?;
    estate.new[0].run("DROP TABLE later").await?;
    old.run("DROP TABLE history, later").await
}

/// Writes in a GTID domain, waits until the stream's resume point is in a binlog that has none of it,
/// and lets the server forget it.
async fn forget(shard: &Shard, domain: u32, stop: impl AsyncFnOnce() -> Result<()>) -> Result<()> {
    shard.run("FLUSH BINARY LOGS").await?;
    let flushed: GtidSet = shard.value::<String>("SELECT @@gtid_binlog_pos").await?.parse()?;
    wait_until("the resume point", LIMIT, || async {
        let sql = "SELECT gtids FROM modshift_progress WHERE name = '@resume'";
        let resume: GtidSet = shard.value::<String>(sql).await?.parse()?;
        Ok((resume.contains(&flushed) && resume != flushed).then_some(()))
    })
    .await?;
    stop().await?;
    let file: String = shard.value("SHOW MASTER STATUS").await?;
    shard.run(&format!("PURGE BINARY LOGS TO '{file}'")).await?;
    shard.run(&format!("FLUSH BINARY LOGS DELETE_DOMAIN_ID = ({domain})")).await?;
    let state: GtidSet = shard.value::<String>("SELECT @@gtid_binlog_state").await?.parse()?;
    ensure!(state.get(domain).is_none() && !state.is_empty(), "{state}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gtid_domain_that_is_deleted_while_nobody_reads_is_forgotten_there_and_back() -> Result<()>
{
    let estate = estate("[reader]\nprogress_interval = \"100ms\"\n").await?;
    let running = daemon(&estate)?;
    opens(&estate, &running).await?;
    let in_domain = async |shard: &Shard, domain: u32, sql: &str| {
        let mut conn = shard.address().connect().await?;
        conn.query_drop(format!("SET SESSION gtid_domain_id = {domain}")).await?;
        conn.query_drop(sql).await?;
        anyhow::Ok(conn.disconnect().await?)
    };
    in_domain(&estate.old[0], 77, "INSERT INTO acct VALUES (70, 70, 1, '')").await?;
    correct(&estate, &running).await?;
    forget(&estate.old[0], 77, async || running.stop(LIMIT).await.map(drop)).await?;
    estate.old[0].run("UPDATE acct SET v = v + 1").await?;
    let running = daemon(&estate)?;
    opens(&estate, &running).await?;
    correct(&estate, &running).await?;

    // A new shard, by whose log the way back goes.
    let (old, new) = (estate.old_addresses(), estate.new_addresses());
    let fences = mark_all(&old, "fenced", "there").await?;
    covered(&new, &fences, LIMIT).await?;
    mark_all(&new, "serving", "there").await?;
    in_domain(&estate.new[0], 78, "INSERT INTO acct VALUES (72, 72, 1, '')").await?;
    drained_back(&estate, LIMIT).await.with_context(|| running.last_words(40))?;
    forget(&estate.new[0], 78, async || running.stop(LIMIT).await.map(drop)).await?;
    estate.new[0].run("UPDATE acct SET v = v + 1").await?;
    let running = daemon(&estate)?;
    drained_back(&estate, LIMIT).await.with_context(|| running.last_words(40))?;
    estate.oracle_back().compare().await?.ensure_clean()?;
    running.stop(LIMIT).await.map(drop)
}

/// As an upgrade, or an import, can leave it: no session can write it, and none can name it.
#[tokio::test(flavor = "multi_thread")]
async fn text_that_its_character_set_does_not_allow_is_named_and_the_rest_compared() -> Result<()> {
    let body = "id VARCHAR(9) CHARACTER SET utf8mb4 PRIMARY KEY, uid BIGINT NOT NULL, v INT";
    let estate = with_tables(&[("named", body)]).await?;
    let old = &estate.old[0];
    let mut conn = old.address().connect().await?;
    conn.query_drop("SET sql_log_bin = 0").await?;
    conn.query_drop(format!("CREATE TABLE raw ({})", body.replace("utf8mb4", "latin1"))).await?;
    conn.query_drop(
        "INSERT INTO raw SELECT CONCAT(seq, IF(seq % 5, CHAR(255), ''), 'x'), seq, 1 FROM \
         seq_1_to_400",
    )
    .await?;
    conn.query_drop("FLUSH TABLES raw FOR EXPORT").await?;
    let dir = old.server.data_dir().join(&old.schema);
    let spare = estate.dir().join("raw.ibd");
    std::fs::copy(dir.join("raw.ibd"), &spare)?;
    conn.query_drop("UNLOCK TABLES").await?;
    conn.query_drop("ALTER TABLE named DISCARD TABLESPACE").await?;
    std::fs::copy(&spare, dir.join("named.ibd"))?;
    conn.query_drop("ALTER TABLE named IMPORT TABLESPACE").await?;
    conn.query_drop("DROP TABLE raw").await?;
    conn.disconnect().await?;
    let broken = "SELECT COUNT(*) FROM named WHERE HEX(id) LIKE '%FF%'";
    ensure!(old.value::<u64>(broken).await? == 320);
    let running = daemon(&estate)?;
    modshift_tests::copied(&estate, LIMIT).await.with_context(|| running.last_words(40))?;
    drained(&estate, LIMIT).await.with_context(|| running.last_words(40))?;
    let mut there = 0;
    for shard in &estate.new {
        there += shard.value::<u64>("SELECT COUNT(*) FROM named").await?;
        there += shard.value::<u64>("SELECT COUNT(*) FROM modshift_parked").await?;
    }
    ensure!(there == 400, "{there} rows:\n{}", running.last_words(40));
    // All of it is compared, whatever key a range ends with; and what cannot be there is counted apart,
    // and named to the gate.
    let (code, output) =
        estate.modshift(["verify", "--json", "--table", "named"]).finish(LIMIT).await?;
    let report: serde_json::Value = serde_json::from_str(&output).context(output.clone())?;
    let named = &report["tables"][0];
    ensure!(code == 0 && named["rows"] == 400 && named["parked"] == 320, "{code}\n{output}");
    let (code, output) = estate.modshift(["gate"]).finish(LIMIT).await?;
    ensure!(code == 1 && output.contains("for a change"), "{code}\n{output}");
    running.stop(LIMIT).await.map(drop)
}
