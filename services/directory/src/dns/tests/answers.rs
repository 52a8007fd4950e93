//! What is answered for pools.

use std::net::IpAddr;

use mirrorlog_core::directory::place::Place;
use mirrorlog_core::directory::pool::{PoolName, Region};

use super::super::pools::Pools;
use super::*;

#[tokio::test]
async fn a_pool_is_its_mirrors() {
    let net = Net::start().await;
    let answer = net.ask("nz.mirrors.test", RecordType::A).await;
    assert!(answer.metadata.authoritative && answer.metadata.recursion_desired);
    assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
    assert!(answer.answers.iter().all(|record| record.ttl == 150));
    assert!(answer.authorities.is_empty() && answer.additionals.is_empty());
    let mut found = addresses(&answer);
    found.sort();
    // Neither the private one, not even for its own network, nor the one that is reached by TLS.
    assert_eq!(found, ["10.1.0.1", "10.1.0.2"]);
    let answer = net.ask("nz.mirrors.test", RecordType::AAAA).await;
    assert_eq!(addresses(&answer), ["2001:db8:1::1"]);
    assert_eq!(net.answered("ok"), 2);
}

#[tokio::test]
async fn regions_and_quarters() {
    let net = Net::start().await;
    let oceania = ["10.1.0.1", "10.1.0.2", "10.2.0.1"].map(str::to_owned);
    let seen = net.seen("oceania.mirrors.test", RecordType::A).await;
    assert_eq!(seen, BTreeSet::from(oceania.clone()));
    let world = net.seen("world.mirrors.test", RecordType::A).await;
    // A mirror's second address comes when there is room.
    let more = ["10.3.0.1", "10.3.0.2"].map(str::to_owned);
    assert!(world.is_superset(&oceania.into()), "{world:?}");
    assert!(world.contains(&more[0]) && !world.contains(&more[1]));
    let west = net.seen("us-west.mirrors.test", RecordType::A).await;
    assert_eq!(west, BTreeSet::from(more));
    // Nobody knows where 127.0.0.1 is: the zone's own name is all of them.
    assert_eq!(net.seen("mirrors.test", RecordType::A).await, world);
    let mut quarters = BTreeSet::new();
    for part in 0..4 {
        quarters.extend(
            net.seen(&format!("{part}.nz.mirrors.test"), RecordType::A)
                .await,
        );
        let near = net
            .ask(&format!("{part}.mirrors.test"), RecordType::A)
            .await;
        assert!(!near.answers.is_empty());
    }
    assert_eq!(quarters, net.seen("nz.mirrors.test", RecordType::A).await);
}

#[tokio::test]
async fn the_zone_itself_is_near_whoever_asks() {
    let net = Net::start().await;
    let pools = Pools::new(Arc::clone(&net.site), Vec::new(), 80);
    let (view, now) = (net.site.view(), now());
    let edition = pools.edition(&view, now);
    let apex = PoolName {
        part: None,
        region: Region::Near,
    };
    let of = |country: &str| {
        let place = Place::in_country(country.parse().unwrap());
        pools.of(&view, edition, &apex, &place, now)
    };
    let shown = |country| {
        let all: Vec<_> = of(country).v4.values().flatten().copied().collect();
        all.iter().map(IpAddr::to_string).collect::<Vec<_>>()
    };
    assert_eq!(shown("NZ"), ["10.1.0.1", "10.1.0.2"]);
    assert_eq!(shown("FJ"), ["10.2.0.1", "10.1.0.1", "10.1.0.2"]);
    assert_eq!(shown("CA"), ["10.3.0.1", "10.3.0.2"]);
    assert_eq!(shown("DE").len(), 5);
    // Nothing is computed twice while nothing changes.
    assert!(Arc::ptr_eq(&of("NZ"), &of("NZ")));
    assert!(!Arc::ptr_eq(&of("NZ"), &of("AU")));
}

#[tokio::test]
async fn at_most_four_and_the_heavier_ones_first() {
    let many: Vec<(String, String)> = (1..=9)
        .map(|n| (format!("nz{n}"), format!(r#""10.1.0.{n}", "10.1.1.{n}""#)))
        .collect();
    let weight = |n: usize| if n == 0 { "weight = 900" } else { "" };
    let mirrors = many.iter().enumerate();
    let mirrors: Vec<_> = mirrors
        .map(|(n, (id, addresses))| (&**id, "nz", &**addresses, weight(n)))
        .collect();
    let mut net = Net::of(&config(&mirrors, "")).await;
    let ids: Vec<&str> = mirrors.iter().map(|(id, ..)| *id).collect();
    net.world.complete("noble", 1, &ids);
    for id in ids {
        net.world.probed(id, Probed::Answered { latency_ms: 1.0 });
    }
    let (mut firsts, mut others) = (0, BTreeSet::new());
    for _ in 0..200 {
        let found = addresses(&net.ask("nz.mirrors.test", RecordType::A).await);
        assert_eq!(found.len(), 4);
        assert_eq!(found.iter().collect::<BTreeSet<_>>().len(), 4);
        firsts += usize::from(found[0] == "10.1.0.1");
        others.extend(found);
    }
    // 900 of 1,700: about 106 times of 200; its deviation is 7.
    assert!((70..=142).contains(&firsts), "{firsts}");
    assert_eq!(others.len(), 9);
}

#[tokio::test]
async fn a_text_says_which_builds() {
    let mut net = Net::start().await;
    net.world.complete("jammy", 8, &["au1", "nz1", "nz4"]);
    let answer = net.ask("nz.mirrors.test", RecordType::TXT).await;
    assert_eq!(texts(&answer), ["jammy=8", "noble=37"]);
    assert_eq!(answer.answers[0].ttl, 150);
    // A member has every channel.
    let answer = net.ask("nz.mirrors.test", RecordType::A).await;
    assert_eq!(addresses(&answer), ["10.1.0.1"]);

    let net = Net::with("channels = ['noble']").await;
    let answer = net.ask("world.mirrors.test", RecordType::TXT).await;
    assert_eq!(texts(&answer), ["noble=37"]);
    let none = Net::of(&config(&MIRRORS, "")).await;
    assert_no_data(&none.ask("nz.mirrors.test", RecordType::TXT).await);
}

#[tokio::test]
async fn a_dead_mirror_is_out() {
    let mut net = Net::start().await;
    for _ in 0..2 {
        net.world.probed("nz2", Probed::Silent);
    }
    let seen = net.seen("nz.mirrors.test", RecordType::A).await;
    assert_eq!(seen, BTreeSet::from(["10.1.0.1".to_owned()]));
    for _ in 0..2 {
        net.world.probed("nz1", Probed::Silent);
    }
    // The name exists: it has nobody now.
    assert_no_data(&net.ask("nz.mirrors.test", RecordType::A).await);
}

#[tokio::test]
async fn the_serial_moves_with_the_answers() {
    let mut net = Net::start().await;
    let before = i64::from(serial(&net).await);
    let clock = now().as_seconds();
    assert!((clock - 60..=clock).contains(&before), "{before}");
    net.world.feed(Input::Tick);
    assert_eq!(i64::from(serial(&net).await), before);
    net.world.complete("noble", 38, &["nz1"]);
    let after = i64::from(serial(&net).await);
    assert!(after > before);
    // That a head expires is said by time alone.
    let expires = Timestamp::from_ms(now().as_ms() + 3_000);
    net.world.feed(Input::Head(mirrorlog_core::statement::Head {
        channel: channel("noble"),
        build: build(38),
        root: root(38),
        retractions: root(0),
        issued: now(),
        expires,
    }));
    let renewed = i64::from(serial(&net).await);
    assert_eq!(renewed, after, "a renewed head changes no answer");
    assert!(
        !net.ask("nz.mirrors.test", RecordType::A)
            .await
            .answers
            .is_empty()
    );
    while now() <= expires {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(i64::from(serial(&net).await) > renewed);
    assert_no_data(&net.ask("nz.mirrors.test", RecordType::A).await);
}

async fn serial(net: &Net) -> u32 {
    let answer = net.ask("mirrors.test", RecordType::SOA).await;
    let (record, soa) = soa(&answer.answers);
    assert_eq!(record.ttl, 150);
    let nothing = net.ask("mirrors.test", RecordType::MX).await;
    assert_no_data(&nothing);
    assert_eq!(nothing.authorities[0].data, record.data);
    soa.serial
}
