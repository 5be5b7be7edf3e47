//! What of it is modshift's and may go, and what stays, with the reason: pure.

use std::collections::BTreeMap;

use modshift_mariadb::control::{AUDIT, FENCES_NAME, FINISHED, OWN_REMAINS, OWN_TABLES, SCHEMA};
use modshift_mariadb::value::quote;

use super::look::Shard;

const ROUTING: &str = "modshift_routing";
/// Where `grants-old.sql` of earlier versions put its views.
const OF_EARLIER: [&str; 2] = ["modshift_accounts", "modshift_writers"];
/// What the files of deploy/mariadb give on the whole server.
const GLOBAL: [&str; 12] = [
    "USAGE",
    "REPLICATION SLAVE",
    "BINLOG MONITOR",
    "BINLOG ADMIN",
    "READ_ONLY ADMIN",
    "SLAVE MONITOR",
    "CONNECTION ADMIN",
    "PROCESS",
    "CREATE USER",
    "REPLICATION SLAVE ADMIN",
    "SUPER",
    "SET USER",
];

/// And, all together, on schemas that others write to.
const SEES: [&str; 3] = ["SELECT", "TRIGGER", "SHOW VIEW"];

/// What speaks against it.
pub fn objections(shards: &[Shard], plan: &str) -> Vec<String> {
    let mut objections = Vec::new();
    let said = shards.iter().any(|shard| shard.state.finished.iter().any(|name| name == plan));
    if !said {
        objections.push(format!(
            "no shard says that the reshard {plan} is finished: `modshift finish` ends it, after a \
             cutover; before one, `modshift restart-copy` forgets the copy"
        ));
    }
    for shard in shards.iter().filter(|shard| !shard.state.remembered.is_empty()) {
        objections.push(format!(
            "{} remembers what {} was before the fence: `modshift unfence` of that plan lets it go first",
            shard.side,
            shard.state.remembered.join(", ")
        ));
    }
    for (server, here) in by_server(shards) {
        let closed = &here[0].state.closed_for;
        if !closed.is_empty() {
            objections.push(format!(
                "{server} is kept closed for {}, and what it was before is remembered there: \
                 `modshift unfence` of that plan opens it first",
                closed.join(", ")
            ));
        }
        let mut going_on: Vec<&str> =
            here.iter().flat_map(|shard| shard.state.going_on.iter().map(String::as_str)).collect();
        going_on.sort_unstable();
        going_on.dedup();
        if !going_on.is_empty() {
            objections.push(format!(
                "{server}: a reshard that is not finished uses schema {}: `modshift finish` of its \
                 plan comes first",
                going_on.join(", ")
            ));
        }
    }
    objections
}

/// The shards of each server, which is called after the first.
fn by_server(shards: &[Shard]) -> Vec<(String, Vec<&Shard>)> {
    let mut servers: BTreeMap<&str, Vec<&Shard>> = BTreeMap::new();
    for shard in shards {
        servers.entry(&shard.state.server).or_default().push(shard);
    }
    let servers = servers.into_values();
    servers.map(|here| (format!("the server of {}", here[0].side), here)).collect()
}

/// What is to be done, in order.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// On the shard of this index.
    pub objects: Vec<(usize, String)>,
    pub servers: Vec<Closing>,
    /// For people: what stays, and why.
    pub stays: Vec<String>,
    shown: Vec<String>,
}

/// The last statements of a server, over one connection.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Closing {
    /// Through which it is reached, by index; also those whose `modshift_finished` goes.
    pub shards: Vec<usize>,
    pub schema: Option<String>,
    /// The login that does it comes last: `None` where an account stays, and with it
    /// `modshift_finished`.
    pub accounts: Option<Vec<String>>,
}

impl Work {
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.shown.iter().chain(&self.stays).cloned()
    }
}

pub fn work(shards: &[Shard], with_routing: bool) -> Work {
    let mut work = Work::default();
    for (index, shard) in shards.iter().enumerate() {
        // Before the account does in whose name they run: without it they would refuse every write.
        for name in &shard.state.guards {
            work.objects.push((index, format!("DROP TRIGGER IF EXISTS {}", quote(name))));
        }
        for (name, view) in &shard.state.own {
            let known = OWN_TABLES.iter().chain(&OWN_REMAINS).chain(&OF_EARLIER);
            if name == FINISHED {
                continue;
            }
            if name == ROUTING && !with_routing {
                work.stays.push(format!(
                    "{}: table {name} stays: applications may follow it; --with-routing removes it",
                    shard.side
                ));
            } else if known.clone().any(|known| known == name) {
                let kind = if *view { "VIEW" } else { "TABLE" };
                work.objects.push((index, format!("DROP {kind} IF EXISTS {}", quote(name))));
            } else {
                let why = "no version of modshift has made it";
                work.stays.push(format!("{}: {name} stays: {why}", shard.side));
            }
        }
    }
    // What says who did what goes last.
    let audit = quote(AUDIT);
    work.objects.sort_by_key(|(_, sql)| sql.ends_with(&audit));
    let schemas: Vec<&str> = shards.iter().map(|shard| shard.endpoint.schema.as_str()).collect();
    for (server, here) in by_server(shards) {
        let closing = closing(&mut work.stays, shards, &schemas, &server, &here);
        work.servers.push(closing);
        let configured: Vec<&String> =
            here.iter().flat_map(|shard| &shard.state.configured).collect();
        let mut lines: Vec<&String> = configured;
        lines.dedup();
        if !lines.is_empty() {
            let lines: Vec<&str> = lines.into_iter().map(String::as_str).collect();
            work.stays.push(format!(
                "{server}: its configuration says {}: take out what the fence or the reshard asked \
                 for, by hand",
                lines.join("; ")
            ));
        }
    }
    // New shard 0, whose server holds the journal's lock, is the last.
    let home = shards.iter().position(|shard| !shard.side.is_old());
    work.servers.sort_by_key(|closing| home.is_some_and(|home| closing.shards.contains(&home)));
    work.shown = shown(&work, shards);
    work
}

fn shown(work: &Work, shards: &[Shard]) -> Vec<String> {
    let mut lines: Vec<String> = work
        .objects
        .iter()
        .map(|(index, sql)| format!("{}: {sql};", shards[*index].side))
        .collect();
    for closing in &work.servers {
        let side = shards[closing.shards[0]].side;
        lines.extend(closing.schema.iter().map(|sql| format!("the server of {side}: {sql};")));
        let Some(accounts) = &closing.accounts else { continue };
        for &index in &closing.shards {
            if shards[index].state.own.iter().any(|(name, _)| name == FINISHED) {
                lines.push(format!("{}: DROP TABLE IF EXISTS {FINISHED};", shards[index].side));
            }
        }
        for account in accounts {
            lines.push(format!("the server of {side}: DROP USER {account};"));
        }
    }
    lines
}

fn closing(
    stays: &mut Vec<String>,
    shards: &[Shard],
    schemas: &[&str],
    server: &str,
    here: &[&Shard],
) -> Closing {
    let index_of = |shard: &&Shard| shards.iter().position(|other| other.side == shard.side);
    let mut closing =
        Closing { shards: here.iter().filter_map(index_of).collect(), ..Closing::default() };
    let mut accounts: Vec<&(String, Vec<String>)> =
        here.iter().flat_map(|shard| &shard.state.accounts).collect();
    accounts.dedup_by_key(|(name, _)| name);
    let mut may_go = true;
    let mut quoted = Vec::new();
    for (name, grants) in &accounts {
        match foreign(grants, schemas) {
            Some(held) => {
                may_go = false;
                stays.push(format!(
                    "{server}: account {name} stays, and so does {FINISHED}: it also holds what the \
                     files of deploy/mariadb do not give ({held}), so others may use it"
                ));
            }
            None => quoted.push(account(name)),
        }
    }
    quoted.sort();
    quoted.dedup();
    if let Some(objects) = &here[0].state.schema {
        let ours = ["accounts", "writers", FENCES_NAME];
        let foreign = objects.iter().find(|name| !ours.contains(&name.as_str()));
        let other =
            here[0].state.users.iter().find(|user| !accounts.iter().any(|(n, _)| n == *user));
        match (foreign, other) {
            (None, None) => {
                closing.schema = Some(format!("DROP DATABASE IF EXISTS {}", quote(SCHEMA)));
            }
            (Some(name), _) => stays.push(format!(
                "{server}: schema {SCHEMA} stays: no version of modshift has made {name} there"
            )),
            (None, Some(user)) => stays
                .push(format!("{server}: schema {SCHEMA} stays: account {user} has rights there")),
        }
    }
    if may_go {
        // The first of a shard's logins is that of the cutover, which acts.
        if let Some((own, _)) = accounts.first() {
            let own = account(own);
            quoted.sort_by_key(|name| *name == own);
        }
        closing.accounts = Some(quoted);
    }
    closing
}

/// `user@host` as SQL takes it.
fn account(name: &str) -> String {
    let (user, host) = name.rsplit_once('@').unwrap_or((name, "%"));
    format!("{}@{}", quote(user), quote(host))
}

/// The first thing it holds that is none of what modshift's files give.
fn foreign(grants: &[String], schemas: &[&str]) -> Option<String> {
    let ours = |line: &&String| {
        let Some(rest) = line.strip_prefix("GRANT ") else { return false };
        let Some((privileges, rest)) = rest.split_once(" ON ") else { return false };
        let Some((object, to)) = rest.split_once(" TO ") else { return false };
        if to.contains("WITH GRANT OPTION") {
            return false;
        }
        if object == "*.*" {
            return privileges.split(", ").all(|privilege| GLOBAL.contains(&privilege));
        }
        let Some((schema, _)) = object.split_once("`.") else { return false };
        let schema = schema.trim_start_matches('`').replace('\\', "");
        // Of a schema that others write to, see grants-old.sql.
        let held: Vec<&str> = privileges.split(", ").collect();
        let sees =
            held.len() == SEES.len() && SEES.iter().all(|privilege| held.contains(privilege));
        sees && object.ends_with(".*")
            || schema == "mysql"
            || schema == SCHEMA
            || schemas.contains(&schema.as_str())
    };
    let other = grants.iter().find(|line| !ours(line))?;
    // Of a line with a password only what is given.
    Some(other.split(" TO ").next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use modshift_proto::plan::Plan;
    use modshift_proto::{NewShard, OldShard};

    use super::super::look::State;
    use super::*;
    use crate::check::Side;

    const OWN: &str =
        "GRANT READ_ONLY ADMIN, SUPER ON *.* TO `modshift`@`%` IDENTIFIED BY PASSWORD '*A'";

    fn shards(change: impl Fn(Side, &mut State)) -> Vec<Shard> {
        let text = "name = \"p\"\nmodulus = { old = 1, new = 2 }\n[log]\nkind = \"direct\"\n\
             [defaults]\nhost = \"h\"\nuser = \"u\"\npassword = \"p\"\n[[table]]\nname = \"t\"\n\
             key = \"k\"\nrule = \"floor_mod\"\n[[old]]\nschema = \"s_a\"\n[[new]]\nschema = \"b\"\n\
             [[new]]\nschema = \"c\"\n";
        let plan = Plan::parse(text, &|_| None).unwrap();
        let sides = [
            (Side::Old(OldShard(0)), "h:1", &plan.old[0]),
            (Side::New(NewShard(0)), "h:2", &plan.new[0]),
            (Side::New(NewShard(1)), "h:2", &plan.new[1]),
        ];
        let make = |(side, server, endpoint): (Side, &str, &modshift_proto::plan::Endpoint)| {
            let grants = [OWN, "GRANT SELECT ON `s\\_a`.* TO `modshift`@`%`"];
            let mut state = State {
                server: server.to_owned(),
                own: [
                    "modshift_audit",
                    "modshift_finished",
                    "modshift_journal",
                    "modshift_routing",
                ]
                .map(|name| (name.to_owned(), false))
                .to_vec(),
                finished: vec!["p".to_owned()],
                schema: Some(vec!["accounts".to_owned(), "fences".to_owned()]),
                users: vec!["modshift@%".to_owned()],
                accounts: vec![("modshift@%".to_owned(), grants.map(str::to_owned).to_vec())],
                ..State::default()
            };
            change(side, &mut state);
            Shard { side, endpoint: endpoint.clone(), state }
        };
        sides.into_iter().map(make).collect()
    }

    #[test]
    fn nothing_goes_while_a_reshard_that_used_the_servers_is_not_over() {
        let check = |change: &dyn Fn(&mut State), expected: &[&str]| {
            let found = objections(&shards(|_, state| change(state)), "p");
            assert_eq!(found.len(), expected.len(), "{found:#?}");
            for (found, expected) in found.iter().zip(expected) {
                assert!(found.contains(expected), "{found}, not {expected}");
            }
        };
        check(&|_| {}, &[]);
        check(&|state| state.finished.clear(), &["no shard says that the reshard p is finished"]);
        let closed = "is kept closed for old shard 0 of plan q";
        check(&|state| state.closed_for = vec!["old shard 0 of plan q".to_owned()], &[closed; 2]);
        let other = "a reshard that is not finished uses schema z";
        check(&|state| state.going_on = vec!["z".to_owned()], &[other; 2]);
    }

    #[test]
    fn what_is_modshifts_goes_in_the_order_that_keeps_daemons_out() {
        let guarded = |side: Side, state: &mut State| {
            if side == Side::New(NewShard(1)) {
                state.guards = vec!["modshift_home_bi_0".to_owned()];
            }
        };
        let work = work(&shards(guarded), false);
        let lines: Vec<String> = work.lines().collect();
        let at = |text: &str| {
            let found = lines.iter().position(|line| line.contains(text));
            found.unwrap_or_else(|| panic!("{text} in {lines:#?}"))
        };
        assert!(
            at("new shard 0: DROP TABLE IF EXISTS `modshift_journal`") < at("`modshift_audit`")
        );
        assert!(at("`modshift_audit`") < at("the server of old shard 0: DROP DATABASE"));
        assert!(at("DROP TABLE IF EXISTS modshift_finished") < at("DROP USER `modshift`@`%`"));
        at("new shard 1: table modshift_routing stays");
        // In whose name it runs.
        let guard = at("new shard 1: DROP TRIGGER IF EXISTS `modshift_home_bi_0`");
        assert!(guard < at("DROP USER `modshift`@`%`"), "{lines:#?}");
        assert_eq!(lines.iter().filter(|line| line.contains("DROP USER")).count(), 2, "{lines:#?}");
    }

    #[test]
    fn what_others_may_use_stays_and_keeps_daemons_out() {
        let grant = "GRANT ALL PRIVILEGES ON *.* TO `root`@`%` WITH GRANT OPTION";
        let shared = shards(|_, state| {
            state.accounts = vec![("root@%".to_owned(), vec![grant.to_owned()])];
            state.own.push(("modshift_notes".to_owned(), false));
            state.schema = Some(vec!["accounts".to_owned(), "mine".to_owned()]);
        });
        let work = work(&shared, true);
        let lines: Vec<String> = work.lines().collect();
        for gone in
            ["DROP USER", "DROP DATABASE", "EXISTS modshift_finished", "EXISTS `modshift_notes`"]
        {
            assert!(!lines.iter().any(|line| line.contains(gone)), "{gone} in {lines:#?}");
        }
        for stays in [
            "account root@% stays, and so does modshift_finished",
            "(GRANT ALL PRIVILEGES ON *.*)",
            "modshift_notes stays: no version",
            "schema modshift stays: no version of modshift has made mine there",
        ] {
            assert!(lines.iter().any(|line| line.contains(stays)), "{stays} in {lines:#?}");
        }
        assert!(lines.iter().any(|line| line.contains("DROP TABLE IF EXISTS `modshift_routing`")));
    }

    #[test]
    fn an_account_is_known_by_what_it_holds() {
        let check = |line: &str, ours: bool| {
            assert_eq!(foreign(&[line.to_owned()], &["shop_0"]).is_none(), ours, "{line}");
        };
        check(OWN, true);
        check("GRANT SELECT, TRIGGER ON `shop\\_0`.* TO `m`@`%`", true);
        check("GRANT CREATE, DROP ON `shop_0`.`modshift_check` TO `m`@`%`", true);
        check("GRANT SELECT ON `mysql`.`event` TO `m`@`%`", true);
        check("GRANT SELECT ON `other`.* TO `m`@`%`", false);
        check("GRANT FILE ON *.* TO `m`@`%`", false);
        check("GRANT SELECT ON `shop_0`.* TO `m`@`%` WITH GRANT OPTION", false);
        check("GRANT `admin` TO `m`@`%`", false);
        check("GRANT EXECUTE ON PROCEDURE `other`.`p` TO `m`@`%`", false);
    }
}
