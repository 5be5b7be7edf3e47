//! All metric names of this crate, described with their unit.

use metrics::{Unit, counter, describe_counter};

const KAFKA_ERRORS: &str = "modshift_kafka_errors_total";
const KAFKA_QUEUE_FULL: &str = "modshift_kafka_queue_full_total";

/// Tells the recorder what the metrics of the change log mean; call it once a recorder is there.
pub fn describe() {
    describe_counter!(
        KAFKA_ERRORS,
        Unit::Count,
        "errors that the Kafka client reported, most of which it survives by itself"
    );
    describe_counter!(
        KAFKA_QUEUE_FULL,
        Unit::Count,
        "times that a message waited because the bytes in flight to Kafka were used up"
    );
}

/// `client`: writer, reader or admin. `code`: librdkafka's name of the error.
pub(crate) fn kafka_error(client: &'static str, code: String) {
    counter!(KAFKA_ERRORS, "client" => client, "code" => code).increment(1);
}

pub(crate) fn kafka_queue_full() {
    counter!(KAFKA_QUEUE_FULL).increment(1);
}
