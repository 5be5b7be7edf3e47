//! One verifier at a time for each plan: two would write each other's progress. And one resync of a
//! table.

use std::time::Duration;

use modshift_mariadb::connect::label;
use modshift_mariadb::{Conn, Session, error};
use modshift_proto::plan::{Endpoint, Plan};
use mysql_async::prelude::Queryable;

use crate::error::VerifyError;

const DOING: &str = "taking the verifier's lock";

/// Held on new shard 0 for as long as this connection lives.
pub struct Lock {
    endpoint: Endpoint,
    name: String,
    conn: Option<Conn>,
}

impl Lock {
    /// Old shards of a promotion are verified each by itself, several on one server maybe, where their
    /// schemas tell them apart.
    pub fn new(plan: &Plan) -> Lock {
        let name = match (plan.scheme.is_promotion(), plan.new.first()) {
            (true, Some(shard)) => format!("modshift_verify {} {}", plan.name, shard.schema),
            _ => format!("modshift_verify {}", plan.name),
        };
        Lock::named(plan, name)
    }

    /// One resync of a table at a time: two would take each other's requests for their own.
    pub fn of_resync(plan: &Plan, table: &str) -> Lock {
        Lock::named(plan, format!("modshift_resync {} {table}", plan.name))
    }

    fn named(plan: &Plan, name: String) -> Lock {
        Lock { endpoint: plan.new[0].clone(), name, conn: None }
    }

    /// Waits at most so long for another verifier.
    pub async fn take(&mut self, wait: Duration) -> Result<(), VerifyError> {
        let mut conn = modshift_mariadb::connect(&self.endpoint, Session::Plain).await?;
        // Hashed: a plan's name may be longer than a lock's.
        let taken: Option<Option<u8>> = conn
            .exec_first("SELECT GET_LOCK(MD5(?), ?)", (&self.name, wait.as_secs_f64()))
            .await
            .map_err(|error| error::of(&label(&self.endpoint), DOING, error))?;
        if taken.flatten() != Some(1) {
            let at = label(&self.endpoint);
            let sql = "SELECT CONCAT(USER, '@', HOST) FROM information_schema.PROCESSLIST \
                       WHERE ID = IS_USED_LOCK(MD5(?))";
            // Only words: it may have ended since.
            let by: Result<Option<String>, _> = conn.exec_first(sql, (&self.name,)).await;
            let by = by.ok().flatten().unwrap_or_else(|| "somebody".to_owned());
            return Err(VerifyError::Locked { at, lock: self.name.clone(), by });
        }
        self.conn = Some(conn);
        Ok(())
    }

    /// Is it still ours? Where the connection broke it is taken again, unless another has it.
    pub async fn keep(&mut self) -> Result<(), VerifyError> {
        if let Some(mut conn) = self.conn.take() {
            let sql = "SELECT IS_USED_LOCK(MD5(?)) = CONNECTION_ID()";
            let ours: Result<Option<Option<u8>>, _> = conn.exec_first(sql, (&self.name,)).await;
            if let Ok(Some(Some(1))) = ours {
                self.conn = Some(conn);
                return Ok(());
            }
        }
        self.take(Duration::ZERO).await
    }

    pub async fn release(&mut self) {
        if let Some(conn) = self.conn.take() {
            // A connection that is gone holds nothing.
            let _ = conn.disconnect().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use modshift_proto::OldShard;

    #[test]
    fn old_shards_on_one_server_are_verified_beside_each_other() {
        let text = |scheme: &str, old: &str| {
            format!(
                "name = \"p\"\n{scheme}\n[defaults]\nuser = \"u\"\npassword = \"p\"\n[[table]]\n\
                 name = \"t\"\nkey = \"id\"\nrule = \"floor_mod\"\n{old}"
            )
        };
        let old = |schema: u16| {
            format!("[[old]]\nhost = \"a\"\nschema = \"s{schema}\"\nreplicas = [\"b:3306\"]\n")
        };
        let promote = "scheme = \"promote\"\nmodulus = { old = 2, new = 4 }";
        let plan = Plan::parse(&text(promote, &(old(0) + &old(1))), &|_| None).unwrap();
        let lock = |shard| Lock::new(&plan.pair(OldShard(shard)).unwrap());
        let (first, second) = (lock(0), lock(1));
        assert_eq!((&*first.endpoint.host, &*second.endpoint.host), ("b", "b"));
        assert_ne!(first.name, second.name);
        assert_eq!(first.name, lock(0).name);
        // Daemons of another version know it by this name.
        let new = |schema: u16| format!("[[new]]\nhost = \"c\"\nschema = \"n{schema}\"\n");
        let copy = "modulus = { old = 1, new = 2 }\nlog = { kind = \"direct\" }";
        let plan = Plan::parse(&text(copy, &(old(0) + &new(0) + &new(1))), &|_| None).unwrap();
        assert_eq!(Lock::new(&plan).name, "modshift_verify p");
    }
}
