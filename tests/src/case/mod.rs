//! What is stored: the tables of a trading application, with everything in them that a reshard can
//! get wrong, and rows to begin with.
//!
//! | table | primary key | shard key | what it is here for |
//! |---|---|---|---|
//! | `t_trade_order` | BIGINT UNSIGNED | `accountNo`, not in the key | the main table |
//! | `t_account_entry` | (accountNo, line_no) | `accountNo`, also negative | composite key that moves with the shard key |
//! | `t_user` | BIGINT UNSIGNED | `login`, utf8mb4, case-insensitive | string shard key, unique columns |
//! | `t_device` | (login, device) | `login`, latin1 | string and binary keys, conversion before CRC |
//! | `t_wallet` | BIGINT UNSIGNED | `accountNo` | single and composite nullable unique keys |
//! | `t_all_types` | BIGINT, also negative | `accountNo`, also negative | every common type |
//! | `t_currency` | CHAR(3) | none: broadcast | the same on every shard |
//!
//! Every table has `ver`, which the writer raises by one with each change of a row.

mod seed;
mod tables;
mod types;

pub use seed::{Size, seed_rows};
pub use tables::{TABLES, create_schema, rules};
pub use types::{COLUMNS, hex, quoted, random_row, random_value, uuid};
