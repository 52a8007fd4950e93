//! URLs as somebody writes them who wants out of the tree.

use std::collections::BTreeMap;

use mirrorlog_core::path::{EntryPath, resolve_target};

use super::*;

use crate::hostile::around::Canary;
use crate::hostile::names::{Hostile, NAMES};

/// Whatever a manifest can hold, symlinks among it.
fn puts(hostile: &mut Hostile) -> BTreeMap<Vec<u8>, Option<Vec<u8>>> {
    let mut puts = BTreeMap::new();
    for _ in 0..2000 {
        let Ok(path) = EntryPath::new(&hostile.path()) else {
            continue;
        };
        let is_free = |other: &Vec<u8>| {
            let above = EntryPath::new(other).unwrap();
            !path.is_below(other) && !above.is_below(path.as_bytes())
        };
        let target = hostile.target();
        let is_link = hostile.below(3) == 0 && resolve_target(&path, &target).is_ok();
        if puts.keys().all(is_free) {
            puts.insert(path.as_bytes().to_vec(), is_link.then_some(target));
        }
    }
    puts
}

#[tokio::test(flavor = "multi_thread")]
async fn invariant_no_url_reads_outside_of_the_build() {
    let canary = Canary::new();
    let mut hostile = Hostile(22);
    let puts = puts(&mut hostile);
    let contents: Vec<Vec<u8>> = puts
        .keys()
        .map(|path| [b"of ", &path[..]].concat())
        .collect();
    let world = World::within(tempfile::tempdir().unwrap(), &canary.inside());
    let texts: Vec<Option<&str>> = puts
        .values()
        .map(|target| std::str::from_utf8(target.as_ref()?).ok())
        .collect();
    let entries: Vec<(&[u8], Put<'_>)> = puts
        .keys()
        .zip(&contents)
        .zip(&texts)
        .map(|((path, content), target)| {
            let put = target.map_or(Put::File(content), Put::Link);
            (path.as_slice(), put)
        })
        .collect();
    let root = world.tree(&entries);
    world.serve("c", "/debian", &[(1, root)], Some(1));
    let prefixes = [
        "/debian/",
        "/debian/",
        "/@/c/1/",
        "/@/c/1/",
        "/",
        "/@/",
        "//debian/",
        "/debian/project/trace/",
        "/debian/../",
        "/@/../",
        "/@/c/1/@/c/1/",
        "/debian/%2e%2e/",
        "/@/c/1/..%2f",
    ];
    let (mut found, mut refused) = (0, 0);
    for _ in 0..NAMES {
        let url = hostile.url(&prefixes);
        if url.parse::<axum::http::Uri>().is_err() {
            // The server's parser refuses it before we see it.
            refused += 1;
            continue;
        }
        let answer = world.get(&url).await;
        assert!(!Canary::is_secret(&answer.body), "{url:?}");
        match answer.status {
            200 => {
                let is_listing = answer.header("content-type").starts_with("text/html");
                let is_of_it = contents.contains(&answer.body);
                let is_own = url.starts_with("/@/") || url.contains("project");
                assert!(is_listing || is_of_it || is_own, "{url:?}");
                found += 1;
            }
            301 | 302 | 307 | 308 => {
                let to = answer.header("location");
                // Relative, or to another path of this server.
                assert!(!to.starts_with("//") && !to.contains(':'), "{url:?}: {to}");
            }
            400 | 404 | 410 | 414 => refused += 1,
            other => panic!("{url:?}: {other}"),
        }
    }
    assert!(found > 500 && refused > 50_000, "{found} {refused}");
    canary.check();
}
