//! Rows to begin with, the same for the same seed.
//!
//! Almost all are made by the server itself from its sequence engine, in a handful of statements
//! per shard. A row has a number *g* that no other row of its table has on any shard, and every
//! value of it is a function of the seed and *g*.

use anyhow::Result;
use mysql_async::{Conn, prelude::Queryable};

use super::types::{COLUMNS, random_row};
use crate::{random::Random, rule::number_on, server::Address};

/// Rows of each table over all shards together.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub orders: u64,
    pub entries: u64,
    pub users: u64,
    pub devices: u64,
    pub wallets: u64,
    pub all_types: u64,
}

impl Size {
    /// About so many rows in all.
    pub fn rows(total: u64) -> Self {
        Self {
            orders: total * 50 / 100,
            entries: total * 24 / 100,
            users: total * 10 / 100,
            devices: total * 8 / 100,
            wallets: total * 7 / 100,
            all_types: (total / 100).clamp(60, 6000),
        }
    }
}

const CURRENCIES: &str = "('EUR','Euro',1,x'e282ac',1),('USD','US-Dollar',1.08,x'24',1),\
    ('JPY','円',163.21,x'c2a5',1),('CHF','Schweizer Franken',0.94,NULL,1),\
    ('GBP','Pound Sterling',0.85,x'c2a3',1),('XXX','',0,x'00',1)";

/// Fills old shard `index` of `modulus`.
pub async fn seed_rows(
    shard: &Address,
    index: usize,
    modulus: usize,
    size: Size,
    seed: u64,
) -> Result<()> {
    let mut conn = shard.connect().await?;
    // Zero and impossible dates are part of the case. A crash would lose the whole test anyway.
    conn.query_drop("SET sql_mode='STRICT_ALL_TABLES,ALLOW_INVALID_DATES', unique_checks=0")
        .await?;
    for sql in statements(index, modulus, size, seed) {
        conn.query_drop(sql).await?;
    }
    all_types(&mut conn, index, modulus, size.all_types, seed).await?;
    conn.query_drop(format!("INSERT INTO t_currency VALUES {CURRENCIES}")).await?;
    conn.query_drop("ANALYZE TABLE t_trade_order, t_account_entry, t_user").await?;
    conn.disconnect().await?;
    Ok(())
}

fn statements(index: usize, modulus: usize, size: Size, seed: u64) -> [String; 5] {
    let share = |rows: u64| (rows / modulus as u64).max(1) - 1;
    // g: the row's number; h: 32 random hexadecimal digits; r1, r2: random numbers from them.
    let numbers = |rows: u64, salt: &str| {
        format!(
            "(SELECT g, h, CONV(LEFT(h,8),16,10) AS r1, CONV(RIGHT(h,8),16,10) AS r2 FROM \
             (SELECT seq*{modulus}+{index} AS g, MD5(CONCAT('{seed}{salt}',seq*{modulus}+{index})) \
             AS h FROM seq_0_to_{}) AS s) AS x",
            share(rows)
        )
    };
    // A text key lands where its checksum says: each shard looks through the numbers of all.
    let texts = |rows: u64, salt: &str, login: &str| {
        format!(
            "(SELECT g, h, CONV(LEFT(h,8),16,10) AS r1, CONV(RIGHT(h,8),16,10) AS r2, \
             {login} AS login FROM \
             (SELECT seq AS g, MD5(CONCAT('{seed}{salt}',seq)) AS h FROM seq_0_to_{}) AS s \
             HAVING CRC32(CONVERT(login USING utf8mb4)) MOD {modulus} = {index}) AS x",
            rows.max(1) - 1
        )
    };
    let accounts = (size.orders / modulus as u64 / 6).max(5);
    [
        format!(
            "INSERT INTO t_trade_order (id, accountNo, symbol, side, flags, quantity, price, \
             filled, note, client_ref, created, updated, ver) \
             SELECT g+1, {modulus}*CAST(r1 MOD {accounts} AS SIGNED)+{index}, \
             ELT(1+r2 MOD 5,'SAP','ALV','BMW','DTE','VOW3'), 1+r1 MOD 3, r2 MOD 16, \
             r1/1000, IF(r2 MOD 9=0,NULL,r2/100000), r1/7, \
             IF(r1 MOD 4=0,NULL,CONCAT('Auftrag № ',g,' ',REPEAT('ö',r2 MOD 20),' ')), \
             IF(r2 MOD 5=0,NULL,UNHEX(LEFT(h,2*(r1 MOD 12)))), \
             TIMESTAMP'2024-01-01 00:00:00'+INTERVAL r1 MOD 20000000 SECOND+INTERVAL r2 MOD 1000000 MICROSECOND, \
             TIMESTAMP'2024-09-01 00:00:00'+INTERVAL r2 MOD 9000000 SECOND+INTERVAL r1 MOD 1000000 MICROSECOND, 1 \
             FROM {}",
            numbers(size.orders, "o")
        ),
        format!(
            "INSERT INTO t_account_entry SELECT \
             {modulus}*(CAST(g DIV {modulus} DIV 5 AS SIGNED)-{})+{index}, g DIV {modulus} MOD 5+1, \
             (CAST(r1 AS SIGNED)-2147483648)/100, IF(r2 MOD 6=0,NULL,CONCAT('Buchung ',h)), \
             IF(r1 MOD 6=0,NULL,CONCAT('Gebühr ',r2 MOD 100,'€')), \
             DATE'2020-01-01'+INTERVAL r1 MOD 1800 DAY, \
             SEC_TO_TIME(r2 MOD 86400 + r1 MOD 1000000/1000000), 1 FROM {}",
            share(size.entries) / 10,
            numbers(size.entries, "e")
        ),
        format!(
            "INSERT INTO t_user SELECT g+1, login, \
             IF(r1 MOD 5=0,NULL,CONCAT('m',g,'@example.org')), ELT(1+r1 MOD 4,'DE','FR','ZA','KZ'), \
             IF(r2 MOD 3=0,NULL,JSON_OBJECT('g',g,'name',login,'tags',JSON_ARRAY(r1,'ü',NULL))), \
             r2/10000, 1 FROM {}",
            texts(
                size.users,
                "u",
                "CONCAT(ELT(1+g MOD 5,'anna','Jürgen','ольга','李雷','zoë🙂'),'-',g,\
                 IF(g MOD 7=0,' ',''))"
            )
        ),
        format!(
            "INSERT INTO t_device SELECT login, UNHEX(LEFT(h,16-2*(r1 MOD 3))), \
             IF(r1 MOD 6=0,NULL,CONCAT('Gerät ',g,' 📱')), \
             IF(r2 MOD 7=0,NULL,CONCAT('2001:db8::',LEFT(h,4),':',RIGHT(h,4))), \
             IF(r2 MOD 8=0,NULL,INSERT(INSERT(INSERT(INSERT(INSERT(INSERT(h,13,1,'4'),17,1,'8'),21,0,'-'),17,0,'-'),13,0,'-'),9,0,'-')), \
             IF(r1 MOD 5=0,NULL,TIMESTAMP'2024-01-01 00:00:00'+INTERVAL r1 MOD 20000000 SECOND\
             +INTERVAL r2 MOD 1000000 MICROSECOND), 1 FROM {}",
            texts(
                size.devices,
                "d",
                "CONVERT(CONCAT(ELT(1+g MOD 4,'bob','Jürgen','François','Ñandú'),'-',g DIV 2) \
                 USING latin1)"
            )
        ),
        format!(
            "INSERT INTO t_wallet SELECT g+1, {modulus}*CAST(r1 MOD {accounts} AS SIGNED)+{index}, \
             IF(r1 MOD 4=0,NULL,CONCAT('+49-',g)), IF(r2 MOD 4=0,NULL,ELT(1+r1 MOD 3,'DEUT','COBA','GENO')), \
             IF(r2 MOD 6=0,NULL,CONCAT('DE',g)), r2/100, 1 FROM {}",
            numbers(size.wallets, "w")
        ),
    ]
}

/// These come from the harness's own generator, which knows the edges of each type.
async fn all_types(
    conn: &mut Conn,
    index: usize,
    modulus: usize,
    rows: u64,
    seed: u64,
) -> Result<()> {
    const ROWS_PER_STATEMENT: usize = 100;
    let mut random = Random::new(seed).fork(index as u64);
    let head = format!("INSERT INTO t_all_types (id,accountNo,ver,{}) VALUES ", COLUMNS.join(","));
    let share = (rows / modulus as u64).max(1) as i64;
    let mut tuples = Vec::new();
    for number in 0..share {
        // Every second id is negative; no id occurs on two shards.
        let g = number * modulus as i64 + index as i64 + 1;
        let id = if number % 2 == 0 { g } else { -g };
        let account = number_on(index, modulus, random.between(-20_000, 20_000));
        tuples.push(format!("({id},{account},1,{})", random_row(&mut random).join(",")));
        if tuples.len() == ROWS_PER_STATEMENT || number + 1 == share {
            conn.query_drop(format!("{head}{}", tuples.join(","))).await?;
            tuples.clear();
        }
    }
    Ok(())
}
