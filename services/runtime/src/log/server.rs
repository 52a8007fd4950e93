//! Requests to the server: each is bounded in time and answered before it returns.

use async_nats::HeaderMap;
use async_nats::client::RequestErrorKind;
use async_nats::jetstream::response::Response;
use async_nats::jetstream::{self, stream};
use bytes::Bytes;

use super::{Log, LogError, REQUEST_TIMEOUT, StreamIdentity, declare};

impl Log {
    /// Makes the stream when it is missing, compares it when it is there, and has as many servers hold it as were
    /// asked for.
    pub(super) async fn ensure_stream(
        &self,
        config: &stream::Config,
    ) -> Result<stream::Info, LogError> {
        let name = &config.name;
        let found = self.stream_info(name).await?;
        let info = match found {
            Some(info) => info,
            None => {
                tracing::info!(stream = %name, "creating stream");
                let asked = stream::Config {
                    num_replicas: self.replicas.count(),
                    ..config.clone()
                };
                match self
                    .request(format!("STREAM.CREATE.{name}"), &asked)
                    .await?
                {
                    Response::Ok::<stream::Info>(info) => info,
                    // Somebody made it in between: what they made is compared.
                    Response::Err { error }
                        if error.error_code() == jetstream::ErrorCode::STREAM_NAME_EXIST =>
                    {
                        self.stream_info(name).await?.ok_or_else(|| {
                            LogError::server(format!("creating stream {name}"), error)
                        })?
                    }
                    Response::Err { error } => {
                        return Err(LogError::server(format!("creating stream {name}"), error));
                    }
                }
            }
        };
        declare::same_stream(config, &info.config)?;
        if info.config.num_replicas < self.replicas.count() {
            return Ok(self.spread(info).await);
        }
        Ok(info)
    }

    /// Has more servers hold a stream. Where that cannot be now, for want of servers or of the right to do it, the
    /// stream is used as it is: it is asked for again when it is opened the next time.
    async fn spread(&self, info: stream::Info) -> stream::Info {
        let (name, replicas) = (info.config.name.clone(), self.replicas.count());
        let held = info.config.num_replicas;
        tracing::info!(stream = %name, replicas, "more servers are to hold the stream");
        let asked = stream::Config {
            num_replicas: replicas,
            ..info.config.clone()
        };
        let answer = self.request(format!("STREAM.UPDATE.{name}"), &asked).await;
        let error = match answer {
            Ok(Response::Ok(spread)) => return spread,
            Ok(Response::Err { error }) => {
                LogError::server(format!("giving stream {name} to {replicas} servers"), error)
            }
            Err(error) => error,
        };
        let error = wire::causes(&error);
        tracing::warn!(stream = %name, held, replicas, error, "the stream is held by fewer servers than configured");
        info
    }

    async fn stream_info(&self, name: &str) -> Result<Option<stream::Info>, LogError> {
        declare::check_version(&self.client.server_info().version)?;
        match self
            .request(format!("STREAM.INFO.{name}"), &serde_json::json!({}))
            .await?
        {
            Response::Ok(info) => Ok(Some(info)),
            Response::Err { error }
                if error.error_code() == jetstream::ErrorCode::STREAM_NOT_FOUND =>
            {
                Ok(None)
            }
            Response::Err { error } => {
                Err(LogError::server(format!("asking for stream {name}"), error))
            }
        }
    }

    async fn request<T: serde::Serialize, V: serde::de::DeserializeOwned>(
        &self,
        subject: String,
        payload: &T,
    ) -> Result<V, LogError> {
        let answer = self.jetstream.request(subject.clone(), payload).await;
        answer.map_err(|error| LogError::down(subject, error))
    }

    /// Publishes and waits for the answer; makes a missing stream first.
    pub(super) async fn append(
        &self,
        stream: &str,
        subject: String,
        mut headers: HeaderMap,
        expected_last: Option<u64>,
        payload: Bytes,
    ) -> Result<u64, LogError> {
        if let Some(expected) = expected_last {
            headers.insert(
                async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE,
                expected.to_string().as_str(),
            );
        }
        headers.insert(async_nats::header::NATS_EXPECTED_STREAM, stream);
        let send = || {
            let request = async_nats::client::Request::new()
                .headers(headers.clone())
                .payload(payload.clone());
            self.client
                .send_request(subject.clone(), request.timeout(Some(REQUEST_TIMEOUT)))
        };
        let doing = || format!("publishing to {subject}");
        let answer = match send().await {
            // Nobody listens on the subject: the stream is gone, or was never there.
            Err(error) if error.kind() == RequestErrorKind::NoResponders => {
                self.ensure_stream(&declare::stream_named(stream)).await?;
                send().await
            }
            answer => answer,
        };
        let answer = answer.map_err(|error| match error.kind() {
            RequestErrorKind::MaxPayloadExceeded => LogError::TooLarge {
                subject: subject.clone(),
                bytes: payload.len(),
            },
            RequestErrorKind::TimedOut
            | RequestErrorKind::NoResponders
            | RequestErrorKind::InvalidSubject
            | RequestErrorKind::Other => LogError::down(doing(), error),
        })?;
        match serde_json::from_slice::<Response<jetstream::publish::PublishAck>>(&answer.payload) {
            Ok(Response::Ok(ack)) => Ok(ack.sequence),
            Ok(Response::Err { error }) => Err(refused(error, &subject, expected_last)),
            Err(error) => Err(LogError::down(doing(), error)),
        }
    }

    /// Newest message on a subject, as the stream's leader knows it.
    pub(super) async fn last(
        &self,
        stream: &str,
        subject: &str,
    ) -> Result<Option<jetstream::message::StreamMessage>, LogError> {
        use stream::LastRawMessageErrorKind as Kind;
        let doing = || format!("reading the last message of {subject}");
        let handle = self.jetstream.get_stream_no_info(stream).await;
        let handle = handle.map_err(|error| LogError::down(doing(), error))?;
        for attempt in 0.. {
            match handle.get_last_raw_message_by_subject(subject).await {
                Ok(message) => return Ok(Some(message)),
                Err(error) => match error.kind() {
                    Kind::NoMessageFound => return Ok(None),
                    Kind::JetStream(error)
                        if attempt == 0
                            && error.error_code() == jetstream::ErrorCode::STREAM_NOT_FOUND =>
                    {
                        self.ensure_stream(&declare::stream_named(stream)).await?;
                    }
                    Kind::JetStream(error) => return Err(LogError::server(doing(), error)),
                    Kind::InvalidSubject | Kind::Other => {
                        return Err(LogError::down(doing(), error));
                    }
                },
            }
        }
        Ok(None)
    }
}

/// When a stream was created.
pub(super) fn identity(info: &stream::Info) -> StreamIdentity {
    StreamIdentity(info.created.unix_timestamp_nanos())
}

fn refused(error: jetstream::Error, subject: &str, expected_last: Option<u64>) -> LogError {
    if error.error_code() != jetstream::ErrorCode::STREAM_WRONG_LAST_SEQUENCE {
        return LogError::server(format!("publishing to {subject}"), error);
    }
    // "wrong last sequence: 7 (code 400, …)": the number is not promised, so its absence is no fault.
    let text = error.to_string();
    let found = text.split("wrong last sequence: ").nth(1).and_then(|rest| {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        rest[..digits].parse().ok()
    });
    LogError::Refused {
        subject: subject.into(),
        expected: expected_last.unwrap_or_default(),
        found,
    }
}
