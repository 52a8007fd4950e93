//! UDP, TCP, sizes, and what is no question.

use super::super::reply::{Carrier, Desk};
use super::super::zone::Zone;
use super::*;

/// More text than fits into any answer over UDP.
async fn wordy() -> (Net, usize) {
    let mut net = Net::start().await;
    for n in 0..99 {
        let name = format!("channel-with-a-rather-long-name-{n}");
        net.world.complete(&name, 1, &["nz1", "nz2"]);
    }
    (net, 100)
}

#[tokio::test]
async fn what_does_not_fit_comes_by_tcp() {
    let (net, count) = wordy().await;
    let mut question = question("nz.mirrors.test", RecordType::TXT);
    for (says, size_max) in [
        (None, 512),
        (Some(100), 512),
        (Some(1232), 1232),
        (Some(4096), 1232),
    ] {
        question.edns = says.map(|says| {
            let mut edns = Edns::new();
            edns.set_max_payload(says);
            edns
        });
        let bytes = net.udp_bytes(&question.to_vec().unwrap()).await;
        assert!(bytes.len() <= size_max);
        let answer = Message::from_vec(&bytes).unwrap();
        assert!(answer.metadata.truncation && answer.metadata.authoritative);
        assert!(answer.answers.is_empty() && answer.authorities.is_empty());
        assert_eq!(answer.queries, question.queries);
        assert_eq!(answer.edns.is_some(), says.is_some());
        let whole = net.tcp(&question).await;
        assert!(!whole.metadata.truncation);
        assert_eq!(texts(&whole).len(), count);
    }
}

#[tokio::test]
async fn sizes_are_used_as_far_as_they_go() {
    let mut net = Net::start().await;
    for n in 0..12 {
        let name = format!("channel-with-a-rather-long-name-which-is-long-{n}");
        net.world.complete(&name, 1, &["nz1", "nz2"]);
    }
    let mut question = question("nz.mirrors.test", RecordType::TXT);
    assert!(net.udp(&question).await.metadata.truncation);
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    question.set_edns(edns);
    let answer = net.udp(&question).await;
    assert!(!answer.metadata.truncation);
    assert_eq!(texts(&answer).len(), 13);
    assert_eq!(answer.edns.unwrap().max_payload(), 1232);
}

#[tokio::test]
async fn glue_goes_before_the_answer_does() {
    let servers: Vec<String> = (0..9)
        .map(|n| format!("'nameserver{n}.mirrors.test'"))
        .collect();
    let addresses: Vec<String> = (0..5).map(|n| format!("'2001:db8::{n}'")).collect();
    let dns = format!(
        "servers = [{}]\naddresses = [{}]",
        servers.join(","),
        addresses.join(",")
    );
    let net = Net::with(&dns).await;
    let question = question("mirrors.test", RecordType::NS);
    let answer = net.udp(&question).await;
    assert!(!answer.metadata.truncation);
    assert_eq!((answer.answers.len(), answer.additionals.len()), (9, 0));
    let answer = net.tcp(&question).await;
    assert_eq!((answer.answers.len(), answer.additionals.len()), (9, 45));
}

#[tokio::test]
async fn one_connection_has_many_questions() {
    let net = Net::start().await;
    let mut stream = TcpStream::connect(net.address).await.unwrap();
    for _ in 0..3 {
        let answer = exchange(&mut stream, &question("nz.mirrors.test", RecordType::A)).await;
        assert_eq!(answer.answers.len(), 2);
        let answer = exchange(&mut stream, &question("de.mirrors.test", RecordType::A)).await;
        assert_no_name(&answer);
    }
}

#[tokio::test]
async fn a_silent_connection_is_closed() {
    let net = Net::start().await;
    let mut stream = TcpStream::connect(net.address).await.unwrap();
    // A length, and nothing after it.
    stream.write_u16(100).await.unwrap();
    let patience = super::super::TCP_IDLE + PATIENCE;
    let end = timeout(patience, stream.read(&mut [0; 8])).await;
    assert_eq!(end.expect("still open").unwrap(), 0);
}

#[tokio::test]
async fn an_unknown_edns_is_told_so() {
    let net = Net::start().await;
    let mut question = question("nz.mirrors.test", RecordType::A);
    let mut edns = Edns::new();
    edns.set_version(1);
    question.set_edns(edns);
    let answer = net.udp(&question).await;
    // 16 has two names.
    assert_refused(&answer, ResponseCode::BADSIG);
    assert_eq!(u16::from(ResponseCode::BADVERS), 16);
    assert_eq!(answer.edns.unwrap().version(), 0);
}

#[tokio::test]
async fn what_is_no_question_breaks_nothing() {
    let net = Net::start().await;
    let good = question("nz.mirrors.test", RecordType::A);
    let bytes = good.to_vec().unwrap();
    let mut two = good.clone();
    two.add_query(good.queries[0].clone());
    let mut none = good.clone();
    none.queries.clear();
    for broken in [
        bytes[..bytes.len() - 3].to_vec(),
        bytes[..12].to_vec(),
        two.to_vec().unwrap(),
        none.to_vec().unwrap(),
    ] {
        let answer = Message::from_vec(&net.udp_bytes(&broken).await).unwrap();
        assert_refused(&answer, ResponseCode::FormErr);
        assert_eq!(answer.metadata.id, good.metadata.id);
    }
    // An answer is not answered, nor is what has no header.
    let mut answer = question("mirrors.test", RecordType::A);
    answer.metadata.message_type = MessageType::Response;
    let answer = answer.to_vec().unwrap();
    let first = net.first(&[&answer, &bytes[..5], &[], &bytes]).await;
    let first = Message::from_vec(&first).unwrap();
    assert_eq!(
        (first.metadata.id, first.answers.len()),
        (good.metadata.id, 2)
    );
    let mut stream = TcpStream::connect(net.address).await.unwrap();
    stream.write_all(&[0, 2, 1, 1]).await.unwrap();
    assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0);
}

#[tokio::test]
async fn it_stops_and_gives_its_port_back() {
    let net = Net::start().await;
    let _open = TcpStream::connect(net.address).await.unwrap();
    net.shutdown.cancel();
    timeout(PATIENCE, net.served)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    UdpSocket::bind(net.address).await.unwrap();
    let mut section = config(&MIRRORS, "").dns.unwrap();
    section.listen = net.address;
    let bound = bind(&section).await.unwrap();
    assert_eq!(bound.address().unwrap(), net.address);
}

#[tokio::test]
async fn bytes_of_strangers_break_nothing() {
    let net = Net::start().await;
    let section = config(&MIRRORS, "").dns.unwrap();
    let zone = Zone::new(&section).unwrap();
    let desk = Desk::new(zone, &section, Arc::clone(&net.site), Gauges::default());
    let mut good = question("0.nz.mirrors.test", RecordType::A);
    good.set_edns(Edns::new());
    let good = good.to_vec().unwrap();
    let mut random = 1_u64;
    let mut next = |below: usize| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        usize::try_from(random >> 33).unwrap() % below
    };
    let mut answered = 0;
    for _ in 0..50_000 {
        let mut bytes = good.clone();
        for _ in 0..=next(3) {
            let at = next(bytes.len());
            bytes[at] = u8::try_from(next(256)).unwrap();
        }
        bytes.truncate(good.len() - next(2) * next(good.len()));
        let from = net.address.ip();
        let answer = desk.answer(&bytes, from, Carrier::Udp, now());
        assert!(answer.as_ref().is_none_or(|bytes| bytes.len() <= 1232));
        answered += usize::from(answer.is_some());
    }
    assert!(answered > 10_000, "{answered}");
}

#[tokio::test]
async fn attack_a_flood_is_answered_with_no_more_than_it_sent() {
    let limits = "limits = { requests_per_s = 1, burst = 20, exempt = [] }";
    let net = Net::with(limits).await;
    let mut question = question("nz.mirrors.test", RecordType::TXT);
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    question.set_edns(edns);
    let bytes = question.to_vec().unwrap();
    let (mut whole, mut brief) = (0, 0);
    for _ in 0..200 {
        let came = net.udp_bytes(&bytes).await;
        let answer = Message::from_vec(&came).unwrap();
        if answer.metadata.truncation {
            assert!(came.len() <= bytes.len() && answer.answers.is_empty());
            brief += 1;
        } else {
            whole += 1;
        }
    }
    assert!((20..40).contains(&whole), "{whole} {brief}");
    assert!(!net.tcp(&question).await.metadata.truncation);
}

#[tokio::test]
async fn attack_tcp_connections_of_one_network_are_bounded() {
    let limits = "limits = { connections = 2, exempt = [] }";
    let net = Net::with(limits).await;
    let connect = || TcpStream::connect(net.address);
    let held = [connect().await.unwrap(), connect().await.unwrap()];
    let mut refused = connect().await.unwrap();
    let closed = timeout(Duration::from_secs(2), refused.read_u16());
    assert!(
        closed.await.unwrap().is_err(),
        "long before an idle one is closed"
    );
    drop(held);
}
