#![allow(clippy::unwrap_used)]

use std::cmp::Ordering;

use proptest::prelude::*;

use super::*;
use crate::id::Digest;

fn name(text: &str) -> PackageName {
    PackageName::new(text).unwrap()
}

fn names(texts: &[&str]) -> BTreeSet<PackageName> {
    texts.iter().copied().map(name).collect()
}

fn version(text: &str) -> Version {
    Version::new(text).unwrap()
}

fn depend(text: &str) -> Depend {
    text.parse().unwrap()
}

#[test]
fn names_have_a_stem_a_version_and_flavors() {
    for (text, stem, flavors) in [
        ("quirks-7.14", "quirks", &[][..]),
        ("gettext-runtime-0.22.5", "gettext-runtime", &[]),
        ("py3-setuptools-69.1.0p0v0", "py3-setuptools", &[]),
        ("vim-9.1.0-no_x11", "vim", &["no_x11"]),
        ("vim-9.1.139-gtk3-lua", "vim", &["gtk3", "lua"]),
        ("ghostscript-10.02.1p0-gtk", "ghostscript", &["gtk"]),
        ("gtk+3-3.24.41", "gtk+3", &[]),
        ("libsigc++-2.12.1", "libsigc++", &[]),
        ("0ad-0.0.26p3", "0ad", &[]),
        ("p5-Net-DNS-1.42", "p5-Net-DNS", &[]),
        ("texlive_texmf-full-2023", "texlive_texmf-full", &[]),
        ("intel-firmware-20240312v0", "intel-firmware", &[]),
        ("bash-5.2.26-static", "bash", &["static"]),
        ("a-b-1-c-d", "a-b", &["c", "d"]),
    ] {
        let parsed = name(text);
        assert_eq!(parsed.stem(), stem, "{text}");
        assert_eq!(parsed.flavors().collect::<Vec<_>>(), flavors, "{text}");
        assert_eq!(parsed.to_string(), text);
        let file = parsed.file_name();
        assert_eq!(PackageName::of_file(file.as_bytes()), Some(parsed));
    }
    let too_long = format!("{}-1", "a".repeat(PACKAGE_NAME_MAX_BYTES));
    for text in [
        "", "base75", "-1.0", "a-1.0-", "a-1.0--b", "a-1.0-2", "a/b-1", ".a-1", "a b-1", "a-1.0\n",
        "a-1.0:x", "a-1,0", &too_long,
    ] {
        assert!(PackageName::new(text).is_err(), "{text:?}");
    }
    for file in [
        &b"base75.tgz"[..],
        b"quirks-7.14",
        b"\xff-1.tgz",
        b".tgz",
        b"SHA256",
    ] {
        assert_eq!(PackageName::of_file(file), None);
    }
}

#[test]
fn sets_and_patches_are_no_packages() {
    assert_eq!(package(b"quirks-7.14.tgz"), Some(name("quirks-7.14")));
    assert_eq!(package(b"site-tools-1.tgz"), Some(name("site-tools-1")));
    for file in [
        "syspatch78-001_expat.tgz",
        "site78-1.tgz",
        "base78.tgz",
        "SHA256",
    ] {
        assert_eq!(package(file.as_bytes()), None, "{file}");
    }
}

#[test]
fn stable_packages_lean_on_the_release() {
    let of = |folder: &str| beside(folder.as_bytes()).map(|path| String::from_utf8(path).unwrap());
    assert_eq!(
        of("7.8/packages-stable/amd64").unwrap(),
        "7.8/packages/amd64"
    );
    assert_eq!(of("packages-stable/amd64").unwrap(), "packages/amd64");
    for other in [
        "7.8/packages/amd64",
        "my-packages-stable/x",
        "packages-stable",
        "amd64",
        "",
    ] {
        assert_eq!(of(other), None, "{other}");
    }
}

#[test]
fn versions_go_by_age() {
    let rising = [
        "0.9",
        "0.9.1",
        "0.10alpha",
        "0.10alpha2",
        "0.10beta1",
        "0.10rc1",
        "0.10rc2",
        "0.10rc2p0",
        "0.10",
        "0.10p0",
        "0.10p1",
        "0.10p10",
        "0.10pl1",
        "0.10.0",
        "0.10a",
        "0.10b",
        "0.11",
        "1.a",
        "2024.01.05",
        "20240105",
        "1v0",
        "1p0v0",
        "0.1v1",
    ];
    for (at, older) in rising.iter().enumerate() {
        for newer in &rising[at + 1..] {
            let order = version(older).compare(&version(newer));
            assert_eq!(order, Ordering::Less, "{older} < {newer}");
        }
    }
    for (older, newer) in [
        ("0.10beta9", "0.10pre1"),
        ("0.10pre1", "0.10pre2"),
        ("0.10pre2", "0.10"),
    ] {
        let order = version(older).compare(&version(newer));
        assert_eq!(order, Ordering::Less, "{older} < {newer}");
    }
    // None is newer, whatever their revisions.
    for (a, b) in [
        ("1.01", "1.1"),
        ("1.01p3", "1.1"),
        ("1.0p01", "1.0p1"),
        ("1.0pre1", "1.0rc2"),
    ] {
        assert_eq!(version(a).compare(&version(b)), Ordering::Equal, "{a} {b}");
    }
    // Parts with more than a number and a letter are texts, on both sides then.
    for (older, newer) in [
        ("1.10beta2.1", "1.9"),
        ("10ab", "9ab"),
        ("2.10A", "2.9"),
        ("1.2_1", "1.20_1"),
    ] {
        let order = version(older).compare(&version(newer));
        let texts = if older == "1.2_1" {
            Ordering::Greater
        } else {
            Ordering::Less
        };
        assert_eq!(order, texts, "{older} {newer}");
    }
    // So the order goes round: texts 10_ < 9, and 9 < 10 as numbers.
    let [a, b, c] = ["10_", "9", "10"].map(version);
    let orders = [a.compare(&b), b.compare(&c), c.compare(&a)];
    assert_eq!(orders, [Ordering::Less; 3]);
    for text in ["", "a", "p1", "1-2", "1 ", "1,2", "1*"] {
        assert!(Version::new(text).is_err(), "{text:?}");
    }
}

#[test]
fn specs_match_as_packages_specs_says() {
    for (spec, good, bad) in [
        (
            "gettext-runtime-*",
            &["gettext-runtime-0.22.5"][..],
            &["gettext-tools-1", "gettext-runtime-x-1"][..],
        ),
        (
            "gettext-runtime->=0.21p1",
            &["gettext-runtime-0.22.5", "gettext-runtime-0.21p1"],
            &["gettext-runtime-0.21p0", "gettext-runtime-0.21"],
        ),
        (
            "python->=3.10,<3.11",
            &["python-3.10", "python-3.10.14p1"],
            &["python-3.11", "python-3.9.18", "python-3.11rc1p0v0"],
        ),
        (
            "a-1.0",
            &["a-1.0", "a-1.0p3", "a-1.0-x"],
            &["a-1.0.0", "a-1.0pl1", "a-1.0v0"],
        ),
        ("a-=1.0p1", &["a-1.0p1"], &["a-1.0", "a-1.0p2"]),
        ("a->1.0", &["a-1.0.1", "a-1.0v0"], &["a-1.0", "a-1.0p4"]),
        ("a-<=1.0", &["a-1.0", "a-1.0p4", "a-1.0rc1"], &["a-1.0.1"]),
        ("a-<1.0", &["a-0.9", "a-1.0beta2"], &["a-1.0", "a-1.0p1"]),
        (
            "py3-setuptools->=69.1.0v0",
            &["py3-setuptools-69.1.0p0v0"],
            &["py3-setuptools-70"],
        ),
        (
            "vim-*-no_x11",
            &["vim-9.1.0-no_x11", "vim-9.1.0-lua-no_x11"],
            &["vim-9.1.0", "vim-9.1.0-gtk3"],
        ),
        (
            "vim-*-!gtk3",
            &["vim-9.1.0", "vim-9.1.0-no_x11"],
            &["vim-9.1.0-gtk3"],
        ),
        (
            "vim->=9-gtk3-!lua,no_x11",
            &["vim-9.1-gtk3", "vim-9-no_x11"],
            &["vim-9.1-gtk3-lua", "vim-8-no_x11"],
        ),
        ("a-*|b->=2", &["a-0", "b-2"], &["b-1", "c-3"]),
        ("gtk+3-*", &["gtk+3-3.24.41"], &["gtkkk3-3.24"]),
        (
            "p5-N*-1.0",
            &["p5-Net-DNS-1.0"],
            &["p5-Date-1.0", "p5-Net-1.1"],
        ),
    ] {
        let parsed = Spec::new(spec).unwrap();
        assert_eq!(parsed.to_string(), spec);
        for text in good {
            assert!(parsed.matches(&name(text)), "{spec} {text}");
        }
        for text in bad {
            assert!(!parsed.matches(&name(text)), "{spec} {text}");
        }
    }
    let too_long = format!("{}-*", "a".repeat(SPEC_MAX_BYTES));
    for spec in [
        "", "a", "-*", "a-", "a-b", "a-*|", "|a-*", "a->=", "a->=1,", "a->=1,x", "a-2.4.*",
        "a->=2.4*", "a-2*", "a-**", "a-*-", "a-*-!", "a-*-x,", "a b-*", "a/b-*", &too_long,
    ] {
        assert!(Spec::new(spec).is_err(), "{spec:?}");
    }
}

#[test]
fn a_dependency_takes_its_default_among_the_newest() {
    let default = depend("devel/gettext,-runtime:gettext-runtime-*:gettext-runtime-0.22.5");
    let all = names(&[
        "gettext-runtime-0.22.5",
        "gettext-runtime-0.22.5-static",
        "gettext-tools-0.22.5",
        "quirks-7.14",
    ]);
    assert_eq!(
        resolve(&default, &all),
        Some(&name("gettext-runtime-0.22.5"))
    );
    // A newer one of the same stem and flavors takes the default's place.
    let updated = names(&["gettext-runtime-0.22.5", "gettext-runtime-0.22.5p0"]);
    assert_eq!(
        resolve(&default, &updated),
        Some(&name("gettext-runtime-0.22.5p0"))
    );
    let newer = names(&[
        "gettext-runtime-0.9",
        "gettext-runtime-0.23",
        "gettext-runtime-0.10",
    ]);
    assert_eq!(
        resolve(&default, &newer),
        Some(&name("gettext-runtime-0.23"))
    );
    assert_eq!(resolve(&default, &names(&["gettext-tools-0.22.5"])), None);
    assert_eq!(resolve(&default, &BTreeSet::new()), None);
    // A default that does not fit is none.
    let bounded = depend("a/a:a->=2:a-1");
    assert_eq!(
        resolve(&bounded, &names(&["a-1", "a-2", "a-3p1", "a-3p0"])),
        Some(&name("a-3p1"))
    );
    assert_eq!(resolve(&bounded, &names(&["a-1"])), None);
    // Alternatives are one choice: the default, else the first by name of what is newest.
    let either = depend("x/x:b-*|a-*:b-1-x");
    let all = names(&["a-8", "a-9", "b-1-x", "b-1", "b-1-a"]);
    assert_eq!(resolve(&either, &all), Some(&name("b-1-x")));
    let all = names(&["a-8", "a-9", "b-1"]);
    assert_eq!(resolve(&either, &all), Some(&name("a-9")));
    assert_eq!(
        resolve(&either, &names(&["a-9", "ab-1"])),
        Some(&name("a-9"))
    );
}

#[test]
fn a_packing_list_says_what_it_is_and_needs() {
    let text = b"@comment $OpenBSD: PLIST$\n@name vim-9.1.0-no_x11\n@url https://www.openbsd.org\n@version 12\n\
        @depend devel/gettext,-runtime:gettext-runtime->=0.21:gettext-runtime-0.22.5\n\
        @depend converters/libiconv:libiconv-*:libiconv-1.17\n\
        @pkgdep old-1.0\n@newdepend x:y-*:y-1\n@libdepend a:b:c-*:c-1\n@wantlib c.99.0\n+DESC\n@cwd /usr/local\n\
        bin/vim\n@sha abc=\n@name-like\n\xff\xfe\n";
    let list = PackingList::parse(text).unwrap();
    assert_eq!(list.name, name("vim-9.1.0-no_x11"));
    let depends: Vec<String> = list.depends.iter().map(Depend::to_string).collect();
    assert_eq!(
        depends,
        [
            "devel/gettext,-runtime:gettext-runtime->=0.21:gettext-runtime-0.22.5",
            "converters/libiconv:libiconv-*:libiconv-1.17"
        ]
    );
    let wrong = |text: &[u8]| PackingList::parse(text).unwrap_err();
    assert_eq!(wrong(b"bin/vim\n"), PackingListError::NoName);
    assert_eq!(wrong(b"@name a-1\n@name a-1\n"), PackingListError::TwoNames);
    assert!(matches!(wrong(b"@name vim\n"), PackingListError::Name(_)));
    assert_eq!(wrong(b"@name \xff-1\n"), PackingListError::NoText);
    for depend in ["a-*", "x:a-*", "x:a:a-1", "x:a-*:a", "x:a-*:a-1:y"] {
        let text = format!("@name a-1\n@depend {depend}\n");
        assert!(
            matches!(wrong(text.as_bytes()), PackingListError::Depend(_)),
            "{depend}"
        );
    }
    let many = format!(
        "@name a-1\n{}",
        "@depend x:b-*:b-1\n".repeat(DEPENDS_MAX + 1)
    );
    assert_eq!(wrong(many.as_bytes()), PackingListError::TooManyDepends);
}

#[test]
fn checksums_are_hex_or_base64() {
    let digest = Digest::of(b"quirks");
    let line = format!("SHA256 (quirks-7.14.tgz) = {digest}\n");
    let expected = Checksum {
        name: (*b"quirks-7.14.tgz").into(),
        digest,
    };
    assert_eq!(checksums(line.as_bytes()).unwrap(), [expected]);
    let odd = format!("SHA256 (a (b) = c) = {digest}");
    assert_eq!(&*checksums(odd.as_bytes()).unwrap()[0].name, b"a (b) = c");
    // As `openssl dgst -binary | base64` has it of nothing.
    let empty = b"SHA256 (empty) = 47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n\n";
    assert_eq!(checksums(empty).unwrap()[0].digest, Digest::of(b""));
    assert_eq!(checksums(b"").unwrap(), []);
    let base64 = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuF";
    for (at, bad) in [
        (1, "SHA512 (a) = 00".to_owned()),
        (1, format!("SHA256 () = {digest}")),
        (1, format!("SHA256 (a) = {digest}0")),
        (
            1,
            format!("SHA256 (a) = {}", digest.to_hex().replace('0', "g")),
        ),
        (1, format!("SHA256 (a) = {base64}V=")),
        (1, format!("SHA256 (a) = {base64}UA")),
        (1, format!("SHA256 (a) = {base64}-=")),
        (3, format!("{line}\nSHA256 (a)= {digest}")),
    ] {
        assert_eq!(
            checksums(bad.as_bytes()),
            Err(ChecksumsError::Line { line: at }),
            "{bad}"
        );
    }
}

#[test]
fn an_index_is_ls_or_plain_names() {
    let text = "total 88\n\
        drwxr-xr-x  2 1001  0       512 Mar 20 22:10:02 2024 .\n\
        -rw-r--r--  1 1001  0    145829 Mar  5 22:10:02 2024 quirks-7.14.tgz\n\
        -rw-r--r--  1 root  wheel  4560888 Oct 12  2023 gtk+3-3.24.41.tgz\n\
        -rw-r--r--. 1 root root 12 Mar 20 22:10 vim-9.1.0-no_x11.tgz\n\
        -rw-r--r-- 1 root root 12 2024-03-20 22:10 iso-1.tgz\n\
        -rw-r--r-- 1 root root 12 2024-03-20 22:10:02.123456789 +0000 full-iso-1.tgz\n\
        lrwxr-xr-x  1 root  wheel  12 Oct 12  2023 link-1.tgz -> real -> 1.tgz\n\
        -rw-r--r--  1 root  wheel  1 Oct 12  2023 a name  with spaces \n\
        -rw-r--r--  1 root  wheel  1 Oct 12  2023  leading\n\
        plain-1.0.tgz\n./below-1.0.tgz\n\ntotal\n-rw-\n";
    let found: Vec<&str> = listed_names(text.as_bytes())
        .map(|name| std::str::from_utf8(name).unwrap())
        .collect();
    assert_eq!(
        found,
        [
            "quirks-7.14.tgz",
            "gtk+3-3.24.41.tgz",
            "vim-9.1.0-no_x11.tgz",
            "iso-1.tgz",
            "full-iso-1.tgz",
            "link-1.tgz",
            "a name  with spaces ",
            " leading",
            "plain-1.0.tgz",
            "below-1.0.tgz",
            "total",
            "-rw-",
        ]
    );
}

/// Names as ports have them.
fn any_name() -> impl Strategy<Value = String> {
    let stem = "[a-z][a-z0-9+_]{0,5}(-[a-z][a-z0-9]{0,3}){0,2}";
    let flavors = "(-[a-z_][a-z0-9_]{0,4}){0,2}";
    (stem, any_version(), flavors)
        .prop_map(|(stem, version, flavors)| format!("{stem}-{version}{flavors}"))
}

/// The version and flavors, as they stand in a spec.
fn rest_of(name: &PackageName) -> &str {
    &name.as_str()[name.stem().len() + 1..]
}

fn any_version() -> impl Strategy<Value = String> {
    "[0-9]{1,3}(\\.[0-9]{1,2}[a-c]?){0,3}((rc|alpha|beta|pre|pl)[0-9]?)?(p[0-9])?(v[0-9])?"
}

proptest! {
    #[test]
    fn nothing_that_is_read_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), text in ".{0,60}") {
        checksums(&bytes).ok();
        listed_names(&bytes).for_each(drop);
        PackingList::parse(&bytes).ok();
        PackageName::of_file(&bytes);
        PackageName::new(&text).ok();
        Spec::new(&text).ok();
        text.parse::<Depend>().ok();
    }

    #[test]
    fn a_name_is_what_it_was_made_of(text in any_name()) {
        let parsed = name(&text);
        let flavors = parsed.flavors().map(|flavor| format!("-{flavor}")).collect::<String>();
        let rest = parsed.as_str().strip_prefix(parsed.stem()).unwrap().strip_prefix('-').unwrap();
        let middle = rest.strip_suffix(flavors.as_str()).unwrap();
        prop_assert_eq!(&version(middle), parsed.version());
    }

    #[test]
    fn versions_compare_the_same_from_both_sides(a in any_version(), b in any_version()) {
        let [a, b] = [&a, &b].map(|text| version(text));
        prop_assert_eq!(a.compare(&b), b.compare(&a).reverse());
        prop_assert_eq!(a.compare(&a), Ordering::Equal);
    }

    #[test]
    fn bounds_say_what_the_order_says(a in any_version(), b in any_version()) {
        let package = name(&format!("x-{b}"));
        let holds = |operator: &str| Spec::new(&format!("x-{operator}{a}")).unwrap().matches(&package);
        prop_assert!(holds(">=") || holds("<="));
        prop_assert_eq!(holds("="), holds(">=") && holds("<="));
        prop_assert_eq!(holds(">"), !holds("<="));
        prop_assert_eq!(holds("<"), !holds(">="));
        // With a revision in the bound nothing is left open.
        if a.contains('p') && a.rsplit('p').next().is_some_and(|n| n.starts_with(|c: char| c.is_ascii_digit())) {
            prop_assert_eq!(holds(">"), version(&b).compare(&version(&a)).is_gt());
        }
    }

    #[test]
    fn what_resolves_is_there_fits_and_has_no_newer_of_its_kind(
        all in prop::collection::btree_set(any_name(), 0..12),
        at in any::<prop::sample::Index>(),
    ) {
        let all: BTreeSet<PackageName> = all.iter().map(|text| name(text)).collect();
        prop_assume!(!all.is_empty());
        let one = all.iter().nth(at.index(all.len())).unwrap();
        let wanted = depend(&format!("x/y:{}-*:zz-0", one.stem()));
        let found = resolve(&wanted, &all).unwrap();
        prop_assert!(wanted.spec.matches(found));
        let kind = all.iter().filter(|name| name.stem() == found.stem() && name.flavors().eq(found.flavors()));
        let kind: Vec<_> = kind.filter(|name| wanted.spec.matches(name)).collect();
        // Of three the order may go round.
        if kind.len() <= 2 {
            prop_assert!(kind.iter().all(|name| name.version().compare(found.version()).is_le()));
        }
        let exact = depend(&format!("x/y:{}-={}:{one}", one.stem(), rest_of(one)));
        prop_assert!(resolve(&exact, &all).is_some());
    }
}
