//! Notices come back as they were, and nothing else is taken for one.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use mirrorlog_core::id::{ChannelId, Digest, MirrorId};
use mirrorlog_core::limits::{PEER_BUILDS_MAX, PEER_NOTICE_MAX_BYTES};
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message as _;
use wire::peer::{PeerBuild, PeerNotice, check_address};
use wire::v1;

fn notices() -> impl Strategy<Value = PeerNotice> {
    let build = ("[a-z0-9]{1,20}", any::<[u8; 32]>(), any::<bool>());
    let build = build.prop_map(|(channel, root, whole)| PeerBuild {
        channel: ChannelId::new(&channel).unwrap(),
        root: Digest::from_bytes(root),
        whole,
    });
    let address = proptest::option::of("[a-z0-9.-]{1,30}:[1-9][0-9]{0,3}");
    let all = (
        "[a-z0-9]{1,20}",
        address,
        any::<bool>(),
        any::<u64>(),
        vec(build, 0..9),
    );
    all.prop_map(
        |(mirror, fetch_address, asks, received_bytes, builds)| PeerNotice {
            mirror: MirrorId::new(&mirror).unwrap(),
            fetch_address,
            asks,
            received_bytes,
            builds,
        },
    )
}

proptest! {
    #[test]
    fn notices_come_back(notice in notices()) {
        prop_assert_eq!(PeerNotice::decode(&notice.encode()).unwrap(), notice);
    }

    #[test]
    fn no_bytes_bring_the_reader_down(bytes in vec(any::<u8>(), 0..300)) {
        PeerNotice::decode(&bytes).ok();
    }
}

#[test]
fn what_is_no_notice_is_refused() {
    let good = || v1::PeerNotice {
        mirror: "nz1".to_owned(),
        fetch_address: "nz1.example.org:7080".to_owned(),
        ..v1::PeerNotice::default()
    };
    let read = |notice: v1::PeerNotice| PeerNotice::decode(&notice.encode_to_vec());
    read(good()).unwrap();
    let build = v1::PeerBuild {
        channel: "noble".to_owned(),
        root: vec![7; 32].into(),
        whole: true,
    };
    let with = |change: &dyn Fn(&mut v1::PeerNotice)| {
        let mut notice = good();
        change(&mut notice);
        read(notice)
    };
    with(&|notice| notice.builds = vec![build.clone(); PEER_BUILDS_MAX]).unwrap();
    let refused: [&dyn Fn(&mut v1::PeerNotice); 6] = [
        &|notice| notice.mirror.clear(),
        &|notice| notice.mirror = "NZ1".to_owned(),
        &|notice| notice.fetch_address = "http://nz1/".to_owned(),
        &|notice| notice.builds = vec![build.clone(); PEER_BUILDS_MAX + 1],
        &|notice| {
            notice.builds = vec![v1::PeerBuild {
                root: vec![7; 31].into(),
                ..build.clone()
            }]
        },
        &|notice| {
            notice.builds = vec![v1::PeerBuild {
                channel: "a b".to_owned(),
                ..build.clone()
            }]
        },
    ];
    for change in refused {
        assert!(with(change).is_err());
    }
    assert!(PeerNotice::decode(&vec![0; PEER_NOTICE_MAX_BYTES + 1]).is_err());
}

#[test]
fn addresses_have_a_host_and_a_port_and_nothing_else() {
    for good in [
        "nz1:1",
        "10.0.0.1:7080",
        "[2001:db8::1]:65535",
        "a-b.example.org:80",
    ] {
        check_address(good).unwrap();
    }
    let long = format!("{}:80", "a".repeat(300));
    for bad in [
        "",
        "nz1",
        "nz1:0",
        ":80",
        "nz1:65536",
        "nz1:80/",
        "a b:80",
        "user@nz1:80",
        "http://nz1:80",
        &long,
    ] {
        assert!(check_address(bad).is_err(), "{bad}");
    }
}
