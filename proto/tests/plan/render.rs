//! The rendered plan reads back, whatever was done to its text, and shows no secret.

use modshift_proto::plan::{Log, Plan, Secret};
use proptest::prelude::*;

use crate::{changed, orders, parse};

/// Secrets as they come out of a rendered plan.
pub fn redacted(mut plan: Plan) -> Plan {
    let hidden = || Secret::new("<redacted>".to_owned());
    plan.old.iter_mut().chain(&mut plan.new).for_each(|shard| shard.password = hidden());
    if let Some(rehearse) = &mut plan.rehearse {
        let shards = rehearse.old.iter_mut().chain(&mut rehearse.new);
        shards.for_each(|shard| shard.password = hidden());
    }
    if let Some(topology) = &mut plan.topology {
        topology.replication.password = hidden();
        topology.watch.password = hidden();
    }
    if let Log::Kafka(kafka) = &mut plan.log {
        kafka.properties.iter_mut().for_each(|(_, value)| *value = hidden());
    }
    // It is not rendered at all: what stands for it would be a token that anyone can read.
    plan.control.token = None;
    plan
}

#[test]
fn the_rendered_plan_reads_back_without_its_secrets() {
    let properties = "[log.properties]\nsasl.password = \"hunter2\"\n\"ssl.ca.location\" = \"x\"\n\
                      [control]\ntoken = \"hunter2-and-more\"\n\
                      [back]\nverify_age = \"2h\"\n\
                      [gate]\nverify_age = \"1h\"\n";
    let plan = parse(&changed("[gate]\n", properties)).unwrap();
    let Log::Kafka(kafka) = &plan.log else { panic!("{:?}", plan.log) };
    let names: Vec<&str> = kafka.properties.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["sasl.password", "ssl.ca.location"]);
    let text = plan.render_redacted();
    for shown in [text.clone(), format!("{plan:?}")] {
        assert!(!shown.contains("s3cret") && !shown.contains("hunter2"), "{shown}");
    }
    assert_eq!(parse(&text).unwrap(), redacted(plan));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever is done to a plan's text, it is read or refused, and never without a reason.
    #[test]
    fn no_text_is_too_odd(at in 0usize..1000, cut in 0usize..40, put in "\\PC{0,12}|[\\[\\]{}=\"'\n.#$]{0,6}") {
        let mut text: Vec<char> = orders().chars().collect();
        let at = at.min(text.len());
        let end = (at + cut).min(text.len());
        text.splice(at..end, put.chars());
        let text: String = text.into_iter().collect();
        match parse(&text) {
            Ok(plan) => prop_assert_eq!(parse(&plan.render_redacted()).unwrap(), redacted(plan)),
            Err(errors) => prop_assert!(!errors.faults.is_empty()),
        }
    }
}
