//! Two publishers of one channel at once: one wins, the other is told, and no number has two roots.

use std::collections::BTreeMap;

use e2e::{Network, Tree};

#[test]
fn one_wins_and_no_number_has_two_roots() {
    let network = Network::up(1);
    let trees = [Tree::new(), Tree::new()];
    for (number, tree) in trees.iter().enumerate() {
        for file in 0..300 {
            tree.write(&format!("d/{file}"), format!("{number} {file}"));
        }
    }
    let mut roots: BTreeMap<u64, String> = BTreeMap::new();
    let (mut won, mut lost) = (0, 0);
    for round in 0..6 {
        for (number, tree) in trees.iter().enumerate() {
            tree.write("round", format!("{round} of {number}"));
        }
        let ended = std::thread::scope(|scope| {
            let publishers = trees
                .each_ref()
                .map(|tree| scope.spawn(|| network.publish("c", tree.path(), &[])));
            publishers.map(|one| one.join().unwrap())
        });
        assert!(ended.iter().any(|one| one.code == 0), "one wins: {ended:?}");
        for one in ended {
            if one.code == 0 {
                won += 1;
                let root = one.json["root"].as_str().unwrap().to_owned();
                let other = roots.insert(one.build(), root);
                assert_eq!(other, None, "build {} was given twice", one.build());
            } else {
                lost += 1;
                let said = one.clone().code_is(75).stderr;
                assert!(said.contains('c') && !said.contains("panicked"), "{said}");
                let tells = ["publish", "another", "moved"]
                    .iter()
                    .any(|word| said.contains(word));
                assert!(tells, "the loser is told why: {said}");
            }
        }
    }
    assert_eq!(won + lost, 12);
    let newest = *roots.keys().next_back().unwrap();
    assert_eq!(roots.len() as u64, newest, "no number was left out");
    for (build, root) in &roots {
        let shown = network.run(["show", "c", &build.to_string()]).ok();
        assert_eq!(shown.json["root"], *root, "build {build}");
    }
    network.await_complete(&["nz1"], "c", newest);
    assert_eq!(network.channel("nz1", "c")["root"], roots[&newest]);
}
