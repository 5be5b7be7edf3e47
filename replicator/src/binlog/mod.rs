//! An old shard's binlog to decoded rows.
//!
//! [`EventStream`] brings the bytes of whole events, checksum verified; everything behind it is
//! pure. [`Decoder`] turns one event's bytes into an [`Event`] that borrows from them,
//! [`RowsEvent`] reads row by row into a [`DecodedRow`], straight into the wire form of
//! `modshift_proto::row`. [`read_statement`] says what a statement does, and [`GroupHash`] what a group was.
//!
//! No bytes make it panic or reserve memory out of proportion to their number. What carries data
//! and is not handled ends in an error with its name. Nothing here knows shards, keys or routes.

mod checksum;
mod code;
mod compress;
mod decimal;
mod decode;
mod digest;
mod error;
mod event;
#[doc(hidden)]
pub mod fuzz;
mod input;
mod metadata;
mod query;
mod row;
mod rows;
mod sql;
mod stream;
mod table_map;
mod value;

pub use decode::{Decoder, Event};
pub use digest::GroupHash;
pub use error::{BinlogError, Class};
pub use event::{EventKind, GtidEvent, HEADER_LEN, Session, Xid, begins, kind};
pub use metadata::Collations;
pub use query::without_values;
pub use row::{DecodedRow, Layout, PlannedTable, Want};
pub use rows::{RowKind, RowsEvent, TableRef};
pub use sql::{
    Charset, Lexis, Name, Runs, Savepoint, Statement, Table, Touched, Undoes, Write,
    read as read_statement, savepoint, view,
};
pub use stream::EventStream;
pub use table_map::TableName;
