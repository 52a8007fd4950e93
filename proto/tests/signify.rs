//! signify's files: what is refused, and why.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mirrorlog_core::sign::KeyNumber;
use support::key;
use wire::signify::{
    COMMENT_MAX_BYTES, SignifyError, parse_embedded, parse_public, parse_secret, parse_signature,
    print_embedded, print_public, print_secret, print_signature, signature_from_bytes,
    signature_to_bytes,
};

fn public() -> String {
    print_public(&key(7).public(), "test")
}

fn secret() -> String {
    print_secret(&key(7), "test")
}

fn signature() -> String {
    print_signature(&key(7).sign(b"message"), "test")
}

/// The file again, its binary changed.
fn rewritten(file: &str, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let (comment, line) = file.split_once('\n').unwrap();
    let mut binary = STANDARD.decode(line.trim_end()).unwrap();
    change(&mut binary);
    format!("{comment}\n{}\n", STANDARD.encode(binary)).into_bytes()
}

fn with_comment(comment: &str) -> Vec<u8> {
    let (_, line) = public()
        .split_once('\n')
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .unwrap();
    format!("{comment}\n{line}").into_bytes()
}

#[test]
fn comments_are_checked() {
    parse_public(&with_comment("untrusted comment: x")).unwrap();
    let longest = format!("untrusted comment: {}", "x".repeat(COMMENT_MAX_BYTES));
    parse_public(&with_comment(&longest)).unwrap();
    let long = parse_public(&with_comment(&format!("{longest}x")));
    assert_eq!(long, Err(SignifyError::CommentTooLong));
    for wrong in [
        "",
        "untrusted comment:",
        "untrusted comment: ",
        "Untrusted comment: x",
        " untrusted comment: x",
    ] {
        assert_eq!(
            parse_public(&with_comment(wrong)),
            Err(SignifyError::Comment),
            "{wrong:?}"
        );
    }
    assert_eq!(
        parse_public(b"untrusted comment: no newline"),
        Err(SignifyError::Comment)
    );
    assert_eq!(
        parse_public(b"untrusted comment: \xff\nx"),
        Err(SignifyError::Comment)
    );
    assert_eq!(parse_public(b""), Err(SignifyError::Comment));
}

#[test]
fn comments_that_signify_would_refuse_are_mended() {
    for comment in ["", "two\nlines", "\0", &"x".repeat(5000), &"ü".repeat(5000)] {
        parse_public(print_public(&key(7).public(), comment).as_bytes()).unwrap();
    }
}

#[test]
fn base64_is_checked() {
    let refused = Err(SignifyError::Base64 { expected_bytes: 42 });
    let file = public();
    assert_eq!(parse_public(file.trim_end().as_bytes()), refused);
    assert_eq!(parse_public(file.replace('\n', "\r\n").as_bytes()), refused);
    assert_eq!(
        parse_public(file.replacen("\nR", "\n R", 1).as_bytes()),
        refused
    );
    assert_eq!(
        parse_public(file.replacen("\nR", "\n!", 1).as_bytes()),
        refused
    );
    assert_eq!(parse_public(secret().as_bytes()), refused);
    assert_eq!(parse_public(signature().as_bytes()), refused);
    assert_eq!(
        parse_public(&rewritten(&file, |binary| binary.truncate(39))),
        refused
    );
    assert_eq!(
        parse_public(&rewritten(&file, |binary| binary.push(0))),
        refused
    );
    // Two spellings of one signature: unused bits that are set, padding that is missing.
    let file = signature();
    let refused = Err(SignifyError::Base64 { expected_bytes: 74 });
    let last = file
        .trim_end()
        .trim_end_matches('=')
        .chars()
        .last()
        .unwrap();
    let other = char::from(u8::try_from(last).unwrap() + 1);
    assert_eq!(
        parse_signature(
            file.replace(&format!("{last}=\n"), &format!("{other}=\n"))
                .as_bytes()
        ),
        refused
    );
    assert_eq!(parse_signature(file.replace('=', "").as_bytes()), refused);
}

#[test]
fn nothing_follows_a_key_or_a_detached_signature() {
    let longer = |file: String| [file.as_bytes(), b"\n\n"].concat();
    assert_eq!(
        parse_public(&longer(public())),
        Err(SignifyError::Trailing(2))
    );
    assert_eq!(
        parse_secret(&longer(secret())).unwrap_err(),
        SignifyError::Trailing(2)
    );
    assert_eq!(
        parse_signature(&longer(signature())),
        Err(SignifyError::Trailing(2))
    );
}

#[test]
fn other_algorithms_are_refused() {
    let wrong = |binary: &mut Vec<u8>| binary[1] = b'x';
    assert_eq!(
        parse_public(&rewritten(&public(), wrong)),
        Err(SignifyError::Algorithm(*b"Ex"))
    );
    assert_eq!(
        parse_signature(&rewritten(&signature(), wrong)),
        Err(SignifyError::Algorithm(*b"Ex"))
    );
    let secret = rewritten(&secret(), wrong);
    assert_eq!(
        parse_secret(&secret).unwrap_err(),
        SignifyError::Algorithm(*b"Ex")
    );
}

#[test]
fn secret_keys_are_checked() {
    let refused =
        |change: fn(&mut Vec<u8>)| parse_secret(&rewritten(&secret(), change)).unwrap_err();
    assert_eq!(
        refused(|binary| binary[2] = b'X'),
        SignifyError::Derivation(*b"XK")
    );
    assert_eq!(refused(|binary| binary[7] = 42), SignifyError::Encrypted);
    assert_eq!(refused(|binary| binary[24] ^= 1), SignifyError::Checksum);
    assert_eq!(refused(|binary| binary[40] ^= 1), SignifyError::Checksum);
    let encrypted = SignifyError::Encrypted.to_string();
    assert!(encrypted.contains("passphrase") && encrypted.contains("mirrorlog key generate"));
    // A public half of another key, under a checksum that fits.
    let mixed = rewritten(&secret(), |binary| {
        use sha2::Digest as _;
        binary[72..].copy_from_slice(key(8).public().as_bytes());
        let checksum = sha2::Sha512::digest(&binary[40..]);
        binary[24..32].copy_from_slice(&checksum[..8]);
    });
    assert_eq!(parse_secret(&mixed).unwrap_err(), SignifyError::Halves);
    // The salt of a key without a passphrase means nothing.
    let salted = rewritten(&secret(), |binary| binary[8..24].fill(9));
    assert_eq!(parse_secret(&salted).unwrap().public(), key(7).public());
}

#[test]
fn a_public_key_that_is_no_point_is_refused() {
    let wrong = rewritten(&public(), |binary| {
        binary[10..].fill(0);
        binary[10] = 2;
    });
    assert!(matches!(parse_public(&wrong), Err(SignifyError::Key(_))));
}

#[test]
fn embedded_messages_may_be_any_bytes() {
    let signature = key(7).sign(b"");
    for message in [&b""[..], b"\n", b"untrusted comment: x\n", b"\0\xff\r\n"] {
        let file = print_embedded(&signature, message, "test");
        assert_eq!(parse_embedded(&file), Ok((signature, message)));
    }
    let huge = vec![0; 1 << 20];
    let file = print_embedded(&signature, &huge, "test");
    assert!(matches!(
        parse_embedded(&file),
        Err(SignifyError::TooLarge { .. })
    ));
}

#[test]
fn signatures_have_one_size() {
    let signature = key(7).sign(b"message");
    let bytes = signature_to_bytes(&signature);
    assert_eq!(signature_from_bytes(&bytes), Ok(signature));
    assert_eq!(signature.key, KeyNumber([7; 8]));
    for found in [0, 73] {
        let refused = Err(SignifyError::Size {
            expected: 74,
            found,
        });
        assert_eq!(signature_from_bytes(&bytes[..found]), refused);
    }
}
