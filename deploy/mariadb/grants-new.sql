-- Least privileges of modshift on a new shard. Run as root on every new shard's primary:
--
--   mariadb --init-command="SET @schema = 'shop_new_0', @host = '10.0.0.%', @password = '...'" \
--           < deploy/mariadb/grants-new.sql
--
-- Sessions that write in statement format to another schema of the server: see the end; once more with
-- @other = 'percona' for each such schema.
--
-- Without @user it is modshift. Without @password the account is left as it is and must exist.
-- `modshift check` names whatever is missing.

-- Quoting as it is written here, whatever the server's own sql_mode.
SET sql_mode = '';
SET @user = COALESCE(@user, 'modshift'), @host = COALESCE(@host, '%');
SET @account = CONCAT(QUOTE(@user), '@', QUOTE(@host));
-- In the name of a schema grants take _ and % for wildcards.
SET @in_pattern = CONCAT('`', REPLACE(REPLACE(REPLACE(@schema, '`', '``'), '_', '\\_'), '%', '\\%'), '`');

EXECUTE IMMEDIATE IF(@password IS NULL, 'DO 0',
    CONCAT('CREATE USER IF NOT EXISTS ', @account, ' IDENTIFIED BY ', QUOTE(@password)));

-- Apply changes, and keep watermark and parked rows.
EXECUTE IMMEDIATE CONCAT('GRANT SELECT, INSERT, UPDATE, DELETE ON ', @in_pattern, '.* TO ', @account);

-- CREATE for `modshift schema --apply` and modshift's own tables, REFERENCES for foreign keys of
-- the tables it creates, TRIGGER because the server shows triggers to nobody else: one on a
-- planned table would change what is applied, and `modshift check` refuses it until this side serves.
EXECUTE IMMEDIATE CONCAT('GRANT CREATE, REFERENCES, TRIGGER ON ', @in_pattern, '.* TO ', @account);

-- The way back reads the binlog of the new shards, and sees whether it leaves schemas out. Left out
-- with enabled = false in [back].
EXECUTE IMMEDIATE CONCAT('GRANT REPLICATION SLAVE, BINLOG MONITOR ON *.* TO ', @account);

-- Keep its own rows, and apply changes, while the server is read-only: a new shard until the
-- cutover, an old one after it. And set read_only again where a restart of a fenced one forgot it.
EXECUTE IMMEDIATE CONCAT('GRANT READ_ONLY ADMIN ON *.* TO ', @account);

-- How far the server and its replicas are behind: [throttle] slows copying and verifying down by it.
-- It may be left out: the lag is then unknown, as /status says, and slows nothing down.
EXECUTE IMMEDIATE CONCAT('GRANT SLAVE MONITOR ON *.* TO ', @account);

-- What else lives on the server, which a fence of it stops, too: names alone.
EXECUTE IMMEDIATE CONCAT(
    'GRANT SELECT (database_name, table_name) ON mysql.innodb_table_stats TO ', @account);

-- Events would write here before their time; `modshift check` refuses those that run.
EXECUTE IMMEDIATE CONCAT(
    'GRANT SELECT (db, name, status, definer) ON mysql.event TO ', @account);

-- Names of stored functions: what an application writes in statement format once this shard serves
-- may call one, and the way back has to know.
EXECUTE IMMEDIATE CONCAT('GRANT SELECT (db, name, type) ON mysql.proc TO ', @account);

-- The scratch table of `modshift check --trial`.
EXECUTE IMMEDIATE CONCAT('GRANT CREATE, DROP ON `', REPLACE(@schema, '`', '``'),
    '`.modshift_trial TO ', @account);

-- Only where sessions write in statement format to another schema (pt-heartbeat, pt-table-checksum):
-- see that what they write there has no triggers and is no view, and what the views read that they read.
-- The server shows that to nobody else. Modshift makes no triggers.
SET @in_other = CONCAT('`', REPLACE(REPLACE(REPLACE(COALESCE(@other, ''), '`', '``'), '_', '\\_'), '%', '\\%'), '`');
EXECUTE IMMEDIATE IF(@other IS NULL, 'DO 0',
    CONCAT('GRANT SELECT, TRIGGER, SHOW VIEW ON ', @in_other, '.* TO ', @account));
