#![allow(clippy::unwrap_used)]

use expect_test::expect;

use super::*;

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn suite(name: &str, components: &str) -> Suite {
    Suite {
        name: name.to_owned(),
        components: words(components),
    }
}

fn names(picked: &[Suite]) -> Vec<String> {
    let named = picked.iter();
    named
        .map(|one| format!("{}: {}", one.name, one.components.join(" ")))
        .collect()
}

#[test]
fn components_are_read_as_apt_wants_them() {
    let release = b"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\nSuite: stable\nComponents: main contrib\nSHA256:\n";
    assert_eq!(
        Suite::read("bookworm", release),
        Some(suite("bookworm", "main contrib"))
    );
    let nested = b"Components: updates/main updates/contrib\n";
    let expected = suite("buster/updates", "main contrib");
    assert_eq!(Suite::read("buster/updates", nested), Some(expected));
    assert_eq!(Suite::read("bookworm", b"Suite: stable\n"), None);
    assert_eq!(Suite::read("bookworm", b"Components:\n"), None);
}

#[test]
fn each_form_has_its_uri() {
    let channel = ChannelId::new("noble").unwrap();
    let mount = Mount::new("/ubuntu").unwrap();
    let directory = "http://mirrors.example.org:8080";
    assert_eq!(
        list_uri(directory, &channel, Some("NZ")),
        "mirror+http://mirrors.example.org:8080/mirrors.txt?channel=noble&country=NZ"
    );
    assert_eq!(
        method_uri(directory, &mount),
        "mirrorlog://mirrors.example.org:8080/ubuntu/"
    );
    assert_eq!(
        method_uri("https://mirrors.example.org", &mount),
        "mirrorlog+https://mirrors.example.org/ubuntu/"
    );
    assert_eq!(
        Form::ALL.map(Form::as_str),
        ["plain", "mirror+file", "mirror+http", "mirrorlog"]
    );
}

#[test]
fn suites_with_the_same_components_share_a_stanza() {
    let uri = "http://m1/debian/".to_owned();
    let suites = [
        suite("bookworm", "main contrib"),
        suite("bookworm-updates", "main contrib"),
        suite("bookworm/updates", "main"),
        suite("bookworm", "main contrib"),
    ];
    let stanzas = stanzas(suites.map(|suite| (uri.clone(), suite)));
    let kept = Kept {
        signed_by: Some("Signed-By: /usr/share/keyrings/k.gpg\n".to_owned()),
        ..Kept::default()
    };
    expect![[r#"
        # Written by `mirrorlog select`
        # nz1, build 37
        Types: deb
        URIs: http://m1/debian/
        Suites: bookworm bookworm-updates
        Components: main contrib
        Signed-By: /usr/share/keyrings/k.gpg

        Types: deb
        URIs: http://m1/debian/
        Suites: bookworm/updates
        Components: main
        Signed-By: /usr/share/keyrings/k.gpg
    "#]]
    .assert_eq(&deb822(&stanzas, &["nz1, build 37".to_owned()], &kept));
}

#[test]
fn what_an_older_file_says_beside_stays() {
    let old = "\
# mine
Types: deb deb-src
URIs: http://old/
Suites: noble
 noble-updates
Components: main
architectures: amd64 arm64
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
# a remark in between
 abc=
 -----END PGP PUBLIC KEY BLOCK-----

Types: deb
Suites: noble-security
Components: main
";
    let kept = Kept::read(old);
    assert_eq!(kept.types.as_deref(), Some("deb deb-src"));
    assert_eq!(kept.suites, words("noble noble-updates noble-security"));
    assert_eq!(
        kept.architectures.as_deref(),
        Some("architectures: amd64 arm64\n")
    );
    let key = "Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc=\n -----END PGP PUBLIC KEY BLOCK-----\n";
    assert_eq!(kept.signed_by.as_deref(), Some(key));
    let stanza = Stanza {
        uri: "http://m1/".to_owned(),
        suites: words("noble"),
        components: words("main"),
    };
    let again = Kept::read(&deb822(&[stanza], &[], &kept));
    assert_eq!(
        (again.signed_by, again.architectures, again.types),
        (kept.signed_by, kept.architectures, kept.types)
    );
    assert_eq!(Kept::read(""), Kept::default());
}

#[test]
fn the_narrowest_wish_says_which_suites() {
    let found = [
        suite("bookworm", "main contrib"),
        suite("bookworm-proposed-updates", "main"),
        suite("bookworm-updates", "main contrib"),
        suite("bookwormish", "main"),
        suite("sid", "main contrib"),
    ];
    let none = Kept::default();
    let all = pick(&found, &[], &[], &none, None);
    assert_eq!(all, found);
    let own = pick(&found, &[], &[], &none, Some("bookworm"));
    assert_eq!(
        names(&own),
        ["bookworm: main contrib", "bookworm-updates: main contrib"]
    );
    assert_eq!(
        pick(&found, &[], &[], &none, Some("noble")),
        found,
        "another system's"
    );
    let old = Kept {
        suites: words("sid gone"),
        components: words("main"),
        ..Kept::default()
    };
    assert_eq!(
        names(&pick(&found, &[], &[], &old, Some("bookworm"))),
        ["sid: main"]
    );
    let asked = pick(
        &found,
        &words("bookworm new"),
        &words("main"),
        &old,
        Some("bookworm"),
    );
    assert_eq!(names(&asked), ["bookworm: main", "new: main"]);
}

#[test]
fn the_chosen_mirror_comes_first_in_a_list() {
    let list = "# net: noble, build 3\n\
        http://a/@/noble/3/\tpriority:1 type:index\nhttp://a/noble/\tpriority:1 type:deb\n\
        http://b:80/@/noble/3/\tpriority:2 type:index\nhttp://b:80/noble/\tpriority:2 type:deb\n\
        http://b/@/noble/3/\tpriority:3 type:index\nhttp://b/noble/\tpriority:3 type:deb\n\
        file:/etc/\tpriority:1\n";
    expect![[r#"
        # Written by `mirrorlog select`
        # b
        http://b/@/noble/3/	priority:1 type:index
        http://b/noble/	priority:1 type:deb
        http://a/@/noble/3/	priority:2 type:index
        http://a/noble/	priority:2 type:deb
        http://b:80/@/noble/3/	priority:3 type:index
        http://b:80/noble/	priority:3 type:deb
        http://b/noble/	priority:1000 type:index
    "#]]
    .assert_eq(&list_with_first(
        list,
        "http://b",
        "http://b/noble/",
        &["b".to_owned()],
    ));
    let absent = list_with_first(list, "http://c", "http://c/noble/", &[]);
    let lines: Vec<&str> = absent.lines().collect();
    assert_eq!(lines[1], "http://c/noble/\tpriority:1");
    assert_eq!(lines[2], "http://a/@/noble/3/\tpriority:2 type:index");
    assert_eq!(lines[6], "http://b/@/noble/3/\tpriority:4 type:index");
}

#[test]
fn pkg_add_is_led_by_the_shape_of_the_mount() {
    let base =
        |mount: &str, base| PkgAdd::at("http://m1", &Mount::new(mount).unwrap(), base).line();
    let at = |mount: &str| base(mount, None);
    assert_eq!(base("/pub/OpenBSD", Some("")), "http://m1/pub/OpenBSD\n");
    assert_eq!(
        base("/bsd", Some("pub/OpenBSD")),
        "http://m1/bsd/pub/OpenBSD\n"
    );
    assert_eq!(
        at("/pub/OpenBSD/snapshots/packages/amd64"),
        "http://m1/pub/OpenBSD\n"
    );
    assert_eq!(at("/7.6/packages/arm64"), "http://m1\n");
    assert_eq!(
        at("/openbsd-amd64"),
        "export PKG_PATH=http://m1/openbsd-amd64/\n"
    );
    assert_eq!(
        at("/x/7./packages/amd64"),
        "export PKG_PATH=http://m1/x/7./packages/amd64/\n"
    );
}
