//! Numbers for what is to be said, and the signatures under it.

use std::sync::{Arc, Mutex, PoisonError};

use mirrorlog_core::archive::{History, Item, Planned, Series};
use mirrorlog_core::id::{Build, Digest};
use mirrorlog_core::statement::{Notice, Retraction, Snapshot, Statement};
use mirrorlog_core::time::Timestamp;
use wire::{EventBody, Signed};

use crate::commit::{Asked, CommitError, Publication, Withdraw, plan};
use crate::daemon::{Channel, Daemon, Link};
use crate::fence::{FenceError, Wish};
use crate::journal::Entry;
use crate::state::Outgoing;

/// Numbers that were reserved, with the outbox positions of what will bear them.
pub(crate) struct Reserved {
    pub(crate) first: Option<Build>,
    pub(crate) retraction: Option<u64>,
    pub(crate) positions: Vec<(Item, u64)>,
}

impl Daemon {
    /// Reserves the numbers; what bears them is noted in the outbox before.
    ///
    /// # Errors
    /// [`FenceError`]: numbers that were reserved stay unused.
    pub(crate) async fn reserve(
        &self,
        channel: &Arc<Channel>,
        link: &Link,
        history: &History,
        publication: Option<&Publication>,
        retracts: bool,
    ) -> Result<Reserved, FenceError> {
        let name = &channel.declared.name;
        let steps = publication.map_or(0, |publication| publication.steps.len() as u64);
        let wish = |series, journaled, count| Wish {
            channel: name,
            series,
            journaled,
            count,
            reported: 0,
        };
        let mut builds = wish(
            Series::Builds,
            history.newest().map_or(0, |newest| newest.build.get()),
            steps,
        );
        let retractions = wish(
            Series::Retractions,
            history.next_retraction() - 1,
            u64::from(retracts),
        );
        if self.fence.is_unknown(&link.builds, name).await? {
            builds.reported = match builds.journaled {
                // A first build: nobody is waited for.
                0 => self.newest_remembered(channel).await,
                _ => self.newest_witnessed(channel, link).await?,
            };
        }
        // A journal that lacks a retraction is as much behind as one that lacks a build: both are looked at.
        self.fence
            .reserve(
                &link.builds,
                &Wish {
                    count: 0,
                    ..builds.clone()
                },
                |_| Vec::new(),
            )
            .await?;
        self.fence
            .reserve(
                &link.builds,
                &Wish {
                    count: 0,
                    ..retractions.clone()
                },
                |_| Vec::new(),
            )
            .await?;

        let positions = Mutex::new(Vec::new());
        let note = |items: Vec<Item>| {
            let staged = items.into_iter().map(|item| {
                let (position, write) = self.outbox.stage(&Outgoing {
                    channel: name.clone(),
                    item,
                });
                positions
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push((item, position));
                write
            });
            staged.collect::<Vec<_>>()
        };
        let mut reserved = Reserved {
            first: None,
            retraction: None,
            positions: Vec::new(),
        };
        if steps > 0 {
            let items = |first: u64| {
                (first..first + steps)
                    .filter_map(Build::new)
                    .map(Item::Snapshot)
                    .collect()
            };
            let first = self
                .fence
                .reserve(&link.builds, &builds, |first| note(items(first)))
                .await?;
            reserved.first = Build::new(first);
        }
        if retracts {
            let sequence = self
                .fence
                .reserve(&link.builds, &retractions, |first| {
                    note(vec![Item::Retraction(first)])
                })
                .await?;
            reserved.retraction = Some(sequence);
        }
        reserved.positions = positions
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        Ok(reserved)
    }

    /// Signs the snapshots, then the retraction, which names the last of them as its replacement.
    pub(crate) async fn sign(
        &self,
        channel: &Channel,
        history: &History,
        reserved: &Reserved,
        publication: Option<&Publication>,
        withdraw: Option<&Withdraw>,
    ) -> Result<Vec<Entry>, CommitError> {
        let mut created = runtime::boot::now().max(history.newest_time().plus_ms(1));
        let mut previous = history.newest().map(|newest| newest.statement);
        let mut entries = Vec::new();
        if let (Some(publication), Some(first)) = (publication, reserved.first) {
            let planned = plan(history, publication, first, withdraw)?;
            for (planned, asked) in planned.iter().zip(&publication.steps) {
                let snapshot = snapshot(
                    channel,
                    planned,
                    asked,
                    previous,
                    created,
                    &publication.notices,
                );
                let said = Statement::Snapshot(snapshot);
                let entry = self.signed(channel, &said, EventBody::Snapshot).await?;
                previous = Some(entry.known.statement());
                created = created.plus_ms(1);
                entries.push(entry);
            }
        }
        if let (Some(withdraw), Some(sequence)) = (withdraw, reserved.retraction) {
            let replacement = publication.and(reserved.first);
            let retraction = Retraction {
                channel: channel.declared.name.clone(),
                sequence,
                first: withdraw.first,
                last: withdraw.last,
                reason: withdraw.reason.clone(),
                replacement,
                created,
            };
            let said = Statement::Retraction(retraction);
            entries.push(self.signed(channel, &said, EventBody::Retraction).await?);
        }
        Ok(entries)
    }

    async fn signed(
        &self,
        channel: &Channel,
        statement: &Statement,
        body: fn(Signed) -> EventBody,
    ) -> Result<Entry, CommitError> {
        let signed = self.signer.sign(statement).await;
        let signed = signed.map_err(|source| CommitError::Sign {
            channel: channel.declared.name.clone(),
            source,
        })?;
        // A key that the root document does not name speaks to nobody.
        if self.trust.version().is_some()
            && let Err(source) = signed.open(&self.trust.archive().now())
        {
            return Err(CommitError::Unnamed {
                key: signed.signature.key,
                source,
            });
        }
        Ok(Entry::open(
            body(signed),
            &channel.declared.name,
            &self.keys,
        )?)
    }
}

fn snapshot(
    channel: &Channel,
    planned: &Planned,
    asked: &Asked,
    previous: Option<Digest>,
    created: Timestamp,
    notices: &[Notice],
) -> Snapshot {
    let declared = &channel.declared;
    Snapshot {
        channel: declared.name.clone(),
        build: planned.build,
        base: planned.base,
        root: planned.root,
        previous,
        created,
        entries: asked.entries,
        bytes: asked.bytes,
        lane: planned.lane,
        mount: declared.mount.clone(),
        layout: declared.layout,
        precedence: declared.precedence,
        notices: notices.to_vec(),
    }
}
