//! Which way a stream runs, said with everything that it measures.
//!
//! The crates below know streams, not directions: source 0 of the way back is new shard 0. So each
//! stream's task carries its direction, and the recorder adds it as a label to whatever that task
//! counts. What no stream counts has none.

use metrics::{
    Counter, Gauge, Histogram, Key, KeyName, Label, Metadata, Recorder, SharedString, Unit,
};
use modshift_proto::plan::Direction;

tokio::task_local! {
    static DIRECTION: Direction;
}

/// Runs a stream under its direction.
pub async fn within<F: Future>(direction: Direction, stream: F) -> F::Output {
    DIRECTION.scope(direction, stream).await
}

/// A recorder that labels what streams count with their direction.
pub struct Directed<R>(pub R);

fn directed(key: &Key) -> Option<Key> {
    let direction = DIRECTION.try_with(|direction| direction.name()).ok()?;
    Some(key.with_extra_labels(vec![Label::from_static_parts("direction", direction)]))
}

impl<R: Recorder> Recorder for Directed<R> {
    fn describe_counter(&self, key: KeyName, unit: Option<Unit>, text: SharedString) {
        self.0.describe_counter(key, unit, text);
    }

    fn describe_gauge(&self, key: KeyName, unit: Option<Unit>, text: SharedString) {
        self.0.describe_gauge(key, unit, text);
    }

    fn describe_histogram(&self, key: KeyName, unit: Option<Unit>, text: SharedString) {
        self.0.describe_histogram(key, unit, text);
    }

    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> Counter {
        self.0.register_counter(directed(key).as_ref().unwrap_or(key), metadata)
    }

    fn register_gauge(&self, key: &Key, metadata: &Metadata<'_>) -> Gauge {
        self.0.register_gauge(directed(key).as_ref().unwrap_or(key), metadata)
    }

    fn register_histogram(&self, key: &Key, metadata: &Metadata<'_>) -> Histogram {
        self.0.register_histogram(directed(key).as_ref().unwrap_or(key), metadata)
    }
}

#[cfg(test)]
mod tests {
    use metrics::{counter, with_local_recorder};
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    #[test]
    fn a_stream_s_numbers_carry_its_direction() {
        let prometheus = PrometheusBuilder::new().build_recorder();
        let handle = prometheus.handle();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        with_local_recorder(&Directed(prometheus), || {
            let count = || counter!("modshift_things_total", "source" => "0").increment(1);
            runtime.block_on(within(Direction::Back, async { count() }));
            runtime.block_on(within(Direction::Forward, async { count() }));
            count();
        });
        let text = handle.render();
        for line in [
            "modshift_things_total{source=\"0\",direction=\"back\"} 1",
            "modshift_things_total{source=\"0\",direction=\"forward\"} 1",
            "modshift_things_total{source=\"0\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
    }
}
