//! One suite: its Release, and the names that it lists.

use std::collections::{BTreeMap, BTreeSet};

use mirrorlog_core::manifest::FileEntry;
use mirrorlog_core::path::EntryPath;

use super::super::checksum::{Algorithm, Stated, Sum};
use super::super::index::IndexKind;
use super::super::openpgp;
use super::super::release::{Release, ReleaseError};
use super::super::unpack::Packing;
use super::Check;
use crate::publish::{Fault, Faults, PublishError, Rule, View};

/// An index that is there and has to be read.
#[derive(Clone, Debug)]
pub(crate) struct Index {
    pub(crate) path: EntryPath,
    pub(crate) file: FileEntry,
    pub(crate) kind: IndexKind,
    pub(crate) packing: Packing,
    /// What it unpacks to, as the Release says.
    pub(crate) unpacked: Option<Stated>,
}

/// Checks a suite's Release and what it lists; returns its indexes, one for each name.
pub(super) fn check(
    check: &Check<'_>,
    folder: &[u8],
    faults: &mut Faults,
) -> Result<Vec<Index>, PublishError> {
    let at = |name: &str| [folder, b"/", name.as_bytes()].concat();
    let plain = parse(check, &check.view, &at("Release"), Release::parse, faults)?;
    let signed = parse(
        check,
        &check.view,
        &at("InRelease"),
        Release::parse_signed,
        faults,
    )?;
    if let (Some(plain), Some(signed)) = (&plain, &signed)
        && plain != signed
    {
        let found = disagreement(plain, signed);
        faults.push(Fault::new(
            &at("InRelease"),
            Rule::Disagree,
            "what Release says",
            found,
        ));
    }
    let has_both = plain.is_some() && signed.is_some();
    let name = if signed.is_some() {
        "InRelease"
    } else {
        "Release"
    };
    let Some(release) = signed.or(plain) else {
        return Ok(Vec::new());
    };
    if release.listed.is_empty() {
        // Folders such as main/binary-amd64 have a Release of another kind.
        let is_suite =
            release.fields.contains_key("codename") || release.fields.contains_key("date");
        if is_suite {
            faults.push(Fault::new(
                &at(name),
                Rule::Malformed,
                "digests of indexes",
                "none",
            ));
        }
        return Ok(Vec::new());
    }
    expiry(check, &release, &at(name), faults);
    if let Some(keyring) = &check.rules.openpgp_keyring {
        openpgp::check(
            check,
            keyring,
            folder,
            has_both || name == "Release",
            faults,
        )?;
    }
    let before = earlier(check, folder)?;
    listed(check, folder, &release, &before, faults)
}

fn parse(
    check: &Check<'_>,
    view: &View<'_>,
    path: &[u8],
    parse: impl Fn(&[u8]) -> Result<Release, ReleaseError>,
    faults: &mut Faults,
) -> Result<Option<Release>, PublishError> {
    let Some(bytes) = check.read(view, path, faults)? else {
        return Ok(None);
    };
    match parse(&bytes) {
        Ok(release) => Ok(Some(release)),
        Err(error) => {
            faults.push(Fault::new(
                path,
                Rule::Malformed,
                "a Release file",
                error.to_string(),
            ));
            Ok(None)
        }
    }
}

fn disagreement(plain: &Release, signed: &Release) -> String {
    let fields = plain.fields.keys().chain(signed.fields.keys());
    let field = fields
        .into_iter()
        .find(|f| plain.fields.get(*f) != signed.fields.get(*f));
    let names = || plain.listed.keys().chain(signed.listed.keys());
    let name = || names().find(|n| plain.listed.get(*n) != signed.listed.get(*n));
    match (field, name()) {
        (Some(field), _) => format!("another {field}"),
        (None, Some(name)) => format!("other digests of {name}"),
        (None, None) => "something else".to_owned(),
    }
}

fn expiry(check: &Check<'_>, release: &Release, path: &[u8], faults: &mut Faults) {
    match release.date("valid-until") {
        Err(error) => {
            faults.push(Fault::new(
                path,
                Rule::Malformed,
                "dates as in RFC 5322",
                error.to_string(),
            ));
        }
        Ok(Some(until)) if until < check.rules.now && !check.rules.allow_expired => {
            let text = release
                .fields
                .get("valid-until")
                .cloned()
                .unwrap_or_default();
            let expected = "Valid-Until in the future (or --allow-expired)";
            faults.push(Fault::new(path, Rule::Expired, expected, text));
        }
        Ok(_) => {}
    }
}

/// What the base's Release listed, which was checked then.
fn earlier(check: &Check<'_>, folder: &[u8]) -> Result<Release, PublishError> {
    let Some(since) = &check.since else {
        return Ok(Release::default());
    };
    let mut ignored = Faults::default();
    let signed = [folder, b"/InRelease"].concat();
    let plain = [folder, b"/Release"].concat();
    let found = match parse(
        check,
        &since.base,
        &signed,
        Release::parse_signed,
        &mut ignored,
    )? {
        Some(release) => Some(release),
        None => parse(check, &since.base, &plain, Release::parse, &mut ignored)?,
    };
    Ok(found.unwrap_or_default())
}

/// Names of one file in its compressions.
type Group<'a> = Vec<(&'a str, Packing, &'a Stated)>;

fn listed(
    check: &Check<'_>,
    folder: &[u8],
    release: &Release,
    before: &Release,
    faults: &mut Faults,
) -> Result<Vec<Index>, PublishError> {
    let mut groups: BTreeMap<&str, Group<'_>> = BTreeMap::new();
    for (name, stated) in &release.listed {
        // apt-ftparchive lists the file that it is writing.
        if matches!(name.as_str(), "Release" | "InRelease" | "Release.gpg") {
            continue;
        }
        let (packing, plain) = Packing::of(name);
        groups
            .entry(plain)
            .or_default()
            .push((name, packing, stated));
    }
    let mut indexes = Vec::new();
    for (plain, mut group) in groups {
        group.sort_by_key(|(_, packing, _)| *packing);
        let mut index = None;
        let mut any = false;
        for (name, packing, stated) in &group {
            let path = [folder, b"/", name.as_bytes()].concat();
            let Some((at, file)) = check.view.follow(&path)? else {
                continue;
            };
            any = true;
            let known =
                before.listed.get(*name) == Some(*stated) && check.was_there(&at, &file.digest)?;
            if !known && !compare(check, &path, &at, &file, stated, faults)? {
                continue;
            }
            if index.is_none()
                && let Some(kind) = IndexKind::of(plain)
            {
                let unpacked = release.listed.get(plain).cloned();
                index = Some(Index {
                    path: at,
                    file,
                    kind,
                    packing: *packing,
                    unpacked,
                });
            }
        }
        if !any {
            let path = [folder, b"/", plain.as_bytes()].concat();
            let names: BTreeSet<&str> = group.iter().map(|(name, ..)| *name).collect();
            let expected = format!(
                "one of {}",
                names.into_iter().collect::<Vec<_>>().join(", ")
            );
            faults.push(Fault::new(&path, Rule::Missing, expected, "none of them"));
        }
        indexes.extend(index);
    }
    Ok(indexes)
}

/// Compares a file with what is stated of it; true when it is as stated.
pub(super) fn compare(
    check: &Check<'_>,
    path: &[u8],
    at: &EntryPath,
    file: &FileEntry,
    stated: &Stated,
    faults: &mut Faults,
) -> Result<bool, PublishError> {
    if stated.size_bytes != file.size_bytes {
        let (expected, found) = (
            format!("{} bytes", stated.size_bytes),
            format!("{} bytes", file.size_bytes),
        );
        faults.push(Fault::new(path, Rule::Size, expected, found));
        return Ok(false);
    }
    if let Some(sha256) = stated.sha256()
        && sha256 != file.digest
    {
        faults.push(Fault::new(
            path,
            Rule::Digest,
            format!("SHA256 {sha256}"),
            file.digest.to_string(),
        ));
        return Ok(false);
    }
    let mut good = true;
    for sum in stated.to_be_read() {
        let found = hash(check, at, file, sum.algorithm)?;
        if found.as_ref() != Some(&sum.value) {
            good = false;
            faults.push(digest_fault(path, sum, found.as_deref()));
        }
    }
    Ok(good)
}

/// Hashes a file's content; `None` when it went away.
pub(super) fn hash(
    check: &Check<'_>,
    at: &EntryPath,
    file: &FileEntry,
    algorithm: Algorithm,
) -> Result<Option<Vec<u8>>, PublishError> {
    let Some(mut content) = check.view.workspace.content(check.tree, at, file)? else {
        return Ok(None);
    };
    let failed = |e| PublishError::io(&check.tree.path().join(at.to_string()), "read", e);
    algorithm.hash(&mut content).map(Some).map_err(failed)
}

pub(super) fn digest_fault(path: &[u8], sum: &Sum, found: Option<&[u8]>) -> Fault {
    let expected = format!(
        "{} {}",
        sum.algorithm.release_field(),
        hex::encode(&sum.value)
    );
    Fault::new(
        path,
        Rule::Digest,
        expected,
        found.map_or_else(|| "nothing".to_owned(), hex::encode),
    )
}
