//! Lists of changed paths that name what is outside of the tree.

use std::os::unix::fs::symlink;

use super::*;

use crate::hostile::around::Canary;
use crate::hostile::names::{Hostile, NAMES, is_below};

#[tokio::test(flavor = "multi_thread")]
async fn invariant_no_changed_path_leads_out_of_the_tree() {
    let canary = Canary::new();
    let bench = Bench::within(tempfile::tempdir().unwrap(), canary.inside()).await;
    bench.publish(request(&bench)).await.unwrap();
    let mut hostile = Hostile(32);
    let all: Vec<Vec<u8>> = (0..NAMES).map(|_| hostile.path()).collect();
    let plain: Vec<Vec<u8>> = all.iter().filter(|path| is_below(path)).cloned().collect();
    assert!(plain.len() > 20_000 && all.len() - plain.len() > 20_000);
    let changed = async |paths: Vec<Vec<u8>>| {
        bench
            .publish(PublishRequest {
                changed: Some(paths),
                ..request(&bench)
            })
            .await
    };
    let refused = changed(all).await.unwrap_err();
    assert!(matches!(refused, PublishError::Refused { .. }), "{refused}");
    // What the plain ones name is not there: nothing changed.
    assert!(changed(plain.clone()).await.unwrap().unchanged);
    for (name, out) in [("pool", "pool"), ("dists", "dists"), ("x.deb", "secret")] {
        symlink(canary.around().join(out), bench.tree().join(name)).unwrap();
    }
    let refused = changed(plain).await.unwrap_err();
    assert!(matches!(refused, PublishError::Refused { .. }), "{refused}");
    let store = runtime::store::Store::open(&bench.config().store_dir).unwrap();
    assert!(store.size(&Digest::of(Canary::secret())).unwrap().is_none());
    canary.check();
}
