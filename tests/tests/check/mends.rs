//! Every mend that is statements is run as it is printed, through the client, against the fault that it
//! mends; then the check is silent about that. No kind of mend can be added without a test: those that
//! the code names are held against those that were run here.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use modshift_tests::place::root;
use modshift_tests::server::{ADMIN, Address, PASSWORD};
use modshift_tests::{MariaDbOptions, MariaDbServer};

use crate::case::{Case, NEW, OLD, TABLE, options};
use crate::report::{Finding, Report};

/// Some findings show only once others are mended.
const ROUNDS_MAX: usize = 4;

/// Kinds of mends that have been run, and were followed by silence.
type Ways = BTreeSet<String>;

/// Runs what is printed, until nothing is found that statements mend.
async fn mend(case: &Case<'_>, user: &str, ways: &mut Ways) -> Result<Report> {
    let mut mended: Vec<Finding> = Vec::new();
    for _ in 0..ROUNDS_MAX {
        let report = case.check_as(user, &["--quick"]).await?;
        let todo: Vec<Finding> =
            report.findings()?.into_iter().filter(|finding| finding.way.is_some()).collect();
        for done in &mended {
            let again = todo.iter().find(|f| (&f.rule, &f.text) == (&done.rule, &done.text));
            ensure!(again.is_none(), "was mended as printed, and is found again: {again:#?}");
        }
        if todo.is_empty() {
            ways.extend(mended.into_iter().filter_map(|finding| finding.way));
            return Ok(report);
        }
        let mut run = BTreeSet::new();
        for finding in &todo {
            for place in &finding.at {
                let address = place_of(case, place).with_context(|| format!("{finding:#?}"))?;
                if run.insert((address.to_string(), finding.mend.clone())) {
                    client(&address, &finding.mend).with_context(|| format!("{finding:#?}"))?;
                }
            }
        }
        mended.extend(todo);
    }
    bail!("after {ROUNDS_MAX} rounds there is still something to mend")
}

/// Where a finding is: a shard's schema, or a server beside the shards'.
fn place_of(case: &Case<'_>, place: &str) -> Result<Address> {
    let shard = |kind: &str, first: usize| {
        let (_, rest) = place.split_once(kind)?;
        let digits = rest.chars().take_while(char::is_ascii_digit).collect::<String>();
        digits.parse::<usize>().ok().map(|number| number + first)
    };
    let which = match shard("old shard ", 0) {
        Some(which) => Some(which),
        None => shard("new shard ", OLD),
    };
    let port = place
        .split_once("127.0.0.1:")
        .map(|(_, rest)| rest.chars().take_while(char::is_ascii_digit).collect::<String>());
    let schema = which.map(|which| case.schema(which)).unwrap_or_default();
    match (port, which) {
        (Some(port), _) => Ok(Address::admin(port.parse()?, &schema)),
        (None, Some(which)) => Ok(case.servers[which].address().with_schema(&schema)),
        (None, None) => bail!("{place} is no place"),
    }
}

/// As an operator pastes it.
fn client(address: &Address, printed: &str) -> Result<()> {
    let mut child = Command::new("mariadb")
        .args(["--no-defaults", "--protocol=tcp", "--host", &address.host])
        .args(["--port", &address.port.to_string(), "--user", &address.user])
        .arg(format!("--password={}", address.password))
        .args((!address.schema.is_empty()).then_some(&address.schema))
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("running mariadb")?;
    child.stdin.take().context("no input")?.write_all(printed.as_bytes())?;
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success() && said.is_empty(), "{printed}\n{address}: {said}");
    Ok(())
}

/// As the code names them.
fn named() -> Result<Ways> {
    let path = root().join("cli/src/check/mend.rs");
    let code = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let (_, body) = code.split_once("pub enum Way {").context("no kinds of mends")?;
    let (body, _) = body.split_once("\n}").context("no end of them")?;
    let names = body.lines().map(str::trim).filter(|line| !line.starts_with("//"));
    Ok(names.filter_map(|line| line.strip_suffix(',')).map(snake).collect())
}

fn snake(name: &str) -> String {
    let mut snake = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.push(c.to_ascii_lowercase());
    }
    snake
}

#[tokio::test]
async fn every_mend_that_is_printed_mends_what_it_is_printed_for() -> Result<()> {
    let mut ways = Ways::new();
    // Not the shared one: mends change what a server has and is.
    let server = MariaDbServer::start(options(84).arg("--event-scheduler=ON").calm()).await?;
    tables(&server, &mut ways).await.context("tables")?;
    settings(&mut ways).await.context("settings")?;
    grants(&server, &mut ways).await.context("grants")?;
    sequences(&server, &mut ways).await.context("sequences")?;
    accounts(&mut ways).await.context("accounts")?;
    let named = named()?;
    ensure!(named.len() > 20, "{named:?}");
    let untested: Vec<&String> = named.difference(&ways).collect();
    ensure!(untested.is_empty(), "no fault here is mended by {untested:?}");
    Ok(())
}

/// Definitions that differ in every way that a statement can change.
async fn tables(server: &MariaDbServer, ways: &mut Ways) -> Result<()> {
    let table = "id INT NOT NULL AUTO_INCREMENT COMMENT 'a, `b`', uid BIGINT NOT NULL, \
         v VARCHAR(20) COLLATE latin1_german1_ci NOT NULL DEFAULT 'a,b' COMMENT 'it''s (x)', \
         h VARCHAR(9) INVISIBLE DEFAULT 'h' CHECK (h <> 'x'), \
         at TIMESTAMP(3) NOT NULL DEFAULT current_timestamp(3) ON UPDATE current_timestamp(3), \
         j JSON, g INT GENERATED ALWAYS AS (uid + 1) VIRTUAL, d DATETIME(6) NULL, b BIT(9), \
         PRIMARY KEY (id), KEY k (v), UNIQUE KEY u (uid, v), CONSTRAINT c CHECK (uid >= 0)";
    let case = Case::new(server, table).await?;
    let tail = "[[table]]\nname = \"kid\"\nkey = \"uid\"\nrule = \"floor_mod\"\n\
                [cutover]\nauto_increment = \"keep\"\nold_accounts = [\"app@%\"]\n\
                new_accounts = [\"other@%\"]\n";
    let case = Case { tail: tail.to_owned(), ..case };
    let kid = "CREATE TABLE kid (id BIGINT NOT NULL, uid BIGINT NOT NULL, t INT, PRIMARY KEY (id, uid), \
               KEY t (t), CONSTRAINT `a key` FOREIGN KEY (t) REFERENCES t (id)";
    for which in 0..OLD + NEW {
        // Actions that the binlog does not show, on both sides.
        let action = if which % 2 == 0 { " ON DELETE CASCADE ON UPDATE SET NULL" } else { "" };
        case.run(which, &format!("{kid}{action})")).await?;
        case.run(which, "ALTER TABLE t DEFAULT CHARSET latin1").await?;
    }
    case.run(0, "INSERT INTO t (uid, v) VALUES (0, 'kept'), (2, 'too')").await?;
    case.run(1, "INSERT INTO t (id, uid, v) VALUES (1999999999, 1, 'kept')").await?;
    // The other old shard, whose rows stay.
    case.run(1, "ALTER TABLE t COMMENT 'of old shard 1', MODIFY v VARCHAR(30) COLLATE latin1_bin")
        .await?;
    // A new shard whose columns only look alike: another default character set.
    case.run(2, "ALTER TABLE t DROP KEY k; ALTER TABLE t DROP KEY u, DROP COLUMN v, DROP COLUMN h")
        .await?;
    case.run(2, "DROP TABLE kid; DROP TABLE t").await?;
    let plain = table.replace(" COLLATE latin1_german1_ci", "");
    case.run(2, &format!("CREATE TABLE t ({plain}) CHARSET utf8mb3 ROW_FORMAT=COMPRESSED")).await?;
    case.run(2, &format!("{kid})")).await?;
    // The same names for other keys, constraints and expressions; options that the model has not.
    case.run(
        3,
        "ALTER TABLE t DROP CONSTRAINT c; ALTER TABLE t ADD CONSTRAINT c CHECK (uid > -5), DROP KEY k, \
         ADD KEY k (uid), DROP KEY u, ADD KEY u (uid), COMMENT 'other''s' STATS_PERSISTENT=1, DROP \
         COLUMN g; ALTER TABLE t ADD COLUMN g INT GENERATED ALWAYS AS (uid + 2) VIRTUAL AFTER j",
    )
    .await?;
    // Everything of a column that a MODIFY may lose.
    case.run(
        4,
        "ALTER TABLE t MODIFY v VARCHAR(20) COLLATE latin1_swedish_ci NULL, MODIFY h VARCHAR(8), MODIFY \
         at TIMESTAMP(3) NOT NULL DEFAULT current_timestamp(3), MODIFY j LONGTEXT, ADD extra INT; \
         ALTER TABLE kid DROP FOREIGN KEY `a key`; ALTER TABLE t ENGINE=MyISAM, DROP PRIMARY KEY, ADD PRIMARY KEY (id, uid)",
    )
    .await?;
    let report = mend(&case, ADMIN, ways).await?;
    for rule in ["tables", "drift", "foreign_keys", "engine"] {
        let left = report.of_rule(rule)?;
        let left: Vec<_> = left.iter().filter(|f| f.severity != "note").collect();
        ensure!(left.is_empty(), "{left:#?}");
    }
    // Alike to the letter, but for what no shard shares, and nothing of old rows is lost.
    for table in ["t", "kid"] {
        let mut creates = BTreeSet::new();
        for which in 0..OLD + NEW {
            let address = case.servers[which].address().with_schema(&case.schema(which));
            let rows = address.query(format!("SHOW CREATE TABLE {table}")).await?;
            let create: String = rows[0].get(1).context("no definition")?;
            let words = create.split(' ').filter(|word| !word.starts_with("AUTO_INCREMENT="));
            creates.insert(words.collect::<Vec<_>>().join(" "));
        }
        ensure!(creates.len() == 1, "{creates:#?}");
    }
    let old = case.servers[1].address().with_schema(&case.schema(1));
    ensure!(old.value::<String>("SELECT v FROM t WHERE uid = 1").await? == "kept");
    Ok(())
}

fn lax(server_id: u32) -> MariaDbOptions {
    let lax = MariaDbOptions {
        binlog_format: "MIXED".to_owned(),
        binlog_row_image: "MINIMAL".to_owned(),
        ..MariaDbOptions::with_server_id(server_id)
    };
    lax.arg("--binlog-checksum=NONE").arg("--binlog-expire-logs-seconds=3600")
}

/// Servers that are set up as none should be, and a replica of the same kind.
async fn settings(ways: &mut Ways) -> Result<()> {
    let old = MariaDbOptions { max_allowed_packet: 96 << 20, ..lax(81) };
    // Less than modshift alone would take.
    let old = old.arg("--max-connections=30");
    let new = lax(82)
        .arg("--sql-mode=ANSI")
        .arg("--event-scheduler=ON")
        .arg("--default-time-zone=+01:00")
        .arg("--transaction-isolation=READ-COMMITTED")
        .arg("--skip-innodb-strict-mode")
        .arg("--character-set-server=latin1");
    // As the cutover would have set it there; two of them on one server are beyond it.
    let step = ["--auto-increment-increment=3", "--auto-increment-offset=2"];
    let rest = step.iter().fold(options(85), |options, step| options.arg(step));
    let replica = lax(83).arg("--log-slave-updates=ON");
    // Mends are run as a person's client would run them, under the server's own defaults.
    let servers = [old, new, replica, rest].map(MariaDbOptions::calm);
    let started = MariaDbServer::start_all(servers).await?;
    let [old, new, replica, rest] = [0, 1, 2, 3].map(|index| &*started[index]);
    let table =
        "id INT NOT NULL AUTO_INCREMENT, uid BIGINT NOT NULL, v VARCHAR(9), PRIMARY KEY (id)";
    let case = Case::on([old, old, new, rest, rest], table).await?;
    // How times are stored is decided when a table is made, or rebuilt.
    let times = "CREATE TABLE w (uid BIGINT PRIMARY KEY, d DATETIME(6))";
    for which in 0..OLD + NEW {
        let stored = if which == 1 { "OFF" } else { "ON" };
        case.servers[which].run(format!("SET GLOBAL mysql56_temporal_format = {stored}")).await?;
        case.run(which, times).await?;
    }
    old.run("SET GLOBAL mysql56_temporal_format = ON").await?;
    case.run(2, "CREATE EVENT e ON SCHEDULE EVERY 1 DAY DO DELETE FROM t").await?;
    case.run(2, "CREATE TRIGGER `a trigger` BEFORE INSERT ON t FOR EACH ROW SET NEW.v = 'x'")
        .await?;
    replica.follow(old).await?;
    replica.catch_up(old).await?;
    replica.run("STOP SLAVE").await?;
    replica.run("CHANGE MASTER TO MASTER_DELAY = 3600").await?;
    replica.run("START SLAVE").await?;
    replica.run("SET GLOBAL event_scheduler = ON").await?;
    let event = format!("CREATE EVENT {}.r ON SCHEDULE EVERY 1 DAY DO DO 1", case.schema(0));
    replica.run(event).await?;
    case.run(0, "ALTER TABLE t AUTO_INCREMENT = 2000000000; SET GLOBAL read_only = 1").await?;
    let at = format!("127.0.0.1:{}", replica.port());
    let tail = "[[table]]\nname = \"w\"\nkey = \"uid\"\nrule = \"floor_mod\"\n".to_owned();
    let of_old_0 = format!("replicas = [\"{at}\"]\nread_from = \"{at}\"\n");
    let case = Case { of_old_0, tail, ..case };
    let report = mend(&case, ADMIN, ways).await?;
    for rule in
        ["binlog", "back", "durability", "retention", "packet", "alike", "events", "triggers"]
    {
        let left = report.of_rule(rule)?;
        let left: Vec<_> = left.iter().filter(|f| f.severity != "note").collect();
        ensure!(left.is_empty(), "{left:#?}");
    }
    Ok(())
}

/// An account that may see the schemas and nothing else, there and where it is rehearsed.
async fn grants(server: &MariaDbServer, ways: &mut Ways) -> Result<()> {
    let case = Case::new(server, TABLE).await?;
    server.run(format!("CREATE USER 'poor'@'127.0.0.%' IDENTIFIED BY '{PASSWORD}'")).await?;
    for which in 0..OLD + NEW {
        let grant = format!("GRANT SELECT ON `{}`.* TO poor@'127.0.0.%'", case.schema(which));
        server.run(grant.replace('_', "\\_")).await?;
    }
    let report = mend(&case, "poor", ways).await?;
    let left = report.of_rule("grants")?;
    ensure!(left.is_empty(), "{left:#?}");
    Ok(())
}

/// Sequences that a run would refuse, and such as give out what others have given out.
async fn sequences(server: &MariaDbServer, ways: &mut Ways) -> Result<()> {
    let tail =
        "[check]\nignore = [\"apart\", \"narrow\", \"odd\", \"down\", \"round\"]\n".to_owned();
    let case = Case { tail, ..Case::new(server, TABLE).await? };
    for which in 0..OLD {
        for sql in [
            "CREATE SEQUENCE apart START WITH 500",
            "CREATE SEQUENCE narrow START WITH 995 MAXVALUE 1000",
            "CREATE SEQUENCE odd START WITH 700 INCREMENT BY 2",
            "CREATE SEQUENCE down START WITH -500 INCREMENT BY -1",
            "CREATE SEQUENCE round START WITH 90 MAXVALUE 5000 CYCLE",
        ] {
            case.run(which, sql).await?;
        }
    }
    // It gives out values that are none of its own: a rollback would refuse it.
    case.run(1, "ALTER SEQUENCE odd RESTART WITH 801").await?;
    // One has run out; it has wider bounds now, and goes on beside its own values.
    case.run(3, "CREATE SEQUENCE apart START WITH 1 INCREMENT BY 3 MAXVALUE 8").await?;
    for _ in 0..3 {
        case.run(3, "SELECT NEXTVAL(apart)").await?;
    }
    let out = case.run(3, "SELECT NEXTVAL(apart)").await;
    ensure!(out.is_err(), "it has not run out");
    case.run(3, "ALTER SEQUENCE apart MAXVALUE 100000").await?;
    // Behind; and beside its own, with no room to go on.
    case.run(4, "CREATE SEQUENCE apart START WITH 9 INCREMENT BY 3").await?;
    case.run(4, "CREATE SEQUENCE narrow START WITH 1 INCREMENT BY 3 MAXVALUE 900").await?;
    case.run(4, "ALTER SEQUENCE narrow RESTART WITH 6").await?;
    case.run(4, "CREATE SEQUENCE odd START WITH 1 INCREMENT BY 3 MAXVALUE 700").await?;
    let report = mend(&case, ADMIN, ways).await?;
    let left = report.of_rule("sequences")?;
    ensure!(left.is_empty(), "{left:#?}");
    // What applications draw from was not moved.
    let old = case.servers[1].address().with_schema(&case.schema(1));
    ensure!(old.value::<i64>("SELECT NEXTVAL(odd)").await? == 801);
    let new = case.servers[3].address().with_schema(&case.schema(3));
    ensure!(new.value::<i64>("SELECT NEXTVAL(apart)").await? == 502);
    Ok(())
}

/// Accounts that write through a fence or past the binlog, a login that cannot see them, and what
/// else keeps changes out of a log.
async fn accounts(ways: &mut Ways) -> Result<()> {
    let servers = [86, 87].map(|id| options(id).arg("--log-slave-updates=ON").calm());
    let started = MariaDbServer::start_all(servers).await?;
    let [server, replica] = [&*started[0], &*started[1]];
    let case = Case::new(server, TABLE).await?;
    let poor = format!(
        "CREATE USER 'poor'@'127.0.0.%' IDENTIFIED BY '{PASSWORD}' WITH MAX_USER_CONNECTIONS 25"
    );
    for sql in [
        &*poor,
        "CREATE USER `ba``tch`@'10.%', chief@'%'",
        "CREATE ROLE keeper",
        "GRANT SUPER, BINLOG ADMIN, READ_ONLY ADMIN ON *.* TO `ba``tch`@'10.%'",
        "GRANT READ_ONLY ADMIN, BINLOG ADMIN ON *.* TO keeper",
        "GRANT ALL PRIVILEGES ON *.* TO chief@'%' WITH GRANT OPTION",
        // No more than the words: of an account that lacks the right the server ends the session.
        "CREATE USER writer@'10.1.%'",
        "SET GLOBAL init_connect = 'SET @meant = \"sql_log_bin = 0\"'",
    ] {
        server.run(sql).await.with_context(|| sql.to_owned())?;
    }
    for which in 0..OLD + NEW {
        let grant = format!("GRANT SELECT ON `{}`.* TO poor@'127.0.0.%'", case.schema(which));
        server.run(grant.replace('_', "\\_")).await?;
    }
    for which in 0..OLD {
        let trigger = "CREATE DEFINER=writer@'10.1.%' TRIGGER w BEFORE INSERT ON t FOR EACH ROW SET NEW.v = 'w'";
        case.run(which, trigger).await?;
    }
    replica.follow(server).await?;
    replica.catch_up(server).await?;
    for sql in [
        "SET SESSION sql_log_bin = 0; CREATE USER local@'%'; GRANT READ_ONLY ADMIN ON *.* TO local@'%'",
        "STOP ALL SLAVES",
        "SET GLOBAL replicate_ignore_table = 'x.y'",
        "SET GLOBAL slave_exec_mode = 'IDEMPOTENT'",
        "SET GLOBAL slave_run_triggers_for_rbr = 'YES'",
        "SET GLOBAL slave_type_conversions = 'ALL_LOSSY'",
        "SET GLOBAL replicate_events_marked_for_skip = 'FILTER_ON_SLAVE'",
        "CHANGE MASTER TO IGNORE_SERVER_IDS = (77)",
        "CHANGE MASTER TO IGNORE_DOMAIN_IDS = (78)",
        "START ALL SLAVES",
    ] {
        replica.run(sql).await.with_context(|| sql.to_owned())?;
    }
    let at = format!("127.0.0.1:{}", replica.port());
    let of_old_0 = format!("replicas = [\"{at}\"]\nread_from = \"{at}\"\n");
    let tail = "[cutover]\nold_accounts = [\"app@%\"]\nnew_accounts = [\"other@%\"]\n";
    let case = Case { of_old_0, tail: tail.to_owned(), ..case };
    let report = mend(&case, "poor", ways).await?;
    ensure!(report.of_rule("whole_log")?.is_empty(), "{:#}", report.json);
    ensure!(report.of_rule("handover")?.iter().all(|f| f.severity == "note"), "{:#}", report.json);
    // What is left is for people: administrators, and what the plan says of accounts.
    for rule in ["accounts", "fence"] {
        for finding in report.of_rule(rule)? {
            let named = ["administrators", "are not in cutover.accounts"];
            ensure!(named.iter().any(|words| finding.text.contains(words)), "{finding:#?}");
            ensure!(!finding.text.contains("tch@10.%"), "{finding:#?}");
        }
    }
    let chief = "SELECT COUNT(*) FROM information_schema.USER_PRIVILEGES WHERE GRANTEE = \
                 '\\'chief\\'@\\'%\\'' AND PRIVILEGE_TYPE = 'BINLOG ADMIN'";
    ensure!(server.value::<u64>(chief).await? == 1, "an administrator was locked out");
    Ok(())
}
