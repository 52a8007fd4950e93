//! What a root document says, for people and programs.

use mirrorlog_core::sign::{KeyNumber, Tally, TrustedKeys, key_list};
use mirrorlog_core::trust::{Role, Root};
use serde_json::{Map, Value, json};
use wire::SignedRoot;

use crate::failure::{DATA, Failure, OrExit as _};
use crate::output::date;

/// A root document, with what was made of its signatures.
pub(super) struct Told {
    pub(super) root: Root,
    /// Of its own root keys.
    pub(super) own: Tally,
    digest: String,
}

impl Told {
    pub(super) fn of(signed: &SignedRoot) -> Result<Self, Failure> {
        let root = signed.read().or_exit(DATA)?;
        let own = tally(&root.keys(Role::Root), signed)?;
        let digest = signed.digest().to_hex();
        Ok(Self { root, own, digest })
    }

    /// For people, a line each.
    pub(super) fn lines(&self) -> Vec<String> {
        let parts = self.root.parts();
        let mut lines = vec![
            format!("root document {} ({})", parts.version, self.digest),
            format!("issued       {}", date(parts.issued.as_ms())),
            format!("expires      {}", date(parts.expires.as_ms())),
        ];
        for role in Role::ALL {
            let keys = parts.role(role);
            let of = keys.keys.len();
            let list = key_list(&keys.keys);
            lines.push(format!(
                "{:<12} {} of {of}: {list}",
                role.as_str(),
                keys.threshold
            ));
        }
        lines.push(format!("mirrors      {}", parts.mirrors.len()));
        let mirrors = parts.mirrors.iter();
        lines.extend(mirrors.map(|(mirror, keys)| format!("  {mirror}: {}", key_list(keys))));
        lines.push(standing("signed by", &self.own));
        lines
    }

    pub(super) fn document(&self) -> Map<String, Value> {
        let parts = self.root.parts();
        let roles = Role::ALL.map(|role| {
            let keys = parts.role(role);
            let value = json!({ "threshold": keys.threshold.get(), "keys": texts(&keys.keys) });
            (role.to_string(), value)
        });
        let mirrors = parts.mirrors.iter();
        let mirrors: Map<String, Value> = mirrors
            .map(|(mirror, keys)| (mirror.to_string(), json!(texts(keys))))
            .collect();
        let fields = [
            ("version", json!(parts.version.get())),
            ("digest", json!(self.digest)),
            ("issued", json!(date(parts.issued.as_ms()))),
            ("expires", json!(date(parts.expires.as_ms()))),
            ("roles", Value::Object(roles.into_iter().collect())),
            ("mirrors", Value::Object(mirrors)),
            ("signed", json!(texts(&self.own.signed))),
            ("missing", json!(self.own.missing())),
        ];
        fields
            .map(|(name, value)| (name.to_owned(), value))
            .into_iter()
            .collect()
    }
}

pub(super) fn tally(keys: &TrustedKeys, signed: &SignedRoot) -> Result<Tally, Failure> {
    keys.tally(&signed.statement, &signed.signatures)
        .or_exit(DATA)
}

/// Who has signed, and who must still.
pub(super) fn standing(what: &str, tally: &Tally) -> String {
    let signed = key_list(&tally.signed);
    match tally.missing() {
        0 => format!("{what:<12} {signed}: enough"),
        missing => format!(
            "{what:<12} {signed}; {missing} more needed of {}",
            key_list(&tally.open)
        ),
    }
}

pub(super) fn texts<'a>(keys: impl IntoIterator<Item = &'a KeyNumber>) -> Vec<String> {
    keys.into_iter().map(ToString::to_string).collect()
}

/// What `new` changes in `old`, a line each.
pub(super) fn changes(old: &Root, new: &Root) -> Vec<String> {
    let (old, new) = (old.parts(), new.parts());
    let mut lines = Vec::new();
    for role in Role::ALL {
        let (was, is) = (old.role(role), new.role(role));
        for key in is.keys.difference(&was.keys) {
            lines.push(format!("{role}: key {key} is added"));
        }
        for key in was.keys.difference(&is.keys) {
            lines.push(format!("{role}: key {key} is taken away"));
        }
        if was.threshold != is.threshold {
            let (was, is) = (was.threshold, is.threshold);
            lines.push(format!("{role}: {is} must sign, no longer {was}"));
        }
    }
    for (number, key) in &new.keys {
        if old.keys.get(number).is_some_and(|was| was != key) {
            lines.push(format!("key {number} is another key under the same number"));
        }
    }
    for (mirror, keys) in &new.mirrors {
        match old.mirrors.get(mirror) {
            None => lines.push(format!("mirror {mirror} enters, with {}", key_list(keys))),
            Some(was) if was != keys => {
                let (was, is) = (key_list(was), key_list(keys));
                lines.push(format!("mirror {mirror} has {is}, no longer {was}"));
            }
            Some(_) => {}
        }
    }
    let gone = old
        .mirrors
        .keys()
        .filter(|mirror| !new.mirrors.contains_key(*mirror));
    lines.extend(gone.map(|mirror| format!("mirror {mirror} leaves")));
    let (was, is) = (date(old.expires.as_ms()), date(new.expires.as_ms()));
    if was != is {
        lines.push(format!("expires {is}, no longer {was}"));
    }
    lines
}
