//! What a client takes from its source, step by step.

use std::collections::BTreeMap;

use super::*;
use crate::document::{DefaultRule, FORMAT, Shard, Side};

fn document(plan: &str, version: u64) -> Document {
    let shard = |index| Shard {
        index,
        host: "h".to_owned(),
        port: 1,
        schema: "s".to_owned(),
        server: None,
    };
    Document {
        format: FORMAT,
        plan: plan.to_owned(),
        version,
        side: Side::Old,
        modulus: 2,
        shards: vec![shard(0), shard(1)],
        tables: BTreeMap::new(),
        default: Some(DefaultRule::FloorMod),
    }
}

#[test]
fn a_client_never_goes_back_and_says_why_not() {
    let mut state = State::default();
    let now = Instant::now();
    let mut check = |read: Result<Option<Document>, String>, version: u64, fault: Option<&str>| {
        let before = state.version();
        let newer = state.take(read, now);
        assert_eq!(newer, version > before);
        assert_eq!(state.version(), version);
        assert_eq!(state.fault.as_deref(), fault);
    };
    check(Err("away".to_owned()), 0, Some("away"));
    check(Ok(Some(document("a", 3))), 3, None);
    check(Ok(None), 3, None);
    check(Ok(Some(document("a", 2))), 3, Some("it went back to version 2"));
    check(Ok(None), 3, Some("it went back to version 2"));
    check(Ok(Some(document("b", 9))), 3, Some("it holds the routing of plan b now"));
    let other = Document { side: Side::New, ..document("a", 3) };
    check(Ok(Some(other)), 3, Some("it has another document of version 3"));
    check(Ok(Some(document("a", 3))), 3, None);
    check(Err("away".to_owned()), 3, Some("away"));
    check(Ok(Some(document("a", 5))), 5, None);
}
