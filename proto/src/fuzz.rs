//! What must hold of any bytes at all: bodies for a fuzzer and for tests, which panic if it does
//! not. Nothing else calls them.

use crate::message::{self, Body, Envelope};
use crate::row::{self, RowView};

/// Bytes as a message: read or refused, never a panic; what is read says the same once written.
/// Returns whether it was read.
pub fn message(bytes: &[u8]) -> bool {
    let Ok((envelope, body)) = message::decode(bytes) else { return false };
    let mut again = Vec::with_capacity(bytes.len());
    encode(&envelope, &body, &mut again);
    match message::decode(&again) {
        Ok(read) => assert_eq!(read, (envelope, body.clone()), "a message changed in writing"),
        Err(error) => panic!("a written message cannot be read: {error}"),
    }
    if let Body::Change(change) = body {
        row(change.row);
    }
    true
}

/// Bytes as a row, and each of its cells in every form. Returns whether it is one.
pub fn row(bytes: &[u8]) -> bool {
    let Ok(view) = RowView::parse(bytes) else { return false };
    let mut columns = 0;
    for cell in view.cells() {
        let Ok(cell) = cell else { return false };
        columns += 1;
        let Some(cell) = cell else { continue };
        // Each is defined for any bytes, as a value or as an error.
        let _ = (row::cell_int(cell), row::cell_uint(cell), row::cell_datetime(cell));
        let _ = (row::cell_float(cell), row::cell_double(cell));
    }
    let mut cells = Vec::new();
    let whole = view.collect(columns, &mut cells).is_ok();
    assert!(!whole || cells.len() == columns, "collected as many cells as were read");
    whole
}

/// Writes a message of any kind.
pub fn encode(envelope: &Envelope, body: &Body<'_>, out: &mut Vec<u8>) {
    match body {
        Body::Change(change) => message::encode_change(envelope, change, out),
        Body::Token(token) => message::encode_token(envelope, token, out),
        Body::Start(start) => message::encode_start(envelope, start, out),
    }
}
