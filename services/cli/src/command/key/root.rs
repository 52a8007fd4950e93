//! The ceremony: a first document, signatures, and the versions after it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use mirrorlog_core::id::MirrorId;
use mirrorlog_core::sign::{KeyNumber, PublicKey, Threshold};
use mirrorlog_core::time::Timestamp;
use mirrorlog_core::trust::{
    Amendment, Role, RoleKeys, Root, RootFault, RootParts, RootVersion, Trusted,
};
use runtime::boot::Span;
use serde_json::json;
use wire::SignedRoot;

use super::file;
use super::told::{Told, changes, standing, tally, texts};
use crate::args::{RevokeArgs, RoleKey, RootArgs, RotateArgs, SignArgs};
use crate::failure::{DATA, Failure, OrExit as _};
use crate::output::Output;

/// Writes version 1, unsigned.
pub(super) fn first(args: &RootArgs, output: &Output) -> Result<u8, Failure> {
    let (issued, expires) = times(args.expires);
    let mut keys = BTreeMap::new();
    let mut role = |files: &[PathBuf], threshold| {
        let keys = files.iter().map(|file| list(&mut keys, file));
        let keys = keys.collect::<Result<_, _>>()?;
        Ok::<_, Failure>(RoleKeys { keys, threshold })
    };
    let root = role(&args.root, args.threshold)?;
    let archive = role(&args.archive, Threshold::ONE)?;
    let consistency = role(&args.consistency, Threshold::ONE)?;
    let mut mirrors: BTreeMap<MirrorId, _> = BTreeMap::new();
    for named in &args.mirrors {
        let number = list(&mut keys, &named.file)?;
        let of = mirrors.entry(named.mirror.clone());
        of.or_insert_with(std::collections::BTreeSet::new)
            .insert(number);
    }
    let version = RootVersion::FIRST;
    let root = Root::new(RootParts {
        version,
        issued,
        expires,
        keys,
        root,
        archive,
        consistency,
        mirrors,
    });
    write(&args.file, &root.or_exit(DATA)?, None, output)
}

/// Reads a public key and lists it; two keys of one number cannot be told apart.
fn list(keys: &mut BTreeMap<KeyNumber, PublicKey>, path: &Path) -> Result<KeyNumber, Failure> {
    let key = file::public(path)?;
    let number = key.number();
    if *keys.entry(number).or_insert(key) != key {
        let taken = Err(RootFault::Taken(number));
        return taken
            .with_context(|| format!("cannot take {}", path.display()))
            .or_exit(DATA);
    }
    Ok(number)
}

/// Adds a signature, after it was shown what is signed.
pub(super) fn sign(args: &SignArgs, output: &Output) -> Result<u8, Failure> {
    let mut signed = file::read(&args.file)?;
    let told = Told::of(&signed)?;
    let previous = args.previous.as_deref().map(previous).transpose()?;
    let key = file::secret(&args.key)?;
    if !output.json {
        tell(&told, previous.as_ref(), output);
    }
    let before = previous.as_ref().map(|(_, trusted)| trusted);
    check_step(&told.root, before)?;
    check_counts(&key.public(), &told.root, before)?;
    signed.sign(&key);
    file::replace(&args.file, &signed)?;
    let number = key.public().number();
    let own = Told::of(&signed)?.own;
    let old = before
        .map(|trusted| tally(&trusted.keys(Role::Root), &signed))
        .transpose()?;
    if output.json {
        output.json(&json!({
            "file": args.file,
            "version": told.root.version().get(),
            "key": number.to_string(),
            "signed": texts(&own.signed),
            "missing": own.missing(),
            "missing_of_previous": old.map(|old| old.missing()),
        }));
        return Ok(0);
    }
    output.line(&format!("key {number} has signed {}", args.file.display()));
    if let Some(old) = old {
        output.line(&standing("old keys", &old));
    }
    output.line(&standing("own keys", &own));
    Ok(0)
}

/// A signature that would never count is not made.
fn check_counts(key: &PublicKey, root: &Root, before: Option<&Trusted>) -> Result<(), Failure> {
    let documents = [Some(root), before.map(Trusted::root)];
    let mut roots = documents.into_iter().flatten();
    if roots.any(|root| root.keys(Role::Root).iter().any(|known| known == key)) {
        return Ok(());
    }
    let (number, version) = (key.number(), root.version());
    let hint = match before {
        Some(_) => "sign with one of the root keys that it or the version before names",
        None => "if it is one of the version before, give that with --previous",
    };
    let text = format!("key {number} is no root key of document {version}: {hint}");
    Err(Failure::text(DATA, text))
}

fn check_step(root: &Root, before: Option<&Trusted>) -> Result<(), Failure> {
    let Some(before) = before else { return Ok(()) };
    let (found, last) = (root.version(), before.version());
    if last.next() == Some(found) {
        return Ok(());
    }
    let text = format!(
        "document {found} does not follow document {last}: give the version before it as --previous"
    );
    Err(Failure::text(DATA, text))
}

pub(super) fn rotate(args: &RotateArgs, output: &Output) -> Result<u8, Failure> {
    let root = file::read(&args.file)?.read().or_exit(DATA)?;
    let mut amendments = additions(&args.add)?;
    for number in &args.remove {
        amendments.extend(removals(&root, *number)?);
    }
    let role = Role::Root;
    let threshold = args.threshold;
    amendments.extend(threshold.map(|threshold| Amendment::Threshold { role, threshold }));
    amendments.extend(args.drop_mirror.iter().cloned().map(Amendment::DropMirror));
    for named in &args.mirrors {
        let (mirror, key) = (named.mirror.clone(), file::public(&named.file)?);
        amendments.push(Amendment::Mirror { mirror, key });
    }
    follow(&root, &amendments, args.expires, &args.out, output)
}

pub(super) fn revoke(args: &RevokeArgs, output: &Output) -> Result<u8, Failure> {
    let root = file::read(&args.file)?.read().or_exit(DATA)?;
    let mut amendments = additions(&args.add)?;
    amendments.extend(args.numbers.iter().copied().map(Amendment::Revoke));
    follow(&root, &amendments, args.expires, &args.out, output)
}

fn additions(add: &[RoleKey]) -> Result<Vec<Amendment>, Failure> {
    let read = |named: &RoleKey| {
        let (role, key) = (named.role, file::public(&named.file)?);
        Ok(Amendment::Add { role, key })
    };
    add.iter().map(read).collect()
}

fn removals(root: &Root, number: KeyNumber) -> Result<Vec<Amendment>, Failure> {
    let roles = Role::ALL.into_iter();
    let roles = roles.filter(|role| root.parts().role(*role).keys.contains(&number));
    let removals: Vec<_> = roles
        .map(|role| Amendment::Remove { role, number })
        .collect();
    if removals.is_empty() {
        let text = format!(
            "no role has key {number}; a mirror's key goes with key revoke or --drop-mirror"
        );
        return Err(Failure::text(DATA, text));
    }
    Ok(removals)
}

fn follow(
    root: &Root,
    amendments: &[Amendment],
    expires: Span,
    out: &Path,
    output: &Output,
) -> Result<u8, Failure> {
    let (issued, expires) = times(expires);
    let next = root.amended(amendments, issued, expires);
    write(out, &next.or_exit(DATA)?, Some(root), output)
}

fn times(expires: Span) -> (Timestamp, Timestamp) {
    let issued = runtime::boot::now();
    let span_ms = i64::try_from(expires.0.as_millis()).unwrap_or(i64::MAX);
    (issued, issued.plus_ms(span_ms))
}

fn write(path: &Path, root: &Root, old: Option<&Root>, output: &Output) -> Result<u8, Failure> {
    let signed = SignedRoot::new(root).or_exit(DATA)?;
    file::write_new(path, &signed)?;
    let told = Told::of(&signed)?;
    if output.json {
        let mut document = told.document();
        document.insert("file".to_owned(), json!(path));
        document.extend(old.map(|old| ("changes".to_owned(), json!(changes(old, root)))));
        output.json(&document.into());
        return Ok(0);
    }
    output.line(&format!(
        "wrote {}, which nobody has signed yet",
        path.display()
    ));
    for change in old.map(|old| changes(old, root)).unwrap_or_default() {
        output.line(&format!("  {change}"));
    }
    let open = standing("own keys", &told.own);
    output.line(&open);
    Ok(0)
}

/// The version before, which must be whole.
fn previous(path: &Path) -> Result<(SignedRoot, Trusted), Failure> {
    let signed = file::read(path)?;
    let trusted = signed.pin();
    let trusted =
        trusted.with_context(|| format!("{} cannot be what was in force", path.display()));
    Ok((signed, trusted.or_exit(DATA)?))
}

/// Shows a document; 65 when it may not follow the one given as the version before.
pub(super) fn show(
    signed: &SignedRoot,
    before: Option<&Path>,
    output: &Output,
) -> Result<u8, Failure> {
    let told = Told::of(signed)?;
    let before = before.map(previous).transpose()?;
    let step = before
        .as_ref()
        .map(|(_, trusted)| signed.open_next(trusted));
    let refusal = step.and_then(Result::err).map(|error| wire::causes(&error));
    if output.json {
        let mut document = told.document();
        if let Some((_, trusted)) = &before {
            document.insert(
                "changes".to_owned(),
                json!(changes(trusted.root(), &told.root)),
            );
            document.insert("valid".to_owned(), json!(refusal.is_none()));
            document.insert("refusal".to_owned(), json!(refusal));
        }
        output.json(&document.into());
    } else {
        tell(&told, before.as_ref(), output);
        if let Some((_, trusted)) = &before {
            let old = tally(&trusted.keys(Role::Root), signed)?;
            output.line(&standing("old keys", &old));
            let verdict = match &refusal {
                None => format!("it may follow document {}", trusted.version()),
                Some(refusal) => format!(
                    "it may not follow document {}: {refusal}",
                    trusted.version()
                ),
            };
            output.line(&verdict);
        }
    }
    Ok(if refusal.is_some() { DATA } else { 0 })
}

fn tell(told: &Told, before: Option<&(SignedRoot, Trusted)>, output: &Output) {
    for line in told.lines() {
        output.line(&line);
    }
    if let Some((_, trusted)) = before {
        output.line(&format!("against document {}:", trusted.version()));
        for change in changes(trusted.root(), &told.root) {
            output.line(&format!("  {change}"));
        }
    }
}
