//! Who may speak on the log: users, what each may do, and the tokens by which nats-server knows them.
//!
//! nats-server runs in operator mode (decentralised authentication, ADR 24): it holds the operator's and the accounts'
//! tokens, and no list of users. A user's token is signed by the key of its role; what the role may do stands in the
//! account's token, so that whoever signs mirrors' tokens can give nobody more than a mirror has. A mirror is let in
//! without a change at the server, and shut out by its user's key in the account's token.
//!
//! Mirrors, consistency services and directories have an account each. Whoever sends a request names the subject of the
//! answer, and nats-server does not compare it with what the sender may publish: answers to them therefore go where no
//! stream listens.

mod credentials;
mod realm;
mod rights;
mod token;

pub use nkeys::KeyPair;

pub use credentials::{Credentials, CredentialsError};
pub use realm::{Realm, RealmError};
pub use rights::{Permissions, Right, User, UserError, permissions};
pub use token::{Issuer, TokenError, user_token};

pub(super) use rights::{
    API, ASKED_API, consumer_request, inbox, lane_consumer, readable, reader, readers,
};
