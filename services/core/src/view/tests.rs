#![allow(clippy::unwrap_used)]
use super::*;

fn names(text: &str) -> BTreeSet<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn view(architectures: &str, components: &str, include: &str, exclude: &str) -> View {
    let part = Part {
        architectures: names(architectures),
        components: names(components),
        include: names(include),
        exclude: names(exclude),
    };
    View::new(part).unwrap()
}

fn has(view: &View, layout: Layout, path: &str) -> bool {
    Selection::new(view, layout).has(&EntryPath::new(path.as_bytes()).unwrap())
}

#[test]
fn a_debian_mirror_of_one_architecture() {
    let amd64 = view("amd64", "", "", "");
    for carried in [
        "dists/noble/InRelease",
        "dists/noble/main/binary-amd64/Packages.xz",
        "dists/noble/main/binary-amd64/by-hash/SHA256/00ff",
        "dists/noble/main/binary-all/Packages.gz",
        "dists/noble/main/by-hash/SHA256/00ff",
        "dists/noble/main/Contents-amd64.gz",
        "dists/noble/main/Contents-all.gz",
        "dists/noble/main/debian-installer/binary-amd64/Packages",
        "dists/noble/main/installer-amd64/current/images/SHA256SUMS",
        "dists/noble/main/dep11/Components-amd64.yml.xz",
        "dists/noble/main/cnf/Commands-amd64.xz",
        "dists/noble/main/i18n/Translation-de.xz",
        "pool/main/h/hello/hello_2.10-3_amd64.deb",
        "pool/main/h/hello/hello-doc_2.10-3_all.deb",
        "pool/main/h/hello/hello-udeb_2.10-3_amd64.udeb",
        "project/README",
    ] {
        assert!(has(&amd64, Layout::Debian, carried), "{carried}");
    }
    for other in [
        "dists/noble/main/binary-arm64/Packages.xz",
        "dists/noble/main/binary-arm64/by-hash/SHA256/00ff",
        "dists/noble/main/debian-installer/binary-i386/Packages",
        "dists/noble/main/installer-arm64/current/images/SHA256SUMS",
        "dists/noble/main/source/Sources.xz",
        "dists/noble/main/Contents-arm64.gz",
        "dists/noble/main/Contents-udeb-arm64.gz",
        "dists/noble/main/Contents-arm64.diff/Index",
        "dists/noble/main/dep11/Components-riscv64.yml.gz",
        "dists/noble/main/cnf/Commands-arm64.xz",
        "pool/main/h/hello/hello_2.10-3_arm64.deb",
        "pool/main/h/hello/hello_2.10-3.dsc",
        "pool/main/h/hello/hello_2.10.orig.tar.gz",
        "pool/main/h/hello/hello_2.10.orig.tar.gz.asc",
        "pool/main/h/hello/hello_2.10-3.debian.tar.xz",
        "pool/main/h/hello/hello_2.10-3.diff.gz",
    ] {
        assert!(!has(&amd64, Layout::Debian, other), "{other}");
    }
    let with_sources = view("amd64 source", "", "", "");
    assert!(has(
        &with_sources,
        Layout::Debian,
        "pool/main/h/hello/hello_2.10-3.dsc"
    ));
    assert!(has(
        &with_sources,
        Layout::Debian,
        "dists/noble/main/source/Sources.xz"
    ));
    assert!(has(
        &amd64,
        Layout::Plain,
        "dists/noble/main/binary-arm64/Packages.xz"
    ));
}

#[test]
fn components_are_folders_of_pool_and_suites() {
    let main = view("", "main updates/contrib", "", "");
    for carried in [
        "dists/noble/Release",
        "dists/noble/by-hash/SHA256/00ff",
        "dists/noble/main/binary-arm64/Packages",
        "dists/old/updates/contrib/binary-i386/Packages",
        "pool/main/h/hello_1_amd64.deb",
        "pool/updates/contrib/h/hello_1_amd64.deb",
        "indices/files",
    ] {
        assert!(has(&main, Layout::Debian, carried), "{carried}");
    }
    for other in [
        "dists/noble/main2/binary-arm64/Packages",
        "dists/noble/universe/i18n/Translation-en",
        "dists/old/updates/main/binary-i386/Packages",
        "pool/universe/h/hello_1_amd64.deb",
        "pool/hello_1_amd64.deb",
    ] {
        assert!(!has(&main, Layout::Debian, other), "{other}");
    }
}

#[test]
fn openbsd_has_a_folder_for_each_architecture() {
    let amd64 = view("amd64", "", "", "");
    for carried in [
        "7.8/amd64/base78.tgz",
        "7.8/packages/amd64/zsh-5.9.tgz",
        "7.8/ANNOUNCEMENT",
        "Changelogs/arm64",
    ] {
        assert!(has(&amd64, Layout::OpenBsd, carried), "{carried}");
    }
    for other in [
        "7.8/arm64/base78.tgz",
        "7.8/packages/aarch64/zsh-5.9.tgz",
        "syspatch/7.8/i386/SHA256",
    ] {
        assert!(!has(&amd64, Layout::OpenBsd, other), "{other}");
    }
}

#[test]
fn globs_narrow_and_a_slash_means_all_below() {
    let globs = view("", "", "pool/ dists/**", "pool/**/*-dbg_* dists/*/contrib/");
    let has = |path| has(&globs, Layout::Plain, path);
    assert!(has("pool/main/h/hello_1_amd64.deb") && has("dists/noble/Release"));
    assert!(!has("README") && !has("pool/main/h/hello-dbg_1_amd64.deb"));
    assert!(!has("dists/noble/contrib/binary-amd64/Packages"));
}

#[test]
fn folders_are_hidden_when_nothing_below_can_belong() {
    let part = view("amd64", "main", "dists/**", "pool/main/x/");
    let carried = Selection::new(&part, Layout::Debian);
    for shown in [
        "dists",
        "pool",
        "pool/main",
        "dists/noble",
        "dists/noble/main",
    ] {
        assert!(carried.has_below(shown.as_bytes()), "{shown}");
    }
    for hidden in [
        "pool/universe",
        "dists/noble/main/binary-arm64",
        "pool/main/x",
    ] {
        assert!(!carried.has_below(hidden.as_bytes()), "{hidden}");
    }
}

/// Whoever goes down turns back at the first folder of a foreign architecture: nothing below may belong.
#[test]
fn the_topmost_architecture_counts() {
    let amd64 = view("amd64", "", "", "");
    let foreign = "dists/noble/main/binary-arm64/x/binary-amd64/Packages";
    assert!(!has(&amd64, Layout::Debian, foreign));
    let ours = "dists/noble/main/binary-amd64/x/binary-arm64/Packages";
    assert!(has(&amd64, Layout::Debian, ours));
    // A suite is no architecture, however it is called.
    let suite = "dists/source/main/binary-amd64/Packages";
    assert!(has(&amd64, Layout::Debian, suite));
    let carried = Selection::new(&amd64, Layout::Debian);
    assert!(carried.has_below(b"dists/source"));
    assert!(!carried.has_below(b"dists/noble/main/source"));
    assert!(!has(&amd64, Layout::OpenBsd, "7.8/arm64/amd64/base78.tgz"));
    assert!(has(&amd64, Layout::OpenBsd, "7.8/amd64/arm64/base78.tgz"));
}

#[test]
fn what_covers_a_clients_needs() {
    let needs = |architectures: &str, components: &str| (names(architectures), names(components));
    let covers =
        |view: &View, (architectures, components): (BTreeSet<String>, BTreeSet<String>)| {
            view.covers(&architectures, &components)
        };
    let part = view("amd64 arm64", "main", "", "");
    assert!(covers(&part, needs("amd64", "main")));
    assert!(
        !covers(&part, needs("amd64", "")),
        "all components are asked for"
    );
    assert!(!covers(&part, needs("amd64 i386", "main")));
    assert!(!covers(
        &view("", "", "", "**/*-dbg_*"),
        needs("amd64", "main")
    ));
    assert!(covers(&View::All, needs("", "")));
}

#[test]
fn what_is_no_view_is_refused_with_its_reason() {
    assert_eq!(View::new(Part::default()).unwrap(), View::All);
    for bad in ["", "a b", "../x*", "/main", "main/"] {
        let part = Part {
            components: BTreeSet::from([bad.to_owned()]),
            ..Part::default()
        };
        assert!(View::new(part).is_err(), "{bad}");
    }
    let part = Part {
        exclude: names("pool/[a"),
        ..Part::default()
    };
    let error = View::new(part).unwrap_err().to_string();
    assert!(error.contains("pool/[a"), "{error}");
    let many = (0..=VIEW_NAMES_MAX).map(|n| format!("a{n}")).collect();
    let part = Part {
        architectures: many,
        ..Part::default()
    };
    assert_eq!(View::new(part), Err(ViewError::TooLarge));
}

#[test]
fn people_read_what_is_carried() {
    let part = view("arm64 amd64", "main", "", "**/*-dbg_*");
    assert_eq!(
        part.to_string(),
        "architectures amd64 arm64; components main; without **/*-dbg_*"
    );
    assert_eq!(View::All.to_string(), "everything");
}
