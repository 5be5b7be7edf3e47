//! What a stream waits for that passes by itself: since when, in words, and what would hasten it.

use std::time::{Duration, Instant};

/// One that is over for less than this, and comes again, is the same one: a stream that tries once more
/// runs for a moment each time.
const SAME_WITHIN: Duration = Duration::from_secs(10);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    pub since: Instant,
    pub what: String,
    pub hint: Option<String>,
}

/// Kept by the stream, shown by whoever looks.
#[derive(Clone, Debug, Default)]
pub struct Waits {
    now: Option<Wait>,
    /// When the last one had begun, and when it was over.
    last: Option<(Instant, Instant)>,
}

impl Waits {
    /// The stream waits, for this by now. How long it has.
    pub fn begin(&mut self, what: String, hint: Option<String>) -> Duration {
        self.begin_at(Instant::now(), what, hint)
    }

    fn begin_at(&mut self, at: Instant, what: String, hint: Option<String>) -> Duration {
        let again = |(since, over): (Instant, Instant)| {
            (at.duration_since(over) < SAME_WITHIN).then_some(since)
        };
        let since = match &self.now {
            Some(wait) => wait.since,
            None => self.last.and_then(again).unwrap_or(at),
        };
        self.now = Some(Wait { since, what, hint });
        at.duration_since(since)
    }

    pub fn over(&mut self) {
        self.over_at(Instant::now());
    }

    fn over_at(&mut self, at: Instant) {
        if let Some(wait) = self.now.take() {
            self.last = Some((wait.since, at));
        }
    }

    pub fn now(&self) -> Option<&Wait> {
        self.now.as_ref()
    }

    /// `since 12 s: …; …`
    pub fn line(&self) -> Option<String> {
        let Wait { since, what, hint } = self.now.as_ref()?;
        let hint = hint.as_ref().map(|hint| format!("; {hint}")).unwrap_or_default();
        Some(format!("since {} s: {what}{hint}", since.elapsed().as_secs()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_goes_on_through_the_moments_in_which_it_is_tried_again() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let mut waits = Waits::default();
        let begin = |waits: &mut Waits, seconds, what: &str| {
            waits.begin_at(at(seconds), what.to_owned(), None).as_secs()
        };
        assert_eq!(begin(&mut waits, 0, "a"), 0);
        assert_eq!(begin(&mut waits, 5, "b"), 5, "what it is may change");
        waits.over_at(at(6));
        assert!(waits.now().is_none() && waits.line().is_none());
        assert_eq!(begin(&mut waits, 7, "b"), 7);
        waits.over_at(at(8));
        assert_eq!(begin(&mut waits, 30, "b"), 0, "another one");
        assert_eq!(waits.now().map(|wait| wait.what.as_str()), Some("b"));
    }
}
