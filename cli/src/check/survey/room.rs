//! What a server knows about its disk: the plugin `disks`, where it is installed.

use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use super::ask::if_allowed;

/// Of the file system that holds the data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room {
    pub path: String,
    pub total_bytes: u64,
    pub available_bytes: u64,
}

/// Why it is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoomUnknown {
    /// Not asked for, no plugin, no privilege, or no file system of that path.
    NotTold,
    /// The plugin is there and cannot read the list of file systems: `/etc/mtab`, which minimal
    /// containers do not have. The server has no words for it (plugin/disks, `disks_fill_table`).
    NoMtab,
}

pub(super) async fn of(
    conn: &mut Conn,
    datadir: &str,
    whole: bool,
) -> mysql_async::Result<Result<Room, RoomUnknown>> {
    // Without FILE the table is there and empty.
    const SQL: &str = "SELECT Path, Total, Available FROM information_schema.DISKS";
    /// An unknown table of information_schema.
    const NO_PLUGIN: u16 = 1109;
    const UNKNOWN_ERROR: u16 = 1105;
    if !whole {
        return Ok(Err(RoomUnknown::NotTold));
    }
    let disks: mysql_async::Result<Vec<(String, u64, u64)>> = conn.query(SQL).await;
    let disks = match disks {
        Err(mysql_async::Error::Server(error)) if error.code == NO_PLUGIN => None,
        Err(mysql_async::Error::Server(error)) if error.code == UNKNOWN_ERROR => {
            return Ok(Err(RoomUnknown::NoMtab));
        }
        other => if_allowed(other)?,
    };
    Ok(disks.and_then(|disks| holding(datadir, disks)).ok_or(RoomUnknown::NotTold))
}

/// The mount point that is the longest beginning of the path; sizes come in KiB.
fn holding(datadir: &str, disks: Vec<(String, u64, u64)>) -> Option<Room> {
    let holds = |mount: &str| {
        let mount = mount.trim_end_matches('/');
        datadir.strip_prefix(mount).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let (path, total, available) =
        disks.into_iter().filter(|disk| holds(&disk.0)).max_by_key(|disk| disk.0.len())?;
    Some(Room { path, total_bytes: total * 1024, available_bytes: available * 1024 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_lies_on_the_deepest_mount() {
        let disks = |paths: &[&str]| paths.iter().map(|p| ((*p).to_owned(), 2, 1)).collect();
        let check = |datadir, paths: &[&str], expected: Option<&str>| {
            let room = holding(datadir, disks(paths));
            assert_eq!(room.as_ref().map(|room| room.path.as_str()), expected, "{datadir}");
        };
        check("/var/lib/mysql/", &["/", "/var", "/dev/shm"], Some("/var"));
        check("/variety/mysql/", &["/", "/var"], Some("/"));
        check("/data/", &["/var"], None);
        let room = holding("/a", disks(&["/"])).unwrap();
        assert_eq!((room.total_bytes, room.available_bytes), (2048, 1024));
    }
}
