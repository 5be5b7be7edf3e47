//! How many connections modshift has to one server: what follows from the plan, by what its processes
//! open. A test holds it against a server (`tests/tests/room.rs`).

use modshift_mariadb::few::AT_ONCE;
use modshift_proto::plan::{FenceScope, Log, Plan};
use modshift_verify::DRAINER_SEATS;

/// What of the plan lives on one server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Here {
    /// Primaries of old shards, and of new ones.
    pub old: usize,
    pub new: usize,
    /// How many shards' binlogs are read there.
    pub read: usize,
    /// Ways in: logins as the plan has them.
    pub doors: usize,
    /// It has new shard 0, hence the journal.
    pub journal: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// For as long as the daemons run.
    pub fixed: u64,
    /// More while tables are copied or compared.
    pub work: u64,
    /// More at times: what `check` finds is asked again and again, and each reader begins on a binlog
    /// connection of its own.
    pub briefly: u64,
    /// `modshift verify`, which may run beside the copy, and a cutover, which waits for its end.
    pub verify: u64,
    pub cutover: u64,
}

impl Load {
    /// Over the in-process log there is one process (`modshift run`), over Kafka there are two, each
    /// with all shards: who spreads them over more has the gate and the rest once for each.
    pub fn of(plan: &Plan, here: &Here) -> Load {
        let Here { old, new, read, doors, .. } = *here;
        let processes = match plan.log {
            Log::Direct { .. } => 1,
            Log::Kafka(_) => 2,
        };
        let back = plan.back.enabled;
        let when = |is: bool, count: usize| if is { count } else { 0 };
        // A binlog connection, the tokens, and what readers ask beside them.
        let readers = when(read > 0, doors) + when(written(plan, here), doors) + doors;
        let appliers = new + when(back, old);
        let kept = when(plan.cutover.scope == FenceScope::Server, doors);
        // The journal as gate and watchdog read it, and that a daemon runs.
        let journal = when(here.journal, 3) + when(here.journal && plan.verify.continuous, 1);
        // Who compares what is changed asks for fences all the time.
        let drained = when(plan.verify.continuous, usize::from(DRAINER_SEATS) * doors);
        let fixed = readers + appliers + kept + drained + processes * (doors + journal);

        let seats = usize::from(plan.limits.connections_per_server) * doors;
        let chunks = old * usize::from(plan.snapshot.parallel);
        let copied = seats.min(chunks);
        let compared = when(plan.verify.continuous, seats.min(old * 2 + new));
        // Two processes copy and compare apart; one shares its seats. Beside them the pace is asked for.
        let work = match processes {
            1 => copied.max(compared),
            _ => copied + compared,
        };
        let work = work + when(work > 0, doors);

        let shards = old + new;
        // With its login, and with that of the cutover; and what stands in a fence's way.
        let asked = AT_ONCE.min(shards) * 2 + AT_ONCE.min(old);
        let briefly = processes * asked + AT_ONCE.min(shards) + read.saturating_sub(1);

        // A verification has seats of its own and a lock; a cutover one connection to each shard, for
        // what is left to compare another, and some for the journal.
        let verified = seats.min(old * 2 + new) + 1;
        let switched = shards * 2 + 4;
        let number = |count: usize| count as u64;
        Load {
            fixed: number(fixed),
            work: number(work),
            briefly: number(briefly),
            verify: number(verified.max(asked + doors)),
            cutover: number(switched),
        }
    }

    pub fn at_rest(&self) -> u64 {
        self.fixed + self.briefly
    }

    pub fn copying(&self) -> u64 {
        self.at_rest() + self.work
    }

    pub fn most(&self) -> u64 {
        (self.copying() + self.verify).max(self.at_rest() + self.cutover)
    }
}

/// Are tokens written here? Those of all shards of a server go over one connection.
fn written(plan: &Plan, here: &Here) -> bool {
    here.old > 0 || (plan.back.enabled && here.new > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(tail: &str) -> Plan {
        let mut text = format!(
            "name = \"p\"\nmodulus = {{ old = 16, new = 24 }}\n[log]\nkind = \"direct\"\n\
             [defaults]\nhost = \"h\"\nuser = \"u\"\npassword = \"p\"\n\
             [[table]]\nname = \"t\"\nkey = \"k\"\nrule = \"floor_mod\"\n{tail}"
        );
        for (side, shards) in [("old", 16), ("new", 24)] {
            for shard in 0..shards {
                text += &format!("[[{side}]]\nschema = \"{side}_{shard}\"\n");
            }
        }
        Plan::parse(&text, &|_| None).unwrap()
    }

    #[test]
    fn what_shards_share_is_counted_once_and_what_waits_is_capped() {
        let whole = Here { old: 16, new: 24, read: 40, doors: 1, journal: true };
        let one = Load::of(&plan(""), &whole);
        // 40 appliers, and the 16 seats with the question how the server is.
        assert_eq!(one.work, 17);
        let capped = Load::of(&plan("[limits]\nconnections_per_server = 4\n"), &whole);
        assert_eq!((capped.work, capped.fixed), (5, one.fixed));
        let forward = Load::of(&plan("[back]\nenabled = false\n"), &Here { read: 16, ..whole });
        assert!(forward.fixed < one.fixed && forward.at_rest() < one.at_rest());
        // Apart, both sides need more than together: each has what is there once for each server.
        let old = Here { old: 16, new: 0, read: 16, doors: 1, journal: false };
        let new = Here { old: 0, new: 24, read: 24, doors: 1, journal: true };
        let (old, new) = (Load::of(&plan(""), &old), Load::of(&plan(""), &new));
        assert!(old.fixed + new.fixed > one.fixed, "{old:?} {new:?} {one:?}");
        assert_eq!(new.work, 0, "nothing is copied from there");
        let compared = Load::of(&plan("[verify]\ncontinuous = true\n"), &whole);
        assert_eq!(compared.work, one.work, "the same seats");
    }
}
