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
fn what_a_foreign_file_would_lose_is_known() {
    let plain = "Types: deb\nURIs: http://a/\n http://b/\nSuites: bookworm\nComponents: main\nEnabled: yes\n";
    assert_eq!(Kept::read(plain).lost, [""; 0]);
    let other = "# one\n\nTypes: deb-src\nEnabled: no\nURIs: http://a/\n \nTypes: deb\nURIs: http://b/\n\
                 by-hash: no\nTrusted:\n yes\n";
    let lost = Kept::read(other).lost;
    assert_eq!(
        lost,
        ["2 stanzas", "Enabled: no", "by-hash: no", "Trusted:"]
    );
    // Ours is made of what is asked for, again and again.
    assert_eq!(Kept::read(&format!("{MARK}\n{other}")).lost, [""; 0]);
}

#[test]
fn a_url_means_nothing_to_a_shell() {
    for good in [
        "http://m1",
        "https://m.example.org:8443/a%20b/~x",
        "http://[::1]:80",
    ] {
        assert!(is_plain_url(good), "{good}");
    }
    for bad in [
        "",
        "http://m/$(id)",
        "http://m/`id`",
        "http://m/;id",
        "http://m/a'b",
        "http://m/a?b",
        "http://m/a#b",
        "http://m/a&b",
        "http://m/a b",
        "http://m/\u{9b}31m",
    ] {
        assert!(!is_plain_url(bad), "{bad}");
    }
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
    let several = PickError::Several(found.iter().map(|suite| suite.name.clone()).collect());
    let own = pick(&found, &[], &[], &none, Some("bookworm")).unwrap();
    assert_eq!(
        names(&own),
        ["bookworm: main contrib", "bookworm-updates: main contrib"]
    );
    // Releases of other systems are not enabled unasked.
    for system in [Some("noble"), None] {
        let refused = pick(&found, &[], &[], &none, system);
        assert_eq!(refused.as_ref(), Err(&several));
        assert!(
            refused
                .unwrap_err()
                .to_string()
                .contains("bookwormish, sid")
        );
    }
    let only = pick(&found[4..], &[], &[], &none, Some("bookworm"));
    assert_eq!(names(&only.unwrap()), ["sid: main contrib"]);
    assert_eq!(pick(&[], &[], &[], &none, None), Err(PickError::None));
    let old = Kept {
        suites: words("sid gone"),
        components: words("main"),
        ..Kept::default()
    };
    assert_eq!(
        names(&pick(&found, &[], &[], &old, Some("bookworm")).unwrap()),
        ["sid: main"]
    );
    let gone = Kept {
        suites: words("buster"),
        ..Kept::default()
    };
    let refused = pick(&found, &[], &[], &gone, Some("bookworm")).unwrap_err();
    assert!(matches!(refused, PickError::Gone { .. }), "{refused}");
    let asked = pick(
        &found,
        &words("bookworm new"),
        &words("main"),
        &old,
        Some("bookworm"),
    );
    let asked = asked.unwrap();
    assert_eq!(names(&asked), ["bookworm: main", "new: main"]);
}

#[test]
fn the_chosen_mirror_comes_first_in_a_list() {
    let list = "# net: noble, build 3\n\
        http://a/@/noble/3/\tpriority:1 type:index\nhttp://a/noble/\tpriority:1 type:deb\n\
        http://b:80/@/noble/3/\tpriority:2 type:index\nhttp://b:80/noble/\tpriority:2 type:deb\n\
        http://b/@/noble/3/\tpriority:3 type:index\nhttp://b/noble/\tpriority:3 type:deb\n\
        file:/etc/\tpriority:1\nhttp://x/\u{9b}31m\tpriority:1\nhttp://x/\u{1b}[2J\tpriority:1\n";
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
    let above = |mount: &str| above_release(&Mount::new(mount).unwrap());
    for (mount, path, below) in [
        (
            "/pub/OpenBSD/snapshots/packages/amd64",
            "/pub/OpenBSD",
            Below::Architecture,
        ),
        ("/7.6/packages/arm64", "", Below::Architecture),
        (
            "/pub/7.6/packages-stable/arm64",
            "/pub",
            Below::Architecture,
        ),
        ("/pub/7.6/packages", "/pub", Below::Packages),
        ("/pub/7.6", "/pub", Below::Release),
    ] {
        assert_eq!(above(mount), Some((path.to_owned(), below)), "{mount}");
    }
    assert_eq!(above("/openbsd-amd64"), None);
    assert_eq!(above("/x/7./packages/amd64"), None);
    let mount = Mount::new("/openbsd-amd64").unwrap();
    let line = |url, place| PkgAdd::at(url, &mount, &place).line();
    assert_eq!(
        line("http://m1", Place::Releases("/pub".to_owned())),
        "http://m1/pub\n"
    );
    assert_eq!(
        line("http://m1", Place::Top),
        "export PKG_PATH='http://m1/openbsd-amd64/'\n"
    );
    // Whatever a URL is, a shell runs nothing of it.
    assert_eq!(
        line("http://m1/$(id)'", Place::Top),
        "export PKG_PATH='http://m1/$(id)'\\''/openbsd-amd64/'\n"
    );
}

#[test]
fn the_last_url_of_installurl_is_replaced_and_remarks_stay() {
    assert_eq!(installurl("", "http://m"), "http://m\n");
    assert_eq!(installurl("# mine\n", "http://m"), "# mine\nhttp://m\n");
    assert_eq!(
        installurl("# a\nhttp://b\n\nhttp://c # near\n# d", "http://m"),
        "# a\nhttp://b\n\nhttp://m # near\n# d\n"
    );
    let once = installurl("# a\nhttp://b\n", "http://m");
    assert_eq!(installurl(&once, "http://m"), once);
}
