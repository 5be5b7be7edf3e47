//! What commands can do with a plan that promotes servers (`scheme = "promote"`): one list. A command
//! that was written for rows that are copied would do the wrong thing with it, and is refused by name.

use modshift_proto::plan::Plan;

use crate::args::Command;
use crate::exit::BadPlan;

/// Those of which `is_usable` says so.
const USABLE: [&str; 4] = ["check", "gate", "topology", "verify"];

/// Every command is here: who adds one says what it does with such a plan.
fn is_usable(command: &Command) -> (&'static str, bool) {
    match command {
        Command::Check(_) => ("check", true),
        Command::Schema(_) => ("schema", false),
        // It asks no server, and writes what a doubling needs.
        Command::Topology(_) => ("topology", true),
        Command::Replicator(_) => ("replicator", false),
        Command::Consumer(_) => ("consumer", false),
        Command::Run(_) => ("run", false),
        Command::Status(_) => ("status", false),
        Command::Gate(_) => ("gate", true),
        Command::Verify(_) => ("verify", true),
        Command::Resync(_) => ("resync", false),
        Command::Rearm(_) => ("rearm", false),
        Command::Skip(_) => ("skip", false),
        Command::RestartCopy(_) => ("restart-copy", false),
        Command::Rehearse(_) => ("rehearse", false),
        Command::Cutover(_) => ("cutover", false),
        Command::Rollback(_) => ("rollback", false),
        Command::Finish(_) => ("finish", false),
        Command::Unfence(_) => ("unfence", false),
        Command::Cleanup(_) => ("cleanup", false),
        Command::Pause(_) => ("pause", false),
        Command::Resume(_) => ("resume", false),
        Command::Throttle(_) => ("throttle", false),
        Command::Audit(_) => ("audit", false),
    }
}

/// Refuses what a plan of this scheme is not for.
pub fn fits(plan: &Plan, command: &Command) -> Result<(), BadPlan> {
    let (name, usable) = is_usable(command);
    if usable || !plan.scheme.is_promotion() {
        return Ok(());
    }
    let list: Vec<String> = USABLE.iter().map(|command| format!("modshift {command}")).collect();
    let now = match list.is_empty() {
        true => "no command of this version can use such a plan".to_owned(),
        false => format!("such a plan is for {} now", list.join(", ")),
    };
    Err(BadPlan(format!(
        "modshift {name} is for plans with scheme = \"copy\", and plan {} has scheme = \"promote\": \
         it would copy rows that replication has brought, or fence shards that go on serving; {now}",
        plan.name
    )))
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::args::Cli;

    fn plan(scheme: &str) -> Plan {
        let shard = |host: &str| format!("[[old]]\nhost = \"{host}\"\nreplicas = [\"r:1\"]\n");
        let text = format!(
            "name = \"p\"\nscheme = \"{scheme}\"\nmodulus = {{ old = 1, new = 2 }}\n\
             [defaults]\nuser = \"u\"\npassword = \"p\"\nschema = \"s\"\n[log]\nkind = \"direct\"\n\
             [[table]]\nname = \"t\"\nkey = \"id\"\nrule = \"floor_mod\"\n{}",
            shard("a")
        );
        let new = "[[new]]\nhost = \"b\"\n[[new]]\nhost = \"c\"\n";
        let text = if scheme == "copy" { text + new } else { text };
        Plan::parse(&text, &|_| None).unwrap()
    }

    #[test]
    fn a_command_is_refused_by_its_name_unless_the_list_has_it() {
        let (copy, promote) = (plan("copy"), plan("promote"));
        let command = Cli::command();
        let names: Vec<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
        let mut asked = 0;
        for name in &names {
            // Those that need more are named in the same match as these.
            let Ok(cli) = Cli::try_parse_from(["modshift", name]) else { continue };
            asked += 1;
            assert!(fits(&copy, &cli.command).is_ok(), "{name}");
            let refused = fits(&promote, &cli.command).err().map(|error| error.to_string());
            assert_eq!(refused.is_none(), USABLE.contains(name), "{name}");
            if let Some(text) = refused {
                assert!(text.starts_with(&format!("modshift {name} is for")), "{text}");
            }
        }
        assert!(asked > 10, "{names:?}");
    }
}
