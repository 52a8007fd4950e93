//! Tokens (JWT, version 2) as nats-server reads them: operator, account, user.
//!
//! Source: NATS' "JWT in Depth" and the claims of nats-io/jwt version 2. A token is `header.claims.signature`, each part
//! base64url without padding; the signature is ed25519 over the first two.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mirrorlog_core::time::Timestamp;
use nkeys::{KeyPair, KeyPairType};
use serde_json::{Value, json};

use super::rights::{Import, Right, User, imports, permissions};

/// Largest message of a user, in bytes: nats-server's own default.
const PAYLOAD_MAX_BYTES: u32 = 1024 * 1024;
/// Subscriptions of one connection of those who ask: it has an inbox, one for each reader, and a mirror one on its pool.
/// Stops a flood of subjects.
const SUBSCRIPTIONS_MAX: u32 = 64;
/// How long nats-server knows where an answer to another account goes, after the question or the answer before. A pull is never
/// silent for so long: its reader gives it up before. It bounds what a flood of requests takes of the server's memory.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// What the server's account could ask of each other one, and does not: see [`Account::System`].
const READ_AT_START: &str = "mirrorlog.account";
/// Tags of a user's token that name its role and its consumers.
pub(super) const ROLE_TAG: &str = "role";
const CONSUMER_TAG: &str = "consumer";

/// Why a token could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The key cannot sign.
    #[error("the NATS key cannot sign: is it a seed?")]
    Key(#[from] nkeys::error::Error),
    /// The key is of another kind.
    #[error("{key} is a NATS key of another kind than {expected}")]
    Kind {
        /// The key's public half.
        key: String,
        /// What was needed.
        expected: &'static str,
    },
    /// The system gave no random bytes.
    #[error("no random bytes for a token")]
    Random(#[source] std::io::Error),
}

/// What signs the tokens of one role's users.
pub struct Issuer<'a> {
    /// Public key of the account that they belong to.
    pub account: &'a str,
    /// The role's signing key, by which the account knows what they may do.
    pub key: &'a KeyPair,
}

/// What an account is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Account<'a> {
    /// Watches the server; holds nothing, and nobody signs its users. It imports of each other account, by name and public
    /// key, so that nats-server reads them all before it listens. Otherwise it reads one when its first user comes, and
    /// once more for whoever comes meanwhile, and 2.10.27 let in one in a hundred who was shut out.
    System(&'a [(String, &'a str)]),
    /// The archive's: holds the streams, and lets the others ask.
    Centre(&'a Keys),
    /// Of another role. Holds nothing: of the account `centre` its users reach what they need, and no more. Whatever is
    /// sent to a subject that one of them names, as the answer's place or else, is sent in here.
    Asking {
        right: Right,
        keys: &'a Keys,
        centre: &'a str,
    },
}

/// An account's keys: who may sign users, and who is shut out.
#[derive(Clone, Debug, Default)]
pub(super) struct Keys {
    /// The public halves of the roles' signing keys.
    pub(super) signers: BTreeMap<Right, String>,
    /// Users' public keys, and the time until which tokens made for them do not count any more.
    pub(super) revoked: BTreeMap<String, Timestamp>,
}

/// The operator's token, signed by itself. `system`: public key of the account that watches the server.
///
/// # Errors
/// [`TokenError`].
pub(super) fn operator_token(
    operator: &KeyPair,
    system: &str,
    now: Timestamp,
) -> Result<String, TokenError> {
    let nats = json!({ "type": "operator", "version": 2, "system_account": system });
    sign(operator, "mirrorlog", &operator.public_key(), now, nats)
}

/// An account's token, signed by the operator.
///
/// # Errors
/// [`TokenError`].
pub(super) fn account_token(
    operator: &KeyPair,
    (public, name): (&str, &str),
    account: Account<'_>,
    now: Timestamp,
) -> Result<String, TokenError> {
    let store = match account {
        Account::Centre(_) => -1,
        Account::System(_) | Account::Asking { .. } => 0,
    };
    let mut nats = json!({
        "type": "account",
        "version": 2,
        "limits": {
            "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
            "conn": -1, "leaf": -1,
            "mem_storage": store, "disk_storage": store, "streams": store, "consumer": store,
        },
        "default_permissions": { "pub": {}, "sub": {} },
    });
    match account {
        Account::System(others) => {
            let imports = others
                .iter()
                .map(|(public, name)| read_at_start(public, name));
            nats["imports"] = imports.collect();
        }
        Account::Centre(keys) => {
            sign_by(&mut nats, Right::Archive, keys);
            nats["exports"] = json!([export()]);
        }
        Account::Asking {
            right,
            keys,
            centre,
        } => {
            sign_by(&mut nats, right, keys);
            let imports = imports(right);
            let imports = imports.iter().map(|one| import(one, centre));
            nats["imports"] = imports.collect();
            nats["exports"] = json!([{
                "name": READ_AT_START, "subject": READ_AT_START, "type": "service",
            }]);
        }
    }
    sign(operator, name, public, now, nats)
}

fn sign_by(nats: &mut Value, right: Right, keys: &Keys) {
    let signer = keys.signers.get(&right).into_iter();
    nats["signing_keys"] = signer.map(|key| scope(right, key)).collect();
    let revoked = keys.revoked.iter();
    let seconds = revoked.map(|(user, until)| (user.clone(), Value::from(until.as_ms() / 1000)));
    nats["revocations"] = Value::Object(seconds.collect());
}

/// What the archive's account lets others ask for, as one: nats-server takes what came in by an export, and would go out by
/// the same again, for a loop, and drops it. So an answer that somebody had sent to one of its own imports ends there;
/// with an export for each, 2.10.27 falls over it where names are filled in. Nothing more is reached by it than
/// [`imports`] names, for only accounts that the operator signs are there.
fn export() -> Value {
    json!({
        "name": "log",
        "subject": ">",
        "type": "service",
        // A pull is answered by many messages.
        "response_type": "Stream",
        "response_threshold": nanoseconds(ANSWER_TIMEOUT),
    })
}

/// The server's account's import of another account.
fn read_at_start(account: &str, name: &str) -> Value {
    json!({
        "name": READ_AT_START,
        "subject": READ_AT_START,
        "local_subject": format!("{READ_AT_START}.{name}"),
        "account": account,
        "type": "service",
    })
}

fn import(import: &Import, centre: &str) -> Value {
    // The n-th wildcard is called `$n` there.
    let mut wildcards = 0;
    let token = |token: &str| match token {
        "*" => {
            wildcards += 1;
            format!("${wildcards}")
        }
        other => other.to_owned(),
    };
    let local: Vec<String> = import.local.split('.').map(token).collect();
    let mut claim = json!({
        "name": import.subject,
        "subject": import.subject,
        "account": centre,
        "type": "service",
    });
    if import.local != import.subject {
        claim["local_subject"] = local.join(".").into();
    }
    claim
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// What those may do whose tokens a role's key signed.
fn scope(right: Right, key: &str) -> Value {
    let may = permissions(right);
    let subscriptions = match right.asks() {
        true => i64::from(SUBSCRIPTIONS_MAX),
        false => -1,
    };
    let mut scope = json!({
        "kind": "user_scope",
        "key": key,
        "role": right.as_str(),
        "template": {
            "pub": { "allow": may.publish },
            "sub": { "allow": may.subscribe },
            "subs": subscriptions,
            "data": -1,
            "payload": PAYLOAD_MAX_BYTES,
            "allowed_connection_types": ["STANDARD", "WEBSOCKET"],
        },
    });
    if may.answers {
        scope["template"]["resp"] = json!({ "max": 1, "ttl": nanoseconds(ANSWER_TIMEOUT) });
    }
    scope
}

/// A user's token, signed by its role's key. `public`: the user's public key.
///
/// # Errors
/// [`TokenError`].
pub fn user_token(
    issuer: &Issuer<'_>,
    user: &User,
    public: &str,
    now: Timestamp,
) -> Result<String, TokenError> {
    let kind = KeyPair::from_public_key(public)?.key_pair_type();
    if !matches!(kind, KeyPairType::User) {
        let key = public.to_owned();
        return Err(TokenError::Kind {
            key,
            expected: "a user's",
        });
    }
    let consumers = user.consumers().into_iter();
    let tags = consumers.map(|consumer| format!("{CONSUMER_TAG}:{consumer}"));
    let role = format!("{ROLE_TAG}:{}", user.right());
    // What it may do stands in the account's token; anything of its own here would be refused.
    let nats = json!({
        "type": "user",
        "version": 2,
        "pub": {},
        "sub": {},
        "issuer_account": issuer.account,
        "tags": std::iter::once(role).chain(tags).collect::<Vec<_>>(),
    });
    sign(issuer.key, user.name(), public, now, nats)
}

/// The token of a user who may do everything in the account, signed by the account itself.
///
/// # Errors
/// [`TokenError`].
pub(super) fn admin_token(
    account: &KeyPair,
    name: &str,
    public: &str,
    now: Timestamp,
) -> Result<String, TokenError> {
    let nats = json!({
        "type": "user", "version": 2, "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1,
    });
    sign(account, name, public, now, nats)
}

fn sign(
    key: &KeyPair,
    name: &str,
    subject: &str,
    now: Timestamp,
    nats: Value,
) -> Result<String, TokenError> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|error| TokenError::Random(error.into()))?;
    let claims = json!({
        "jti": hex::encode_upper(id),
        "iat": now.as_ms() / 1000,
        "iss": key.public_key(),
        "name": name,
        "sub": subject,
        "nats": nats,
    });
    let header = json!({ "typ": "JWT", "alg": "ed25519-nkey" });
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&header), part(&claims));
    let signature = URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes())?);
    Ok(format!("{signed}.{signature}"))
}

/// The claims of a token; its signature is the server's to check.
pub(super) fn claims(token: &str) -> Option<Value> {
    let part = token.split('.').nth(1)?;
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}
