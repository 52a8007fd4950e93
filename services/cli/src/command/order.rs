//! `replay` and `verify`: orders to mirrors, and checks of a store on this machine.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use mirrorlog_core::id::{ChannelId, Digest, MirrorId};
use mirrorlog_core::manifest;
use mirrorlog_core::statement::{OrderKind, OrderOutcome, ReplayFrom};
use mirrorlog_core::time::Timestamp;
use runtime::store::{Pages, Store};
use serde_json::json;
use wire::v1;

use super::ask::Archive;
use crate::args::{ReplayArgs, VerifyArgs};
use crate::failure::{ABSENT, AGAIN, CONFIG, DATA, Failure, IO, OrExit as _};
use crate::output::{BAD, GOOD, Output, count, parse_time, plain};

/// How long a command waits for a mirror to carry out an order.
const ORDER_TIMEOUT: Duration = Duration::from_secs(600);
const ORDER_POLL: Duration = Duration::from_millis(200);

pub(crate) async fn replay(
    config: &Path,
    args: ReplayArgs,
    output: &Output,
) -> Result<u8, Failure> {
    let mut archive = Archive::open(config).await?;
    let from = match args.from.as_str() {
        "last-ack" => ReplayFrom::LastAck,
        text => match text.parse() {
            Ok(build) => ReplayFrom::Build(build),
            Err(_) => {
                let ms = parse_time(text).ok_or_else(|| {
                    Failure::text(CONFIG, format!("{text:?} is none of: a build, a day such as 2026-11-23, a time such as 2026-11-23T10:00:00Z, last-ack"))
                })?;
                ReplayFrom::Time(Timestamp::from_ms(ms))
            }
        },
    };
    archive.known(args.channel.as_ref()).await?;
    known_mirror(&archive, &args.mirror).await?;
    if args.dry_run {
        let events = events_from(&mut archive, args.channel.as_ref(), from, args.lane).await?;
        if output.json {
            output.json(
                &json!({ "mirror": args.mirror.as_str(), "dry_run": true, "events": events }),
            );
        } else if matches!(from, ReplayFrom::LastAck) {
            output.line(&format!(
                "{} would go on after the last event that it acked; no build before it is gone through again",
                args.mirror
            ));
        } else {
            output.line(&format!(
                "{} would go through {} again",
                args.mirror,
                count(events.len() as u64, "build")
            ));
        }
        return Ok(0);
    }
    if let ReplayFrom::Build(build) = from {
        let events = events_from(&mut archive, args.channel.as_ref(), from, args.lane).await?;
        if events.is_empty() {
            let text = format!("there is no build {build} or newer; see: mirrorlog log");
            return Err(Failure::text(ABSENT, text));
        }
    }
    let kind = OrderKind::Replay {
        channel: args.channel,
        lane: args.lane,
        from,
    };
    let outcome = carry_out(&archive, &args.mirror, &kind, ORDER_TIMEOUT, output).await?;
    finish(&args.mirror, &outcome, output)
}

async fn events_from(
    archive: &mut Archive,
    channel: Option<&ChannelId>,
    from: ReplayFrom,
    lane: Option<mirrorlog_core::id::Lane>,
) -> Result<Vec<String>, Failure> {
    let channels = match channel {
        Some(channel) => vec![channel.clone()],
        None => archive.channels().await?,
    };
    let mut events = Vec::new();
    for channel in channels {
        for (_, snapshot) in archive
            .snapshots(&channel, mirrorlog_core::id::Build::FIRST)
            .await?
        {
            let after = match from {
                ReplayFrom::Build(build) => snapshot.build >= build,
                ReplayFrom::Time(time) => snapshot.created >= time,
                ReplayFrom::LastAck => false,
            };
            if after && lane.is_none_or(|lane| lane == snapshot.lane) {
                events.push(format!("{channel}@{}", snapshot.build));
            }
        }
    }
    Ok(events)
}

pub(crate) async fn verify(
    config: Option<&Path>,
    args: VerifyArgs,
    output: &Output,
) -> Result<u8, Failure> {
    if let Some(dir) = &args.store {
        if args.channel.is_some() {
            return Err(Failure::text(
                CONFIG,
                "--store checks everything in a store; leave --channel out",
            ));
        }
        if !dir.is_dir() {
            return Err(Failure::text(
                ABSENT,
                format!("there is no store {}", dir.display()),
            ));
        }
        let store = Store::open(dir).or_exit(IO)?;
        let checked = blocking(move || everything(&store, false)).await?;
        if checked.files == 0 {
            let text = format!("{} holds no content: is it a store?", dir.display());
            return Err(Failure::text(ABSENT, text));
        }
        return checked.finish(output);
    }
    let config = config.ok_or_else(|| {
        Failure::text(
            CONFIG,
            "no configuration given: use --config FILE, or --store DIR",
        )
    })?;
    let mut archive = Archive::open(config).await?;
    archive.known(args.channel.as_ref()).await?;
    if let (Some(channel), Some(build)) = (&args.channel, args.build) {
        archive.snapshot(channel, build).await?;
        let gone = archive.collected(channel).await?;
        let number = build.get();
        if args.mirror.is_none()
            && gone
                .iter()
                .any(|(first, last)| (*first..=*last).contains(&number))
        {
            let text = format!(
                "the archive no longer keeps the content of build {build}: gc has let it go"
            );
            return Err(Failure::text(ABSENT, text));
        }
    }
    if let Some(mirror) = &args.mirror {
        known_mirror(&archive, mirror).await?;
        let kind = OrderKind::Verify {
            channel: args.channel,
            build: args.build,
        };
        let outcome = carry_out(&archive, mirror, &kind, ORDER_TIMEOUT, output).await?;
        return finish(mirror, &outcome, output);
    }
    let pages = archive.pages()?;
    if args.full && args.channel.is_none() {
        let store = pages.store().clone();
        return blocking(move || everything(&store, true))
            .await?
            .finish(output);
    }
    let channels = match &args.channel {
        Some(channel) => vec![channel.clone()],
        None => archive.channels().await?,
    };
    let mut roots = Vec::new();
    for channel in channels {
        let head = archive.head(&channel).await?;
        let build = args.build.or(head.map(|head| head.build));
        if let Some(build) = build {
            roots.push((
                format!("{channel}@{build}"),
                archive.snapshot(&channel, build).await?.1.root,
            ));
        }
    }
    blocking(move || builds(&pages, &roots))
        .await?
        .finish(output)
}

#[derive(Default)]
struct Checked {
    files: u64,
    faults: Vec<(String, &'static str)>,
    /// The archive's own store: what is corrupt must not be taken for there by the next publication.
    sets_aside: bool,
}

impl Checked {
    fn take(
        &mut self,
        store: &Store,
        digest: &Digest,
        name: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        self.files += 1;
        match store.check(digest).or_exit(IO)? {
            Some(true) => {}
            Some(false) => {
                if self.sets_aside {
                    store.quarantine(digest).or_exit(IO)?;
                }
                self.faults
                    .push((name(), "content differs from its digest"));
            }
            None => self.faults.push((name(), "content is not there")),
        }
        Ok(())
    }

    fn finish(self, output: &Output) -> Result<u8, Failure> {
        if output.json {
            let faults = self
                .faults
                .iter()
                .map(|(name, what)| json!({ "name": name, "fault": what }));
            output.json(&json!({ "files": self.files, "faults": faults.collect::<Vec<_>>() }));
        } else {
            for (name, what) in &self.faults {
                output.line(&format!("{BAD}fault:{BAD:#} {}: {what}", plain(name)));
            }
            output.line(&format!(
                "{} checked, {}",
                count(self.files, "file"),
                count(self.faults.len() as u64, "fault")
            ));
        }
        if self.faults.is_empty() {
            Ok(0)
        } else {
            Err(Failure::text(
                DATA,
                format!(
                    "{} of {} files are lost or corrupt; publish their tree again to restore them",
                    self.faults.len(),
                    self.files
                ),
            ))
        }
    }
}

fn everything(store: &Store, sets_aside: bool) -> Result<Checked, Failure> {
    let mut checked = Checked {
        sets_aside,
        ..Checked::default()
    };
    for digest in store.digests().or_exit(IO)? {
        let digest = digest.or_exit(IO)?;
        checked.take(store, &digest, || digest.to_hex())?;
    }
    Ok(checked)
}

fn builds(pages: &Pages, roots: &[(String, Digest)]) -> Result<Checked, Failure> {
    let mut checked = Checked {
        sets_aside: true,
        ..Checked::default()
    };
    let mut seen = BTreeSet::new();
    for (name, root) in roots {
        for entry in manifest::iter(pages, root, b"", None) {
            let (_, path, entry) = entry.or_exit(DATA)?;
            let Some(file) = entry.file() else { continue };
            let short: [u8; 8] = file
                .digest
                .as_bytes()
                .first_chunk()
                .copied()
                .unwrap_or_default();
            if seen.insert(short) {
                checked.take(pages.store(), &file.digest, || format!("{name}: {path}"))?;
            }
        }
    }
    Ok(checked)
}

async fn blocking(
    work: impl FnOnce() -> Result<Checked, Failure> + Send + 'static,
) -> Result<Checked, Failure> {
    tokio::task::spawn_blocking(work).await.or_exit(IO)?
}

pub(super) async fn known_mirror(archive: &Archive, mirror: &MirrorId) -> Result<(), Failure> {
    let request = v1::StatusRequest {
        channel: String::new(),
    };
    let status = archive
        .consistency()
        .await?
        .status(request)
        .await?
        .into_inner();
    if status
        .mirrors
        .iter()
        .any(|known| known.id == mirror.as_str())
    {
        return Ok(());
    }
    let names: Vec<&str> = status
        .mirrors
        .iter()
        .map(|known| known.id.as_str())
        .collect();
    Err(Failure::text(
        ABSENT,
        format!(
            "no mirror is called {mirror}; there are: {}",
            names.join(", ")
        ),
    ))
}

/// Gives an order and waits for its outcome in the mirror's reports.
pub(super) async fn carry_out(
    archive: &Archive,
    mirror: &MirrorId,
    kind: &OrderKind,
    patience: Duration,
    output: &Output,
) -> Result<OrderOutcome, Failure> {
    let request = wire::rpc::order_request(mirror, kind);
    let id = archive.admin().await?.order(request).await?.into_inner().id;
    let mut consistency = archive.consistency().await?;
    let deadline = tokio::time::Instant::now() + patience;
    let mut said_silent = false;
    while tokio::time::Instant::now() < deadline {
        let request = v1::StatusRequest {
            channel: String::new(),
        };
        let status = consistency.status(request).await?.into_inner();
        let of_mirror = status
            .mirrors
            .iter()
            .filter(|one| one.id == mirror.as_str());
        let silent = of_mirror
            .clone()
            .flat_map(|one| &one.channels)
            .any(|one| one.reason.starts_with("unreachable") || one.reason.starts_with("stale"));
        if silent && !said_silent {
            said_silent = true;
            output.note(&format!(
                "{mirror} does not answer now: the order is given, and waits for it"
            ));
        }
        let outcomes =
            of_mirror.flat_map(|one| one.channels.iter().flat_map(|channel| &channel.orders));
        if let Some(outcome) = outcomes.into_iter().find(|outcome| outcome.id == id) {
            return Ok(OrderOutcome {
                id,
                ok: outcome.ok,
                text: outcome.text.clone(),
            });
        }
        tokio::time::sleep(ORDER_POLL).await;
    }
    let text = format!(
        "{mirror} has not carried out the order within {} s; it will when it is back",
        patience.as_secs()
    );
    Err(Failure::text(AGAIN, text))
}

fn finish(mirror: &MirrorId, outcome: &OrderOutcome, output: &Output) -> Result<u8, Failure> {
    if output.json {
        output.json(&json!({ "mirror": mirror.as_str(), "order": outcome.id, "ok": outcome.ok, "text": outcome.text }));
    }
    if outcome.ok {
        if !output.json {
            output.line(&format!("{GOOD}{mirror}{GOOD:#}: {}", outcome.text));
        }
        Ok(0)
    } else {
        Err(Failure::text(
            DATA,
            format!("{mirror}: {}; the mirror heals what it can", outcome.text),
        ))
    }
}
