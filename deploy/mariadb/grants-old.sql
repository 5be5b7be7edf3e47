-- Least privileges of modshift on an old shard. Run as root on every old shard's primary:
--
--   mariadb --init-command="SET @schema = 'shop_0', @host = '10.0.0.%', @password = '...'" \
--           < deploy/mariadb/grants-old.sql
--
-- Sessions that write in statement format to another schema of the server: see the end; once more with
-- @other = 'percona' for each such schema. A plan with scheme = "promote": with @promote = 1.
--
-- Without @user it is modshift. Without @password the account is left as it is and must exist.
-- `modshift check` names whatever is missing. Replication takes the grants to the replicas; one that
-- does not replicate the schema mysql needs REPLICATION SLAVE, BINLOG MONITOR, SLAVE MONITOR and SELECT
-- if it is read_from.

-- Quoting as it is written here, whatever the server's own sql_mode.
SET sql_mode = '';
SET @user = COALESCE(@user, 'modshift'), @host = COALESCE(@host, '%');
SET @account = CONCAT(QUOTE(@user), '@', QUOTE(@host));
-- In the name of a schema grants take _ and % for wildcards; in that of a table they do not.
SET @in_pattern = CONCAT('`', REPLACE(REPLACE(REPLACE(@schema, '`', '``'), '_', '\\_'), '%', '\\%'), '`');
SET @in_schema = CONCAT('`', REPLACE(@schema, '`', '``'), '`');

EXECUTE IMMEDIATE IF(@password IS NULL, 'DO 0',
    CONCAT('CREATE USER IF NOT EXISTS ', @account, ' IDENTIFIED BY ', QUOTE(@password)));

-- Stream the binlog, and see whether it leaves schemas out (binlog_do_db and the like).
EXECUTE IMMEDIATE CONCAT('GRANT REPLICATION SLAVE, BINLOG MONITOR ON *.* TO ', @account);

-- Keep its own rows, and apply changes on the way back, while the fence holds the server read-only;
-- and set read_only again where a restart of a fenced server has forgotten it.
EXECUTE IMMEDIATE CONCAT('GRANT READ_ONLY ADMIN ON *.* TO ', @account);

-- How far the server and its replicas are behind: [throttle] slows copying and verifying down by it.
-- It may be left out: the lag is then unknown, as /status says, and slows nothing down. Of a replica
-- that is read it also shows what replication leaves out, and may not be left out.
EXECUTE IMMEDIATE CONCAT('GRANT SLAVE MONITOR ON *.* TO ', @account);

-- Of a plan that promotes replicas: see on each of them what replicates from it, which would be cut off with
-- it. It may be left out: `modshift check` then says that it cannot see it, unless the account has PROCESS
-- (grants-cutover.sql) and nothing does.
EXECUTE IMMEDIATE IF(COALESCE(@promote, 0),
    CONCAT('GRANT REPLICATION MASTER ADMIN ON *.* TO ', @account), 'DO 0');

-- Copy rows and read definitions. TRIGGER only because the server shows triggers to nobody else:
-- `modshift check` compares them. The daemons create none; the cutover hands them over.
EXECUTE IMMEDIATE CONCAT('GRANT SELECT, TRIGGER ON ', @in_pattern, '.* TO ', @account);

-- Its own tables: it writes nowhere else on an old shard before the cutover.
EXECUTE IMMEDIATE CONCAT('GRANT CREATE, SELECT, INSERT ON ', @in_schema, '.modshift_plan TO ', @account);
EXECUTE IMMEDIATE CONCAT('GRANT CREATE, SELECT, INSERT, UPDATE, DELETE ON ', @in_schema,
    '.modshift_token TO ', @account);
EXECUTE IMMEDIATE CONCAT('GRANT CREATE, SELECT, INSERT, UPDATE, DELETE ON ', @in_schema,
    '.modshift_progress TO ', @account);
EXECUTE IMMEDIATE CONCAT('GRANT CREATE, SELECT, INSERT, UPDATE, DELETE ON ', @in_schema,
    '.modshift_tables TO ', @account);
EXECUTE IMMEDIATE CONCAT('GRANT CREATE, SELECT, INSERT, UPDATE, DELETE ON ', @in_schema,
    '.modshift_watermark TO ', @account);
EXECUTE IMMEDIATE CONCAT('GRANT CREATE, SELECT, INSERT, UPDATE, DELETE ON ', @in_schema,
    '.modshift_parked TO ', @account);
-- Whether the application's triggers are here: then nothing is applied.
EXECUTE IMMEDIATE CONCAT('GRANT CREATE, SELECT ON ', @in_schema, '.modshift_handover TO ', @account);

-- Rows that `modshift verify --repair` asks the reader to copy again.
EXECUTE IMMEDIATE CONCAT('GRANT CREATE, SELECT, INSERT, UPDATE, DELETE ON ', @in_schema,
    '.modshift_repair TO ', @account);

-- Ranges that `modshift resync` asks the reader to copy again.
EXECUTE IMMEDIATE CONCAT('GRANT CREATE, SELECT, INSERT, UPDATE, DELETE ON ', @in_schema,
    '.modshift_resync TO ', @account);

-- What `modshift skip` has had passed over, and which tables are to be compared since.
EXECUTE IMMEDIATE CONCAT('GRANT CREATE, SELECT, INSERT, UPDATE, DELETE ON ', @in_schema,
    '.modshift_skip TO ', @account);

-- The way back: from the cutover on changes of the new shards are applied here. Left out with
-- enabled = false in [back] of the plan.
EXECUTE IMMEDIATE CONCAT('GRANT INSERT, UPDATE, DELETE ON ', @in_pattern, '.* TO ', @account);

-- What `modshift verify --back` has compared.
EXECUTE IMMEDIATE CONCAT('GRANT CREATE, SELECT, INSERT, UPDATE, DELETE ON ', @in_schema,
    '.modshift_verify TO ', @account);
EXECUTE IMMEDIATE CONCAT('GRANT CREATE, SELECT, INSERT, UPDATE, DELETE ON ', @in_schema,
    '.modshift_mismatch TO ', @account);
EXECUTE IMMEDIATE CONCAT('GRANT CREATE, SELECT, INSERT, UPDATE, DELETE ON ', @in_schema,
    '.modshift_settled TO ', @account);

-- What else lives on the server, which a fence of it stops, too: names alone.
EXECUTE IMMEDIATE CONCAT(
    'GRANT SELECT (database_name, table_name) ON mysql.innodb_table_stats TO ', @account);

-- Names of routines and events, to say which the plan does not name, and in whose name they run:
-- one with a privileged definer writes through the fence.
EXECUTE IMMEDIATE CONCAT(
    'GRANT SELECT (db, name, type, definer, security_type) ON mysql.proc TO ', @account);
EXECUTE IMMEDIATE CONCAT(
    'GRANT SELECT (db, name, status, definer) ON mysql.event TO ', @account);

-- What modshift must know of the accounts of this server lies in a schema of its own, on which only
-- modshift gets a right: in the application's schema whoever may read there could read it, too.
-- (Earlier versions of this file put it there.) The name of the schema is fixed. It may be dropped
-- when no plan has a shard on this server any more.
CREATE DATABASE IF NOT EXISTS modshift;
EXECUTE IMMEDIATE CONCAT('DROP VIEW IF EXISTS ', @in_schema, '.modshift_accounts, ', @in_schema,
    '.modshift_writers');

-- Which accounts may switch the binlog off in their session or write on a read-only server: names, privileges and locks without
-- the password hashes that mysql.global_priv holds beside them.
CREATE OR REPLACE SQL SECURITY DEFINER VIEW modshift.accounts AS SELECT User, Host,
    CAST(JSON_VALUE(Priv, '$.access') AS UNSIGNED) AS access,
    COALESCE(JSON_VALUE(Priv, '$.account_locked'), '0') IN ('1', 'true') AS locked
    FROM mysql.global_priv;
EXECUTE IMMEDIATE CONCAT('GRANT SELECT ON modshift.accounts TO ', @account);

-- Which accounts may write in which schema, to compare them with those that the fence locks.
CREATE OR REPLACE SQL SECURITY DEFINER VIEW modshift.writers AS SELECT User, Host, Db AS pattern
    FROM mysql.db WHERE 'Y' IN (Insert_priv, Update_priv, Delete_priv)
    UNION SELECT User, Host, REPLACE(REPLACE(Db, '_', '\\_'), '%', '\\%') FROM mysql.tables_priv
    WHERE CONCAT_WS(',', Table_priv, Column_priv) REGEXP 'Insert|Update|Delete(,|$)';
EXECUTE IMMEDIATE CONCAT('GRANT SELECT ON modshift.writers TO ', @account);

-- Only where sessions write in statement format to another schema (pt-heartbeat, pt-table-checksum):
-- see that what they write there has no triggers and is no view, and what the views read that they read.
-- The server shows that to nobody else. Modshift makes no triggers.
SET @in_other = CONCAT('`', REPLACE(REPLACE(REPLACE(COALESCE(@other, ''), '`', '``'), '_', '\\_'), '%', '\\%'), '`');
EXECUTE IMMEDIATE IF(@other IS NULL, 'DO 0',
    CONCAT('GRANT SELECT, TRIGGER, SHOW VIEW ON ', @in_other, '.* TO ', @account));
