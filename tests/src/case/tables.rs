//! The tables of the case.

use anyhow::Result;

use crate::{
    rule::{Rule, TableRule},
    server::Address,
};

use super::types;

/// Name and definition, in the order in which they are created. `t_all_types` is put together from
/// its list of columns.
pub const TABLES: [(&str, &str); 6] = [
    (
        "t_trade_order",
        "id BIGINT UNSIGNED NOT NULL,
         accountNo BIGINT NOT NULL,
         symbol CHAR(8) CHARACTER SET latin1 COLLATE latin1_bin NOT NULL,
         side ENUM('buy','sell','short') NOT NULL,
         flags SET('gtc','ioc','fok','iceberg') NOT NULL DEFAULT '',
         quantity DECIMAL(18,6) NOT NULL,
         price DECIMAL(20,8) NULL,
         filled DOUBLE NOT NULL DEFAULT 0,
         note VARCHAR(200) NULL,
         client_ref VARBINARY(24) NULL,
         total DECIMAL(38,14) GENERATED ALWAYS AS (quantity * price) VIRTUAL,
         created DATETIME(6) NOT NULL,
         updated TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6)
             ON UPDATE CURRENT_TIMESTAMP(6),
         ver BIGINT UNSIGNED NOT NULL,
         PRIMARY KEY (id),
         KEY by_account (accountNo, created),
         KEY by_symbol (symbol, side)",
    ),
    (
        "t_account_entry",
        "accountNo BIGINT NOT NULL,
         line_no INT UNSIGNED NOT NULL,
         amount DECIMAL(20,4) NOT NULL,
         memo VARCHAR(120) NULL,
         memo_latin VARCHAR(80) CHARACTER SET latin1 NULL,
         posted DATE NOT NULL,
         at_time TIME(6) NULL,
         ver BIGINT UNSIGNED NOT NULL,
         PRIMARY KEY (accountNo, line_no),
         KEY by_day (posted),
         KEY by_amount (amount)",
    ),
    (
        "t_user",
        "user_id BIGINT UNSIGNED NOT NULL,
         login VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci NOT NULL,
         email VARCHAR(120) CHARACTER SET latin1 NULL,
         country CHAR(2) CHARACTER SET latin1 NOT NULL,
         profile JSON NULL,
         balance DECIMAL(18,4) NOT NULL DEFAULT 0,
         ver BIGINT UNSIGNED NOT NULL,
         PRIMARY KEY (user_id),
         UNIQUE KEY by_login (login),
         UNIQUE KEY by_email (email),
         KEY by_country (country)",
    ),
    (
        "t_device",
        "login VARCHAR(64) CHARACTER SET latin1 COLLATE latin1_swedish_ci NOT NULL,
         device BINARY(8) NOT NULL,
         name VARCHAR(100) NULL,
         address INET6 NULL,
         fingerprint UUID NULL,
         seen TIMESTAMP(6) NULL DEFAULT NULL,
         ver BIGINT UNSIGNED NOT NULL,
         PRIMARY KEY (login, device),
         KEY by_seen (seen)",
    ),
    (
        "t_wallet",
        "id BIGINT UNSIGNED NOT NULL,
         accountNo BIGINT NOT NULL,
         phone VARCHAR(24) NULL,
         bank CHAR(4) NULL,
         iban VARCHAR(34) NULL,
         balance DECIMAL(18,2) NOT NULL,
         ver BIGINT UNSIGNED NOT NULL,
         PRIMARY KEY (id),
         UNIQUE KEY by_phone (phone),
         UNIQUE KEY by_iban (bank, iban),
         KEY by_account (accountNo)",
    ),
    (
        "t_currency",
        "code CHAR(3) CHARACTER SET latin1 NOT NULL,
         name VARCHAR(60) NOT NULL,
         rate DECIMAL(18,8) NOT NULL,
         sign VARBINARY(8) NULL,
         ver BIGINT UNSIGNED NOT NULL,
         PRIMARY KEY (code)",
    ),
];

/// How the application places the rows of each table.
pub fn rules() -> Vec<TableRule> {
    vec![
        TableRule::new("t_trade_order", Rule::floor_mod("accountNo")),
        TableRule::new("t_account_entry", Rule::floor_mod("accountNo")),
        TableRule::new("t_user", Rule::crc32("login")),
        TableRule::new("t_device", Rule::crc32("login")),
        TableRule::new("t_wallet", Rule::floor_mod("accountNo")),
        TableRule::new("t_all_types", Rule::floor_mod("accountNo")),
        TableRule::new("t_currency", Rule::Broadcast { feeder: 0 }),
    ]
}

/// The schema and its tables, empty.
pub async fn create_schema(server: &Address, schema: &str) -> Result<()> {
    use mysql_async::prelude::Queryable;
    let mut conn = server.with_schema("").connect().await?;
    conn.query_drop(format!("CREATE DATABASE `{schema}` DEFAULT CHARACTER SET utf8mb4")).await?;
    conn.query_drop(format!("USE `{schema}`")).await?;
    let all_types = types::definition();
    for (table, body) in TABLES.into_iter().chain([("t_all_types", all_types.as_str())]) {
        conn.query_drop(format!(
            "CREATE TABLE `{table}` ({body}) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4"
        ))
        .await?;
    }
    conn.disconnect().await?;
    Ok(())
}
