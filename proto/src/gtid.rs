//! MariaDB GTIDs, sets of them, and log positions.
//!
//! A MariaDB GTID set holds one GTID per domain: the last event group seen there. It says
//! "everything in this domain up to that sequence number", which is only true while sequence
//! numbers of one domain rise; the reader checks that they do.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// `domain-server-sequence`, the name of one event group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Gtid {
    pub domain: u32,
    pub server: u32,
    pub seq: u64,
}

/// The text is no GTID or GTID set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not a MariaDB GTID (domain-server-sequence, comma separated)")]
pub struct GtidParseError {
    pub text: String,
}

impl FromStr for Gtid {
    type Err = GtidParseError;

    fn from_str(text: &str) -> Result<Gtid, GtidParseError> {
        let fail = || GtidParseError { text: text.to_owned() };
        let mut parts = text.trim().splitn(3, '-');
        let mut next = || parts.next().ok_or_else(fail);
        Ok(Gtid {
            domain: next()?.parse().map_err(|_| fail())?,
            server: next()?.parse().map_err(|_| fail())?,
            seq: next()?.parse().map_err(|_| fail())?,
        })
    }
}

impl fmt::Display for Gtid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.domain, self.server, self.seq)
    }
}

/// The last GTID of each domain, as in `@@gtid_binlog_pos`. Empty: before everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct GtidSet(BTreeMap<u32, Gtid>);

impl GtidSet {
    pub fn new() -> GtidSet {
        GtidSet::default()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn get(&self, domain: u32) -> Option<Gtid> {
        self.0.get(&domain).copied()
    }

    pub fn iter(&self) -> impl Iterator<Item = Gtid> + '_ {
        self.0.values().copied()
    }

    /// Replaces the domain's GTID, whatever it was. Callers that must only move forward check
    /// [`GtidSet::covers`] first.
    pub fn set(&mut self, gtid: Gtid) {
        self.0.insert(gtid.domain, gtid);
    }

    pub fn remove(&mut self, domain: u32) {
        self.0.remove(&domain);
    }

    /// Is the event group at or before the end of its domain?
    pub fn covers(&self, gtid: Gtid) -> bool {
        self.0.get(&gtid.domain).is_some_and(|last| gtid.seq <= last.seq)
    }

    /// Is every group of `other` covered? The empty set is covered by every set.
    pub fn contains(&self, other: &GtidSet) -> bool {
        other.iter().all(|gtid| self.covers(gtid))
    }
}

impl FromIterator<Gtid> for GtidSet {
    fn from_iter<I: IntoIterator<Item = Gtid>>(gtids: I) -> GtidSet {
        GtidSet(gtids.into_iter().map(|gtid| (gtid.domain, gtid)).collect())
    }
}

impl FromStr for GtidSet {
    type Err = GtidParseError;

    /// The form of `@@gtid_binlog_pos`: comma separated, empty for the empty set.
    fn from_str(text: &str) -> Result<GtidSet, GtidParseError> {
        text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(Gtid::from_str).collect()
    }
}

impl fmt::Display for GtidSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, gtid) in self.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            gtid.fmt(f)?;
        }
        Ok(())
    }
}

/// Where a row change stands in an old shard's log: event group and place within it.
///
/// The ordinal counts row changes of the group as logged, two per change: an update that splits
/// takes `2n` for its delete and `2n + 1` for its insert. It does not depend on which tables the
/// plan names, so it is the same at every replay. Byte offsets play no part: they wrap at 4 GiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Position {
    pub gtid: Gtid,
    pub ordinal: u32,
}

impl PartialOrd for Position {
    /// Only positions of one domain are ordered; domains run beside each other.
    fn partial_cmp(&self, other: &Position) -> Option<std::cmp::Ordering> {
        (self.gtid.domain == other.gtid.domain)
            .then(|| (self.gtid.seq, self.ordinal).cmp(&(other.gtid.seq, other.ordinal)))
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.gtid, self.ordinal)
    }
}

/// What a group was: its GTID and a checksum over what it changed. A server that lost the tail of
/// its binlog gives old GTIDs to new groups; the checksum tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GroupDigest {
    pub gtid: Gtid,
    pub checksum: u32,
}

impl fmt::Display for GroupDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{:08x}", self.gtid, self.checksum)
    }
}

impl FromStr for GroupDigest {
    type Err = GtidParseError;

    fn from_str(text: &str) -> Result<GroupDigest, GtidParseError> {
        let fail = || GtidParseError { text: text.to_owned() };
        let (gtid, checksum) = text.split_once('#').ok_or_else(fail)?;
        let checksum = u32::from_str_radix(checksum, 16).map_err(|_| fail())?;
        Ok(GroupDigest { gtid: gtid.parse()?, checksum })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_reads_as_the_server_writes_it() {
        for text in ["", "0-1-5", "0-1-5,7-33-18446744073709551615"] {
            assert_eq!(text.parse::<GtidSet>().unwrap().to_string(), text);
        }
        for bad in ["x", "0-1", "0-1-", "-1-1-1", "0-1-5;1-1-1"] {
            assert!(bad.parse::<GtidSet>().is_err(), "{bad}");
        }
        assert_eq!("0-1-5#0000beef".parse::<GroupDigest>().unwrap().to_string(), "0-1-5#0000beef");
    }

    #[test]
    fn a_set_covers_what_came_before_in_each_domain() {
        let set: GtidSet = "0-1-5,2-9-7".parse().unwrap();
        assert!(set.covers("0-8-5".parse().unwrap()));
        assert!(!set.covers("0-1-6".parse().unwrap()));
        assert!(!set.covers("1-1-1".parse().unwrap()));
        assert!(set.contains(&GtidSet::new()));
        assert!(!GtidSet::new().contains(&set));
        assert!(set.contains(&"2-9-7".parse().unwrap()));
    }

    #[test]
    fn positions_are_ordered_within_a_domain_only() {
        let at = |gtid: &str, ordinal| Position { gtid: gtid.parse().unwrap(), ordinal };
        assert!(at("0-1-5", 9) < at("0-2-6", 0));
        assert!(at("0-1-5", 0) < at("0-1-5", 1));
        assert_eq!(at("0-1-5", 0).partial_cmp(&at("1-1-5", 0)), None);
    }
}
