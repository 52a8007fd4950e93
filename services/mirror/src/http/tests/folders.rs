//! Listings and what leads to them.

use expect_test::expect;
use mirrorlog_core::layout::Layout;

use super::{Put, World};
use crate::serving::ServedChannel;

fn plain(served: &mut ServedChannel) {
    served.layout = Layout::Plain;
}

#[tokio::test]
async fn a_listing_is_what_people_and_pkg_add_read() {
    let world = World::new();
    let one = world.tree(&[
        (b"7.8/amd64/quirks-7.50.tgz", Put::File(b"quirks")),
        (b"7.8/amd64/gtk+3-3.24.tgz", Put::File(b"gtk")),
        (b"7.8/amd64/a b<c>&\"'.txt", Put::File(b"odd")),
        (b"7.8/amd64/\xff\x1b[1m\r", Put::File(b"")),
        (b"7.8/amd64/sub/x", Put::File(b"x")),
        (b"7.8/amd64/sub-1", Put::File(b"sorts before sub/")),
        (b"7.8/amd64/current", Put::Link("quirks-7.50.tgz")),
        (b"7.8/amd64/folder", Put::Link("sub")),
        (b"7.8/amd64/nowhere", Put::Link("gone")),
        (b"7.8/amd64/scheme:name", Put::File(b"1")),
    ]);
    let two = world.tree(&[
        (b"7.8/amd64/quirks-7.50.tgz", Put::File(b"the other's")),
        (b"7.8/amd64/zsh-5.9.tgz", Put::File(b"zsh")),
        (b"7.8/amd64/sub/y", Put::File(b"y")),
    ]);
    world.serve_as("first", "/pub/OpenBSD", &[(1, one)], Some(1), |served| {
        plain(served);
        served.precedence = 1;
    });
    world.serve_as("second", "/pub/OpenBSD", &[(8, two)], Some(8), plain);
    let answer = world.get("/pub/OpenBSD/7.8/amd64/").await;
    assert_eq!(
        (answer.status, answer.header("mirrorlog-build")),
        (200, "first=1, second=8")
    );
    assert_eq!(answer.header("content-type"), "text/html; charset=utf-8");
    assert_eq!(answer.header("cache-control"), "public, no-cache");
    expect![[r#"
        <!DOCTYPE html>
        <html><head><meta charset="utf-8"><title>Index of /pub/OpenBSD/7.8/amd64/</title></head>
        <body><h1>Index of /pub/OpenBSD/7.8/amd64/</h1>
        <pre>
        <A HREF="../">../</A>
        <A HREF="a%20b%3Cc%3E%26%22%27.txt">a b&lt;c&gt;&amp;&quot;'.txt</A>                                      2026-11-21 23:50               3
        <A HREF="current">current</A>                                            2026-11-21 23:50               6
        <A HREF="folder/">folder/</A>                                                                           -
        <A HREF="gtk+3-3.24.tgz">gtk+3-3.24.tgz</A>                                     2026-11-21 23:50               3
        <A HREF="quirks-7.50.tgz">quirks-7.50.tgz</A>                                    2026-11-21 23:50               6
        <A HREF="scheme%3Aname">scheme:name</A>                                        2026-11-21 23:50               1
        <A HREF="sub-1">sub-1</A>                                              2026-11-21 23:50              17
        <A HREF="sub/">sub/</A>                                                                              -
        <A HREF="zsh-5.9.tgz">zsh-5.9.tgz</A>                                        2026-11-21 23:50               3
        <A HREF="%FF%1B%5B1m%0D">��[1m�</A>                                             2026-11-21 23:50               0
        </pre></body></html>
    "#]].assert_eq(&answer.text());
    // The same again, and for who has it.
    let tag = answer.header("etag");
    assert_eq!(world.get("/pub/OpenBSD/7.8/amd64/").await.body, answer.body);
    let again = world
        .send("GET", "/pub/OpenBSD/7.8/amd64/", &[("if-none-match", tag)])
        .await;
    assert_eq!(again.status, 304);
    // Every name leads to its file.
    for line in answer.text().lines().filter(|line| line.starts_with("<A ")) {
        let href = line.split('"').nth(1).unwrap();
        if href != "../" {
            let path = format!("/pub/OpenBSD/7.8/amd64/{href}");
            assert_eq!(world.get(&path).await.status, 200, "{path}");
        }
    }
}

#[tokio::test]
async fn folders_above_the_mounts_and_mounts_in_mounts() {
    let world = World::new();
    let root = world.files(&[("x", "x")]);
    world.serve_as("bsd", "/pub/OpenBSD", &[(1, root)], Some(1), plain);
    world.serve_as("inner", "/pub/OpenBSD/a/b", &[(1, root)], Some(1), plain);
    world.serve_as("debian", "/debian", &[(1, root)], Some(1), plain);
    world.serve_as("coming", "/coming", &[], None, plain);
    let names = async |path: &str| {
        let text = world.get(path).await.text();
        let lines = text.lines().filter(|line| line.starts_with("<A "));
        lines
            .map(|line| line.split('"').nth(1).unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(names("/").await, ["debian/", "pub/"]);
    assert_eq!(names("/pub/").await, ["../", "OpenBSD/"]);
    assert_eq!(names("/pub/OpenBSD/").await, ["../", "a/", "x"]);
    assert_eq!(names("/pub/OpenBSD/a/").await, ["../", "b/"]);
    assert_eq!(names("/pub/OpenBSD/a/b/").await, ["../", "x"]);
    assert_eq!(names("/@/bsd/1/").await, ["../", "x"]);
    assert_eq!(world.get("/coming/").await.status, 404);
    assert_eq!(World::new().get("/").await.status, 200);
}

#[tokio::test]
async fn a_folder_without_its_slash_is_a_redirect() {
    let world = World::new();
    let root = world.tree(&[
        (b"dists/trixie/Release", Put::File(b"r")),
        (b"dists/stable", Put::Link("trixie")),
        (b"o:dd f/x", Put::File(b"x")),
    ]);
    world.serve("main", "/pub/d", &[(1, root)], Some(1));
    for (path, location, builds) in [
        ("/pub", "pub/", ""),
        ("/pub/d", "d/", "main=1"),
        ("/pub/d/dists", "dists/", "main=1"),
        ("/pub/d/dists/stable", "stable/", "main=1"),
        ("/pub/d/o:dd%20f", "o%3Add%20f/", "main=1"),
        ("/@/main/1", "1/", "main=1"),
        ("/@/main/1/dists", "dists/", "main=1"),
    ] {
        let answer = world.get(path).await;
        assert_eq!(
            (answer.status, answer.header("location")),
            (301, location),
            "{path}"
        );
        assert_eq!(answer.header("mirrorlog-build"), builds, "{path}");
    }
    assert!(
        world
            .get("/pub/d/dists/stable/")
            .await
            .text()
            .contains("HREF=\"Release\"")
    );
    assert_eq!(world.get("/pub/d/nothing/").await.status, 404);
}

#[tokio::test]
async fn twelve_thousand_names_come_on_one_page() {
    let world = World::new();
    let names: Vec<String> = (0..12_000)
        .map(|i| format!("dir/name-{i:05}-1.0.tgz"))
        .collect();
    let below: Vec<String> = (0..300).map(|i| format!("dir/sub{i}/x")).collect();
    let (even, odd): (Vec<_>, Vec<_>) = names.iter().enumerate().partition(|(i, _)| i % 2 == 0);
    let put = |some: Vec<(usize, &String)>| {
        let files = some.into_iter().map(|(_, name)| name.as_str());
        let files: Vec<_> = files
            .chain(below.iter().map(String::as_str))
            .map(|name| (name, "x"))
            .collect();
        world.files(&files)
    };
    let (even, odd) = (put(even), put(odd));
    world.serve("even", "/d", &[(1, even)], Some(1));
    world.serve("odd", "/d", &[(1, odd)], Some(1));
    let answer = world.get("/d/dir/").await;
    assert_eq!(answer.status, 200);
    let text = answer.text();
    let found: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("<A HREF=\"")?.split('"').next())
        .collect();
    let mut folders: Vec<String> = (0..300).map(|i| format!("sub{i}/")).collect();
    folders.sort();
    let files = names
        .iter()
        .map(|name| name.trim_start_matches("dir/").to_owned());
    let expected: Vec<String> = std::iter::once("../".to_owned())
        .chain(files)
        .chain(folders)
        .collect();
    assert_eq!(found, expected);
    assert!(text.ends_with("</pre></body></html>\n"));
    let head = world.send("HEAD", "/d/dir/", &[]).await;
    assert_eq!(
        (head.status, head.header("content-length"), head.body.len()),
        (200, "", 0)
    );
}

#[tokio::test]
async fn the_trace_is_debians() {
    let world = World::new();
    let root = world.files(&[
        ("dists/trixie/main/binary-amd64/Packages", "p"),
        ("dists/trixie/updates/main/binary-arm64/Packages", "p"),
        ("dists/trixie/main/binary-all/Packages", "p"),
        ("dists/trixie/main/source/Sources", "s"),
        ("project/trace/master.example.org", "theirs"),
    ]);
    world.serve("main", "/debian", &[(3, root)], Some(3));
    let answer = world.get("/debian/project/trace/m1.example.org").await;
    assert_eq!(
        (answer.status, answer.header("mirrorlog-build")),
        (200, "main=3")
    );
    assert_eq!(
        answer.header("last-modified"),
        "Sat, 21 Nov 2026 23:50:30 GMT"
    );
    expect![[r#"
        Sat Nov 21 23:50:30 UTC 2026
        Date: Sat, 21 Nov 2026 23:50:30 +0000
        Date-Started: Sat, 21 Nov 2026 23:50:10 +0000
        Archive serial: 2026112122
        Used ftpsync version: mirrorlog/0.1.0
        Creator: mirrorlog/0.1.0
        Running on host: m1.example.org
        Maintainer: Mia <mia@example.org>
        Country: NZ
        Architectures: amd64 arm64 source
        Architectures-Configuration: ALL
        Upstream-mirror: up.example.org
        Total bytes received in rsync: 5000
        Total time spent in rsync: 20
        Average rate: 250 B/s
    "#]]
    .assert_eq(&answer.text());
    let theirs = world.get("/debian/project/trace/master.example.org").await;
    assert_eq!(theirs.text(), "theirs");
    let listing = world.get("/debian/project/trace/").await.text();
    let names = ["\"m1.example.org\"", "\"master.example.org\""];
    assert!(names.iter().all(|name| listing.contains(name)), "{listing}");
    assert_eq!(
        world
            .get("/@/main/3/project/trace/m1.example.org")
            .await
            .status,
        404
    );
}

#[tokio::test]
async fn the_trace_is_there_without_a_folder_for_it_and_after_a_restart() {
    let world = World::new();
    let root = world.files(&[("dists/x/Release", "r")]);
    world.serve_as("main", "/debian", &[(3, root)], Some(3), |served| {
        served.flip = None
    });
    world.serve_as("plain", "/plain", &[(3, root)], Some(3), plain);
    let text = world
        .get("/debian/project/trace/m1.example.org")
        .await
        .text();
    assert!(
        text.starts_with("Sat Nov 21 22:50:30 UTC 2026\nDate: Sat, 21 Nov 2026 22:50:30 +0000\n"),
        "{text}"
    );
    assert!(!text.contains("Date-Started"));
    for (path, name) in [
        ("/debian/", "project/"),
        ("/debian/project/", "trace/"),
        ("/debian/project/trace/", "m1.example.org"),
        ("/plain/project/trace/", "m1.example.org"),
    ] {
        let text = world.get(path).await.text();
        assert!(text.contains(&format!("HREF=\"{name}\"")), "{path}: {text}");
    }
    assert!(!world.get("/plain/").await.text().contains("project"));
    assert_eq!(
        world.get("/debian/project").await.header("location"),
        "project/"
    );
}
