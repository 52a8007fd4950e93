//! The network's ports: drawn when it is planned, held while it lives.

use std::collections::BTreeSet;
use std::net::SocketAddrV4;
use std::path::Path;
use std::time::Duration;

use runtime::boot::HeldPort;
use tokio::time::Instant;

use super::plan::Ports;
use crate::failure::{CREATE, DOWN, Failure, OrExit as _};

/// Longest wait for ports that are in use: a process that was just killed has its own until its last thread has ended.
const PATIENCE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(20);

/// Ports that nobody uses, each held from now on.
#[derive(Default)]
pub(super) struct Drawn(Vec<HeldPort>);

impl Drawn {
    pub(super) fn next(&mut self) -> Result<u16, Failure> {
        let port = HeldPort::draw().or_exit(CREATE)?;
        let number = port.number();
        self.0.push(port);
        Ok(number)
    }

    pub(super) fn pair(&mut self) -> Result<Ports, Failure> {
        Ok(Ports {
            grpc: self.next()?,
            http: self.next()?,
        })
    }
}

/// Holds the places of `plan`, the network's file: those that were drawn, and those of before.
pub(super) async fn hold(
    drawn: Drawn,
    places: BTreeSet<SocketAddrV4>,
    plan: &Path,
) -> Result<Vec<HeldPort>, Failure> {
    let mut held = drawn.0;
    let new: BTreeSet<u16> = held.iter().map(HeldPort::number).collect();
    let end = Instant::now() + PATIENCE;
    for place in places {
        if !new.contains(&place.port()) {
            held.push(hold_one(place, plan, end).await?);
        }
    }
    Ok(held)
}

/// Holds one place; whoever is given it may listen there.
pub(super) async fn hold_again(place: SocketAddrV4, plan: &Path) -> Result<HeldPort, Failure> {
    hold_one(place, plan, Instant::now() + PATIENCE).await
}

async fn hold_one(place: SocketAddrV4, plan: &Path, end: Instant) -> Result<HeldPort, Failure> {
    loop {
        let error = match HeldPort::at(place) {
            Ok(held) => return Ok(held),
            Err(error) => error,
        };
        if error.kind() == std::io::ErrorKind::AddrInUse && Instant::now() < end {
            tokio::time::sleep(POLL).await;
            continue;
        }
        let text = format!(
            "{place}, of {}, cannot be had: stop the program that listens there, or start a network in an empty --dir",
            plan.display()
        );
        return Err(Failure::new(DOWN, anyhow::Error::new(error).context(text)));
    }
}
