//! What modshift is built of is what `deny.toml` allows: licences, sources, and crates that must not
//! come in. `cargo deny` says the same and more, but takes minutes to install.

use std::{collections::BTreeSet, process::Command};

use anyhow::{Context, Result, ensure};
use modshift_tests::place::root;
use serde_json::Value;

/// A licence expression: `OR` (once written `/`) binds less than `AND`, parentheses most. An
/// exception (`WITH`) only adds to what a licence allows.
fn allowed(expression: &str, list: &BTreeSet<String>) -> Result<bool> {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = &words[..];
    let answer = any(&mut rest, list)?;
    ensure!(rest.is_empty(), "not understood: {expression}");
    Ok(answer)
}

fn any(words: &mut &[&str], list: &BTreeSet<String>) -> Result<bool> {
    let mut answer = all(words, list)?;
    while let [first, rest @ ..] = *words
        && *first == "OR"
    {
        *words = rest;
        answer |= all(words, list)?;
    }
    Ok(answer)
}

fn all(words: &mut &[&str], list: &BTreeSet<String>) -> Result<bool> {
    let mut answer = one(words, list)?;
    while let [first, rest @ ..] = *words
        && *first == "AND"
    {
        *words = rest;
        answer &= one(words, list)?;
    }
    Ok(answer)
}

fn one(words: &mut &[&str], list: &BTreeSet<String>) -> Result<bool> {
    let (first, rest) = words.split_first().context("a licence is missing")?;
    *words = rest;
    if *first == "(" {
        let answer = any(words, list)?;
        let (close, rest) = words.split_first().context("a parenthesis is open")?;
        ensure!(*close == ")", "{close} where a parenthesis should end");
        *words = rest;
        return Ok(answer);
    }
    if let ["WITH", _exception, rest @ ..] = *words {
        *words = rest;
    }
    Ok(list.contains(*first))
}

fn texts(value: &Value) -> BTreeSet<String> {
    let list = value.as_array().into_iter().flatten();
    list.filter_map(|item| item.as_str().map(str::to_owned)).collect()
}

#[test]
fn every_dependency_is_allowed() -> Result<()> {
    let rules: toml::Table = std::fs::read_to_string(root().join("deny.toml"))?.parse()?;
    let rules = serde_json::to_value(rules)?;
    let target = rules["graph"]["targets"][0].as_str().context("a target")?;
    // What is built is downloaded already; for other targets it is not.
    let output = Command::new(env!("CARGO"))
        .current_dir(root())
        .args(["metadata", "--format-version=1", "--locked", "--offline"])
        .args(["--filter-platform", target])
        .output()
        .context("running cargo metadata")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let licences = texts(&rules["licenses"]["allow"]);
    let registries = texts(&rules["sources"]["allow-registry"]);
    let banned: BTreeSet<&str> = rules["bans"]["deny"]
        .as_array()
        .context("bans.deny")?
        .iter()
        .filter_map(|ban| ban["crate"].as_str())
        .collect();
    ensure!(!licences.is_empty() && !registries.is_empty() && !banned.is_empty(), "{rules}");
    let packages = metadata["packages"].as_array().context("packages")?;
    ensure!(packages.len() > 100, "{} packages", packages.len());
    let mut faults = Vec::new();
    for package in packages {
        let name = package["name"].as_str().context("a name")?;
        match package["license"].as_str() {
            Some(licence) if allowed(licence, &licences)? => {}
            licence => faults.push(format!("{name}: licence {licence:?}")),
        }
        // None: within the workspace.
        if let Some(source) = package["source"].as_str() {
            let registry = source.strip_prefix("registry+").unwrap_or(source);
            if !registries.contains(registry) {
                faults.push(format!("{name}: comes from {source}"));
            }
        }
        if banned.contains(name) {
            faults.push(format!("{name}: is banned"));
        }
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let any = dependency["req"] == "*" && dependency["path"].is_null();
            if any && package["source"].is_null() {
                faults.push(format!("{name}: any version of {}", dependency["name"]));
            }
        }
    }
    ensure!(faults.is_empty(), "{faults:#?}");
    Ok(())
}

#[test]
fn an_expression_is_allowed_by_what_it_offers() -> Result<()> {
    let list: BTreeSet<String> = ["MIT", "ISC"].map(str::to_owned).into();
    for (expression, expected) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("GPL-3.0 OR MIT", true),
        ("GPL-3.0/MIT", true),
        ("MIT AND GPL-3.0", false),
        ("MIT AND (GPL-3.0 OR ISC)", true),
        ("GPL-3.0 OR MIT AND ISC", true),
        ("(GPL-3.0 OR MIT) AND Zlib", false),
        ("MIT WITH some-exception OR GPL-3.0", true),
    ] {
        ensure!(allowed(expression, &list)? == expected, "{expression}");
    }
    ensure!(allowed("MIT ISC", &list).is_err() && allowed("(MIT", &list).is_err());
    Ok(())
}
