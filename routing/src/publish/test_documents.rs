//! Documents and folders of the tests of targets.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::document::{Document, FORMAT, Shard, Side, TableRule};

pub fn document(version: u64, side: Side) -> Document {
    let modulus = match side {
        Side::Old => 3,
        Side::New => 4,
    };
    let shard = |index| Shard {
        index,
        host: format!("db-{}-{index}.internal", side.name()),
        port: 3306 + index,
        schema: format!("shop_{index}"),
        server: None,
    };
    let key = |key: &str| key.to_owned();
    let rules = [
        ("t_order", TableRule::FloorMod { key: key("accountNo") }),
        ("t_wallet", TableRule::AbsMod { key: key("owner") }),
        ("currency", TableRule::Broadcast),
    ];
    Document {
        format: FORMAT,
        plan: "o'shop".to_owned(),
        version,
        side,
        modulus,
        shards: (0..modulus).map(shard).collect(),
        tables: rules.map(|(table, rule)| (table.to_owned(), rule)).into(),
        default: None,
    }
}

/// A folder of one test, gone with it.
pub struct Folder(PathBuf);

impl Folder {
    pub fn create() -> Folder {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let (process, number) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(format!("modshift-routing-{process}-{number}"));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.0).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
