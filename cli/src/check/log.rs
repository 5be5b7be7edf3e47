//! The change log: can the brokers be reached, and is the topic, if it is there, as it must be?

use modshift_changelog::{LogError, ensure_topic};
use modshift_proto::plan::{Log, Plan};

use crate::check::fault::{Fault, Severity};

pub async fn check(plan: &Plan) -> Vec<Fault> {
    let Log::Kafka(kafka) = &plan.log else { return Vec::new() };
    // Creates the topic where it is missing: as harmless now as when the first daemon starts.
    match ensure_topic(kafka, plan.new_modulus.get()).await {
        Ok(()) => Vec::new(),
        Err(error) => vec![fault(&error)],
    }
}

fn fault(error: &LogError) -> Fault {
    let fault = Fault::new(Severity::Fault, "log", "change log", error.to_string());
    let fault = fault.expected("brokers that answer, and a topic as modshift makes it");
    fault.mend(error.hint().unwrap_or("check [log] of the plan"))
}
