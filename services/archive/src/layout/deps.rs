//! `--deps`: each Depends and Pre-Depends of each package is met by a package of the channel.
//!
//! Not a resolver: conflicts do not count, and each clause is looked at by itself.

use std::cmp::Ordering;
use std::collections::HashMap;

use super::Check;
use super::debian::{Index, read_paragraphs};
use super::index::IndexKind;
use super::version::compare;
use crate::publish::{Fault, Faults, PublishError, Rule};

/// What meets a name.
struct Provider {
    architecture: String,
    /// `None`: provided without a version, which meets no versioned clause.
    version: Option<String>,
}

type Providers = HashMap<String, Vec<Provider>>;

/// Reads all package indexes twice: for what they provide, then for what they need.
pub(super) fn check(
    check: &Check<'_>,
    indexes: &[Index],
    faults: &mut Faults,
) -> Result<(), PublishError> {
    let packages: Vec<&Index> = indexes
        .iter()
        .filter(|index| index.kind == IndexKind::Packages)
        .collect();
    let mut providers = Providers::new();
    for index in &packages {
        let wanted = ["package", "version", "architecture", "provides"];
        read_paragraphs(check, index, &wanted, &mut |paragraph| {
            provide(&mut providers, &Fields(paragraph))
        })?;
    }
    for index in &packages {
        let architecture = architecture(index);
        let wanted = ["package", "version", "depends", "pre-depends"];
        read_paragraphs(check, index, &wanted, &mut |paragraph| {
            let fields = Fields(paragraph);
            for clause in fields
                .get("depends")
                .iter()
                .chain(&fields.get("pre-depends"))
                .flat_map(|c| c.split(','))
            {
                let clause = clause.trim();
                if !clause.is_empty()
                    && !clause
                        .split('|')
                        .any(|one| is_met(one, &architecture, &providers))
                {
                    let of = format!(
                        "{} {}",
                        fields.get("package").unwrap_or("?"),
                        fields.get("version").unwrap_or("")
                    );
                    let expected = format!("a package that meets {clause:?} of {}", of.trim_end());
                    faults.push(Fault::new(
                        index.path.as_bytes(),
                        Rule::Dependency,
                        expected,
                        "none",
                    ));
                }
            }
        })?;
    }
    Ok(())
}

/// One paragraph's fields.
struct Fields<'a>(&'a [(String, String)]);

impl Fields<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(field, _)| field == name)
            .map(|(_, value)| value.as_str())
    }
}

/// The architecture of `…/binary-amd64/Packages`.
fn architecture(index: &Index) -> String {
    let folder = index
        .path
        .as_bytes()
        .rsplit(|&b| b == b'/')
        .nth(1)
        .unwrap_or_default();
    String::from_utf8_lossy(folder.strip_prefix(b"binary-").unwrap_or(b"all")).into_owned()
}

fn provide(providers: &mut Providers, fields: &Fields<'_>) {
    let Some(package) = fields.get("package") else {
        return;
    };
    let architecture = fields.get("architecture").unwrap_or("all");
    let mut add = |name: &str, version: Option<&str>| {
        providers
            .entry(name.to_owned())
            .or_default()
            .push(Provider {
                architecture: architecture.to_owned(),
                version: version.map(str::to_owned),
            });
    };
    add(package, fields.get("version"));
    for provided in fields
        .get("provides")
        .into_iter()
        .flat_map(|list| list.split(','))
    {
        let Relation { name, bound, .. } = relation(provided);
        if !name.is_empty() {
            add(
                name,
                bound
                    .filter(|(operator, _)| *operator == "=")
                    .map(|(_, version)| version),
            );
        }
    }
}

/// One package that is asked for, or provided: `name:qualifier (operator version)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relation<'t> {
    /// The package.
    pub name: &'t str,
    /// An architecture, or `any`.
    pub qualifier: Option<&'t str>,
    /// Operator and version.
    pub bound: Option<(&'t str, &'t str)>,
}

/// Takes a relation apart. What is none is one that nothing meets.
pub fn relation(text: &str) -> Relation<'_> {
    let (name, bound) = match text.split_once('(') {
        Some((name, bound)) => (
            name.trim(),
            Some(bound.trim_end().trim_end_matches(')').trim()),
        ),
        None => (text.trim(), None),
    };
    let (name, qualifier) = match name.split_once(':') {
        Some((name, qualifier)) => (name, Some(qualifier)),
        None => (name, None),
    };
    let bound = bound.map(|bound| {
        let end = bound
            .find(|c: char| !"<>=".contains(c))
            .unwrap_or(bound.len());
        (&bound[..end], bound[end..].trim())
    });
    Relation {
        name,
        qualifier,
        bound,
    }
}

fn is_met(one: &str, architecture: &str, providers: &Providers) -> bool {
    let Relation {
        name,
        qualifier,
        bound,
    } = relation(one);
    let fits = |provider: &Provider| {
        let here = provider.architecture == architecture
            || provider.architecture == "all"
            || architecture == "all"
            || qualifier == Some("any")
            || qualifier == Some(&provider.architecture);
        here && bound.is_none_or(|(operator, wanted)| {
            provider
                .version
                .as_ref()
                .is_some_and(|version| is_within(compare(version, wanted), operator))
        })
    };
    providers
        .get(name)
        .is_some_and(|providers| providers.iter().any(fits))
}

fn is_within(order: Ordering, operator: &str) -> bool {
    match operator {
        "<<" => order.is_lt(),
        "<=" | "<" => order.is_le(),
        "=" => order.is_eq(),
        ">=" | ">" => order.is_ge(),
        ">>" => order.is_gt(),
        _unknown => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn providers() -> Providers {
        let mut providers = Providers::new();
        let mut add = |fields: &[(&str, &str)]| {
            let owned: Vec<_> = fields
                .iter()
                .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
                .collect();
            provide(&mut providers, &Fields(&owned));
        };
        add(&[
            ("package", "libc6"),
            ("version", "2.36-9"),
            ("architecture", "amd64"),
            ("provides", "libc, libc-abi (= 3)"),
        ]);
        add(&[
            ("package", "data"),
            ("version", "1"),
            ("architecture", "all"),
        ]);
        add(&[
            ("package", "python3"),
            ("version", "3.11"),
            ("architecture", "arm64"),
        ]);
        providers
    }

    #[test]
    fn clauses_are_met_by_name_version_and_architecture() {
        let providers = providers();
        for met in [
            "libc6",
            "libc6 (>= 2.14)",
            "libc6 (<< 2.36-9+deb12u1)",
            "libc",
            "libc-abi (>= 2)",
            "data (= 1)",
            "python3:any",
            "libc6:amd64",
        ] {
            assert!(is_met(met, "amd64", &providers), "{met}");
        }
        for unmet in [
            "libc6 (>> 2.36-9)",
            "libc (>= 1)",
            "python3",
            "missing",
            "libc6 (~ 2)",
        ] {
            assert!(!is_met(unmet, "amd64", &providers), "{unmet}");
        }
        assert!(is_met("python3", "arm64", &providers));
    }
}
