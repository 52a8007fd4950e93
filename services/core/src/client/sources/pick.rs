//! Which suites and components are written.

use super::{Kept, Suite};

/// Why it is not clear what is to be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PickError {
    /// The tree has none.
    #[error("no suite names its components: say --suite and --component")]
    None,
    /// There are several, and none is of this system's release.
    #[error("none of its suites is of this system's release: say --suite, which may be {}", .0.join(", "))]
    Several(Vec<String>),
    /// The tree has no suite of the older file.
    #[error(
        "none of the older file's suites ({}) is there, but {}: say --suite, or --sources with another FILE",
        old.join(", "),
        found.join(", ")
    )]
    Gone {
        /// What the older file says.
        old: Vec<String>,
        /// What is there.
        found: Vec<String>,
    },
}

/// The suites and components to write: those that are asked for; else those of the older file that are still there;
/// else those of the system's own release; else the only one.
///
/// # Errors
/// [`PickError`], where nobody said which of several: a release that is not the system's own is never enabled by
/// itself.
pub fn pick(
    found: &[Suite],
    suites: &[String],
    components: &[String],
    kept: &Kept,
    codename: Option<&str>,
) -> Result<Vec<Suite>, PickError> {
    let mut picked = named(found, suites, kept, codename)?;
    for suite in &mut picked {
        if !components.is_empty() {
            suite.components = components.to_vec();
            continue;
        }
        let narrowed: Vec<String> = suite
            .components
            .iter()
            .filter(|one| kept.components.contains(one))
            .cloned()
            .collect();
        if !narrowed.is_empty() {
            suite.components = narrowed;
        }
    }
    Ok(picked)
}

fn named(
    found: &[Suite],
    suites: &[String],
    kept: &Kept,
    codename: Option<&str>,
) -> Result<Vec<Suite>, PickError> {
    let those = |wanted: &dyn Fn(&Suite) -> bool| -> Vec<Suite> {
        found
            .iter()
            .filter(|suite| wanted(suite))
            .cloned()
            .collect()
    };
    if !suites.is_empty() {
        let asked = suites.iter().map(|name| {
            let known = found.iter().find(|suite| suite.name == *name).cloned();
            known.unwrap_or_else(|| Suite {
                name: name.clone(),
                components: Vec::new(),
            })
        });
        return Ok(asked.collect());
    }
    if found.is_empty() {
        return Err(PickError::None);
    }
    let names = || found.iter().map(|suite| suite.name.clone()).collect();
    if !kept.suites.is_empty() {
        let still = those(&|suite| kept.suites.contains(&suite.name));
        if still.is_empty() {
            return Err(PickError::Gone {
                old: kept.suites.clone(),
                found: names(),
            });
        }
        return Ok(still);
    }
    let own = those(&|suite| {
        let rest = codename.and_then(|codename| suite.name.strip_prefix(codename));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '/']))
            && !suite.name.contains("proposed")
    });
    match (own.is_empty(), found) {
        (false, _) => Ok(own),
        (true, [only]) => Ok(vec![only.clone()]),
        (true, _several) => Err(PickError::Several(names())),
    }
}
