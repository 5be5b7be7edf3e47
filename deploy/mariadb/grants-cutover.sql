-- Least privileges of the login that cuts over: modshift's own, or that of [cutover] in the plan.
-- Run as root on the primary of every shard, old and new:
--
--   mariadb --init-command="SET @schema = 'shop_0', @host = '10.0.0.%'" < deploy/mariadb/grants-cutover.sql
--
-- With @locks = 0 it may not lock accounts: for a plan that names none (cutover.accounts). With
-- @super = 0 it holds no SUPER: for servers whose event_scheduler is OFF, and a plan with
-- cutover.auto_increment = "keep" or without a table that gives out keys. With @guard = 1 it may put up
-- the home guard of shards that are split in place.
--
-- Without @user it is modshift. Without @password the account must exist. Replication takes the grants
-- to the replicas, which the fence closes too; one that does not replicate the schema mysql needs
-- READ_ONLY ADMIN, CONNECTION ADMIN, PROCESS, SLAVE MONITOR, SELECT, and SUPER where its event_scheduler is on.

-- Quoting as it is written here, whatever the server's own sql_mode.
SET sql_mode = '';
SET @user = COALESCE(@user, 'modshift'), @host = COALESCE(@host, '%');
SET @locks = COALESCE(@locks, 1), @super = COALESCE(@super, 1), @guard = COALESCE(@guard, 0);
SET @account = CONCAT(QUOTE(@user), '@', QUOTE(@host));
-- In the name of a schema grants take _ and % for wildcards; in that of a table they do not.
SET @in_pattern = CONCAT('`', REPLACE(REPLACE(REPLACE(@schema, '`', '``'), '_', '\\_'), '%', '\\%'), '`');
SET @in_schema = CONCAT('`', REPLACE(@schema, '`', '``'), '`');

EXECUTE IMMEDIATE IF(@password IS NULL, 'DO 0',
    CONCAT('CREATE USER IF NOT EXISTS ', @account, ' IDENTIFIED BY ', QUOTE(@password)));

-- Switch read_only, and write the fence marker behind it.
EXECUTE IMMEDIATE CONCAT('GRANT READ_ONLY ADMIN ON *.* TO ', @account);

-- End the application's sessions and see them gone.
EXECUTE IMMEDIATE CONCAT('GRANT CONNECTION ADMIN, PROCESS ON *.* TO ', @account);

-- Lock its accounts. The only lesser right that the server knows is UPDATE on all of the schema mysql,
-- and that is more.
EXECUTE IMMEDIATE IF(@locks, CONCAT('GRANT CREATE USER ON *.* TO ', @account), 'DO 0');

-- See what a shard replicates from elsewhere, and stop it.
EXECUTE IMMEDIATE CONCAT('GRANT SLAVE MONITOR, REPLICATION SLAVE ADMIN ON *.* TO ', @account);

-- Switch event_scheduler off, and set auto_increment_increment and _offset of new shards: the
-- server has no lesser privilege for them.
EXECUTE IMMEDIATE IF(@super, CONCAT('GRANT SUPER ON *.* TO ', @account), 'DO 0');

-- See which accounts are locked. The hashes that this shows give nothing that CREATE USER does not.
EXECUTE IMMEDIATE IF(@locks,
    CONCAT('GRANT SELECT (User, Host, Priv) ON mysql.global_priv TO ', @account), 'DO 0');
-- And which may act in their place, where locked accounts are the whole fence.
EXECUTE IMMEDIATE IF(@locks,
    CONCAT('GRANT SELECT (User, Host, Proxied_user) ON mysql.proxies_priv TO ', @account), 'DO 0');

-- Which shards keep this server closed, of whichever plan: whoever opens it asks.
CREATE DATABASE IF NOT EXISTS modshift;
EXECUTE IMMEDIATE CONCAT('GRANT CREATE, SELECT, INSERT, UPDATE, DELETE ON modshift.fences TO ', @account);

-- Remove it all in the end: `modshift cleanup --leftovers`. May be left out until then.
EXECUTE IMMEDIATE CONCAT('GRANT DROP ON modshift.* TO ', @account);

-- Read how far the streams are; read counters and sequences, and carry them over: ALTER TABLE ...
-- AUTO_INCREMENT takes ALTER, CREATE and INSERT, SETVAL takes INSERT.
EXECUTE IMMEDIATE CONCAT('GRANT SELECT, INSERT, CREATE, ALTER ON ', @in_pattern, '.* TO ', @account);

-- Hand over triggers and events, exactly as they are: with the definer that they have.
EXECUTE IMMEDIATE CONCAT('GRANT TRIGGER, EVENT ON ', @in_pattern, '.* TO ', @account);
EXECUTE IMMEDIATE CONCAT('GRANT SET USER ON *.* TO ', @account);
-- And see beforehand that the definer may run them.
EXECUTE IMMEDIATE CONCAT('GRANT SELECT (User, Host, Db, Trigger_priv) ON mysql.db TO ', @account);
EXECUTE IMMEDIATE CONCAT('GRANT SELECT (User, Host, Db, Table_priv) ON mysql.tables_priv TO ', @account);

-- Keep the home guard out of the binlog as long as a server may have to be a replica again. The guard
-- itself takes TRIGGER and SELECT, which are given above, for as long as it is up; and to make it SUPER,
-- where the server's log_bin_trust_function_creators is 0.
EXECUTE IMMEDIATE IF(@guard, CONCAT('GRANT BINLOG ADMIN ON *.* TO ', @account), 'DO 0');

-- Modshift's own tables: markers, journal, routing; `modshift finish` removes them.
EXECUTE IMMEDIATE CONCAT('GRANT CREATE, SELECT, INSERT, UPDATE, DELETE, DROP ON ', @in_schema,
    '.modshift_plan TO ', @account);
EXECUTE IMMEDIATE CONCAT('GRANT CREATE, SELECT, INSERT, UPDATE, DELETE, DROP ON ', @in_schema,
    '.modshift_token TO ', @account);
EXECUTE IMMEDIATE CONCAT('GRANT CREATE, SELECT, INSERT, UPDATE, DELETE, DROP ON ', @in_schema,
    '.modshift_progress TO ', @account);
EXECUTE IMMEDIATE CONCAT('GRANT CREATE, SELECT, INSERT, UPDATE, DELETE, DROP ON ', @in_schema,
    '.modshift_tables TO ', @account);
EXECUTE IMMEDIATE CONCAT('GRANT CREATE, SELECT, INSERT, UPDATE, DELETE, DROP ON ', @in_schema,
    '.modshift_watermark TO ', @account);
EXECUTE IMMEDIATE CONCAT('GRANT CREATE, SELECT, INSERT, UPDATE, DELETE, DROP ON ', @in_schema,
    '.modshift_parked TO ', @account);
EXECUTE IMMEDIATE CONCAT('GRANT CREATE, SELECT, INSERT, UPDATE, DELETE, DROP ON ', @in_schema,
    '.modshift_handover TO ', @account);
EXECUTE IMMEDIATE CONCAT('GRANT CREATE, SELECT, INSERT, UPDATE, DELETE, DROP ON ', @in_schema,
    '.modshift_repair TO ', @account);
EXECUTE IMMEDIATE CONCAT('GRANT CREATE, SELECT, INSERT, UPDATE, DELETE, DROP ON ', @in_schema,
    '.modshift_resync TO ', @account);
EXECUTE IMMEDIATE CONCAT('GRANT CREATE, SELECT, INSERT, UPDATE, DELETE, DROP ON ', @in_schema,
    '.modshift_skip TO ', @account);
EXECUTE IMMEDIATE CONCAT('GRANT CREATE, SELECT, INSERT, UPDATE, DELETE, DROP ON ', @in_schema,
    '.modshift_verify TO ', @account);
EXECUTE IMMEDIATE CONCAT('GRANT CREATE, SELECT, INSERT, UPDATE, DELETE, DROP ON ', @in_schema,
    '.modshift_settled TO ', @account);
EXECUTE IMMEDIATE CONCAT('GRANT CREATE, SELECT, INSERT, UPDATE, DELETE, DROP ON ', @in_schema,
    '.modshift_verifier TO ', @account);
EXECUTE IMMEDIATE CONCAT('GRANT CREATE, SELECT, INSERT, UPDATE, DELETE, DROP ON ', @in_schema,
    '.modshift_mismatch TO ', @account);
EXECUTE IMMEDIATE CONCAT('GRANT CREATE, SELECT, INSERT, UPDATE, DELETE, DROP ON ', @in_schema,
    '.modshift_routing TO ', @account);
EXECUTE IMMEDIATE CONCAT('GRANT CREATE, SELECT, INSERT, UPDATE, DELETE, DROP ON ', @in_schema,
    '.modshift_journal TO ', @account);
EXECUTE IMMEDIATE CONCAT('GRANT CREATE, SELECT, INSERT, UPDATE, DELETE, DROP ON ', @in_schema,
    '.modshift_operator TO ', @account);
EXECUTE IMMEDIATE CONCAT('GRANT CREATE, SELECT, INSERT, UPDATE, DELETE, DROP ON ', @in_schema,
    '.modshift_fence TO ', @account);
EXECUTE IMMEDIATE CONCAT('GRANT CREATE, SELECT, INSERT, UPDATE, DELETE, DROP ON ', @in_schema,
    '.modshift_audit TO ', @account);
-- What `check --deep` has kept there, what the misroute watch knows, what a killed `check --trial` has left, what says that
-- `restart-copy` is at it, and what `finish` leaves on purpose.
EXECUTE IMMEDIATE CONCAT('GRANT CREATE, DROP ON ', @in_schema, '.modshift_check TO ', @account);
EXECUTE IMMEDIATE CONCAT('GRANT CREATE, DROP ON ', @in_schema, '.modshift_trial TO ', @account);
EXECUTE IMMEDIATE CONCAT('GRANT CREATE, DROP ON ', @in_schema, '.modshift_misroute TO ', @account);
EXECUTE IMMEDIATE CONCAT('GRANT CREATE, DROP ON ', @in_schema, '.modshift_misrouted TO ', @account);
EXECUTE IMMEDIATE CONCAT('GRANT CREATE, DROP ON ', @in_schema, '.modshift_restart TO ', @account);
EXECUTE IMMEDIATE CONCAT('GRANT CREATE, DROP ON ', @in_schema, '.modshift_finished TO ', @account);
