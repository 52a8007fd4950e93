//! Bytes that were once written must be read for ever, and be written the same.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeSet;
use std::path::PathBuf;

use mirrorlog_core::id::PoolId;
use mirrorlog_core::sign::TrustedKeys;
use mirrorlog_core::statement::Statement;
use support::directory::{golden_feedback, golden_states};
use support::said::{channel, delta, events, head, statements};
use support::{build, key, roots, trusted};
use wire::directory::{DirectoryState, Feedback};
use wire::kv::{Numbering, encode_wanted, wanted_key};
use wire::{Event, Signed, SignedRoot, delta, signify, statement};

const CHANGED: &str = "
Bytes on the wire or on disk are no longer what they were. Logs, journals and mirrors in the field
hold the old ones.
- Not intended? Undo the change that caused it.
- Intended? Never edit a file in tests/golden. Give the new bytes a new name, keep the old file and
  a test that it still decodes to the same value, and tell operators in the changelog.
A file for a new case is written by: MIRRORLOG_GOLDEN=new cargo test -p wire --test golden";

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// The bytes of a golden file, after a check that `encoded` is the same.
fn golden(name: &str, encoded: &[u8]) -> Vec<u8> {
    let file = directory().join(format!("{name}.hex"));
    if !file.exists() && std::env::var("MIRRORLOG_GOLDEN").is_ok_and(|mode| mode == "new") {
        let text = hex::encode(encoded);
        let lines = text
            .as_bytes()
            .chunks(96)
            .map(|line| str::from_utf8(line).unwrap());
        let lines: String = lines.map(|line| format!("{line}\n")).collect();
        std::fs::write(&file, lines).unwrap();
    }
    let text = std::fs::read_to_string(&file).unwrap_or_default();
    let bytes = hex::decode(text.split_whitespace().collect::<String>()).unwrap();
    assert!(
        bytes == encoded,
        "{name}: {}\nnow: {}{CHANGED}",
        text.trim(),
        hex::encode(encoded)
    );
    bytes
}

#[test]
fn statements_are_what_they_were() {
    for (name, said) in statements() {
        let bytes = golden(name, &statement::encode(&said));
        assert_eq!(statement::decode(&bytes).unwrap(), said, "{name}");
    }
}

#[test]
fn signed_statements_are_what_they_were() {
    let signed = Signed::sign(&key(7), &Statement::Head(head()));
    assert_eq!(
        Signed::decode(&golden("signed", &signed.encode())).unwrap(),
        signed
    );
    let file = golden(
        "signed_signify",
        &signed.to_signify("head of noble-security"),
    );
    assert_eq!(Signed::from_signify(&file).unwrap(), signed);
    assert_eq!(signed.open_head(&trusted(&[&key(7)])).unwrap(), head());
}

#[test]
fn signed_roots_are_what_they_were() {
    let (first, second) = (roots::signed(&roots::root()), roots::signed(&roots::next()));
    let bytes = golden("signed_root", &first.encode());
    assert_eq!(SignedRoot::decode(&bytes).unwrap(), first);
    let bytes = golden("signed_root_next", &second.encode());
    let next = SignedRoot::decode(&bytes).unwrap();
    let trusted = first.pin().unwrap();
    assert_eq!(next.open_next(&trusted).unwrap().root(), &roots::next());
}

#[test]
fn events_and_deltas_are_what_they_were() {
    let bytes = golden("delta", &delta::encode(&delta()));
    assert_eq!(delta::decode(&bytes).unwrap(), delta());
    for (name, event) in events() {
        let bytes = golden(name, &event.encode());
        let decoded = Event::decode(&bytes).unwrap();
        assert_eq!(decoded, event, "{name}");
        decoded.open(&trusted(&[&key(1)])).unwrap();
    }
}

#[test]
fn what_directories_write_is_what_it_was() {
    for (name, feedback) in golden_feedback() {
        let bytes = golden(&name, &feedback.encode());
        assert_eq!(Feedback::decode(&bytes).unwrap(), feedback, "{name}");
    }
    for (name, state) in golden_states() {
        let bytes = golden(name, &state.encode());
        assert_eq!(DirectoryState::decode(&bytes).unwrap(), state, "{name}");
    }
}

#[test]
fn key_files_are_what_they_were() {
    let secret = golden(
        "signify_secret",
        signify::print_secret(&key(7), "golden").as_bytes(),
    );
    assert_eq!(
        signify::parse_secret(&secret).unwrap().seed(),
        key(7).seed()
    );
    let public = golden(
        "signify_public",
        signify::print_public(&key(7).public(), "golden").as_bytes(),
    );
    assert_eq!(signify::parse_public(&public).unwrap(), key(7).public());
    let signature = key(7).sign(b"message");
    let detached = signify::print_signature(&signature, "golden");
    let detached = golden("signify_signature", detached.as_bytes());
    assert_eq!(signify::parse_signature(&detached).unwrap(), signature);
}

/// Files made by signify 31 (Debian's signify-openbsd) are read, and written the same.
#[test]
fn files_of_signify_itself_are_read_and_written() {
    let read = |name| std::fs::read(directory().join("signify-openbsd").join(name)).unwrap();
    let public = signify::parse_public(&read("key.pub")).unwrap();
    let comment = "golden vector, for tests only public key";
    assert_eq!(
        signify::print_public(&public, comment).as_bytes(),
        read("key.pub")
    );

    // Its salt is random and of no meaning in a key without a passphrase; ours is zero.
    let secret = signify::parse_secret(&read("key.sec")).unwrap();
    assert_eq!(secret.public(), public);

    let message = read("message");
    let signature = signify::parse_signature(&read("message.sig")).unwrap();
    TrustedKeys::new([public])
        .verify(&message, &signature)
        .unwrap();
    assert_eq!(secret.sign(&message), signature);
    let comment = "verify with key.pub";
    assert_eq!(
        signify::print_signature(&signature, comment).as_bytes(),
        read("message.sig")
    );
    let embedded = read("message.emb");
    assert_eq!(
        signify::parse_embedded(&embedded).unwrap(),
        (signature, &message[..])
    );
    assert_eq!(
        signify::print_embedded(&signature, &message, comment),
        embedded
    );
}

#[test]
fn bucket_values_are_what_they_were() {
    let numbering = Numbering {
        epoch: 3,
        newest: Some(build(37)),
    };
    assert_eq!(numbering.encode(), "3 37", "{CHANGED}");
    assert_eq!(
        Numbering {
            epoch: 1,
            newest: None
        }
        .encode(),
        "1 0",
        "{CHANGED}"
    );
    assert_eq!(encode_wanted(build(37)), "37", "{CHANGED}");
    let pool = PoolId::new("nz").unwrap();
    assert_eq!(
        wanted_key(&channel(), &pool),
        "noble-security.nz",
        "{CHANGED}"
    );
}

/// A file that no test reads any more would be no proof of anything.
#[test]
fn every_golden_file_is_read() {
    let others = [
        "signed",
        "signed_signify",
        "signed_root",
        "signed_root_next",
        "delta",
    ];
    let keys = ["signify_secret", "signify_public", "signify_signature"];
    let elsewhere = ["mirror_state"]; // src/state.rs
    let names = others.into_iter().chain(keys).chain(elsewhere);
    let mut expected: BTreeSet<String> = names.map(str::to_owned).collect();
    expected.extend(statements().into_iter().map(|(name, _)| name.to_owned()));
    expected.extend(events().into_iter().map(|(name, _)| name.to_owned()));
    expected.extend(golden_feedback().into_iter().map(|(name, _)| name));
    expected.extend(golden_states().into_iter().map(|(name, _)| name.to_owned()));
    let names = std::fs::read_dir(directory())
        .unwrap()
        .map(|file| file.unwrap().path());
    let files = names.filter(|path| path.extension().is_some_and(|extension| extension == "hex"));
    let found = files.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned());
    assert_eq!(found.collect::<BTreeSet<String>>(), expected);
}
