//! Settings of a server that becomes a shard: it logs what it writes, under an id of its own, and gives
//! out keys of its own. That it logs what it applies, all of it and no more, is for `whole_log`.

use super::joined;
use crate::check::ahead;
use crate::check::fault::{Fault, Severity, Side};
use crate::check::mend::{Mend, Way};
use crate::check::rules::{binlog, durability};
use crate::check::survey::{Both, End, Pair, Survey};

const RULE: &str = "promotion";

pub fn check(survey: &Survey) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (pair, both) in joined(survey) {
        let (name, variables) = (pair.name(), &both.replica.variables);
        // Old shards have a rule for it; this one is not old.
        faults.extend(binlog::required(&name, variables));
        faults.extend(binlog::advised(&name, variables));
        let needed = "1, or a crash of the server loses what the application was told is there";
        faults.extend(durability::judge(&survey.plan, &name, variables, &["sync_binlog"], needed));
        faults.extend(of_replication(pair, both));
        faults.extend(steps(survey, pair, both));
    }
    faults
}

fn of_replication(pair: &Pair, both: &Both) -> Vec<Fault> {
    let fault = |severity, actual: String| Fault::new(severity, RULE, pair.name(), actual);
    let mut faults = Vec::new();
    if both.replica.server_id() == both.primary.server_id() {
        let actual = format!("has server_id {}, as its primary", both.replica.server_id());
        faults.push(
            fault(Severity::Fault, actual)
                .expected("an id of its own, by which its transactions are told apart")
                .mend("server_id = another number under [mariadbd] in my.cnf, and SET GLOBAL server_id"),
        );
    }
    let closed = [&both.replica, &both.primary].map(|end| end.variables.is_on("read_only"));
    if closed == [false, true] {
        let actual =
            format!("takes writes, and {}, its primary by the plan, is read-only", pair.home);
        faults.push(
            fault(Severity::Fault, actual)
                .expected("writes on the primary alone: the fence closes that one, and reads it")
                .mend(
                    "see which of the two the application writes to: host of [[old]] is that one, and the \
                     other is in its replicas",
                ),
        );
    } else if !closed[0] {
        faults.push(
            fault(Severity::Warning, "read_only is OFF".to_owned())
                .expected(
                    "ON until it is promoted: what is written there alone is on no other server",
                )
                .mend(Mend::set(Way::SetReadOnly, "read_only", 1)),
        );
    }
    faults
}

/// Where the plan leaves them alone, each server gives out the keys that it is set to.
fn steps(survey: &Survey, pair: &Pair, both: &Both) -> Option<Fault> {
    let (_, facts) = survey.primary(Side::Old(pair.home))?;
    let counted = facts.tables.values().any(|table| table.counter.is_some());
    if ahead::interleaves(&survey.plan) || !counted {
        return None;
    }
    let step = |end: &End| {
        let number = |name: &str| end.variables.text(name).parse::<u64>().unwrap_or(1).max(1);
        (number("auto_increment_increment"), number("auto_increment_offset"))
    };
    let (here, there) = (step(&both.replica), step(&both.primary));
    if here.0 == there.0 && here.0 > 1 && here.1 % here.0 != there.1 % there.0 {
        return None;
    }
    let actual = format!(
        "auto_increment_increment is {} with offset {}, and {} with {} on {}",
        here.0, here.1, there.0, there.1, pair.home
    );
    let modulus = survey.plan.new_modulus.get();
    let offset = if pair.shard.0 == 0 { modulus } else { pair.shard.0 };
    Some(
        Fault::new(Severity::Warning, RULE, pair.name(), actual)
            .expected(
                "one step and different offsets: with auto_increment = \"keep\" both give out the same \
                 keys, which no way back can carry",
            )
            .mend(
                Mend::run(
                    Way::SetStep,
                    [
                        format!("SET GLOBAL auto_increment_increment = {modulus}"),
                        format!("SET GLOBAL auto_increment_offset = {offset}"),
                    ],
                )
                .note("and its own offset on each shard; or auto_increment = \"interleave\""),
            ),
    )
}
