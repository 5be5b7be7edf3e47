//! From text and environment to a plan, or to every fault at once.

use std::path::Path;

use toml::de::DeTable;

use super::fault::{Fault, Faults, PlanErrors};
use super::section::{Context, Section};
use super::{
    Plan, control, cutover, endpoint, log, policy, rehearse, reverse, routing, scheme, table,
    throttle, topology, verify,
};
use crate::shard::Modulus;

/// A reshard of more shards than this is no longer one operation; server ids leave room for it.
pub const SHARDS_MAX: u16 = 1024;

impl Plan {
    /// Reads a plan from TOML text; relative paths start at the working directory. A
    /// `password_file` is read; nothing else is touched.
    pub fn parse(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Plan, PlanErrors> {
        parse_in(text, env, Path::new(""))
    }

    /// Reads a plan from a file, with the process's environment; relative paths start at the
    /// file's folder.
    pub fn load(path: impl AsRef<Path>) -> Result<Plan, PlanErrors> {
        let path = path.as_ref();
        let file = Some(path.to_owned());
        let text = std::fs::read_to_string(path).map_err(|error| {
            let message = format!("the plan cannot be read: {error}");
            let fault = Fault { line: 0, column: 0, path: String::new(), message };
            PlanErrors { file: file.clone(), faults: vec![fault] }
        })?;
        let env = |name: &str| std::env::var(name).ok();
        let folder = path.parent().unwrap_or(Path::new(""));
        parse_in(&text, &env, folder).map_err(|errors| PlanErrors { file, ..errors })
    }
}

fn parse_in(
    text: &str,
    env: &dyn Fn(&str) -> Option<String>,
    folder: &Path,
) -> Result<Plan, PlanErrors> {
    let faults = Faults::new(text);
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        faults.add(error.span().unwrap_or(0..0), "", error.message());
    }
    let context = Context { faults, env, folder, broken: !errors.is_empty() };
    let plan = read(Section::root(&context, &document));
    match plan {
        Some(plan) if context.faults.is_empty() => Ok(plan),
        _ => Err(PlanErrors { file: None, faults: context.faults.into_sorted() }),
    }
}

/// Reads every part even if one before it has faults.
fn read(root: Section<'_>) -> Option<Plan> {
    let name = root
        .required("name", NAME)
        .and_then(|item| item.text_that(NAME, is_name))
        .unwrap_or_default();
    if name.ends_with(reverse::SUFFIX) {
        root.fault_at("name", "expected no name that ends in -back: it is that of a way back");
    }
    let modulus = root.section("modulus");
    if !root.has("modulus") {
        root.missing("modulus", "{ old = N, new = M }");
    }
    let old_modulus = read_modulus(&modulus, "old", root.has("modulus"));
    let new_modulus = read_modulus(&modulus, "new", root.has("modulus"));
    if old_modulus.is_some() && old_modulus == new_modulus {
        modulus.fault("old and new are the same: nothing would move");
    }
    let scheme = scheme::read(&root);
    let moduli = (old_modulus, new_modulus);
    let times = scheme::times(scheme, &modulus, old_modulus, new_modulus);
    modulus.finish();
    let rehearse = root.has("rehearse").then(|| root.section("rehearse"));
    let shards = endpoint::read(&root, rehearse.as_ref(), &name, moduli, (scheme, times));
    let (old, new) = (shards.old, shards.new);
    let tables = table::read(&root, old_modulus);
    let log = log::read(&root, &name, scheme);
    let snapshot = policy::snapshot(&root);
    let limits = policy::limits(&root);
    let reader = policy::reader(&root);
    let apply = policy::apply(&root);
    let gate = policy::gate(&root, &reader);
    let own: Vec<&str> = old.iter().chain(&new).map(|shard| shard.user.as_str()).collect();
    let cutover = cutover::read(&root, &own);
    let verify = verify::read(&root);
    let check = policy::check(&root, &tables);
    if scheme.is_promotion() {
        scheme::refuse_others(&root, log.as_ref(), &verify, &check);
    }
    scheme::check_accounts(&root, scheme, &cutover);
    let http = policy::http(&root);
    let back = policy::back(&root);
    let beside =
        routing::Beside { old: &old, new: &new, tables: &tables, scheme, cutover: &cutover };
    let routing = routing::read(&root, &beside);
    let throttle = throttle::read(&root);
    let control = control::read(&root);
    let rehearsed = (shards.rehearsed_old, shards.rehearsed_new);
    let rehearse = rehearse.map(|section| rehearse::read(section, rehearsed));
    let topology = topology::read(&root);
    root.finish();
    let (old_modulus, new_modulus, log) = (old_modulus?, new_modulus?, log?);
    Some(Plan {
        name,
        scheme,
        old_modulus,
        new_modulus,
        old,
        new,
        tables,
        log,
        snapshot,
        limits,
        reader,
        apply,
        gate,
        cutover,
        verify,
        check,
        http,
        back,
        forward: None,
        routing,
        throttle,
        control,
        rehearse,
        topology,
    })
}

const NAME: &str = "1 to 64 characters of a-z, 0-9, _ and -";

fn is_name(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    !text.is_empty() && text.len() <= 64 && text.chars().all(allowed)
}

fn read_modulus(section: &Section<'_>, key: &'static str, required: bool) -> Option<Modulus> {
    let expected = "the number of shards";
    let item = if required { section.required(key, expected) } else { section.get(key) };
    let number = item?.number(1..=u64::from(SHARDS_MAX))?;
    u16::try_from(number).ok().and_then(Modulus::new)
}
