-- Least privileges of modshift on an old shard. Run as root on every old shard's primary:
--
--   mariadb --init-command="SET @schema = 'shop_0', @host = '10.0.0.%', @password = '...'" \
--           < deploy/mariadb/grants-old.sql
--
-- Without @user it is modshift. Without @password the account is left as it is and must exist.
-- `modshift check` names whatever is missing.

SET @user = COALESCE(@user, 'modshift'), @host = COALESCE(@host, '%');
SET @account = CONCAT(QUOTE(@user), '@', QUOTE(@host));
-- In the name of a schema grants take _ and % for wildcards; in that of a table they do not.
SET @in_pattern = CONCAT('`', REPLACE(REPLACE(REPLACE(@schema, '`', '``'), '_', '\\_'), '%', '\\%'), '`');
SET @in_schema = CONCAT('`', REPLACE(@schema, '`', '``'), '`');

EXECUTE IMMEDIATE IF(@password IS NULL, 'DO 0',
    CONCAT('CREATE USER IF NOT EXISTS ', @account, ' IDENTIFIED BY ', QUOTE(@password)));

-- Stream the binlog.
EXECUTE IMMEDIATE CONCAT('GRANT REPLICATION SLAVE ON *.* TO ', @account);

-- Copy rows and read definitions. TRIGGER only because the server shows triggers to nobody else:
-- `modshift check` must see what would be left behind. Modshift creates none.
EXECUTE IMMEDIATE CONCAT('GRANT SELECT, TRIGGER ON ', @in_pattern, '.* TO ', @account);

-- Its own two tables: token and progress. It writes nowhere else on an old shard.
EXECUTE IMMEDIATE CONCAT('GRANT CREATE, SELECT, INSERT, UPDATE, DELETE ON ', @in_schema,
    '.modshift_token TO ', @account);
EXECUTE IMMEDIATE CONCAT('GRANT CREATE, SELECT, INSERT, UPDATE, DELETE ON ', @in_schema,
    '.modshift_progress TO ', @account);

-- Names of routines and events, to say which the plan does not name.
EXECUTE IMMEDIATE CONCAT('GRANT SELECT (db, name, type) ON mysql.proc TO ', @account);
EXECUTE IMMEDIATE CONCAT('GRANT SELECT (db, name) ON mysql.event TO ', @account);

-- Which accounts may switch the binlog off in their session: names and privileges without the
-- password hashes that mysql.global_priv holds beside them.
EXECUTE IMMEDIATE CONCAT('CREATE OR REPLACE SQL SECURITY DEFINER VIEW ', @in_schema,
    '.modshift_accounts AS SELECT User, Host, ',
    'CAST(JSON_VALUE(Priv, ''$.access'') AS UNSIGNED) AS access FROM mysql.global_priv');
