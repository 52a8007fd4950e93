//! The keys of a network's log in one folder: who may sign users, who is a user, who is shut out.
//!
//! | path | what it is | mode |
//! | --- | --- | --- |
//! | `keys/operator.nk`, `keys/system.nk` | seeds; whoever has them owns the server | 0600 |
//! | `keys/account.nk` | seed of the archive's account, which has the streams | 0600 |
//! | `keys/account-consistency.nk`, `-directory.nk`, `-mirrors.nk` | seeds of the accounts of the others | 0600 |
//! | `keys/archive.nk` … `keys/mirror.nk` | a role's signing key: makes users of that role, nothing else | 0600 |
//! | `creds/NAME.creds` | a user, for the service of that name; `admin` may do everything | 0600 |
//! | `users.json` | public keys of all users, so that one can be shut out without its file | 0600 |
//!
//! Nothing that is there is made anew; a folder that was lost is made anew as a whole, with all users. Users of folders
//! from before their role had an account get a token of it when the folder is opened, and keep their keys.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, chown};
use std::path::{Path, PathBuf};

use mirrorlog_core::time::Timestamp;
use nkeys::{KeyPair, KeyPairType};
use serde::{Deserialize, Serialize};

use super::credentials::{Credentials, CredentialsError};
use super::rights::{ADMIN, Right, User};
use super::token::{
    Account, Issuer, Keys, TokenError, account_token, admin_token, operator_token, user_token,
};

const SECRET_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;

/// Why a folder of keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RealmError {
    /// A file.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried, a verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A key file without a key.
    #[error("{} holds no NATS key of its kind", .0.display())]
    Key(PathBuf),
    /// `users.json`.
    #[error("{} is damaged", path.display())]
    Users {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A user's file.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// A token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// Nobody of that name.
    #[error(
        "there is no user {0} that could be shut out: those that joined by a token are known only with --enrolled <the archive's state>/enrolled"
    )]
    Unknown(String),
}

/// A user's public key, and whether it was shut out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Known {
    key: String,
    /// Tokens that were made until then do not count, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    revoked_ms: Option<i64>,
}

/// A folder of keys.
pub struct Realm {
    dir: PathBuf,
    operator: KeyPair,
    system: KeyPair,
    accounts: BTreeMap<Right, KeyPair>,
    signers: BTreeMap<Right, KeyPair>,
    /// All that a name ever had.
    users: BTreeMap<String, Vec<Known>>,
}

impl Realm {
    /// Opens a folder, and makes what it lacks.
    ///
    /// # Errors
    /// [`RealmError`].
    pub fn open(dir: &Path) -> Result<Self, RealmError> {
        for folder in [dir.join("keys"), dir.join("creds")] {
            let made = fs::DirBuilder::new()
                .recursive(true)
                .mode(FOLDER_MODE)
                .create(&folder);
            made.map_err(|source| io_error("make", &folder, source))?;
        }
        let key = |name: &str, kind| key(&dir.join("keys").join(format!("{name}.nk")), kind);
        let each = |name: fn(Right) -> &'static str| {
            let keys = Right::ALL.map(|right| Ok((right, key(name(right), KeyPairType::Account)?)));
            keys.into_iter().collect::<Result<_, RealmError>>()
        };
        let realm = Self {
            dir: dir.to_owned(),
            operator: key("operator", KeyPairType::Operator)?,
            system: key("system", KeyPairType::Account)?,
            accounts: each(account_file)?,
            signers: each(Right::as_str)?,
            users: read_users(&dir.join("users.json"))?,
        };
        realm.move_users()?;
        Ok(realm)
    }

    /// Makes a user's credentials, or leaves those that are there. Gives their file.
    ///
    /// # Errors
    /// [`RealmError`].
    pub fn admit(&mut self, user: &User, now: Timestamp) -> Result<PathBuf, RealmError> {
        let token = |public: &str| self.token(user, public, now);
        let made = write_user(&self.file_of(user.name()), token)?;
        self.remember(user.name(), made)
    }

    /// Makes the credentials of people, who may do everything, or leaves those that are there. Gives their file.
    ///
    /// # Errors
    /// [`RealmError`].
    pub fn admit_admin(&mut self, now: Timestamp) -> Result<PathBuf, RealmError> {
        let centre = &self.accounts[&Right::Archive];
        let token = |public: &str| admin_token(centre, ADMIN, public, now);
        let made = write_user(&self.file_of(ADMIN), token)?;
        self.remember(ADMIN, made)
    }

    /// Notes a user that somebody else made with a role's signing key, so that it can be shut out.
    ///
    /// # Errors
    /// [`RealmError::Io`].
    pub fn note(&mut self, name: &str, public: &str) -> Result<(), RealmError> {
        let known = self.users.get(name).into_iter().flatten();
        if known.clone().any(|known| known.key == public) {
            return Ok(());
        }
        self.remember(name, Some(public.to_owned())).map(drop)
    }

    /// Shuts a user out: none of its tokens of before counts any more. Its credentials are removed; it may be admitted
    /// again. The server has to be restarted with the new configuration.
    ///
    /// # Errors
    /// [`RealmError::Unknown`], [`RealmError::Io`].
    pub fn revoke(&mut self, name: &str, now: Timestamp) -> Result<(), RealmError> {
        let Some(known) = self.users.get_mut(name) else {
            return Err(RealmError::Unknown(name.to_owned()));
        };
        for one in known {
            // Always: a token may have been made for the same key after it was shut out before.
            one.revoked_ms = Some(now.as_ms());
        }
        self.write_users()?;
        remove(&self.file_of(name))
    }

    /// The names of all users that are not shut out.
    pub fn users(&self) -> impl Iterator<Item = &str> {
        let in_force = |known: &&Known| known.revoked_ms.is_none();
        self.users.iter().filter_map(move |(name, known)| {
            let any = known.iter().any(|known| in_force(&known));
            any.then_some(name.as_str())
        })
    }

    /// The part of nats-server's configuration that says who is who.
    ///
    /// # Errors
    /// [`RealmError::Token`].
    pub fn server_config(&self, now: Timestamp) -> Result<String, RealmError> {
        let revoked = self.users.values().flatten();
        let revoked = revoked
            .filter_map(|known| Some((known.key.clone(), Timestamp::from_ms(known.revoked_ms?))));
        let signers = self.signers.iter();
        let keys = Keys {
            signers: signers
                .map(|(right, key)| (*right, key.public_key()))
                .collect(),
            revoked: revoked.collect(),
        };
        let system = self.system.public_key();
        let centre = self.accounts[&Right::Archive].public_key();
        let operator = operator_token(&self.operator, &system, now)?;
        let of_roles = self.accounts.iter().map(|(right, key)| {
            let (name, account) = match right {
                Right::Archive => ("MIRRORLOG", Account::Centre(&keys)),
                Right::Consistency => ("CONSISTENCY", asking(*right, &keys, &centre)),
                Right::Directory => ("DIRECTORY", asking(*right, &keys, &centre)),
                Right::Mirror => ("MIRRORS", asking(*right, &keys, &centre)),
            };
            (key.public_key(), name, account)
        });
        let of_roles: Vec<_> = of_roles.collect();
        let others = of_roles.iter();
        let others: Vec<_> = others
            .map(|(public, name, _)| (public.clone(), *name))
            .collect();
        let system_account = (system.clone(), "SYS", Account::System(&others));
        let accounts = std::iter::once(system_account).chain(of_roles);
        let mut text = format!(
            "operator: {operator}\nsystem_account: {system}\nresolver: MEMORY\nresolver_preload {{\n"
        );
        for (public, name, account) in accounts {
            let token = account_token(&self.operator, (&public, name), account, now)?;
            text.push_str(&format!("  {public}: {token}\n"));
        }
        text.push_str("}\n");
        Ok(text)
    }

    /// Writes what lets mirrors in, and nobody else, into `enroll`: for the archive. The authority's files are the caller's.
    ///
    /// # Errors
    /// [`RealmError::Io`].
    pub fn write_enroll(&self) -> Result<PathBuf, RealmError> {
        let dir = self.dir.join("enroll");
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(FOLDER_MODE)
            .create(&dir);
        made.map_err(|source| io_error("make", &dir, source))?;
        let key = self.signers.get(&Right::Mirror);
        let seed = key
            .map(KeyPair::seed)
            .transpose()
            .map_err(TokenError::from)?;
        let account = self.accounts[&Right::Mirror].public_key();
        for (name, text) in [
            ("mirror.nk", seed.unwrap_or_default()),
            ("account", account),
        ] {
            let path = dir.join(name);
            let there = fs::read_to_string(&path).ok();
            if there.as_deref().map(str::trim) != Some(&text) {
                remove(&path)?;
                write_new(&path, &format!("{text}\n"))?;
            }
        }
        Ok(dir)
    }

    /// A user's token, signed by its role's key.
    fn token(&self, user: &User, public: &str, now: Timestamp) -> Result<String, TokenError> {
        let account = self.accounts[&user.right()].public_key();
        let issuer = Issuer {
            account: &account,
            key: &self.signers[&user.right()],
        };
        user_token(&issuer, user, public, now)
    }

    /// Gives users who are of the archive's account, as all were once, a token of their role's: of the same key and
    /// date, so that whoever was shut out stays out.
    fn move_users(&self) -> Result<(), RealmError> {
        for name in self.users() {
            let file = self.file_of(name);
            // Given away, and kept elsewhere.
            if !file.exists() {
                continue;
            }
            let Some(user) = User::named(name) else {
                continue;
            };
            let there = Credentials::read(&file)?;
            let token = there.token();
            let account = self.accounts[&user.right()].public_key();
            if there.right() == Some(user.right()) && token.account != account {
                let moved = self.token(&user, &token.user, token.issued)?;
                replace(&file, &there.text().replace(&token.text, &moved))?;
            }
        }
        Ok(())
    }

    fn file_of(&self, name: &str) -> PathBuf {
        self.dir.join("creds").join(format!("{name}.creds"))
    }

    fn remember(&mut self, name: &str, made: Option<String>) -> Result<PathBuf, RealmError> {
        if let Some(key) = made {
            let known = self.users.entry(name.to_owned()).or_default();
            known.push(Known {
                key,
                revoked_ms: None,
            });
            self.write_users()?;
        }
        Ok(self.file_of(name))
    }

    fn write_users(&self) -> Result<(), RealmError> {
        let text = serde_json::to_string_pretty(&self.users).unwrap_or_default();
        replace(&self.dir.join("users.json"), &text)
    }
}

/// The name of the file of a role's account.
fn account_file(right: Right) -> &'static str {
    match right {
        Right::Archive => "account",
        Right::Consistency => "account-consistency",
        Right::Directory => "account-directory",
        Right::Mirror => "account-mirrors",
    }
}

fn asking<'a>(right: Right, keys: &'a Keys, centre: &'a str) -> Account<'a> {
    Account::Asking {
        right,
        keys,
        centre,
    }
}

/// Makes a user with its credentials, unless they are there. Gives the public key of a new one.
fn write_user(
    file: &Path,
    token: impl FnOnce(&str) -> Result<String, TokenError>,
) -> Result<Option<String>, RealmError> {
    if file.exists() {
        return Ok(None);
    }
    let user = KeyPair::new_user();
    let text = Credentials::print(&token(&user.public_key())?, &user)?;
    write_new(file, &text)?;
    Ok(Some(user.public_key()))
}

fn key(file: &Path, kind: KeyPairType) -> Result<KeyPair, RealmError> {
    let bad = || RealmError::Key(file.to_owned());
    match fs::read_to_string(file) {
        Ok(seed) => {
            let key = KeyPair::from_seed(seed.trim()).map_err(|_| bad())?;
            let same =
                std::mem::discriminant(&key.key_pair_type()) == std::mem::discriminant(&kind);
            same.then_some(key).ok_or_else(bad)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key = KeyPair::new(kind);
            let seed = key.seed().map_err(TokenError::from)?;
            write_new(file, &format!("{seed}\n"))?;
            Ok(key)
        }
        Err(source) => Err(io_error("read", file, source)),
    }
}

fn read_users(path: &Path) -> Result<BTreeMap<String, Vec<Known>>, RealmError> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|source| RealmError::Users {
            path: path.to_owned(),
            source,
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(source) => Err(io_error("read", path, source)),
    }
}

fn write_new(path: &Path, text: &str) -> Result<(), RealmError> {
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(SECRET_MODE)
        .open(path)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())
                .and_then(|()| file.sync_all())
        });
    written.map_err(|source| io_error("write", path, source))
}

/// Writes a file whole or not at all; it stays whose it was.
fn replace(path: &Path, text: &str) -> Result<(), RealmError> {
    let beside = path.with_extension("new");
    let owner = fs::metadata(path).ok();
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(SECRET_MODE)
        .open(&beside)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())
                .and_then(|()| file.sync_all())
        })
        .and_then(|()| match owner {
            // Services may use it where it lies.
            Some(owner) => chown(&beside, Some(owner.uid()), Some(owner.gid())),
            None => Ok(()),
        })
        .and_then(|()| fs::rename(&beside, path));
    written.map_err(|source| io_error("write", path, source))
}

fn remove(file: &Path) -> Result<(), RealmError> {
    match fs::remove_file(file) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(io_error("remove", file, source))
        }
        _gone => Ok(()),
    }
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> RealmError {
    let path = path.to_owned();
    RealmError::Io {
        action,
        path,
        source,
    }
}
