//! A network of users at a nats-server, and those who try.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event};
use bytes::Bytes;
use mirrorlog_core::id::{ChannelId, MirrorId};
use mirrorlog_core::time::Timestamp;
use runtime::log::access::{Realm, User};
use runtime::log::supervise::NatsServer;
use runtime::log::{Delivery, Event as Published, Events, Log, LogError, NatsConfig};

/// Longest wait for anything: far above what is normal.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
pub(crate) const NOW: Timestamp = Timestamp::from_ms(1_790_000_000_000);

pub(crate) struct Net {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) realm: Realm,
    pub(crate) server: NatsServer,
}

impl Net {
    pub(crate) async fn up(mirrors: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut realm = Realm::open(&dir.path().join("access")).unwrap();
        for user in User::central() {
            realm.admit(&user, NOW).unwrap();
        }
        realm.admit_admin(NOW).unwrap();
        for mirror in mirrors {
            realm
                .admit(&User::mirror(&id(mirror)).unwrap(), NOW)
                .unwrap();
        }
        let who = realm.server_config(NOW).unwrap();
        let server = NatsServer::start_with(&dir.path().join("nats"), None, &who).await;
        Self {
            server: server.unwrap(),
            realm,
            dir,
        }
    }

    pub(crate) fn creds(&self, user: &str) -> PathBuf {
        self.dir.path().join(format!("access/creds/{user}.creds"))
    }

    /// The archive as it runs: with streams made, and others' consumers made when they ask.
    pub(crate) async fn archive(&self) -> Archive {
        let log = self.log("archive").await;
        log.ensure().await.unwrap();
        let config = self.config("archive");
        let making = Log::connect_for_questions(&config, "archive")
            .await
            .unwrap();
        let making = tokio::spawn(async move { making.make_others_consumers().await });
        Archive { log, making }
    }

    pub(crate) async fn log(&self, user: &str) -> Log {
        Log::connect(&self.config(user), user, false).await.unwrap()
    }

    pub(crate) fn config(&self, user: &str) -> NatsConfig {
        NatsConfig {
            credentials: Some(self.creds(user)),
            ..NatsConfig::new(&self.server.url)
        }
    }

    /// A stranger's client with a user's credentials, and what the server refuses it.
    pub(crate) async fn intruder(&self, user: &str) -> Intruder {
        let refused = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&refused);
        let client = ConnectOptions::with_credentials_file(self.creds(user))
            .await
            .unwrap()
            .custom_inbox_prefix(format!("_INBOX.{user}"))
            .event_callback(move |event| {
                if let Event::ServerError(error) = event {
                    heard.lock().unwrap().push(error.to_string());
                }
                std::future::ready(())
            })
            .connect(&self.server.url)
            .await
            .unwrap();
        Intruder { client, refused }
    }
}

pub(crate) struct Archive {
    log: Log,
    making: tokio::task::JoinHandle<Result<(), LogError>>,
}

impl std::ops::Deref for Archive {
    type Target = Log;

    fn deref(&self) -> &Log {
        &self.log
    }
}

impl Drop for Archive {
    fn drop(&mut self) {
        self.making.abort();
    }
}

pub(crate) struct Intruder {
    pub(crate) client: Client,
    refused: Arc<Mutex<Vec<String>>>,
}

impl Intruder {
    /// Publishes, and waits until the server has said no.
    pub(crate) async fn is_refused(&self, verb: &str, subject: &str) {
        if verb == "Publish" {
            let payload = Bytes::from_static(b"{}");
            self.client
                .publish(subject.to_owned(), payload)
                .await
                .unwrap();
        } else {
            drop(self.client.subscribe(subject.to_owned()).await.unwrap());
        }
        self.client.flush().await.unwrap();
        let expected = format!("{verb} to \"{subject}\"").to_lowercase();
        let expected = expected.replace("subscribe to", "subscription to");
        soon(
            async {
                loop {
                    let found = self
                        .refused
                        .lock()
                        .unwrap()
                        .iter()
                        .any(|text| text.to_lowercase().contains(&expected));
                    if found {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            },
            &format!("{verb} {subject} was not refused"),
        )
        .await;
    }
}

pub(crate) async fn soon<T>(future: impl Future<Output = T>, what: &str) -> T {
    let ended = tokio::time::timeout(PATIENCE, future).await;
    ended.unwrap_or_else(|_| panic!("{what}"))
}

pub(crate) fn id(mirror: &str) -> MirrorId {
    MirrorId::new(mirror).unwrap()
}

pub(crate) fn noble() -> ChannelId {
    ChannelId::new("noble").unwrap()
}

pub(crate) async fn event(events: &mut Events, what: &str) -> Published {
    match soon(events.next(), what).await {
        Delivery::Event(event) => event,
        Delivery::StreamChanged(stream) => panic!("{what}: {stream:?}"),
    }
}

pub(crate) fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

pub(crate) fn write_secret(path: &Path, bytes: &[u8]) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(path, bytes).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}
