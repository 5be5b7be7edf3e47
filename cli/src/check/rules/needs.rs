//! What each login of the plan needs, and for what: all that the files of deploy/mariadb grant, and no
//! more. A test holds the two against each other.

use modshift_mariadb::{Grants, control};

use crate::check::ahead;
use crate::check::fault::{Fault, Severity};
use crate::check::mend::{self, Mend, Way};
use crate::check::survey::Facts;
use modshift_proto::plan::Plan;

/// What privileges are held on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    Global,
    /// Every table of the shard's schema.
    Schema,
    /// A table of modshift's own there.
    Own(&'static str),
    /// The table of who keeps a server closed, in modshift's own schema.
    Fences,
    /// All of modshift's own schema.
    OwnSchema,
    /// Columns of a table of the schema `mysql`.
    System(&'static str, &'static [&'static str]),
}

pub struct Need {
    pub severity: Severity,
    pub on: On,
    pub privileges: &'static [&'static str],
    pub why: &'static str,
}

/// Of reading a binlog.
pub const FILTERS: &str = "needed to see whether the binlog leaves schemas out";
const ROWS: [&str; 5] = ["CREATE", "SELECT", "INSERT", "UPDATE", "DELETE"];
const ROWS_AND_DROP: [&str; 6] = ["CREATE", "SELECT", "INSERT", "UPDATE", "DELETE", "DROP"];
const ROUTINES: On = On::System("proc", &["db", "name", "type", "definer", "security_type"]);
const EVENTS: On = On::System("event", &["db", "name", "status", "definer"]);
/// What an account may do on a schema and on tables of it.
const DEFINERS: [On; 2] = [
    On::System("db", &["User", "Host", "Db", "Trigger_priv"]),
    On::System("tables_priv", &["User", "Host", "Db", "Table_priv"]),
];
const LOCKED: On = On::System("global_priv", &["User", "Host", "Priv"]);
const PROXIES: On = On::System("proxies_priv", &["User", "Host", "Proxied_user"]);
const OTHERS: On = On::System("innodb_table_stats", &["database_name", "table_name"]);

fn need(
    severity: Severity,
    on: On,
    privileges: &'static [&'static str],
    why: &'static str,
) -> Need {
    Need { severity, on, privileges, why }
}

/// Of the streams old -> new, and of the commands that use the shard's own login.
pub fn forward(old: bool) -> Vec<Need> {
    use Severity::{Fault, Note, Warning};
    let mut needs = if old {
        vec![
            need(Fault, On::Global, &["REPLICATION SLAVE"], "needed to read the binlog"),
            need(Fault, On::Global, &["BINLOG MONITOR"], FILTERS),
            need(Fault, On::Schema, &["SELECT"], "needed to copy tables"),
            need(
                Fault,
                On::Own(control::HANDOVER),
                &["CREATE", "SELECT"],
                "needed to see whether triggers were handed over",
            ),
            need(
                Fault,
                On::Own(control::PLAN),
                &["CREATE", "SELECT", "INSERT"],
                "needed to note whose shard it is",
            ),
            need(Fault, On::Own(control::TOKEN), &ROWS, "needed for modshift's own rows"),
            need(Fault, On::Own(control::PROGRESS), &ROWS, "needed for modshift's own rows"),
            need(Fault, On::Own(control::TABLES), &ROWS, "needed for modshift's own rows"),
            need(Warning, On::Own(control::REPAIR), &ROWS, "needed by modshift verify --repair"),
            need(Warning, On::Own(control::RESYNC), &ROWS, "needed by modshift resync"),
            need(Warning, On::Own(control::SKIP), &ROWS, "needed by modshift skip"),
            need(Warning, ROUTINES, &["SELECT"], "without which routines there cannot be seen"),
        ]
    } else {
        let why = "needed to apply changes";
        const APPLY: [&str; 5] = ["SELECT", "INSERT", "UPDATE", "DELETE", "CREATE"];
        let why_keys = "needed by modshift schema --apply to make foreign keys";
        vec![
            need(Fault, On::Schema, &APPLY, why),
            need(Warning, On::Schema, &["REFERENCES"], why_keys),
        ]
    };
    // The server shows triggers only to who may make them; there is no lesser privilege.
    let blind = "without which triggers there cannot be seen";
    needs.push(need(Warning, On::Schema, &["TRIGGER"], blind));
    let others = "without which others on the server, whom a fence stops too, cannot be seen";
    needs.push(need(Note, OTHERS, &["SELECT"], others));
    needs.push(need(Warning, EVENTS, &["SELECT"], "without which events there cannot be seen"));
    let through = "needed from the cutover on to write while the server is read-only";
    needs.push(need(Warning, On::Global, &["READ_ONLY ADMIN"], through));
    let lag =
        "without which nobody knows how far replicas are behind, and [throttle] does not care";
    needs.push(need(Note, On::Global, &["SLAVE MONITOR"], lag));
    needs
}

/// Of the streams new -> old: each side the other's privileges.
pub fn back(old: bool) -> Vec<Need> {
    use Severity::{Fault, Warning};
    if !old {
        let why = "needed to read the binlog on the way back";
        return vec![
            need(Fault, On::Global, &["REPLICATION SLAVE"], why),
            need(Fault, On::Global, &["BINLOG MONITOR"], FILTERS),
        ];
    }
    let why = "needed to apply changes on the way back";
    let mut needs = vec![need(Fault, On::Schema, &["INSERT", "UPDATE", "DELETE"], why)];
    let why = "needed for modshift's own rows on the way back";
    needs
        .extend([control::WATERMARK, control::PARKED].map(|t| need(Fault, On::Own(t), &ROWS, why)));
    let why = "needed by modshift verify --back";
    let kept = [control::VERIFY, control::MISMATCH, control::SETTLED];
    needs.extend(kept.map(|table| need(Warning, On::Own(table), &ROWS, why)));
    needs
}

/// Of the cutover, the rollback and the end, whichever login they use.
pub fn cutover(plan: &Plan, old: bool, facts: &Facts) -> Vec<Need> {
    let warning = |on, privileges, why| need(Severity::Warning, on, privileges, why);
    let mut needs = vec![
        warning(
            On::Global,
            &["READ_ONLY ADMIN"],
            "needed at the cutover to write while the server is read-only",
        ),
        warning(
            On::Global,
            &["CONNECTION ADMIN", "PROCESS"],
            "needed at the cutover to end and count the application's sessions",
        ),
        warning(On::Fences, &ROWS, "needed at the cutover to note who keeps the server closed"),
        warning(
            On::Schema,
            &["SELECT", "INSERT", "CREATE", "ALTER"],
            "needed at the cutover to carry counters and sequences over",
        ),
    ];
    // With SUPER too, but that may be left out.
    let why = "needed at the cutover to see what replicates into the shard";
    needs.push(warning(On::Global, &["SLAVE MONITOR"], why));
    let accounts = if old { &plan.cutover.old_accounts } else { &plan.cutover.new_accounts };
    if !accounts.is_empty() {
        let why = "needed at the cutover to lock the application's accounts";
        needs.push(warning(On::Global, &["CREATE USER"], why));
        let why = "needed at the cutover to see which accounts are locked";
        needs.push(warning(LOCKED, &["SELECT"], why));
        let why = "needed at the cutover to see who may act in their place";
        needs.push(warning(PROXIES, &["SELECT"], why));
    }
    let why = "needed at the cutover to hand over triggers and events";
    needs.push(warning(On::Schema, &["TRIGGER", "EVENT"], why));
    needs.push(warning(On::Global, &["SET USER"], why));
    needs.extend(DEFINERS.map(|on| warning(on, &["SELECT"], why)));
    if facts.is_replica() == Some(true) {
        let why = "needed at the cutover to stop inbound replication";
        needs.push(warning(On::Global, &["REPLICATION SLAVE ADMIN"], why));
    }
    if old && facts.is_on("event_scheduler") {
        let why = "needed at the cutover to switch event_scheduler off";
        needs.push(warning(On::Global, &["SUPER"], why));
    }
    let gives_out = facts.tables.values().any(|table| table.counter.is_some());
    if !old && gives_out && ahead::interleaves(plan) {
        let why = "needed at the cutover to set the steps of AUTO_INCREMENT";
        needs.push(warning(On::Global, &["SUPER"], why));
    }
    let why = "needed by cutover, rollback and finish for modshift's own tables";
    needs.extend(control::OWN_TABLES.map(|table| warning(On::Own(table), &ROWS_AND_DROP, why)));
    let why = "needed by modshift cleanup";
    needs.push(need(Severity::Note, On::OwnSchema, &["DROP"], why));
    let why = "needed by modshift finish, restart-copy and cleanup";
    let remains = control::OWN_REMAINS.map(|name| warning(On::Own(name), &["CREATE", "DROP"], why));
    needs.extend(remains);
    needs
}

fn lacking(grants: &Grants, schema: &str, need: &Need) -> Vec<&'static str> {
    let lacks = |privilege: &&&'static str| match need.on {
        On::Global => !grants.has_global(privilege),
        On::Schema => !grants.has_on_schema(schema, privilege),
        On::Own(table) => !grants.has_on_table(schema, table, privilege),
        On::OwnSchema => !grants.has_on_schema(control::SCHEMA, privilege),
        On::Fences => !grants.has_on_table(control::SCHEMA, control::FENCES_NAME, privilege),
        On::System(table, columns) => {
            !columns.iter().all(|column| grants.has_on_column("mysql", table, column, privilege))
        }
    };
    need.privileges.iter().filter(lacks).copied().collect()
}

/// What an account lacks of these, as findings about `subject`, its shard's name.
pub fn judge(
    subject: &str,
    (user, grants): (&str, &Grants),
    schema: &str,
    needs: &[Need],
) -> Vec<Fault> {
    let mut faults = Vec::new();
    for need in needs {
        let missing = lacking(grants, schema, need);
        if missing.is_empty() {
            continue;
        }
        let list = missing.join(", ");
        let account = mend::account(grants, user);
        let (way, on, shown, given) = match need.on {
            On::Global => (Way::GrantGlobal, "*.*".to_owned(), "*.*".to_owned(), list.clone()),
            On::Schema => {
                let shown = format!("`{schema}`.*");
                (Way::GrantSchema, mend::on_schema(schema), shown, list.clone())
            }
            On::OwnSchema => {
                let on = mend::on_schema(control::SCHEMA);
                (Way::GrantSchema, on.clone(), on, list.clone())
            }
            On::Fences => {
                let on = mend::on_table(control::SCHEMA, control::FENCES_NAME);
                (Way::GrantTable, on.clone(), on, need.privileges.join(", "))
            }
            // On a table that is not there yet a grant has to have CREATE.
            On::Own(table) => {
                let on = mend::on_table(schema, table);
                (Way::GrantTable, on.clone(), on, need.privileges.join(", "))
            }
            On::System(table, columns) => {
                let on = format!("mysql.{table}");
                (Way::GrantColumns, on.clone(), on, format!("{list} ({})", columns.join(", ")))
            }
        };
        faults.push(
            Fault::new(
                need.severity,
                "grants",
                format!("{subject}: user {user}"),
                format!("lacks {list} on {shown}, {}", need.why),
            )
            .expected("the privileges of deploy/mariadb")
            .mend(Mend::run(way, [format!("GRANT {given} ON {on} TO {account}")])),
        );
    }
    faults
}
