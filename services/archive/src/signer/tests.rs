#![allow(clippy::unwrap_used)]
use std::path::Path;

use mirrorlog_core::id::MirrorId;
use mirrorlog_core::sign::TrustedKeys;
use mirrorlog_core::statement::{Order, OrderKind};
use mirrorlog_core::time::Timestamp;

use super::*;

const PATIENCE: Duration = Duration::from_secs(60);

fn statement() -> Statement {
    Statement::Order(Order {
        id: 7,
        mirror: MirrorId::new("nz1").unwrap(),
        issued: Timestamp::from_ms(1000),
        kind: OrderKind::Resume,
    })
}

/// The example, which cargo builds with the tests.
fn sign_with() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent()
        .unwrap()
        .parent()
        .unwrap()
        .join("examples/sign_with")
}

fn signer(program: &Path, arguments: &[&str], public: PublicKey, patience: Duration) -> Signer {
    let arguments = arguments
        .iter()
        .map(|&argument| argument.to_owned())
        .collect();
    Signer::Command(SignCommand::new(
        program.to_owned(),
        arguments,
        public,
        patience,
    ))
}

fn shell(script: &str, patience: Duration) -> Signer {
    let public = SecretKey::from_seed(mirrorlog_core::sign::KeyNumber([1; 8]), &[1; 32]).public();
    signer(Path::new("/bin/sh"), &["-c", script], public, patience)
}

#[tokio::test]
async fn a_program_signs_what_readers_accept() {
    let dir = tempfile::tempdir().unwrap();
    let key = runtime::key::generate(&dir.path().join("hsm"), "test").unwrap();
    let file = dir.path().join("hsm.sec");
    let script = r#"exec "$0" "$1""#;
    let program = sign_with();
    let arguments = [
        "-c",
        script,
        program.to_str().unwrap(),
        file.to_str().unwrap(),
    ];
    let signer = signer(Path::new("/bin/sh"), &arguments, key.public(), PATIENCE);
    let signed = signer.sign(&statement()).await.unwrap();
    assert_eq!(signed, Signed::sign(&key, &statement()));
    let opened = signed.open(&TrustedKeys::new([signer.public()])).unwrap();
    assert_eq!(opened, statement());
}

#[tokio::test]
async fn another_keys_signature_is_not_used() {
    let dir = tempfile::tempdir().unwrap();
    let [ours, other] = ["ours", "other"]
        .map(|name| runtime::key::generate(&dir.path().join(name), "test").unwrap());
    let file = dir.path().join("other.sec");
    let arguments = [file.to_str().unwrap()];
    let signer = signer(&sign_with(), &arguments, ours.public(), PATIENCE);
    let error = signer.sign(&statement()).await.unwrap_err();
    let SignError::Signature { source, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(*source, SignatureError::UnknownKey(other.public().number()));
    assert_eq!(error.reaction(), Reaction::Halt);
}

#[tokio::test]
async fn a_program_that_fails_says_why() {
    let error = shell("echo 'no card in the reader' >&2; exit 3", PATIENCE);
    let error = error.sign(&statement()).await.unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("exit status: 3: no card in the reader"),
        "{error}"
    );
    assert_eq!(error.reaction(), Reaction::Retry);
}

#[tokio::test]
async fn a_program_that_waits_for_ever_is_ended() {
    let patience = Duration::from_millis(50);
    let error = shell(
        "read -r never < /dev/stdin; exec tail -f /dev/null",
        patience,
    );
    let error = error.sign(&statement()).await.unwrap_err();
    assert!(matches!(error, SignError::Timeout { .. }), "{error}");
    assert_eq!(error.reaction(), Reaction::Retry);
}

#[tokio::test]
async fn answers_are_bounded_and_checked() {
    for script in ["exit 0", "echo yes", "head -c 4096 /dev/zero"] {
        let error = shell(script, PATIENCE)
            .sign(&statement())
            .await
            .unwrap_err();
        assert!(
            matches!(error, SignError::Answer { .. }),
            "{script}: {error}"
        );
    }
    let absent = PathBuf::from("/nonexistent/signer");
    let public = shell("", PATIENCE).public();
    let error = signer(&absent, &[], public, PATIENCE)
        .sign(&statement())
        .await
        .unwrap_err();
    assert!(matches!(error, SignError::Run { .. }), "{error}");
}
