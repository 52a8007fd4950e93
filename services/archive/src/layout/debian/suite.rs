//! One suite: its Release, and the names that it lists.

use std::collections::{BTreeMap, BTreeSet};

use mirrorlog_core::limits::CLOCK_SKEW_MS;
use mirrorlog_core::manifest::FileEntry;
use mirrorlog_core::path::EntryPath;

use super::super::checksum::{Algorithm, Stated, Sum};
use super::super::index::IndexKind;
use super::super::openpgp;
use super::super::release::{Release, ReleaseError};
use super::super::unpack::Packing;
use super::Check;
use super::architectures::Architectures;
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
    /// It was read, as it is, when the base was checked.
    pub(crate) known: bool,
}

/// What a suite has.
#[derive(Default)]
pub(super) struct Suite {
    /// One for each name.
    pub(super) indexes: Vec<Index>,
    /// Paths with other content than in the base that are the suite's own: no index names them.
    pub(super) own: Vec<EntryPath>,
}

/// Checks a suite's Release and what it lists.
pub(super) fn check(
    check: &Check<'_>,
    folder: &[u8],
    faults: &mut Faults,
) -> Result<Suite, PublishError> {
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
        return Ok(Suite::default());
    };
    if release.listed.is_empty() {
        // Folders such as main/binary-amd64 have a Release of another kind, which says of what it is.
        let has = |field| release.fields.contains_key(field);
        if (has("codename") || has("date")) && !has("architecture") {
            faults.push(Fault::new(
                &at(name),
                Rule::Malformed,
                "digests of indexes",
                "none",
            ));
        }
        return Ok(Suite::default());
    }
    dates(check, &release, &at(name), faults);
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
    Ok(Suite {
        indexes: listed(check, folder, &release, &before, faults)?,
        own: own(check, folder, &release),
    })
}

/// Of the paths that changed: the suite's Release, what that lists, and what lies in by-hash folders.
fn own(check: &Check<'_>, folder: &[u8], release: &Release) -> Vec<EntryPath> {
    let is_own = |path: &&EntryPath| {
        let name = path.as_bytes().strip_prefix(folder);
        let name = name.and_then(|name| std::str::from_utf8(name.strip_prefix(b"/")?).ok());
        name.is_some_and(|name| {
            SIGNED.contains(&name)
                || name.contains("/by-hash/")
                || release.listed.contains_key(name)
        })
    };
    let lost = check.since.iter().flat_map(|since| &since.lost);
    lost.filter(is_own).cloned().collect()
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

/// apt takes a Release neither before its Date nor after its Valid-Until.
fn dates(check: &Check<'_>, release: &Release, path: &[u8], faults: &mut Faults) {
    let text = |field: &str| release.fields.get(field).cloned().unwrap_or_default();
    let malformed = |error: ReleaseError| {
        Fault::new(
            path,
            Rule::Malformed,
            "dates as in RFC 5322",
            error.to_string(),
        )
    };
    match release.date("date") {
        Err(error) => faults.push(malformed(error)),
        Ok(Some(date)) if date.ms_since(check.rules.now) > CLOCK_SKEW_MS => {
            let expected = "a Date that is not in the future";
            faults.push(Fault::new(path, Rule::Early, expected, text("date")));
        }
        Ok(_) => {}
    }
    match release.date("valid-until") {
        Err(error) => faults.push(malformed(error)),
        Ok(Some(until)) if until < check.rules.now && !check.rules.allow_expired => {
            let expected = "Valid-Until in the future (or --allow-expired)";
            faults.push(Fault::new(
                path,
                Rule::Expired,
                expected,
                text("valid-until"),
            ));
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

/// A Release does not list itself; apt-ftparchive lists the file that it is writing.
const SIGNED: [&str; 3] = ["Release", "InRelease", "Release.gpg"];

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
        if SIGNED.contains(&name.as_str()) {
            continue;
        }
        let (packing, plain) = Packing::of(name);
        groups
            .entry(plain)
            .or_default()
            .push((name, packing, stated));
    }
    let architectures = Architectures::of(check, folder, release)?;
    let mut indexes = Vec::new();
    for (plain, mut group) in groups {
        group.sort_by_key(|(_, packing, _)| *packing);
        let stays = stays(check, folder, plain, &group, before);
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
                    known: known && stays,
                });
            }
        }
        if !any && !architectures.leave_out(plain) {
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

/// True when the base's Release listed the same of these names, and no file of them changed: then the
/// same one was read when the base was checked.
fn stays(
    check: &Check<'_>,
    folder: &[u8],
    plain: &str,
    group: &Group<'_>,
    before: &Release,
) -> bool {
    let Some(since) = &check.since else {
        return false;
    };
    let touched = |name: &str| {
        let path = [folder, b"/", name.as_bytes()].concat();
        EntryPath::new(&path).is_ok_and(|path| since.touched.contains(&path))
    };
    let was_listed = |name: &String| before.listed.contains_key(name);
    let same = |(name, _, stated): &(&str, Packing, &Stated)| {
        before.listed.get(*name) == Some(*stated) && !touched(name)
    };
    Packing::names(plain).filter(was_listed).count() == group.len() && group.iter().all(same)
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
    let failed = |e| PublishError::io(&check.place(at), "read", e);
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
