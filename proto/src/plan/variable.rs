//! `${NAME}` in a string of the plan: the variable of that name in the environment.

/// Fills in every variable. `$${` stands for `${`; any other `$` for itself. On failure, every
/// fault, which names variables but never their values.
pub(super) fn expand(
    text: &str,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<String, Vec<String>> {
    let mut out = String::with_capacity(text.len());
    let mut faults = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            out.push_str(&rest[..at - 1]);
            out.push_str("${");
            rest = &rest[at + 2..];
            continue;
        }
        out.push_str(&rest[..at]);
        let after = &rest[at + 2..];
        let Some((name, tail)) = after.split_once('}').filter(|(name, _)| is_name(name)) else {
            faults.push("expected ${NAME}, a letter or _ first, or $${ for a plain ${".to_owned());
            rest = after;
            continue;
        };
        match env(name) {
            Some(value) => out.push_str(&value),
            None => faults.push(format!("the environment has no variable {name}")),
        }
        rest = tail;
    }
    out.push_str(rest);
    if faults.is_empty() { Ok(out) } else { Err(faults) }
}

fn is_name(text: &str) -> bool {
    let mut characters = text.chars();
    characters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && characters.all(|next| next.is_ascii_alphanumeric() || next == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<&str, usize>) {
        let env = |name: &str| match name {
            "A" => Some("one".to_owned()),
            "B_2" => Some("${A}".to_owned()),
            _ => None,
        };
        let found = expand(text, &env);
        assert_eq!(found.as_deref().map_err(Vec::len), expected, "{text}");
    }

    #[test]
    fn variables_are_filled_in_once_and_every_missing_one_is_named() {
        check("", Ok(""));
        check("$ $$ {A} $A 100$", Ok("$ $$ {A} $A 100$"));
        check("x${A}y${A}", Ok("xoneyone"));
        check("${B_2}", Ok("${A}")); // what comes from outside is not read again
        check("$${A}${A}", Ok("${A}one"));
        check("${C} ${A} ${D}", Err(2));
        check("${A", Err(1));
        check("${}${1}${A}", Err(2));
    }
}
