-- Least privileges of modshift on a schema of `modshift rehearse`, beside those of
-- deploy/mariadb/grants-cutover.sql. Run as root on the server, once for each schema of
-- [[rehearse.old]] and [[rehearse.new]]:
--
--   mariadb --init-command="SET @schema = 'rehearse_old_0', @host = '10.0.0.%', @password = '...'" \
--           < deploy/mariadb/grants-rehearsal.sql
--
-- Without @user it is modshift. Without @password the account is left as it is and must exist.

-- Quoting as it is written here, whatever the server's own sql_mode.
SET sql_mode = '';
SET @user = COALESCE(@user, 'modshift'), @host = COALESCE(@host, '%');
SET @account = CONCAT(QUOTE(@user), '@', QUOTE(@host));
-- In the name of a schema grants take _ and % for wildcards.
SET @in_pattern = CONCAT('`', REPLACE(REPLACE(REPLACE(@schema, '`', '``'), '_', '\\_'), '%', '\\%'), '`');

EXECUTE IMMEDIATE IF(@password IS NULL, 'DO 0',
    CONCAT('CREATE USER IF NOT EXISTS ', @account, ' IDENTIFIED BY ', QUOTE(@password)));

-- Make and drop the schema and what is in it, and let the rehearsal's own accounts write there.
EXECUTE IMMEDIATE CONCAT('GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, DROP, ALTER, REFERENCES, ',
    'TRIGGER ON ', @in_pattern, '.* TO ', @account, ' WITH GRANT OPTION');

-- Both directions read the binlog, and see whether it leaves schemas out.
EXECUTE IMMEDIATE CONCAT('GRANT REPLICATION SLAVE, BINLOG MONITOR ON *.* TO ', @account);

-- Is it a replica of something, which the fence would stop? And how far behind: see [throttle].
EXECUTE IMMEDIATE CONCAT('GRANT SLAVE MONITOR ON *.* TO ', @account);

-- Which routines and events there are.
EXECUTE IMMEDIATE CONCAT(
    'GRANT SELECT (db, name, type, definer, security_type) ON mysql.proc TO ', @account);
EXECUTE IMMEDIATE CONCAT(
    'GRANT SELECT (db, name, status, definer) ON mysql.event TO ', @account);

-- What is locked, as the cutover asks it.
EXECUTE IMMEDIATE CONCAT('GRANT SELECT ON mysql.global_priv TO ', @account);
