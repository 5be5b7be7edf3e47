//! Who is connected to a server, and how many may be.

use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use modshift_mariadb::few::AT_ONCE;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connections {
    /// Of everybody, just now.
    pub connected: u64,
    /// Of these, of the login that asks: this very one among them.
    pub ours: u64,
    /// The most since the server was started.
    pub most: u64,
    /// What that login may have at once; `None`: no limit.
    pub login_max: Option<u64>,
}

impl Connections {
    pub fn others(&self) -> u64 {
        self.connected.saturating_sub(self.ours)
    }

    /// The most that others ever had, as far as it can be told: while daemons run theirs are in it.
    pub fn others_most(&self) -> u64 {
        match self.ours > 2 * AT_ONCE as u64 {
            true => self.others(),
            false => self.most.saturating_sub(self.ours).max(self.others()),
        }
    }
}

/// An account sees its own sessions whatever its rights. How many others there are the server counts
/// for everybody.
pub(super) async fn ask(conn: &mut Conn, most: u64) -> mysql_async::Result<Connections> {
    let ours: u64 = conn
        .query_first(
            "SELECT COUNT(*) FROM information_schema.PROCESSLIST \
             WHERE USER = SUBSTRING_INDEX(USER(), '@', 1)",
        )
        .await?
        .unwrap_or_default();
    let connected: Option<(String, u64)> =
        conn.query_first("SHOW GLOBAL STATUS LIKE 'Threads_connected'").await?;
    // The session's value is the account's own limit where it has one, and else the server's.
    let login_max: Option<u64> = conn.query_first("SELECT @@SESSION.max_user_connections").await?;
    let connected = connected.map_or(0, |(_, connected)| connected);
    Ok(Connections { connected, ours, most, login_max: login_max.filter(|&max| max > 0) })
}
