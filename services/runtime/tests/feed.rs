//! What readers of the log make of messages that come before the root document which names their key.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use mirrorlog_core::id::{Build, ChannelId, Digest, MirrorId, PoolId};
use mirrorlog_core::sign::{KeyNumber, SecretKey, Threshold};
use mirrorlog_core::statement::{Order, OrderKind, RevokeReason, Statement, Verdict, VerdictState};
use mirrorlog_core::time::Timestamp;
use mirrorlog_core::trust::{Amendment, Role, RoleKeys, Root, RootParts, RootVersion};
use mirrorlog_core::view::View;
use runtime::boot::{Health, now};
use runtime::feed::{Feed, Heard, Listener, Park};
use runtime::log::supervise::NatsServer;
use runtime::log::{Log, NatsConfig};
use runtime::trust::{Trust, TrustConfig};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::Span;
use wire::{Signed, SignedRoot};

/// Longest wait for anything: far above what is normal, so that only a fault meets it.
const PATIENCE: Duration = Duration::from_secs(20);
const YEAR_MS: i64 = 365 * 24 * 3600 * 1000;

const ROOT: u8 = 1;
const ARCHIVE: u8 = 2;
const NEXT_ARCHIVE: u8 = 3;
const CONSISTENCY: u8 = 4;
const NEXT_CONSISTENCY: u8 = 5;

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed(KeyNumber([seed; 8]), &[seed; 32])
}

fn role(seed: u8) -> RoleKeys {
    RoleKeys {
        keys: [KeyNumber([seed; 8])].into(),
        threshold: Threshold::ONE,
    }
}

fn signed(root: &Root) -> SignedRoot {
    let mut signed = SignedRoot::new(root).unwrap();
    signed.sign(&key(ROOT));
    signed
}

fn first(at: Timestamp) -> Root {
    let seeds = [ROOT, ARCHIVE, CONSISTENCY];
    let keys = seeds.map(|seed| (KeyNumber([seed; 8]), key(seed).public()));
    Root::new(RootParts {
        version: RootVersion::FIRST,
        issued: at,
        expires: at.plus_ms(YEAR_MS),
        keys: BTreeMap::from(keys),
        root: role(ROOT),
        archive: role(ARCHIVE),
        consistency: role(CONSISTENCY),
        mirrors: BTreeMap::new(),
    })
    .unwrap()
}

/// Other keys of archive and consistency service.
fn next(root: &Root, at: Timestamp) -> Root {
    let add = |role, seed| Amendment::Add {
        role,
        key: key(seed).public(),
    };
    let amendments = [
        add(Role::Archive, NEXT_ARCHIVE),
        add(Role::Consistency, NEXT_CONSISTENCY),
    ];
    root.amended(&amendments, at, at.plus_ms(YEAR_MS)).unwrap()
}

fn verdict(build: u64, at: Timestamp) -> Verdict {
    Verdict {
        mirror: MirrorId::new("nz1").unwrap(),
        pool: PoolId::new("nz").unwrap(),
        channel: ChannelId::new("c").unwrap(),
        build: Build::new(build).unwrap(),
        root: Digest::from_bytes([7; 32]),
        view: View::All,
        state: VerdictState::Complete,
        issued: at,
        lease_revision: 1,
        audited_files: 1,
        new_files: 1,
    }
}

fn drain(at: Timestamp) -> Order {
    Order {
        id: 1,
        mirror: MirrorId::new("nz1").unwrap(),
        issued: at,
        kind: OrderKind::Drain {
            reason: "new disks".to_owned(),
        },
    }
}

fn bytes(seed: u8, statement: Statement) -> Bytes {
    Signed::sign(&key(seed), &statement).encode().into()
}

#[derive(Clone)]
struct Told(mpsc::UnboundedSender<Heard>);

impl Listener for Told {
    async fn hear(&self, heard: Heard, _span: &Span) {
        self.0.send(heard).unwrap();
    }
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(PATIENCE, future).await;
    done.unwrap_or_else(|_| panic!("{what} did not happen in {PATIENCE:?}"))
}

#[tokio::test]
async fn what_came_before_its_root_document_is_believed_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = NatsServer::start(dir.path(), None).await.unwrap();
    let log = Log::connect(&NatsConfig::new(&server.url), "test", false)
        .await
        .unwrap();
    log.ensure().await.unwrap();

    let at = now();
    let root = first(at);
    let file = dir.path().join("root.mlr");
    std::fs::write(&file, signed(&root).encode()).unwrap();
    let trust = Trust::open(&TrustConfig { root: file }, None).unwrap();

    let (tell, mut told) = mpsc::unbounded_channel();
    let park = Park::open(&dir.path().join("parked"), Health::new()).unwrap();
    let (archive, consistency) = (trust.archive().clone(), trust.consistency().clone());
    let feed = Feed::new(log.clone(), Told(tell), park.clone(), archive, consistency);
    let mut tasks = JoinSet::new();
    feed.start(&mut tasks).await.unwrap();

    // Keys that nobody has heard of yet.
    let (said, order) = (verdict(3, at), drain(at));
    let payload = bytes(NEXT_CONSISTENCY, Statement::Verdict(said.clone()));
    let publish = log.publish_verdict(&said.channel, &said.mirror, payload);
    publish.await.unwrap();
    let payload = bytes(NEXT_ARCHIVE, Statement::Order(order.clone()));
    let drains = log.bucket("drain").await.unwrap();
    drains.put(order.mirror.as_str(), payload).await.unwrap();
    // And what is taken back before they are heard of.
    let stale = verdict(5, at);
    let payload = bytes(NEXT_CONSISTENCY, Statement::Verdict(stale.clone()));
    let publish = log.publish_verdict(&stale.channel, &stale.mirror, payload);
    publish.await.unwrap();
    // And the next leader's, of whom one that it replaced says something else.
    let outdated = verdict(6, at);
    let revoked = Verdict {
        lease_revision: 2,
        state: VerdictState::Revoked(RevokeReason::Dropped),
        ..outdated.clone()
    };
    let payload = bytes(NEXT_CONSISTENCY, Statement::Verdict(revoked.clone()));
    let publish = log.publish_verdict(&revoked.channel, &revoked.mirror, payload);
    publish.await.unwrap();
    soon("all are refused", async {
        while park.count() < 4 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(told.try_recv().is_err());
    let dropped = Verdict {
        state: VerdictState::Revoked(RevokeReason::Dropped),
        ..stale.clone()
    };
    let payload = bytes(CONSISTENCY, Statement::Verdict(dropped.clone()));
    let publish = log.publish_verdict(&stale.channel, &stale.mirror, payload);
    publish.await.unwrap();
    let heard = soon("the newer is heard", told.recv()).await.unwrap();
    assert!(matches!(heard, Heard::Verdict(verdict, _) if verdict == dropped));
    let payload = bytes(CONSISTENCY, Statement::Verdict(outdated.clone()));
    let publish = log.publish_verdict(&outdated.channel, &outdated.mirror, payload);
    publish.await.unwrap();
    let heard = soon("the older is heard", told.recv()).await.unwrap();
    assert!(matches!(heard, Heard::Verdict(verdict, _) if verdict == outdated));

    trust.take(&signed(&next(&root, at))).unwrap();
    let (mut verdicts, mut orders) = (Vec::new(), Vec::new());
    while verdicts.len() < 2 || orders.is_empty() {
        match soon("all are believed", told.recv()).await.unwrap() {
            Heard::Verdict(verdict, _) => verdicts.push(verdict),
            Heard::Order(order) => orders.push(order),
            Heard::Snapshot(..) | Heard::Retraction(_) | Heard::Head(_) | Heard::Wanted { .. } => {}
        }
    }
    assert_eq!(verdicts, [said.clone(), revoked.clone()]);
    assert_eq!(orders, [order]);

    // Its readers go on.
    let later = verdict(4, at);
    let payload = bytes(CONSISTENCY, Statement::Verdict(later.clone()));
    let publish = log.publish_verdict(&later.channel, &later.mirror, payload);
    publish.await.unwrap();
    loop {
        match soon("what is said afterwards is heard", told.recv())
            .await
            .unwrap()
        {
            Heard::Verdict(heard, _) if heard == later => break,
            Heard::Verdict(heard, _) => panic!("{heard:?}"),
            Heard::Order(_)
            | Heard::Snapshot(..)
            | Heard::Retraction(_)
            | Heard::Head(_)
            | Heard::Wanted { .. } => {}
        }
    }
    // What was taken back was not told, and nobody has believed it yet.
    assert_eq!(park.count(), 1);
    assert_eq!(
        std::fs::read_dir(dir.path().join("parked"))
            .unwrap()
            .count(),
        1
    );
}
