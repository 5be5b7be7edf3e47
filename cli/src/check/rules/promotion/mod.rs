//! Rules over servers that are to be promoted: what has to be right so that each can be cut off its
//! primary and serve at once.
//!
//! A server that is split off already (it replicates from nobody, and has written what its primary
//! lacks) is left alone; of it only what a shard needs in any case is asked.

pub mod accounts;
pub mod application;
pub mod errant;
pub mod followers;
pub mod objects;
pub mod settings;
pub mod source;

use super::{
    Rule, alike, auto_increment, binlog, centre, clock, drift, durability, finished, foreign_keys,
    owner, packet, peers, reach, read_as, replica, restart, server_id, tables, version, whole_log,
    xa,
};
use crate::check::survey::{Both, Pair, Survey};

/// In the order of the report.
pub const ALL: [Rule; 29] = [
    reach::check,
    reach::check_further,
    source::reach,
    finished::check,
    owner::check,
    version::check,
    version::check_further,
    source::check,
    errant::check,
    followers::check,
    settings::check,
    auto_increment::strays,
    peers::check,
    binlog::check,
    whole_log::check,
    packet::check,
    durability::check,
    restart::check,
    server_id::check,
    alike::check,
    replica::check,
    accounts::check,
    application::check,
    centre::check,
    tables::check,
    drift::check,
    objects::check,
    read_as::check,
    foreign_keys::check,
];

/// What is worth knowing whatever else is found.
pub const BESIDE: [Rule; 2] = [xa::check, clock::check];

/// Pairs that answered and are to be split; each is judged by itself.
fn joined(survey: &Survey) -> impl Iterator<Item = (&Pair, &Both)> {
    survey.pairs.iter().filter(|pair| !pair.is_split()).filter_map(|pair| {
        let both = pair.facts.as_ref().ok()?;
        Some((pair, both))
    })
}

#[cfg(test)]
mod tests {
    use modshift_proto::plan::HostPort;
    use modshift_proto::{NewShard, OldShard};

    use super::*;
    use crate::check::fault::{Fault, Side};
    use crate::check::survey::made::{lines, pair};
    use crate::check::survey::{Follower, Rights, Unreached};

    const OWN: [Rule; 5] =
        [source::check, errant::check, followers::check, settings::check, accounts::check];
    const NAMED: &str = "[cutover]\naccounts = [\"app@%\"]\n";

    fn found(tail: &str, change: impl Fn(&mut Both)) -> Vec<String> {
        found_of(&pair(tail, change))
    }

    /// The one finding begins so.
    fn check(words: &str, change: impl Fn(&mut Both)) {
        let found = found(NAMED, change);
        assert_eq!(found.len(), 1, "{words}: {found:#?}");
        let of = "new shard 1 (b:3306, replica of old shard 0): ";
        assert!(found[0].contains(of) && found[0].contains(words), "{words}: {found:#?}");
    }

    fn source(both: &mut Both) -> &mut crate::check::survey::further::Source {
        &mut both.sources.as_mut().unwrap()[0]
    }

    #[test]
    fn a_pair_as_it_should_be_shows_nothing() {
        assert_eq!(found(NAMED, |_| {}), Vec::<String>::new());
        let silent = found("", |_| {});
        assert!(silent.len() == 1 && silent[0].contains("names no account"), "{silent:#?}");
    }

    #[test]
    fn it_follows_this_very_primary_and_nobody_else() {
        check("is the primary itself, by another name", |both| {
            let same = both.primary.variables.text("hostname").to_owned();
            both.replica.variables.set("hostname", &same);
        });
        check("has server_id 1, as its primary", |both| {
            both.replica.variables.set("server_id", "1");
        });
        check("replicates from x:3306 (server_id 9), which is not old shard 0", |both| {
            source(both).server_id = 9;
            source(both).host = "x".to_owned();
        });
        check("replicates from x:3306 (server_id 9), which is not old shard 0", |both| {
            let other = source(both).clone();
            let other = crate::check::survey::further::Source {
                host: "x".to_owned(),
                server_id: 9,
                ..other
            };
            both.sources.as_mut().unwrap().push(other);
        });
        check("has no GTID of that one", |both| {
            for name in ["gtid_binlog_state", "gtid_slave_pos"] {
                both.replica.variables.set(name, "");
            }
        });
        check("does not replicate: Slave_IO_Running Connecting", |both| {
            source(both).io = "Connecting".to_owned();
            source(both).server_id = 0;
        });
        check("is 5 s behind", |both| {
            source(both).behind = Some(std::time::Duration::from_secs(5))
        });
        check("replicates from nobody", |both| both.sources = Some(Vec::new()));
        // Filled, and never told to follow.
        let open = found(NAMED, |both| {
            both.sources = Some(Vec::new());
            both.replica.variables.set("read_only", "OFF");
        });
        let said =
            "fault  new shard 1 (b:3306, replica of old shard 0): replicates from nobody and takes";
        assert!(open.iter().any(|line| line.starts_with(said)), "{open:#?}");
        assert!(!open.concat().contains("split already"), "{open:#?}");
    }

    #[test]
    fn the_server_that_takes_writes_is_the_primary_of_the_plan() {
        check("takes writes, and old shard 0, its primary by the plan, is read-only", |both| {
            both.replica.variables.set("read_only", "OFF");
            both.primary.variables.set("read_only", "ON");
        });
        check("read_only is OFF", |both| {
            both.replica.variables.set("read_only", "OFF");
            both.primary.variables.set("read_only", "OFF");
        });
    }

    #[test]
    fn transactions_of_its_own_are_named_and_those_that_went_round_are_not() {
        check("that its primary lacks, up to 1-2-101", |both| {
            both.replica.variables.set("gtid_binlog_state", "1-1-100,1-2-101");
        });
        // The two replicate from each other: what this one wrote the other has applied.
        let ring = found(NAMED, |both| {
            both.replica.variables.set("gtid_binlog_state", "1-1-100,2-2-50");
            both.primary.variables.set("gtid_slave_pos", "2-2-50");
            let primary = Follower { server_id: 1, host: "a".to_owned(), port: 3306 };
            both.followers = Some(vec![primary]);
        });
        assert_eq!(ring, Vec::<String>::new());
        check("the server with server_id 7 (z:3306) replicates from it", |both| {
            both.followers =
                Some(vec![Follower { server_id: 7, host: "z".to_owned(), port: 3306 }]);
        });
        check("u may not see what replicates from it", |both| both.followers = None);
    }

    #[test]
    fn keys_are_given_out_by_either_where_nobody_sets_the_step() {
        let keep = format!("{NAMED}auto_increment = \"keep\"\n");
        let step = |here: &str, there: &str| {
            found(&keep, |both| {
                for (end, offset) in [(&mut both.replica, here), (&mut both.primary, there)] {
                    end.variables.set("auto_increment_increment", "2");
                    end.variables.set("auto_increment_offset", offset);
                }
            })
        };
        assert_eq!(step("2", "1"), Vec::<String>::new());
        let same = step("1", "1");
        assert!(
            same.len() == 1 && same[0].contains("is 2 with offset 1, and 2 with 1 on"),
            "{same:#?}"
        );
    }

    #[test]
    fn keys_that_are_given_out_are_at_home_under_the_new_modulus() {
        let found = |there: (&str, &str), here: (&str, &str), tail: &str| {
            let mut survey = pair(&format!("{NAMED}{tail}"), |_| {});
            for (server, (step, offset)) in survey.servers.iter_mut().zip([there, here]) {
                let Ok(facts) = &mut server.facts else { continue };
                facts.tables.get_mut("t").unwrap().counter = Some(("uid".to_owned(), 7));
                facts.variables.set("auto_increment_increment", step);
                facts.variables.set("auto_increment_offset", offset);
            }
            lines(&auto_increment::strays(&survey))
        };
        let keep = "auto_increment = \"keep\"\n";
        assert_eq!(found(("2", "2"), ("2", "1"), keep), Vec::<String>::new());
        // Apart, and each the other's.
        let swapped = found(("2", "1"), ("2", "2"), keep);
        let said =
            ["warning  old shard 0: gives out keys of t", "warning  new shard 1: gives out keys"];
        assert!(swapped.len() == 2, "{swapped:#?}");
        assert!(
            swapped.iter().zip(said).all(|(line, said)| line.starts_with(said)),
            "{swapped:#?}"
        );
        assert!(swapped[0].contains("auto_increment_offset = 2"), "{swapped:#?}");
        assert_eq!(found(("1", "1"), ("1", "1"), keep).len(), 2);
        // The promotion sets them.
        assert_eq!(found(("1", "1"), ("1", "1"), ""), Vec::<String>::new());
    }

    #[test]
    fn each_pair_is_judged_by_itself_and_one_that_serves_is_left_alone() {
        let split = |both: &mut Both| {
            both.sources = Some(Vec::new());
            both.replica.variables.set("read_only", "OFF");
            both.replica.variables.set("gtid_binlog_state", "1-1-90,1-2-500");
        };
        // One is split already, as the others will be: of two old shards the first.
        let mixed = |change: &dyn Fn(&mut Both)| {
            let mut survey = pair(NAMED, split);
            let other = pair(NAMED, change).pairs.remove(0);
            let at = HostPort { host: "d".to_owned(), port: 3306 };
            survey.pairs.push(Pair { shard: NewShard(3), home: OldShard(1), at, ..other });
            let found: Vec<Fault> = OWN.iter().flat_map(|rule| rule(&survey)).collect();
            (survey.is_split(), lines(&found))
        };
        let leave = "fault  new shard 1 (b:3306, replica of old shard 0): serves by itself already";
        let (all, found) = mixed(&|_| {});
        assert!(!all && found.len() == 1 && found[0].starts_with(leave), "{found:#?}");
        assert!(found[0].contains("mend: leave it as it is"), "{found:#?}");
        // The other's faults are told as ever.
        let (_, found) = mixed(&|both: &mut Both| both.sources = Some(Vec::new()));
        let nobody =
            "fault  new shard 3 (d:3306, replica of old shard 1): replicates from nobody, expected";
        assert!(found.iter().any(|line| line.starts_with(nobody)), "{found:#?}");
        // A restart has made it read-only: still nothing is built anew.
        let (all, found) = mixed(&|both: &mut Both| {
            split(both);
            both.replica.variables.set("read_only", "ON");
        });
        assert!(all && found.len() == 2, "{found:#?}");
        assert!(
            found[1].contains("has transactions of its own, and read_only is ON"),
            "{found:#?}"
        );
        // One that is away says nothing of the others.
        let mut survey = pair(NAMED, split);
        let away =
            Unreached { message: "away".into(), hint: None, passing: true, disturbed: false };
        let (shard, home) = (NewShard(3), OldShard(1));
        let at = HostPort { host: "d".to_owned(), port: 3306 };
        survey.pairs.push(Pair { shard, home, at, user: "u".to_owned(), facts: Err(away) });
        assert!(survey.is_split() && survey.is_joined(Side::New(shard)));
        assert!(!survey.is_joined(Side::New(NewShard(1))) && !survey.is_joined(Side::Old(home)));
        // It is only stopped: what starts it again would change its rows.
        let stopped = found_of(&pair(NAMED, |both| {
            split(both);
            let sources = [crate::check::survey::further::Source::default()].into_iter();
            let no = |source| crate::check::survey::further::Source {
                io: "No".to_owned(),
                sql: "No".to_owned(),
                ..source
            };
            both.sources = Some(sources.map(no).collect());
        }));
        assert!(stopped.len() == 2 && stopped[1].contains("is only stopped"), "{stopped:#?}");
    }

    fn found_of(survey: &Survey) -> Vec<String> {
        OWN.iter().flat_map(|rule| lines(&rule(survey))).collect()
    }

    #[test]
    fn accounts_differ_without_a_hash_in_sight() {
        let rights = |hash: &str, limit: &str| Rights::Known {
            created: format!("CREATE USER `app`@`%` IDENTIFIED BY PASSWORD '{hash}'{limit}"),
            granted: vec!["GRANT SELECT ON `s`.* TO `app`@`%`".to_owned()],
        };
        let with = |here: Rights| {
            let there = rights("*94BD", "");
            move |both: &mut Both| {
                both.replica.accounts.insert("app@%".to_owned(), here.clone());
                both.primary.accounts.insert("app@%".to_owned(), there.clone());
            }
        };
        assert_eq!(found(NAMED, with(rights("*94BD", ""))), Vec::<String>::new());
        check("app@% has another password than on old shard 0", with(rights("*0000", "")));
        check("app@% is created otherwise", with(rights("*94BD", " ACCOUNT LOCK")));
        check("account app@% is missing", with(Rights::Absent));
        check("account app@% is named in the plan, and neither here nor on old shard 0", |both| {
            for end in [&mut both.replica, &mut both.primary] {
                end.accounts.insert("app@%".to_owned(), Rights::Absent);
            }
        });
        check("cannot compare app@%: u may not see them", with(Rights::Hidden));
        let shown = found(NAMED, with(rights("*0000", ""))).concat();
        assert!(!shown.contains("*0000") && !shown.contains("*94BD"), "{shown}");
    }

    #[test]
    fn an_estate_that_is_split_is_told_and_not_judged() {
        let split = found(NAMED, |both| {
            both.sources = Some(Vec::new());
            both.replica.variables.set("read_only", "OFF");
            both.replica.variables.set("gtid_binlog_state", "1-2-500");
        });
        assert!(
            split.len() == 1 && split[0].starts_with("note  plan made: the estate is split"),
            "{split:#?}"
        );
    }
}
