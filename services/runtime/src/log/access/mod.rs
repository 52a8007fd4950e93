//! Who may speak on the log: users, what each may do, and the tokens by which nats-server knows them.
//!
//! nats-server runs in operator mode (decentralised authentication, ADR 23): it holds the operator's and the account's
//! token, and no list of users. A user's token is signed by the key of its role; what the role may do stands in the
//! account's token, so that whoever signs mirrors' tokens can give nobody more than a mirror has. A mirror is let in
//! without a change at the server, and shut out by its user's name in the account's token.

mod credentials;
mod realm;
mod rights;
mod token;

pub use nkeys::KeyPair;

pub use credentials::{Credentials, CredentialsError};
pub use realm::{Realm, RealmError};
pub use rights::{Permissions, Right, User, UserError, permissions};
pub use token::{Issuer, TokenError, user_token};

pub(super) use rights::{inbox, reader};
