//! Tables of which every row is hot.

use anyhow::Result;
use modshift_tests::{Estate, Rule, TableRule};
use mysql_async::prelude::Queryable;

/// With keys that page badly if compared by anything but their
/// own collation.
pub const HOT: [(&str, &str); 3] = [
    (
        "t_hot_text",
        "code VARCHAR(40) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci NOT NULL,
         accountNo BIGINT NOT NULL,
         filler VARCHAR(200) NULL,
         ver BIGINT UNSIGNED NOT NULL,
         PRIMARY KEY (code)",
    ),
    (
        "t_hot_bytes",
        "code VARBINARY(8) NOT NULL,
         accountNo BIGINT NOT NULL,
         filler VARCHAR(200) NULL,
         ver BIGINT UNSIGNED NOT NULL,
         PRIMARY KEY (code)",
    ),
    (
        "t_hot_pair",
        "region CHAR(6) CHARACTER SET latin1 COLLATE latin1_swedish_ci NOT NULL,
         line INT NOT NULL,
         accountNo BIGINT NOT NULL,
         filler VARCHAR(200) NULL,
         ver BIGINT UNSIGNED NOT NULL,
         PRIMARY KEY (region, line)",
    ),
];

/// One hot row of old shard `index`: its number is on no other shard.
#[derive(Clone, Copy)]
pub struct Hot {
    pub table: usize,
    pub number: u64,
}

impl Hot {
    /// The values of the key columns in one of several forms. Those of a text are all the same
    /// to its collation; of the others each is another key.
    pub fn key(self, form: usize) -> String {
        let Hot { table, number: n } = self;
        match table {
            0 => {
                let stem = ["Key", "ÄPFEL", "ключ", "zoë"][(n / 7 % 4) as usize];
                let text = format!("{stem} {n}");
                match form {
                    0 => format!("'{text}'"),
                    1 => format!("'{}'", text.to_uppercase()),
                    2 => format!("'{}'", text.to_lowercase()),
                    _ => format!("'{text} '"),
                }
            }
            1 => format!("x'{n:06x}{}'", ["", "00", "20", "ff00"][form]),
            _ => {
                let region = ["'Nord'", "'SÜD'", "'ost'"][(n % 3) as usize];
                format!("{region},{}", if form.is_multiple_of(2) { n as i64 } else { -(n as i64) })
            }
        }
    }

    /// The row, whatever form its key has.
    pub fn condition(self) -> String {
        let Hot { table, number: n } = self;
        match table {
            0 => format!("code={}", self.key(0)),
            1 => format!("code BETWEEN x'{n:06x}' AND x'{n:06x}ffff'"),
            _ => {
                let key = self.key(0);
                let region = key.split(',').next().unwrap_or_default();
                format!("region={region} AND line IN ({n},-{n})")
            }
        }
    }

    pub fn insert(self, form: usize, account: u64, filler: u64) -> String {
        format!(
            "INSERT INTO {} VALUES ({},{account},REPEAT('ö',{filler}),1)",
            HOT[self.table].0,
            self.key(form)
        )
    }
}

/// Fills the hot tables of every old shard, and names them in the plan.
pub async fn add_hot_tables(estate: &mut Estate, rows: u64) -> Result<()> {
    let modulus = estate.old.len() as u64;
    for (index, shard) in estate.old.iter().enumerate() {
        let mut conn = shard.address().connect().await?;
        for (table, (name, columns)) in HOT.iter().enumerate() {
            conn.query_drop(format!("CREATE TABLE {name} ({columns}) ENGINE=InnoDB")).await?;
            let numbers = (0..rows).map(|row| row * modulus + index as u64);
            let inserts: Vec<String> = numbers
                .map(|number| {
                    Hot { table, number }.insert(number as usize % 4, number, number % 90)
                })
                .collect();
            conn.query_drop("BEGIN").await?;
            for insert in inserts {
                conn.query_drop(insert).await?;
            }
            conn.query_drop("COMMIT").await?;
        }
        conn.disconnect().await?;
    }
    estate.rules.extend(HOT.map(|(name, _)| TableRule::new(name, Rule::floor_mod("accountNo"))));
    std::fs::write(estate.plan_path(), estate.plan())?;
    Ok(())
}
