//! Runs a model through every interleaving, and says how much that was.

use std::collections::BTreeSet;
use std::hash::Hash;
use std::time::Instant;

use stateright::{Checker as _, Expectation, HasDiscoveries, Model, Path, Property};

/// How far the models go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bound {
    /// In a debug build within seconds.
    Small,
    /// What `just model` checks, optimised.
    Large,
}

impl Bound {
    /// `MODEL_BOUND=large` asks for the large one.
    pub(crate) fn asked() -> Self {
        match std::env::var("MODEL_BOUND").as_deref() {
            Ok("large") => Self::Large,
            Ok(_) | Err(_) => Self::Small,
        }
    }
}

/// Visits every state: no `always` may fail in one, and each `sometimes` must be met.
#[allow(
    clippy::disallowed_methods,
    reason = "how long the checker took is for people, and decides nothing"
)]
pub(crate) fn holds<M>(name: &str, model: M)
where
    M: Model + Send + Sync + 'static,
    M::State: Hash + Send + Sync + Clone + PartialEq + std::fmt::Debug,
    M::Action: Clone + PartialEq + std::fmt::Debug,
{
    let began = Instant::now();
    let properties = model.properties();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let finish = HasDiscoveries::AnyFailures;
    let checker = model
        .checker()
        .threads(threads)
        .finish_when(finish)
        .spawn_bfs()
        .join();
    println!(
        "{name}: {} states generated, {} unique, depth {}, {:.1} s",
        checker.state_count(),
        checker.unique_state_count(),
        checker.max_depth(),
        began.elapsed().as_secs_f64()
    );
    let found = checker.discoveries();
    for property in &properties {
        let path = found.get(property.name);
        match (&property.expectation, path) {
            (Expectation::Sometimes, None) => panic!("{name}: never: {}", property.name),
            (Expectation::Always | Expectation::Eventually, Some(path)) => {
                let (actions, state) = first(checker.model(), property, path);
                panic!(
                    "{name}: violated: {}\n{actions:#?}\n{state:#?}",
                    property.name
                );
            }
            (Expectation::Sometimes, Some(_))
            | (Expectation::Always | Expectation::Eventually, None) => {}
        }
    }
    println!("{name}: {} properties", properties.len());
}

/// Looks for the shortest path on which `property` fails, and fails without one.
pub(crate) fn breaks<M>(name: &str, model: M, property: &'static str)
where
    M: Model + Send + Sync + 'static,
    M::State: Hash + Send + Sync + Clone + PartialEq + std::fmt::Debug,
    M::Action: Clone + PartialEq + std::fmt::Debug,
{
    let finish = HasDiscoveries::AnyOf(BTreeSet::from([property]));
    let checker = model.checker().finish_when(finish).spawn_bfs().join();
    let Some(path) = checker.discovery(property) else {
        panic!(
            "{name}: {} states, and none violates: {property}",
            checker.unique_state_count()
        );
    };
    let properties = checker.model().properties();
    let mut named = properties.iter().filter(|one| one.name == property);
    let (actions, _) = first(checker.model(), named.next().unwrap(), &path);
    println!(
        "{name}: violates \"{property}\" after {} actions: {actions:?}",
        actions.len()
    );
}

/// The path up to the first state that violates: the checker goes on for a while after it has seen one.
fn first<M: Model>(
    model: &M,
    property: &Property<M>,
    path: &Path<M::State, M::Action>,
) -> (Vec<M::Action>, M::State)
where
    M::State: Clone + PartialEq,
    M::Action: Clone + PartialEq,
{
    let mut actions = Vec::new();
    for (state, action) in path.clone().into_vec() {
        let Some(action) = action.filter(|_| (property.condition)(model, &state)) else {
            return (actions, state);
        };
        actions.push(action);
    }
    (actions, path.last_state().clone())
}
