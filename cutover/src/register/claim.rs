//! Who owns the run: the row of `modshift_operator`, and the token that proves it.

use modshift_mariadb::connect::label;
use modshift_mariadb::{Conn, ServerError, Session, connect, error};
use modshift_proto::plan::Endpoint;
use mysql_async::prelude::Queryable;

use super::write::within;
use crate::error::CutoverError;

/// Proof of ownership, to be shown again wherever a process connects anew.
#[derive(Clone, Debug)]
pub struct Claim {
    pub(super) plan: String,
    pub(super) endpoint: Endpoint,
    pub(super) token: String,
}

impl Claim {
    pub async fn verify(&self) -> Result<(), CutoverError> {
        let ask = async {
            let mut conn = connect(&self.endpoint, Session::Plain).await?;
            let row = operator(&mut conn, &self.endpoint, &self.plan).await?;
            // The answer is known, whatever becomes of the connection.
            let _ = conn.disconnect().await;
            Ok(row)
        };
        match within(&self.endpoint, ask).await {
            Ok(Some((token, ..))) if token == self.token => Ok(()),
            Ok(other) => Err(superseded(other)),
            Err(error) => Err(CutoverError::JournalLost(error)),
        }
    }
}

pub(super) type OperatorRow = (String, String, String);

pub(super) fn superseded(row: Option<OperatorRow>) -> CutoverError {
    let who = row.map_or_else(|| "another operator".to_owned(), |(_, who, _)| who);
    CutoverError::Superseded { who }
}

pub(super) async fn operator(
    conn: &mut Conn,
    endpoint: &Endpoint,
    plan: &str,
) -> Result<Option<OperatorRow>, ServerError> {
    let sql = "SELECT token, who, CAST(since AS CHAR) FROM modshift_operator WHERE plan = ?";
    let row = conn.exec_first(sql, (plan,)).await;
    row.map_err(|error| error::of(&label(endpoint), "reading who owns the run", error))
}
