//! A fix overtakes bulk that is under way on a slow link, inside one channel and beside it.

use std::time::{Duration, Instant};

use e2e::{Network, Setup, Tree, noise, until_within};

const LIMIT: &str = "20mbit";
const LINK_BYTES_PER_SECOND: f64 = 2_500_000.0;
const BULK_FILES: u64 = 15;
const BULK_FILE_BYTES: usize = 4_000_000;
const FIX_BYTES: usize = 1_000_000;
const PATIENCE: Duration = Duration::from_secs(90);

/// What is live, in the order in which it was: checked never to go back.
fn watch(network: &Network, channel: &str, seen: &mut Vec<u64>) -> u64 {
    let live = network.live("nz1", channel).unwrap_or(0);
    let before = seen.last().copied().unwrap_or(0);
    assert!(
        live >= before,
        "the mirror went back from {before} to {live}"
    );
    if live > before {
        seen.push(live);
    }
    live
}

#[test]
fn a_fix_overtakes_bulk_in_its_channel() {
    let network = Network::start(&Setup::mirrors(1).limit(LIMIT));
    let tree = Tree::new();
    tree.write("libc", "with a hole");
    network.publish_everywhere("c", tree.path());
    for file in 0..BULK_FILES {
        tree.write(&format!("bulk/{file}"), noise(file, BULK_FILE_BYTES));
    }
    let bulk = Instant::now();
    assert_eq!(network.publish("c", tree.path(), &[]).ok().build(), 2);
    until_within(PATIENCE, "bulk is under way", || {
        network.standing("nz1", "c")["missing"].as_u64() > Some(0)
    });

    let fix = noise(99, FIX_BYTES);
    tree.write("libc", &fix);
    let list = network.scratch().join("list");
    std::fs::write(&list, "libc\n").unwrap();
    let begun = Instant::now();
    let ended = network
        .publish(
            "c",
            tree.path(),
            &["--priority", "--changed", list.to_str().unwrap()],
        )
        .ok();
    let (fixed, also) = (ended.build(), ended.json["also"].as_u64());
    assert_eq!((fixed, also), (3, Some(4)), "{}", ended.stdout);
    let mut seen = vec![1];
    until_within(PATIENCE, "the fix is live", || {
        watch(&network, "c", &mut seen) >= fixed
    });
    let took = begun.elapsed().as_secs_f64();
    assert_eq!(seen, [1, 3], "the fix came first");
    assert!(network.get("nz1", "/c/libc").body == fix);
    assert_eq!(
        network.get("nz1", "/c/bulk/0").status,
        404,
        "the fix is on top of what was live"
    );
    assert!(network.get("nz1", "/@/c/3/libc").body == fix);
    // Its own time on the link, and what starting costs.
    let own = FIX_BYTES as f64 / LINK_BYTES_PER_SECOND;
    assert!(took < 1.5 * own + 2.0, "{took:.2} s for {own:.2} s of link");

    let whole = (BULK_FILES as f64) * (BULK_FILE_BYTES as f64) / LINK_BYTES_PER_SECOND;
    assert!(bulk.elapsed().as_secs_f64() < whole, "bulk was under way");
    until_within(PATIENCE, "bulk arrives", || {
        watch(&network, "c", &mut seen) == 4
    });
    assert_eq!(seen, [1, 3, 4]);
    let took = bulk.elapsed().as_secs_f64();
    assert!(
        took < 1.5 * whole + 5.0,
        "{took:.1} s for {whole:.1} s of link: bulk was fetched twice"
    );
    network.await_complete(&["nz1"], "c", 4);
    for file in 0..BULK_FILES {
        assert!(
            network.get("nz1", &format!("/c/bulk/{file}")).body == noise(file, BULK_FILE_BYTES)
        );
    }
    let lanes: Vec<_> = network
        .run(["log", "c"])
        .ok()
        .lines()
        .iter()
        .map(|line| line["lane"].clone())
        .collect();
    assert_eq!(lanes, ["bulk", "bulk", "priority", "bulk"]);
}
