//! `modshift schema`: the new shards' tables, as the old shards have them.
//!
//! Old shard 0 is the model (all old shards must agree, says `check`). AUTO_INCREMENT counters stay
//! behind: what keys the new shards hand out is settled at the cutover, not while they are fed.

use std::fmt::Display;
use std::sync::Arc;

use modshift_mariadb::connect::{Session, connect, label};
use modshift_mariadb::{CatalogError, Conn, catalog, control, error};
use modshift_proto::plan::{Endpoint, Plan};
use modshift_proto::{NewShard, OldShard};
use mysql_async::prelude::Queryable;
use serde_json::{Value, json};

use crate::check::differences;
use crate::exit::Exit;
use crate::tell::Form;
use crate::{answer, args, audit};

/// A definition that one server has made another takes: whatever defaults (zero dates), row sizes and
/// names in it this one would refuse from an application; and a child may come before its parent in
/// the plan.
const AS_PRINTED: &str = "SET SESSION foreign_key_checks = 0, innodb_strict_mode = 0, \
     sql_mode = 'NO_ENGINE_SUBSTITUTION'";

/// What a new shard's table is to the model.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Finding {
    Same,
    Missing,
    Differs(Vec<String>),
}

pub struct Model {
    pub name: String,
    pub statement: String,
    pub schema: modshift_proto::TableSchema,
}

pub async fn run(plan: Arc<Plan>, args: &args::Schema) -> anyhow::Result<Exit> {
    if !args.apply {
        return every_shard(&plan, args).await;
    }
    let entry = audit::begin(&plan, "creates what new shards' tables lack").await?;
    let outcome = every_shard(&plan, args).await;
    audit::finish(entry, &outcome).await;
    outcome
}

async fn every_shard(plan: &Plan, args: &args::Schema) -> anyhow::Result<Exit> {
    let form = Form::of(args.json);
    let endpoint = &plan.old[usize::from(OldShard(0).0)];
    let mut conn = connect(endpoint, Session::Plain).await?;
    let (mut models, mut left) = (Vec::with_capacity(plan.tables.len()), Vec::new());
    for table in &plan.tables {
        match model(&mut conn, endpoint, &table.name).await {
            Ok(model) => models.push(model),
            Err(error) => {
                let fields = json!({ "old_shard": 0, "table": table.name, "state": "left out" });
                left.push(Left::of(form, OldShard(0), &table.name, error, fields)?);
            }
        }
    }
    for shard in plan.new_shards() {
        left.extend(one_shard(plan, shard, &models, args).await?);
    }
    let (text, exit) = match left.is_empty() {
        true => ("every new shard has every table".to_owned(), Exit::Done),
        false => (format!("not as on old shard 0: {}", summed_up(&left)), Exit::No),
    };
    match args.json {
        true => form.end(&text, None, exit),
        false if !left.is_empty() => answer::line(format_args!("-- {text}")),
        false => {}
    }
    Ok(exit)
}

/// A table that is not there in the end, or not as on old shard 0.
struct Left {
    shard: String,
    table: String,
}

impl Left {
    /// A table that cannot be taken is one, and says so at once; the others are looked at all the same.
    /// A server that does not answer is an error.
    fn of(
        form: Form,
        shard: impl Display,
        table: &str,
        error: CatalogError,
        fields: Value,
    ) -> Result<Left, CatalogError> {
        if matches!(error, CatalogError::Server(_)) {
            return Err(error);
        }
        let hint = error.hint().unwrap_or_else(|| "take the table out of the plan".to_owned());
        form.said(
            "table",
            &format!("-- {shard}: table {table} is left out: {error}; {hint}"),
            fields,
        );
        Ok(Left { shard: shard.to_string(), table: table.to_owned() })
    }
}

/// `old shard 0: a; new shard 1: b, c`
fn summed_up(left: &[Left]) -> String {
    let of_shard = |some: &[Left]| {
        let tables: Vec<&str> = some.iter().map(|left| left.table.as_str()).collect();
        format!("{}: {}", some[0].shard, tables.join(", "))
    };
    let shards = left.chunk_by(|one, next| one.shard == next.shard).map(of_shard);
    shards.collect::<Vec<_>>().join("; ")
}

/// In the order of the plan; foreign keys do not mind, see `one_shard`.
pub async fn models(plan: &Plan) -> anyhow::Result<Vec<Model>> {
    let endpoint = &plan.old[usize::from(OldShard(0).0)];
    let mut conn = connect(endpoint, Session::Plain).await?;
    let mut models = Vec::with_capacity(plan.tables.len());
    for table in &plan.tables {
        models.push(model(&mut conn, endpoint, &table.name).await?);
    }
    Ok(models)
}

async fn model(conn: &mut Conn, endpoint: &Endpoint, name: &str) -> Result<Model, CatalogError> {
    let schema = catalog::table(conn, &endpoint.schema, name).await?;
    let create = catalog::show_create_table(conn, &endpoint.schema, name).await?;
    Ok(Model { name: name.to_owned(), statement: without_counter(&create), schema })
}

/// `… ENGINE=InnoDB AUTO_INCREMENT=42 DEFAULT …` without the counter. Only the last line has it.
fn without_counter(create: &str) -> String {
    let Some(end) = create.rfind("\n)") else { return create.to_owned() };
    let (columns, options) = create.split_at(end);
    let Some(at) = options.find(" AUTO_INCREMENT=") else { return create.to_owned() };
    // A comment may hold anything: the counter comes before it.
    if options.find(" COMMENT=").is_some_and(|comment| comment < at) {
        return create.to_owned();
    }
    let digits = at + " AUTO_INCREMENT=".len();
    let rest = options[digits..].trim_start_matches(|c: char| c.is_ascii_digit());
    format!("{columns}{}{rest}", &options[..at])
}

/// What is not there in the end, or not as in the models.
async fn one_shard(
    plan: &Plan,
    shard: NewShard,
    models: &[Model],
    args: &args::Schema,
) -> anyhow::Result<Vec<Left>> {
    let (apply, form) = (args.apply, Form::of(args.json));
    let fields =
        |table: &str, state: &str| json!({ "shard": shard.0, "table": table, "state": state });
    let tell = |model: &Model, state: &str, text: &str| {
        let fields = fields(&model.name, state);
        form.said("table", &format!("-- {shard}: table {} {text}", model.name), fields);
    };
    let endpoint = &plan.new[usize::from(shard.0)];
    let mut conn = connect(endpoint, Session::Plain).await?;
    let failed = |error| error::of(&label(endpoint), "creating tables", error);
    if apply {
        conn.query_drop(AS_PRINTED).await.map_err(failed)?;
        control::create(&mut conn, &label(endpoint), endpoint, plan).await?;
    }
    let present = catalog::tables(&mut conn, &endpoint.schema).await?;
    let mut left = Vec::new();
    for model in models {
        let lacks = || Left { shard: shard.to_string(), table: model.name.clone() };
        let finding = if present.iter().any(|table| table.name == model.name) {
            let schema = match catalog::table(&mut conn, &endpoint.schema, &model.name).await {
                Ok(schema) => schema,
                Err(error) => {
                    let fields = fields(&model.name, "left out");
                    left.push(Left::of(form, shard, &model.name, error, fields)?);
                    continue;
                }
            };
            match differences(&model.schema, &schema) {
                same if same.is_empty() => Finding::Same,
                differences => Finding::Differs(differences),
            }
        } else {
            Finding::Missing
        };
        match finding {
            Finding::Same => tell(model, "same", "is as on old shard 0"),
            Finding::Differs(differences) => {
                left.push(lacks());
                for difference in differences {
                    tell(model, "differs", &difference);
                }
            }
            Finding::Missing if apply => match conn.query_drop(&model.statement).await {
                Ok(()) => tell(model, "created", "created"),
                // Of this table alone: the others may be made all the same.
                Err(mysql_async::Error::Server(error)) => {
                    left.push(lacks());
                    let hint = hint_of(error.code);
                    let text = format!(
                        "was not created: error {} ({}): {}; {hint}",
                        error.code, error.state, error.message
                    );
                    tell(model, "failed", &text);
                }
                Err(error) => return Err(failed(error).into()),
            },
            Finding::Missing => {
                left.push(lacks());
                tell(model, "missing", "is missing");
                let statement = format!("{};", model.statement);
                let fields = json!({ "shard": shard.0, "table": model.name });
                form.said("statement", &statement, fields);
            }
        }
    }
    Ok(left)
}

/// What mends it, so that the command creates the rest.
fn hint_of(code: u16) -> &'static str {
    match code {
        1044 | 1142 | 1143 | 1227 | 1370 => {
            "grant what deploy/mariadb/grants-new.sql gives, then give the command again"
        }
        1118 => {
            "a row is too large for this server's page size or row format: set innodb_page_size and \
             innodb_default_row_format as on the old shards, then give the command again"
        }
        1050 => "something else has that name there: rename it, then give the command again",
        1115 | 1273 => {
            "this server does not know that character set or collation: create it as old shard 0 has \
             it on a server of that version, or change the column on every old shard"
        }
        1286 | 1911 | 1912 => "install what the table asks for there, then give the command again",
        1005 | 1215 => {
            "see SHOW ENGINE INNODB STATUS there for the foreign key, then give the command again"
        }
        _ => {
            "mend that there, or make the table by hand as old shard 0 has it, then give the command again"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_is_left_out_and_nothing_else() {
        let check = |create: &str, expected: &str| assert_eq!(without_counter(create), expected);
        check(
            "CREATE TABLE `t` (\n  `id` int\n) ENGINE=InnoDB AUTO_INCREMENT=42 DEFAULT CHARSET=latin1",
            "CREATE TABLE `t` (\n  `id` int\n) ENGINE=InnoDB DEFAULT CHARSET=latin1",
        );
        let commented =
            "CREATE TABLE `t` (\n  `id` int\n) ENGINE=InnoDB COMMENT=' AUTO_INCREMENT=7'";
        check(commented, commented);
        let column = "CREATE TABLE `t` (\n  `id` int COMMENT ' AUTO_INCREMENT=7'\n) ENGINE=InnoDB";
        check(column, column);
    }
}
