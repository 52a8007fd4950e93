//! The ceremony in files, with its texts and exit codes.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use clap::Parser as _;
use expect_test::expect;
use mirrorlog_core::sign::{KeyNumber, SecretKey};

use super::told::Told;
use super::*;
use crate::args::{Args, Command};

const QUIET: Output = Output {
    json: false,
    quiet: true,
};

/// A folder with a key pair for each letter.
struct Table(tempfile::TempDir);

impl Table {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for letter in b'a'..=b'z' {
            let key = SecretKey::from_seed(KeyNumber([letter; 8]), &[letter; 32]);
            let name = char::from(letter);
            let file = dir.path().join(format!("{name}.sec"));
            std::fs::write(&file, wire::signify::print_secret(&key, "test")).unwrap();
            let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
            std::fs::set_permissions(&file, private).unwrap();
            let public = wire::signify::print_public(&key.public(), "test");
            std::fs::write(dir.path().join(format!("{name}.pub")), public).unwrap();
        }
        Self(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs `key WORDS`; words with a dot are files of this folder.
    fn try_run(&self, words: &str) -> Result<u8, Failure> {
        let words = words
            .split_whitespace()
            .map(|word| match word.split_once('=') {
                Some((name, file)) => format!("{name}={}", self.path(file).display()),
                None if word.contains('.') => self.path(word).display().to_string(),
                None => word.to_owned(),
            });
        let line = ["mirrorlog", "key"]
            .map(str::to_owned)
            .into_iter()
            .chain(words);
        let Command::Key(command) = Args::try_parse_from(line).unwrap().command else {
            panic!("another command");
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(run(None, &command, &QUIET))
    }

    fn run(&self, words: &str) -> u8 {
        self.try_run(words).unwrap()
    }

    fn refused(&self, words: &str) -> String {
        let failure = self.try_run(words).unwrap_err();
        let dir = self.0.path().display().to_string();
        format!(
            "{}: {}",
            failure.code,
            failure.to_string().replace(&dir, "DIR")
        )
    }

    /// Version 1, signed by a and b: two of a, b and c.
    fn first(&self) {
        self.run("root 1.mlr --root a.pub --root b.pub --root c.pub --threshold 2 --archive x.pub --consistency y.pub --mirror nz1=z.pub");
        self.run("sign 1.mlr --key a.sec");
        self.run("sign 1.mlr --key b.sec");
    }

    fn changes(&self, old: &str, new: &str) -> String {
        let read = |name| file::read(&self.path(name)).unwrap().read().unwrap();
        told::changes(&read(old), &read(new)).join("\n")
    }
}

fn number(letter: char) -> String {
    KeyNumber([u8::try_from(letter).unwrap(); 8]).to_string()
}

#[test]
fn a_document_is_whole_when_enough_have_signed() {
    let table = Table::new();
    table.run("root 1.mlr --root a.pub --root b.pub --root c.pub --threshold 2 --archive x.pub --consistency y.pub");
    let missing = || {
        Told::of(&file::read(&table.path("1.mlr")).unwrap())
            .unwrap()
            .own
            .missing()
    };
    assert_eq!(missing(), 2);
    table.run("sign 1.mlr --key a.sec");
    table.run("sign 1.mlr --key a.sec");
    assert_eq!(missing(), 1);
    table.run("sign 1.mlr --key c.sec");
    assert_eq!(missing(), 0);
    let lines = Told::of(&file::read(&table.path("1.mlr")).unwrap())
        .unwrap()
        .lines();
    expect![[r#"
        root         2 of 3: 6161616161616161, 6262626262626262, 6363636363636363
        archive      1 of 1: 7878787878787878
        consistency  1 of 1: 7979797979797979
        mirrors      0
        signed by    6161616161616161, 6363636363636363: enough"#]]
    .assert_eq(&lines[3..].join("\n"));
}

#[test]
fn a_step_is_valid_when_old_and_new_keys_have_signed() {
    let table = Table::new();
    table.first();
    let a = number('a');
    table.run(&format!("rotate 1.mlr --out 2.mlr --add root=d.pub --remove {a} --drop-mirror nz1 --mirror ch1=w.pub"));
    expect![[r#"
        root: key 6464646464646464 is added
        root: key 6161616161616161 is taken away
        mirror ch1 enters, with 7777777777777777
        mirror nz1 leaves"#]]
    .assert_eq(
        &table
            .changes("1.mlr", "2.mlr")
            .lines()
            .take(4)
            .collect::<Vec<_>>()
            .join("\n"),
    );
    let show = "show 2.mlr --previous 1.mlr";
    for (signer, code) in [("a", 65), ("b", 65), ("d", 0)] {
        table.run(&format!("sign 2.mlr --key {signer}.sec --previous 1.mlr"));
        assert_eq!(table.run(show), code, "after {signer}");
    }
    table.run("rotate 2.mlr --out 3.mlr");
    table.run("sign 3.mlr --key b.sec");
    table.run("sign 3.mlr --key d.sec");
    assert_eq!(table.run("show 3.mlr --previous 2.mlr"), 0);
    assert_eq!(
        table.run("show 3.mlr --previous 1.mlr"),
        65,
        "a version is skipped"
    );
    assert_eq!(table.run("show 1.mlr --previous 2.mlr"), 65, "it goes back");
}

#[test]
fn what_cannot_be_is_refused_and_nothing_is_written() {
    let table = Table::new();
    table.first();
    let (a, b, x) = (number('a'), number('b'), number('x'));
    expect!["65: role archive needs 1 or more keys, not 0: add a key in the same step, or lower the threshold"]
        .assert_eq(&table.refused(&format!("revoke 1.mlr --out 2.mlr {x}")));
    expect!["65: role root needs 2 or more keys, not 1: add a key in the same step, or lower the threshold"]
        .assert_eq(&table.refused(&format!("revoke 1.mlr --out 2.mlr {a} {b}")));
    expect![
        "65: root key 6161616161616161 is also a key of role archive: root keys do nothing else"
    ]
    .assert_eq(&table.refused("rotate 1.mlr --out 2.mlr --add archive=a.pub"));
    expect![
        "65: no role has key 7a7a7a7a7a7a7a7a; a mirror's key goes with key revoke or --drop-mirror"
    ]
    .assert_eq(&table.refused(&format!(
        "rotate 1.mlr --out 2.mlr --remove {}",
        number('z')
    )));
    expect!["65: key 7878787878787878 is no root key of document 1: if it is one of the version before, give that with --previous"]
        .assert_eq(&table.refused("sign 1.mlr --key x.sec"));
    assert!(!table.path("2.mlr").exists());
    table.run(&format!(
        "revoke 1.mlr --out 2.mlr {a} {x} --add archive=w.pub"
    ));
    let before = std::fs::read(table.path("2.mlr")).unwrap();
    expect!["73: cannot make DIR/2.mlr: root documents are never overwritten, choose another name or move it away: File exists (os error 17)"]
        .assert_eq(&table.refused("rotate 1.mlr --out 2.mlr"));
    expect!["65: document 2 does not follow document 2: give the version before it as --previous"]
        .assert_eq(&{
            table.run("sign 2.mlr --key b.sec");
            table.run("sign 2.mlr --key c.sec");
            table.refused("sign 2.mlr --key c.sec --previous 2.mlr")
        });
    assert_ne!(std::fs::read(table.path("2.mlr")).unwrap(), before);
    assert_eq!(table.run("show 2.mlr --previous 1.mlr"), 0);
}

#[test]
fn files_are_told_apart() {
    let table = Table::new();
    table.first();
    assert_eq!(table.run("show a.pub"), 0);
    assert_eq!(table.run("show a.sec"), 0);
    assert_eq!(table.run("show 1.mlr"), 0);
    expect!["64: DIR/a.pub is a key; --previous is for root documents"]
        .assert_eq(&table.refused("show a.pub --previous 1.mlr"));
    expect!["66: cannot read DIR/no.mlr: No such file or directory (os error 2)"]
        .assert_eq(&table.refused("show no.mlr"));
    std::fs::write(table.path("junk.mlr"), b"\xff\xff\xff").unwrap();
    let junk = table.refused("show junk.mlr");
    assert!(
        junk.starts_with("65: DIR/junk.mlr is neither a key nor a root document: "),
        "{junk}"
    );
    let key = table.refused("sign a.pub --key a.sec");
    assert!(
        key.starts_with("65: DIR/a.pub is no root document: "),
        "{key}"
    );
    table.run("rotate 1.mlr --out 2.mlr");
    let unsigned = table.refused("show 1.mlr --previous 2.mlr");
    assert!(
        unsigned.starts_with("65: DIR/2.mlr cannot be what was in force: "),
        "{unsigned}"
    );
}
