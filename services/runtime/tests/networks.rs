//! What an attack on a server's tables of networks takes of its memory: alone in its process, by any test runner.
#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, Ipv6Addr};

use runtime::boot::{NetworkLimits, Networks};

fn ipv6_network(number: u32) -> IpAddr {
    let [high, low] = [number >> 16, number & 0xffff].map(|half| half as u16);
    Ipv6Addr::new(0x2001, high, low, 0, 0, 0, 0, 1).into()
}

/// What this process has in memory, in KiB.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.unwrap().trim().trim_end_matches(" kB");
    number.parse().unwrap()
}

#[test]
fn attack_a_million_ipv6_networks_fill_no_table() {
    let before_kib = resident_kib();
    let begun = std::time::Instant::now();
    let networks = Networks::new(NetworkLimits {
        connections: 0,
        requests_per_s: 1,
        burst: 3,
        exempt: Vec::new(),
    });
    let answered = (0..1_000_000).filter(|number| networks.ask(ipv6_network(*number)).is_ok());
    let answered = answered.count();
    // A table's networks have their first request, and once a second those are forgotten whose bucket is full again. Whoever is
    // not in the table shares one bucket.
    let tables = 2 + begun.elapsed().as_secs();
    assert!((answered as u64) < tables * 65_536, "{answered}");
    let grown_kib = resident_kib().saturating_sub(before_kib);
    assert!(grown_kib < 32 * 1024, "{grown_kib} KiB");
    eprintln!("{answered} answered, {grown_kib} KiB");
}
