//! Questions to a directory's pools.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::LazyLock;

use directory::Config;
use directory::dns::Responder;
use hickory_proto::op::{DEFAULT_MAX_PAYLOAD_LEN, Message, MessageType};
use mirrorlog_core::directory::health::Probed;
use mirrorlog_core::directory::{Directory, Input};
use mirrorlog_core::id::{Build, ChannelId, Digest, Lane, MirrorId, Mount, PoolId};
use mirrorlog_core::layout::Layout;
use mirrorlog_core::statement::{Head, Snapshot, Verdict, VerdictState};
use mirrorlog_core::time::Timestamp;
use mirrorlog_core::view::View;

const CONFIG: &str = r#"
directory.state = "state"
archive = { fetch = "127.0.0.1:1", keys = ["a.pub"] }
consistency.keys = ["c.pub"]
nats.url = "nats://127.0.0.1:1"
http.listen = "127.0.0.1:0"

[dns]
listen = "127.0.0.1:0"
zone = "mirrors.test"
servers = ["ns.mirrors.test", "a.b.mirrors.test", "ns.elsewhere.test"]
addresses = ["192.0.2.1", "2001:db8::1"]

[[mirrors]]
id = "nz1"
pool = "nz"
url = "http://nz1.test"
addresses = ["10.1.0.1", "2001:db8:1::1"]

[[mirrors]]
id = "us1"
pool = "us-west"
url = "http://us1.test"
addresses = ["10.3.0.1", "10.3.0.2"]
"#;
const NOW: Timestamp = Timestamp::from_seconds(1_795_305_030);
const FROM: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));

static RESPONDER: LazyLock<Responder> = LazyLock::new(|| {
    // The archive's address is not asked, and still wants a runtime.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let _entered = runtime.enter();
    let config = Config::parse(Path::new("/nowhere/directory.toml"), CONFIG).unwrap();
    let pages = tempfile::tempdir().unwrap();
    Responder::new(&config, &fold(&config), pages.path()).unwrap()
});

/// Both mirrors are complete at a build.
fn fold(config: &Config) -> Directory {
    let profiles = config.mirrors.iter().map(|mirror| mirror.profile());
    let mut fold = Directory::new(config.probe_rules(), profiles.collect());
    let channel = ChannelId::new("noble").unwrap();
    let (build, root) = (Build::FIRST, Digest::of(b""));
    fold.step(
        Input::Snapshot(Snapshot {
            channel: channel.clone(),
            build,
            base: None,
            root,
            previous: None,
            created: NOW,
            entries: 1,
            bytes: 1,
            lane: Lane::Bulk,
            mount: Mount::new("/ubuntu").unwrap(),
            layout: Layout::Debian,
            precedence: 0,
            notices: Vec::new(),
        }),
        NOW,
    );
    let head = Head {
        channel: channel.clone(),
        build,
        root,
        retractions: Digest::of(b""),
        issued: NOW,
        expires: NOW.plus_ms(86_400_000),
    };
    fold.step(Input::Head(head), NOW);
    for (mirror, pool) in [("nz1", "nz"), ("us1", "us-west")] {
        let (mirror, pool) = (MirrorId::new(mirror).unwrap(), PoolId::new(pool).unwrap());
        complete(&mut fold, &channel, (build, root), (mirror, pool));
    }
    fold
}

fn complete(
    fold: &mut Directory,
    channel: &ChannelId,
    at: (Build, Digest),
    who: (MirrorId, PoolId),
) {
    let ((build, root), (mirror, pool)) = (at, who);
    let index = fold.view().find(&mirror).unwrap();
    let verdict = Verdict {
        mirror,
        pool: pool.clone(),
        channel: channel.clone(),
        build,
        root,
        view: View::All,
        state: VerdictState::Complete,
        issued: NOW,
        lease_revision: 1,
        audited_files: 0,
        new_files: 0,
    };
    fold.step(Input::Verdict(verdict), NOW);
    let wanted = Input::Wanted {
        channel: channel.clone(),
        pool,
        build: Some(build),
    };
    fold.step(wanted, NOW);
    let probed = Input::Probed {
        mirror: index,
        probed: Probed::Answered { latency_ms: 1.0 },
        looked: Vec::new(),
    };
    fold.step(probed, NOW);
}

pub(crate) fn dns(data: &[u8]) {
    let udp = RESPONDER.answer_udp(data, FROM, NOW);
    let tcp = RESPONDER.answer_tcp(data, FROM, NOW);
    assert_eq!(udp.is_some(), tcp.is_some());
    let limits = [usize::from(DEFAULT_MAX_PAYLOAD_LEN), usize::from(u16::MAX)];
    for (answer, most) in [udp, tcp].into_iter().flatten().zip(limits) {
        assert!(
            answer.len() <= most && answer[..2] == data[..2],
            "it is the question's answer"
        );
        let read = Message::from_vec(&answer).expect("others can read it");
        assert_eq!(read.metadata.message_type, MessageType::Response);
        let again = RESPONDER.answer_udp(&answer, FROM, NOW);
        assert!(
            again.is_none(),
            "an answer to an answer goes round for ever"
        );
    }
}
