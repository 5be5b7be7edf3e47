//! The known word nearest to a mistyped one.

/// The word of `known` with the smallest edit distance, unless more than half of it is wrong.
pub(super) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let (found, distance) = known
        .iter()
        .map(|&candidate| (candidate, distance(word, candidate)))
        .min_by_key(|&(_, distance)| distance)?;
    (distance <= (found.chars().count() / 2).max(1)).then_some(found)
}

/// Levenshtein's: insertions, deletions and replacements of one character, row by row.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (index, l) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for (at, &r) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(l != r);
            diagonal = row[at + 1];
            row[at + 1] = replaced.min(diagonal + 1).min(row[at] + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_its_word_and_a_stranger_none() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        let known = ["max_lag", "max_lag_groups", "hold", "verify_age"];
        assert_eq!(nearest("maxlag", &known), Some("max_lag"));
        assert_eq!(nearest("max_lag_group", &known), Some("max_lag_groups"));
        assert_eq!(nearest("verfy-age", &known), Some("verify_age"));
        assert_eq!(nearest("compression", &known), None);
        assert_eq!(nearest("x", &[]), None);
    }
}
