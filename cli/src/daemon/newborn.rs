//! Counters that are seen to be born.
//!
//! Prometheus' `increase()` begins with the first value that it has seen of a series: one that appears
//! as 1 has not increased, and an alert on it stays silent. Which labels a counter will have is often
//! known only at its first event. So what is counted before the series has been shown once, as zero,
//! is added after that: the event is one scrape late, and no event is hidden.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use metrics::{
    Counter, CounterFn, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};
use metrics_exporter_prometheus::PrometheusHandle;

/// A recorder whose counters are shown as zero first.
pub struct Newborn<R> {
    inner: R,
    counters: Counters,
}

/// All counters that there are.
#[derive(Clone, Default)]
pub struct Counters(Arc<RwLock<HashMap<Key, Arc<Held>>>>);

struct Held {
    counter: Counter,
    /// Counted before it was shown.
    held: AtomicU64,
    shown: AtomicBool,
}

impl Held {
    fn let_go(&self) {
        let held = self.held.swap(0, Ordering::SeqCst);
        if held > 0 {
            self.counter.increment(held);
        }
    }
}

impl CounterFn for Held {
    fn increment(&self, value: u64) {
        if self.shown.load(Ordering::SeqCst) {
            self.counter.increment(value);
            return;
        }
        self.held.fetch_add(value, Ordering::SeqCst);
        // It may have been shown just now.
        if self.shown.load(Ordering::SeqCst) {
            self.let_go();
        }
    }

    fn absolute(&self, value: u64) {
        self.counter.absolute(value);
    }
}

impl Counters {
    fn of(&self, key: &Key, register: impl FnOnce() -> Counter) -> Counter {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned();
        let held = known.unwrap_or_else(|| {
            let mut counters = self.0.write().unwrap_or_else(PoisonError::into_inner);
            let held = counters.entry(key.clone()).or_insert_with(|| {
                let counter = register();
                // So that it is shown.
                counter.increment(0);
                Arc::new(Held { counter, held: AtomicU64::new(0), shown: AtomicBool::new(false) })
            });
            held.clone()
        });
        Counter::from_arc(held)
    }

    fn unshown(&self) -> Vec<Arc<Held>> {
        let counters = self.0.read().unwrap_or_else(PoisonError::into_inner);
        counters.values().filter(|held| !held.shown.load(Ordering::SeqCst)).cloned().collect()
    }
}

impl<R: Recorder> Newborn<R> {
    pub fn new(inner: R) -> Newborn<R> {
        Newborn { inner, counters: Counters::default() }
    }

    pub fn counters(&self) -> Counters {
        self.counters.clone()
    }
}

/// What /metrics shows.
#[derive(Clone)]
pub struct Exported {
    pub handle: PrometheusHandle,
    pub counters: Counters,
}

impl Exported {
    pub fn render(&self) -> String {
        let unshown = self.counters.unshown();
        let text = self.handle.render();
        for held in unshown {
            held.shown.store(true, Ordering::SeqCst);
            held.let_go();
        }
        text
    }
}

impl<R: Recorder> Recorder for Newborn<R> {
    fn describe_counter(&self, key: KeyName, unit: Option<Unit>, text: SharedString) {
        self.inner.describe_counter(key, unit, text);
    }

    fn describe_gauge(&self, key: KeyName, unit: Option<Unit>, text: SharedString) {
        self.inner.describe_gauge(key, unit, text);
    }

    fn describe_histogram(&self, key: KeyName, unit: Option<Unit>, text: SharedString) {
        self.inner.describe_histogram(key, unit, text);
    }

    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> Counter {
        self.counters.of(key, || self.inner.register_counter(key, metadata))
    }

    fn register_gauge(&self, key: &Key, metadata: &Metadata<'_>) -> Gauge {
        self.inner.register_gauge(key, metadata)
    }

    fn register_histogram(&self, key: &Key, metadata: &Metadata<'_>) -> Histogram {
        self.inner.register_histogram(key, metadata)
    }
}

#[cfg(test)]
mod tests {
    use metrics::{counter, with_local_recorder};
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    #[test]
    fn a_series_is_shown_as_zero_before_it_counts() {
        let prometheus = PrometheusBuilder::new().build_recorder();
        let handle = prometheus.handle();
        let recorder = Newborn::new(prometheus);
        let exported = Exported { handle, counters: recorder.counters() };
        let shows = |line: &str| {
            let text = exported.render();
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        };
        let count = |reason: &'static str, value| {
            with_local_recorder(&recorder, || {
                counter!("modshift_halts_total", "reason" => reason).increment(value);
            });
        };
        count("stray", 1);
        count("stray", 2);
        shows("modshift_halts_total{reason=\"stray\"} 0");
        shows("modshift_halts_total{reason=\"stray\"} 3");
        count("stray", 1);
        count("panic", 5);
        shows("modshift_halts_total{reason=\"stray\"} 4");
        shows("modshift_halts_total{reason=\"panic\"} 5");
    }
}
