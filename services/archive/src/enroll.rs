//! Mirrors that join: tokens for one mirror each, good once and for a while.
//!
//! A token's secret is known by its digest only. Who shows it gets what a mirror of that id may have: a user at
//! nats-server, by the key that signs mirrors and nobody else, and a certificate. Whose reports count is not decided here:
//! that is the roster's, and the consistency service's configuration.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use mirrorlog_core::id::{Digest, MirrorId, PoolId};
use mirrorlog_core::sign::PublicKey;
use mirrorlog_core::time::Timestamp;
use runtime::log::access::{Issuer, TokenError, User, UserError, user_token};
use runtime::state::{Control, StateError, Write};
use runtime::tls::{Authority, AuthorityError, Subject};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tonic::{Request, Response, Status};
use wire::v1::{self, JoinReply, JoinRequest};

use crate::daemon::Daemon;
use crate::fence::run_blocking;
use crate::journal::with_causes;
use crate::state::{INVITATION_PREFIX, Key};

/// Longest life of a token.
pub(crate) const EXPIRES_MAX_MS: i64 = 30 * 24 * 3600 * 1000;
/// Host names of one mirror.
const HOSTS_MAX: usize = 16;
const SECRET_BYTES: usize = 32;

/// An invitation, as the control state has it under the digest of its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Invitation {
    mirror: String,
    pool: String,
    hosts: Vec<String>,
    expires_ms: i64,
    /// The keys with which it was used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    used: Option<Used>,
}

/// What a mirror brings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    /// Its report key, as signify's bytes, in hex.
    report: String,
    nats_user: String,
}

/// How an invitation was used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Used {
    keys: Keys,
    /// When first: whatever is given out again is dated then, so that a user that was shut out since stays out.
    at_ms: i64,
}

impl Invitation {
    /// True when whoever shows the secret, says who it is and brings these keys, is to be let in.
    fn admits(&self, mirror: &str, keys: &Keys, now: Timestamp) -> bool {
        let fresh = now.as_ms() < self.expires_ms;
        // An answer that was lost is given again, to the same keys only.
        let unused = self.used.as_ref().is_none_or(|used| used.keys == *keys);
        fresh && unused && self.mirror == mirror
    }
}

/// Why nobody can be let in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EnrollError {
    #[error(
        "the archive runs without [enroll], so nobody can join by a token: put it into its configuration and restart it"
    )]
    Off,
    #[error(
        "mirror {0} is in the roster already, and whoever has a token of it may speak in its name: if that is meant, as after the loss of its machine, --again"
    )]
    Known(MirrorId),
    #[error(transparent)]
    User(#[from] UserError),
    #[error("a mirror has at most {HOSTS_MAX} host names")]
    Hosts,
    #[error("a token is good for more than nothing, and for 30 days at most")]
    Expires,
    #[error("no random bytes for a token")]
    Random(#[source] std::io::Error),
    #[error(transparent)]
    State(#[from] StateError),
    #[error("an invitation in the control state cannot be read")]
    Codec(#[from] serde_json::Error),
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error("cannot {action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{} holds no NATS key", .0.display())]
    Key(PathBuf),
}

/// What the `enroll` folder that `nats-config` writes has: enough to let mirrors in, and nobody else.
pub(crate) struct Enroller {
    signer: runtime::log::access::KeyPair,
    account: String,
    /// Signs mirrors that join, and nobody else believes it for more.
    authority: Authority,
    /// By which the archive itself is known.
    ca: String,
    state: Arc<dyn Control>,
    /// One at a time: a token is used once.
    turn: Mutex<()>,
}

/// Who is to be invited.
pub(crate) struct Guest {
    pub(crate) mirror: MirrorId,
    pub(crate) pool: PoolId,
    pub(crate) hosts: Vec<String>,
    pub(crate) lasts_ms: i64,
}

impl Enroller {
    /// Reads the folder.
    ///
    /// # Errors
    /// [`EnrollError`], naming the file.
    pub(crate) fn open(access: &Path, state: Arc<dyn Control>) -> Result<Self, EnrollError> {
        let read = |name: &str| {
            let path = access.join(name);
            std::fs::read_to_string(&path).map_err(|source| EnrollError::Io {
                action: "read",
                path,
                source,
            })
        };
        let seed = read("mirror.nk")?;
        let signer = runtime::log::access::KeyPair::from_seed(seed.trim())
            .map_err(|_| EnrollError::Key(access.join("mirror.nk")))?;
        Ok(Self {
            signer,
            account: read("account")?.trim().to_owned(),
            authority: Authority::read(&access.join("guests.pem"), &access.join("guests.key"))?,
            ca: read("ca.pem")?,
            state,
            turn: Mutex::default(),
        })
    }

    /// Makes an invitation. Gives the secret. Blocks.
    pub(crate) fn invite(
        &self,
        guest: &Guest,
        now: Timestamp,
    ) -> Result<[u8; SECRET_BYTES], EnrollError> {
        User::mirror(&guest.mirror)?;
        if guest.hosts.len() > HOSTS_MAX {
            return Err(EnrollError::Hosts);
        }
        if !(1..=EXPIRES_MAX_MS).contains(&guest.lasts_ms) {
            return Err(EnrollError::Expires);
        }
        let mut secret = [0; SECRET_BYTES];
        getrandom::fill(&mut secret).map_err(|error| EnrollError::Random(error.into()))?;
        let invitation = Invitation {
            mirror: guest.mirror.to_string(),
            pool: guest.pool.to_string(),
            hosts: guest.hosts.clone(),
            expires_ms: now.plus_ms(guest.lasts_ms).as_ms(),
            used: None,
        };
        self.keep(&Digest::of(&secret), &invitation)?;
        Ok(secret)
    }

    /// Withdraws what invitations a mirror has, used or not. Gives how many. Blocks.
    pub(crate) fn withdraw(&self, mirror: &MirrorId) -> Result<usize, EnrollError> {
        let mut gone = Vec::new();
        for (key, value) in self.state.scan(INVITATION_PREFIX)? {
            let invitation: Invitation = serde_json::from_slice(&value)?;
            if invitation.mirror == mirror.as_str() {
                gone.push(Write::Delete(key));
            }
        }
        self.state.commit(&gone)?;
        Ok(gone.len())
    }

    /// The authority's certificate, by which the joining mirror knows this archive.
    pub(crate) fn ca(&self) -> &str {
        &self.ca
    }

    /// Uses an invitation; `None` where it does not admit. It is noted durably before anything is given out. Blocks.
    fn admit(
        &self,
        secret: &[u8],
        mirror: &str,
        keys: &Keys,
        now: Timestamp,
    ) -> Result<Option<Invitation>, EnrollError> {
        let name = Digest::of(secret);
        let Some(value) = self.state.get(&Key::Invitation(name).encode())? else {
            return Ok(None);
        };
        let invitation: Invitation = serde_json::from_slice(&value)?;
        if !invitation.admits(mirror, keys, now) {
            return Ok(None);
        }
        let used = Invitation {
            used: Some(invitation.used.unwrap_or(Used {
                keys: keys.clone(),
                at_ms: now.as_ms(),
            })),
            ..invitation
        };
        self.keep(&name, &used)?;
        Ok(Some(used))
    }

    fn keep(&self, name: &Digest, invitation: &Invitation) -> Result<(), EnrollError> {
        let value = serde_json::to_vec(invitation)?;
        let key = Key::Invitation(*name).encode();
        Ok(self.state.commit(&[Write::Put(key, value)])?)
    }
}

/// The gRPC service, on a listener of its own: who joins has no certificate yet.
pub(crate) struct EnrollService {
    daemon: Arc<Daemon>,
    enroller: Arc<Enroller>,
}

impl EnrollService {
    pub(crate) fn new(daemon: Arc<Daemon>, enroller: Arc<Enroller>) -> Self {
        Self { daemon, enroller }
    }

    fn answer(
        &self,
        invitation: &Invitation,
        id: &MirrorId,
        request: &JoinRequest,
    ) -> Result<JoinReply, EnrollError> {
        let used = invitation.used.as_ref();
        let now = used.map_or_else(runtime::boot::now, |used| Timestamp::from_ms(used.at_ms));
        let user = User::mirror(id)?;
        let issuer = Issuer {
            account: &self.enroller.account,
            key: &self.enroller.signer,
        };
        let token = user_token(&issuer, &user, &request.nats_user, now)?;
        let subject = Subject {
            name: id.to_string(),
            hosts: invitation.hosts.clone(),
        };
        let certificate =
            self.enroller
                .authority
                .answer(&request.certificate_request, &subject, now)?;
        let documents = self.daemon.trust.documents();
        // The first one: whoever has it can follow, and lead others who have it too.
        let (root_document, archive_keys) = match documents.first() {
            Some((_, document)) => (document.clone(), Vec::new()),
            None => {
                let keys = self.daemon.trust.archive().now();
                let keys = keys
                    .iter()
                    .map(|key| wire::signify::public_to_bytes(key).to_vec().into());
                (Vec::new(), keys.collect())
            }
        };
        let told = self.daemon.config.enroll.as_ref().ok_or(EnrollError::Off)?;
        Ok(JoinReply {
            pool: invitation.pool.clone(),
            fetch: told.fetch.clone(),
            nats_url: told.nats_url.clone(),
            nats_token: token,
            certificate,
            guests: self.enroller.authority.pem().to_owned(),
            root_document: root_document.into(),
            archive_keys,
        })
    }

    /// Leaves what operators need: the mirror's public key and its user, for the roster, the auditor and its revocation.
    fn record(&self, id: &MirrorId, key: &PublicKey, keys: &Keys) -> Result<(), EnrollError> {
        let dir = self.daemon.config.state.join("enrolled").join(id.as_str());
        let text = wire::signify::print_public(key, &format!("mirrorlog {id} public key"));
        // A file a user: of one that came again the earlier ones have to be shut out too.
        let files = [
            (
                format!("{}.user", keys.nats_user),
                format!("{}\n", keys.nats_user),
            ),
            (format!("{id}.pub"), text),
        ];
        for (name, text) in files {
            let path = dir.join(name);
            let written = std::fs::create_dir_all(&dir).and_then(|()| std::fs::write(&path, text));
            written.map_err(|source| EnrollError::Io {
                action: "write",
                path,
                source,
            })?;
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl v1::enroll_server::Enroll for EnrollService {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinReply>, Status> {
        let request = request.into_inner();
        let id = wire::rpc::mirror("mirror", &request.mirror)?;
        let key = wire::signify::public_from_bytes(&request.report_key);
        let key = key.map_err(|error| Status::invalid_argument(format!("report_key: {error}")))?;
        let keys = Keys {
            report: hex::encode(&request.report_key),
            nats_user: request.nats_user.clone(),
        };
        let _turn = self.enroller.turn.lock().await;
        let (enroller, secret, mirror) = (
            Arc::clone(&self.enroller),
            request.secret.clone(),
            request.mirror.clone(),
        );
        let used = keys.clone();
        let admitted =
            run_blocking(move || enroller.admit(&secret, &mirror, &used, runtime::boot::now()));
        let admitted = admitted.await.map_err(|error| failed(&error))?;
        let Some(invitation) = admitted else {
            tracing::warn!(mirror = %id, "a mirror was not let in: its token does not count");
            return Err(Status::permission_denied(
                "the token is not known, has expired, was used, or is for another mirror: ask the archive's operators \
                 for a new one",
            ));
        };
        let reply = self.answer(&invitation, &id, &request);
        let reply = reply.map_err(|error| failed(&error))?;
        self.record(&id, &key, &keys)
            .map_err(|error| failed(&error))?;
        tracing::info!(mirror = %id, key = %key.number(), "a mirror has joined");
        Ok(Response::new(reply))
    }
}

/// What whoever asked is told.
pub(crate) fn failed(error: &EnrollError) -> Status {
    let text = with_causes(error);
    match error {
        // What a stranger sent.
        EnrollError::Token(_) | EnrollError::Authority(_) | EnrollError::User(_) => {
            Status::invalid_argument(text)
        }
        EnrollError::Hosts | EnrollError::Expires => Status::invalid_argument(text),
        EnrollError::Off => Status::failed_precondition(text),
        EnrollError::Known(_) => Status::permission_denied(text),
        EnrollError::Random(_)
        | EnrollError::State(_)
        | EnrollError::Codec(_)
        | EnrollError::Io { .. }
        | EnrollError::Key(_) => Status::internal(text),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const HOUR_MS: i64 = 3600 * 1000;

    fn keys(report: &str) -> Keys {
        Keys {
            report: report.into(),
            nats_user: "U1".into(),
        }
    }

    fn invitation() -> Invitation {
        Invitation {
            mirror: "nz9".into(),
            pool: "nz".into(),
            hosts: Vec::new(),
            expires_ms: HOUR_MS,
            used: None,
        }
    }

    #[test]
    fn a_token_is_for_one_mirror_and_a_while() {
        let at = Timestamp::from_ms;
        assert!(invitation().admits("nz9", &keys("a"), at(0)));
        assert!(!invitation().admits("nz8", &keys("a"), at(0)));
        assert!(!invitation().admits("nz9", &keys("a"), at(HOUR_MS)));
    }

    #[test]
    fn a_used_token_answers_the_same_keys_only() {
        let used = Invitation {
            used: Some(Used {
                keys: keys("a"),
                at_ms: 0,
            }),
            ..invitation()
        };
        assert!(used.admits("nz9", &keys("a"), Timestamp::from_ms(1)));
        assert!(!used.admits("nz9", &keys("b"), Timestamp::from_ms(1)));
    }
}
