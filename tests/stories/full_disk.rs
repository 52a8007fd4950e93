//! A mirror whose disk is full lets old builds go, then stops and goes on serving, and recovers by itself.

use e2e::{Network, Tree, noise, until};

const MIB: usize = 1 << 20;

#[test]
fn a_full_mirror_sheds_then_stops_and_recovers() {
    let network = Network::up(1);
    network.kill("nz1");
    network.configure("nz1", |config| {
        let mirror = config["mirror"].as_table_mut().unwrap();
        mirror.insert("budget".to_owned(), "20MiB".into());
        mirror.insert("retain_builds".to_owned(), 5.into());
    });
    network.restart("nz1");
    let tree = Tree::new();
    let retained = || network.channel("nz1", "c")["retained"].clone();
    for build in 1..=3 {
        tree.write("package", noise(build, 6 * MIB));
        assert_eq!(network.publish_everywhere("c", tree.path()), build);
    }
    assert_eq!(retained(), serde_json::json!([1, 2, 3]));
    // Three of six fit; the fourth takes the first one's place, though five may stay by count and all by age.
    tree.write("package", noise(4, 6 * MIB));
    assert_eq!(network.publish_everywhere("c", tree.path()), 4);
    assert_eq!(retained(), serde_json::json!([2, 3, 4]));
    assert_eq!(network.get("nz1", "/@/c/1/package").status, 410);
    // Too much, whatever goes.
    tree.write("package", noise(5, 18 * MIB));
    network.publish("c", tree.path(), &[]).ok();
    until("everything else is shed and status says why", || {
        let standing = network.standing("nz1", "c");
        let reason = standing["reason"].as_str().unwrap_or_default().to_owned();
        reason.contains("disk-full") && retained() == serde_json::json!([4])
    });
    assert_eq!(network.get("nz1", "/c/package").body, noise(4, 6 * MIB));
    assert!(network.is_complete("nz1", "c", 4));
    // Nobody has to do anything when something fits again.
    tree.write("package", noise(6, 7 * MIB));
    assert_eq!(network.publish_everywhere("c", tree.path()), 6);
    let standing = network.standing("nz1", "c");
    assert_eq!(standing["reason"], serde_json::Value::Null, "{standing}");
    network.stop();
}
