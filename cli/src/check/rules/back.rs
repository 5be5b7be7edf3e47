//! The way back, checked before the way forward: new shards as sources, old ones as targets.

use modshift_proto::plan::Placement;

use crate::check::ahead;
use crate::check::fault::{Fault, Severity, some_of};
use crate::check::mend::{Mend, Way};
use crate::check::survey::Survey;

const RULE: &str = "back";

/// New shards must log as old ones do; what fits into them must fit into the old ones.
pub fn check_settings(survey: &Survey) -> Vec<Fault> {
    let mut faults = Vec::new();
    if !ahead::way_back(&survey.plan) {
        return faults;
    }
    let reconnect = "before the application connects: sessions keep their value";
    let settings = [
        ("log_bin", "ON", "log_bin = binlog under [mariadbd] in my.cnf, and a restart".into()),
        (
            "binlog_format",
            "ROW",
            Mend::set(Way::SetBinlogFormat, "binlog_format", "'ROW'").note(reconnect),
        ),
        (
            "binlog_row_image",
            "FULL",
            Mend::set(Way::SetBinlogRowImage, "binlog_row_image", "'FULL'").note(reconnect),
        ),
    ];
    for (server, facts) in survey.news() {
        for (name, expected, mend) in &settings {
            let actual = facts.variable(name);
            if !actual.eq_ignore_ascii_case(expected) {
                let actual = format!("{name} is {actual}");
                faults.push(
                    Fault::new(Severity::Fault, RULE, server.side, actual)
                        .expected(format!("{expected}, for the way back reads its binlog"))
                        .mend(mend.clone()),
                );
            }
        }
        let accepted = survey.plan.check.accept_unsafe_durability;
        if facts.variable("sync_binlog") != "1" && !accepted {
            let actual = format!("sync_binlog is {}", facts.variable("sync_binlog"));
            faults.push(
                Fault::new(Severity::Warning, RULE, server.side, actual)
                    .expected("1, or a crash of the server loses what was sent on the way back")
                    .mend(
                        Mend::set(Way::SetSyncBinlog, "sync_binlog", 1)
                            .note("or check.accept_unsafe_durability = true in the plan"),
                    ),
            );
        }
    }
    let size = |facts: &crate::check::survey::Facts| facts.number("max_allowed_packet") as u64;
    let widest = survey.news().map(|(server, facts)| (size(facts), server.side)).max();
    if let Some((needed, widest)) = widest {
        for (server, facts) in survey.olds().filter(|(_, facts)| size(facts) < needed) {
            let actual = format!("max_allowed_packet is {}", size(facts));
            faults.push(
                Fault::new(Severity::Warning, RULE, server.side, actual)
                    .expected(format!(
                        "at least {needed}, as on {widest}: a larger row would not come back"
                    ))
                    .mend(Mend::set(Way::SetPacket, "max_allowed_packet", needed)),
            );
        }
    }
    faults
}

/// Several new shards feed one old one when M/gcd(N, M) > 1: keys that the application itself
/// makes must be unique over all of them, which nothing here can see.
pub fn check_keys(survey: &Survey) -> Vec<Fault> {
    let plan = &survey.plan;
    let (old, new) = (plan.old_modulus.get(), plan.new_modulus.get());
    if !ahead::way_back(plan) || !crate::check::rows::collisions::can_meet(new, old) {
        return Vec::new();
    }
    let made = plan.tables.iter().filter_map(|planned| {
        let Placement::Sharded { key, .. } = &planned.placement else { return None };
        let table = survey.olds().find_map(|(_, facts)| facts.tables.get(&planned.name))?;
        let schema = table.schema.as_ref().ok()?;
        let counter = table.counter.as_ref().map(|(column, _)| column.as_str());
        let primary = [("primary key", schema.primary_key.as_slice())];
        let unique = schema.unique_keys.iter();
        let keys = primary
            .into_iter()
            .chain(unique.map(|unique| (unique.name.as_str(), unique.columns.as_slice())));
        let made = keys.filter(|(_, columns)| {
            columns.iter().all(|&column| {
                let name = schema.columns[column].name.as_str();
                !name.eq_ignore_ascii_case(key) && Some(name) != counter
            })
        });
        let shown: Vec<String> = made
            .map(|(name, columns)| {
                let columns = columns.iter().map(|&column| schema.columns[column].name.as_str());
                format!("{name} ({})", columns.collect::<Vec<_>>().join(", "))
            })
            .collect();
        (!shown.is_empty()).then(|| format!("{}: {}", planned.name, shown.join(" and ")))
    });
    let made: Vec<String> = made.collect();
    if made.is_empty() {
        return Vec::new();
    }
    let actual = format!("keys come from the application and hold no shard key: {}", some_of(made));
    vec![
        Fault::new(Severity::Note, RULE, "new shards", actual)
            .expected("values that are unique over all new shards: several feed each old one")
            .mend("a generator that knows its shard, or the shard key in the unique key"),
    ]
}
