-- Least privileges of the login that cuts over: modshift's own, or that of [cutover] in the plan.
-- Run as root on the primary of every shard, old and new:
--
--   mariadb --init-command="SET @host = '10.0.0.%'" < deploy/mariadb/grants-cutover.sql
--
-- Without @user it is modshift. Without @password the account must exist.

SET @user = COALESCE(@user, 'modshift'), @host = COALESCE(@host, '%');
SET @account = CONCAT(QUOTE(@user), '@', QUOTE(@host));

EXECUTE IMMEDIATE IF(@password IS NULL, 'DO 0',
    CONCAT('CREATE USER IF NOT EXISTS ', @account, ' IDENTIFIED BY ', QUOTE(@password)));

-- Switch read_only, and write the fence marker behind it.
EXECUTE IMMEDIATE CONCAT('GRANT READ_ONLY ADMIN ON *.* TO ', @account);

-- Lock the application's accounts, end their sessions and see them gone.
EXECUTE IMMEDIATE CONCAT('GRANT CREATE USER, CONNECTION ADMIN, PROCESS ON *.* TO ', @account);

-- Stop what a shard replicates from elsewhere.
EXECUTE IMMEDIATE CONCAT('GRANT REPLICATION SLAVE ADMIN ON *.* TO ', @account);

-- Switch event_scheduler off, and set auto_increment_increment and _offset of new shards: the
-- server has no lesser privilege for them.
EXECUTE IMMEDIATE CONCAT('GRANT SUPER ON *.* TO ', @account);
