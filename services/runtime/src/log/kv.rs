//! Key-value buckets on JetStream, readable with NATS' own tools.

use async_nats::jetstream::message::StreamMessage;
use bytes::Bytes;

use super::consumer::Start;
use super::reader::{Read, Reader};
use super::{Log, LogError, declare, trace};

const OPERATION: &str = "KV-Operation";

/// A bucket. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Bucket {
    log: Log,
    /// `mirrorlog_<name>`.
    name: String,
}

impl Bucket {
    pub(super) async fn open(log: Log, name: &str) -> Result<Self, LogError> {
        log.ensure_stream(&declare::bucket_stream(name)).await?;
        Ok(Self {
            log,
            name: format!("mirrorlog_{name}"),
        })
    }

    /// Revision and value of a key, as the bucket's leader knows it.
    ///
    /// # Errors
    /// [`LogError::Down`], [`LogError::Server`]; a key that is not there is none.
    pub async fn get(&self, key: &str) -> Result<Option<(u64, Bytes)>, LogError> {
        let last = self
            .last(key)
            .await?
            .filter(|message| !is_deleted(Some(&message.headers)));
        Ok(last.map(|message| (message.sequence, message.payload)))
    }

    /// Sets a key whatever it is. Gives the new revision.
    ///
    /// # Errors
    /// [`LogError::Down`] when it is unknown whether it was set; [`LogError::Server`].
    pub async fn put(&self, key: &str, value: Bytes) -> Result<u64, LogError> {
        self.log
            .append(
                &self.stream(),
                self.subject(key)?,
                trace::headers(),
                None,
                value,
            )
            .await
    }

    /// Compare and set: `revision` 0 means "must not exist". Gives the new revision.
    ///
    /// # Errors
    /// [`LogError::Refused`] when the key has another revision; [`LogError::Down`] when it is unknown whether
    /// it was set; [`LogError::Server`].
    pub async fn set(&self, key: &str, value: Bytes, revision: u64) -> Result<u64, LogError> {
        let append = |revision, value| async move {
            let subject = self.subject(key)?;
            self.log
                .append(
                    &self.stream(),
                    subject,
                    trace::headers(),
                    Some(revision),
                    value,
                )
                .await
        };
        match append(revision, value.clone()).await {
            // A deleted key leaves a mark with a revision of its own.
            Err(LogError::Refused { .. }) if revision == 0 => match self.last(key).await? {
                Some(mark) if is_deleted(Some(&mark.headers)) => append(mark.sequence, value).await,
                found => Err(LogError::Refused {
                    subject: self.subject(key)?,
                    expected: 0,
                    found: found.map(|message| message.sequence),
                }),
            },
            answer => answer,
        }
    }

    /// Removes a key; absent is fine. Leaves a mark, as NATS' own clients do.
    ///
    /// # Errors
    /// As [`Bucket::put`].
    pub async fn delete(&self, key: &str) -> Result<(), LogError> {
        let mut headers = trace::headers();
        headers.insert(OPERATION, "DEL");
        self.log
            .append(
                &self.stream(),
                self.subject(key)?,
                headers,
                None,
                Bytes::new(),
            )
            .await
            .map(drop)
    }

    /// Keys that have a value, in order.
    ///
    /// # Errors
    /// As [`Bucket::get`].
    pub async fn keys(&self) -> Result<Vec<String>, LogError> {
        let doing = || format!("listing bucket {}", self.name);
        let stream = self.log.jetstream.get_stream_no_info(self.stream()).await;
        let stream = stream.map_err(|error| LogError::down(doing(), error))?;
        let subjects = stream
            .info_with_subjects(format!("$KV.{}.>", self.name))
            .await;
        let mut subjects = subjects.map_err(|error| LogError::down(doing(), error))?;
        let mut keys = Vec::new();
        while let Some(subject) = futures::StreamExt::next(&mut subjects).await {
            let (subject, _) = subject.map_err(|error| LogError::down(doing(), error))?;
            if let Some(key) = self.key(&subject)
                && self.get(key).await?.is_some()
            {
                keys.push(key.to_owned());
            }
        }
        keys.sort_unstable();
        Ok(keys)
    }

    /// Current values, then every change.
    ///
    /// # Errors
    /// As [`Log::consume`]: a server that is down is none.
    pub async fn watch(&self) -> Result<Watch, LogError> {
        let filter = format!("$KV.{}.>", self.name);
        let mut reader = Reader::new(
            self.log.clone(),
            &self.stream(),
            filter,
            Start::LastPerSubject,
        );
        reader.try_open().await?;
        Ok(Watch {
            bucket: self.clone(),
            reader,
        })
    }

    async fn last(&self, key: &str) -> Result<Option<StreamMessage>, LogError> {
        self.log.last(&self.stream(), &self.subject(key)?).await
    }

    fn stream(&self) -> String {
        format!("KV_{}", self.name)
    }

    fn subject(&self, key: &str) -> Result<String, LogError> {
        let plain = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
        if key
            .split('.')
            .all(|token| !token.is_empty() && token.bytes().all(plain))
        {
            Ok(format!("$KV.{}.{key}", self.name))
        } else {
            Err(LogError::Key { key: key.into() })
        }
    }

    fn key<'a>(&self, subject: &'a str) -> Option<&'a str> {
        subject
            .strip_prefix("$KV.")?
            .strip_prefix(self.name.as_str())?
            .strip_prefix('.')
    }
}

fn is_deleted(headers: Option<&async_nats::HeaderMap>) -> bool {
    let operation = headers.and_then(|headers| headers.get(OPERATION));
    operation.is_some_and(|operation| ["DEL", "PURGE"].contains(&operation.as_str()))
}

/// A bucket's values as they are and as they change.
pub struct Watch {
    bucket: Bucket,
    reader: Reader,
}

/// A key's new value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvChange {
    /// The key.
    pub key: String,
    /// Its revision.
    pub revision: u64,
    /// Its value; none when it was deleted.
    pub value: Option<Bytes>,
}

impl Watch {
    /// True once there was something to read from; stays so.
    pub fn opened(&self) -> bool {
        self.reader.opened()
    }

    /// True once the newest value of a moment was read; stays so.
    pub fn caught_up(&self) -> bool {
        self.reader.caught_up()
    }

    /// The next value; never ends, may repeat. After the bucket was made anew it begins again.
    /// Cancelling it loses nothing.
    pub async fn next(&mut self) -> KvChange {
        loop {
            match self.reader.next().await {
                Read::Message(raw, _) => {
                    let deleted = is_deleted(raw.message.headers.as_ref());
                    if let Some(key) = self.bucket.key(&raw.message.subject) {
                        let value = (!deleted).then_some(raw.message.payload);
                        return KvChange {
                            key: key.to_owned(),
                            revision: raw.sequence,
                            value,
                        };
                    }
                }
                Read::Changed(_) => {
                    tracing::warn!(bucket = %self.bucket.name, "the bucket was made anew")
                }
            }
        }
    }
}
