//! Runs a model to its end, or to the first fault, and says what that took.

use std::fmt::Debug;
use std::hash::Hash;
use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model};

pub fn soak() -> bool {
    std::env::var_os("MODSHIFT_SOAK").is_some()
}

/// Every state that there is. The property that failed, and the shortest way there.
pub fn explore<M>(name: &str, model: M) -> Result<usize, (&'static str, String)>
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + PartialEq + Hash + Send + Sync,
    M::Action: Clone + Debug + PartialEq + Send + Sync,
{
    let begun = Instant::now();
    let checker = model.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let (states, deep) = (checker.unique_state_count(), checker.max_depth());
    let properties = checker.model().properties();
    let discoveries = checker.discoveries();
    let failed = properties.iter().find_map(|property| {
        let found = discoveries.get(property.name);
        match (property.expectation.discovery_is_failure(), found) {
            (true, Some(path)) => {
                let mut text = String::new();
                for action in path.clone().into_actions() {
                    text += &format!("  {action:?}\n");
                }
                Some((property.name, format!("{text}{:#?}", path.last_state())))
            }
            _ => None,
        }
    });
    // What never happens counts only once everything has been tried.
    let failed = failed.or_else(|| {
        let never = |name| !discoveries.contains_key(name);
        let wanted = |p: &&stateright::Property<M>| !p.expectation.discovery_is_failure();
        let property = properties.iter().filter(wanted).find(|p| never(p.name))?;
        Some((property.name, "never happens".to_owned()))
    });
    let outcome = failed.as_ref().map_or("holds", |(name, _)| name);
    let seconds = begun.elapsed().as_secs_f64();
    println!("{name}: {outcome}; {states} states, {deep} deep, {seconds:.1} s");
    failed.map_or(Ok(states), Err)
}
