//! Which names there are, and what else they have.

use super::*;

#[tokio::test]
async fn names_that_have_nothing_of_a_type() {
    let net = Net::start().await;
    for (name, of) in [
        ("au.mirrors.test", RecordType::AAAA),
        ("0.au.mirrors.test", RecordType::AAAA),
        ("nz.mirrors.test", RecordType::MX),
        ("nz.mirrors.test", RecordType::SOA),
        ("nz.mirrors.test", RecordType::NS),
        ("mirrors.test", RecordType::CNAME),
        // Its mirror is never complete.
        ("fr.mirrors.test", RecordType::A),
        ("europe.mirrors.test", RecordType::A),
        ("ns.mirrors.test", RecordType::AAAA),
        ("ns.mirrors.test", RecordType::TXT),
    ] {
        let answer = net.ask(name, of).await;
        assert_no_data(&answer);
        assert_eq!(answer.queries[0].name.to_ascii(), format!("{name}."));
    }
    assert_eq!(net.answered("absent"), 10);
}

#[tokio::test]
async fn names_that_do_not_exist() {
    let net = Net::start().await;
    for name in [
        "de.mirrors.test",
        "africa.mirrors.test",
        "4.nz.mirrors.test",
        "a.0.nz.mirrors.test",
        "nz.0.mirrors.test",
        "us.mirrors.test",
        "_dmarc.mirrors.test",
        r"n\.z.mirrors.test",
        "*.mirrors.test",
        "a.ns.mirrors.test",
    ] {
        if name == "us.mirrors.test" {
            // The pool us-west is in it.
            assert!(!net.ask(name, RecordType::A).await.answers.is_empty());
        } else {
            assert_no_name(&net.ask(name, RecordType::A).await);
            assert_no_name(&net.ask(name, RecordType::ANY).await);
        }
    }
    let mut bytes = question("xx.mirrors.test", RecordType::A).to_vec().unwrap();
    let at = bytes.windows(2).position(|two| two == b"xx").unwrap();
    bytes[at..at + 2].copy_from_slice(&[0xff, 0]);
    let answer = net.udp_bytes(&bytes).await;
    assert_no_name(&Message::from_vec(&answer).unwrap());
}

#[tokio::test]
async fn what_is_not_ours_is_refused() {
    let net = Net::start().await;
    for (name, of) in [
        ("example.org", RecordType::A),
        ("test", RecordType::NS),
        (".", RecordType::NS),
        ("xmirrors.test", RecordType::A),
        ("mirrors.test", RecordType::AXFR),
        ("mirrors.test", RecordType::IXFR),
    ] {
        let question = question(name, of);
        assert_refused(&net.udp(&question).await, ResponseCode::Refused);
        assert_refused(&net.tcp(&question).await, ResponseCode::Refused);
    }
    for class in [DNSClass::CH, DNSClass::ANY, DNSClass::NONE] {
        let mut question = question("mirrors.test", RecordType::A);
        question.queries[0].set_query_class(class);
        assert_refused(&net.udp(&question).await, ResponseCode::Refused);
    }
    for code in [OpCode::Status, OpCode::Notify, OpCode::Update] {
        let mut question = question("mirrors.test", RecordType::SOA);
        question.metadata.op_code = code;
        let answer = net.udp(&question).await;
        assert_refused(&answer, ResponseCode::NotImp);
        assert_eq!(answer.metadata.op_code, code);
    }
    assert_eq!(net.answered("refused"), 18);
    assert_eq!(net.answered("ok") + net.answered("absent"), 0);
}

#[tokio::test]
async fn the_case_of_the_question_is_kept() {
    let net = Net::start().await;
    for name in [
        "nZ.MirrorS.teST.",
        "0.Nz.mirrors.TEST.",
        "OCEANIA.mirrors.test.",
    ] {
        let answer = net.ask(name, RecordType::A).await;
        assert!(!answer.answers.is_empty());
        assert_eq!(answer.queries[0].name.to_ascii(), name);
        assert!(answer.answers.iter().all(|one| one.name.to_ascii() == name));
    }
    let answer = net.ask("MIRRORS.test.", RecordType::SOA).await;
    assert_eq!(answer.answers.len(), 1);
    assert_no_name(&net.ask("DE.Mirrors.Test.", RecordType::A).await);
}

#[tokio::test]
async fn the_apex_names_its_servers() {
    let net = Net::start().await;
    let answer = net.ask("mirrors.test", RecordType::NS).await;
    assert!(answer.metadata.authoritative);
    let show = |records: &[Record]| records.iter().map(Record::to_string).collect::<Vec<_>>();
    assert_eq!(
        show(&answer.answers),
        ["mirrors.test. 3600 IN NS ns.mirrors.test."]
    );
    let glue = ["ns.mirrors.test. 3600 IN A 127.0.0.1"];
    assert_eq!(show(&answer.additionals), glue);
    assert_eq!(
        show(&net.ask("ns.mirrors.test", RecordType::A).await.answers),
        glue
    );
    let answer = net.ask("mirrors.test", RecordType::SOA).await;
    let (_, soa) = soa(&answer.answers);
    assert_eq!(soa.mname.to_ascii(), "ns.mirrors.test.");
    assert_eq!(soa.rname.to_ascii(), r"host\.master.example.org.");

    let dns = "servers = ['NS1.example.org', 'a.servers.mirrors.test.']\naddresses = ['192.0.2.1', '2001:db8::53']";
    let net = Net::with(dns).await;
    let answer = net.ask("mirrors.test", RecordType::NS).await;
    assert_eq!(answer.answers.len(), 2);
    let glue = [
        "a.servers.mirrors.test. 3600 IN A 192.0.2.1",
        "a.servers.mirrors.test. 3600 IN AAAA 2001:db8::53",
    ];
    assert_eq!(show(&answer.additionals), glue);
    let answer = net.ask("a.servers.mirrors.test", RecordType::AAAA).await;
    assert_eq!(show(&answer.answers), glue[1..]);
    // Between the zone and its server there is a name without anything.
    assert_no_data(&net.ask("servers.mirrors.test", RecordType::A).await);
    assert_no_data(&net.ask("servers.mirrors.test", RecordType::ANY).await);
    assert_no_name(&net.ask("b.servers.mirrors.test", RecordType::A).await);
    assert_no_name(&net.ask("ns.mirrors.test", RecordType::A).await);
}

#[tokio::test]
async fn any_is_answered_with_little() {
    let net = Net::start().await;
    for name in ["mirrors.test", "nz.mirrors.test", "fr.mirrors.test"] {
        let answer = net.ask(name, RecordType::ANY).await;
        let RData::HINFO(hinfo) = &answer.answers[0].data else {
            panic!("{answer}");
        };
        assert_eq!((answer.answers.len(), &*hinfo.cpu), (1, &b"RFC8482"[..]));
    }
}

#[tokio::test]
async fn sections_that_cannot_work_are_refused() {
    for (dns, told) in [
        ("servers = ['mirrors.test']", "names the zone itself"),
        ("servers = ['a..b']", "dns.servers"),
        ("contact = 'a@b..c'", "dns.contact"),
    ] {
        let section = config(&MIRRORS, "").dns.unwrap();
        let text = CONFIG.split("[dns]").last().unwrap();
        let text = text.replace("contact = \"host.master@example.org\"", "");
        let text = format!("{text}\n{dns}");
        let changed: DnsSection = toml::from_str(&text).unwrap();
        let error = bind(&changed).await.err().unwrap();
        assert!(format!("{error:#}").contains(told), "{error:#}");
        for zone in [".", "", "a..b"] {
            let zone = zone.to_owned();
            let section = DnsSection {
                zone,
                ..section.clone()
            };
            let error = bind(&section).await.err().unwrap();
            assert!(format!("{error:#}").contains("dns.zone"), "{error:#}");
        }
    }
}
