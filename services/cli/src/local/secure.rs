//! What makes the services of a secure network known to each other: users at nats-server, certificates, a root document.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use mirrorlog_core::id::MirrorId;
use mirrorlog_core::sign::{KeyNumber, PublicKey, SecretKey, Threshold};
use mirrorlog_core::time::Timestamp;
use mirrorlog_core::trust::{RoleKeys, Root, RootParts, RootVersion};
use wire::SignedRoot;

use super::plan::quoted;
use crate::args::{Member, NatsConfigArgs};
use crate::command::{nats_config, write_key};
use crate::failure::{CONFIG, CREATE, DATA, Failure, OrExit as _, make_dir};

/// The root keys of a network on one machine; two of them sign.
const ROOT_KEYS: [&str; 3] = ["root-a", "root-b", "root-c"];
const ROOT_THRESHOLD: u32 = 2;
const YEAR_MS: i64 = 365 * 24 * 3600 * 1000;

/// Where the services' public keys are.
pub(super) struct PublicKeys {
    pub(super) archive: PathBuf,
    pub(super) consistency: PathBuf,
    pub(super) mirrors: BTreeMap<String, PathBuf>,
}

/// Where each service finds what makes it known to the others.
pub(super) struct Known(Option<Access>);

struct Access {
    dir: PathBuf,
    root: PathBuf,
}

impl Known {
    /// Everybody on this machine is believed.
    pub(super) fn nothing() -> Self {
        Self(None)
    }

    /// Makes users, certificates and the root document in `dir`; those that are there stay.
    pub(super) fn of(dir: &Path, nats_port: u16, keys: &PublicKeys) -> Result<Self, Failure> {
        let members = keys.mirrors.keys().map(|id| {
            let id = MirrorId::new(id).or_exit(CONFIG)?;
            let hosts = Vec::new();
            Ok(Member { id, hosts })
        });
        nats_config::write(&NatsConfigArgs {
            dir: dir.to_owned(),
            host: Vec::new(),
            mirror: members.collect::<Result<_, Failure>>()?,
            enrolled: None,
            revoke: Vec::new(),
            listen: Some((std::net::Ipv4Addr::LOCALHOST, nats_port).into()),
            store: Some(dir.join("jetstream")),
        })?;
        Ok(Self(Some(Access {
            dir: dir.to_owned(),
            root: root_document(&dir.join("trust"), keys)?,
        })))
    }

    /// Sections of a service's configuration: TLS, and whom it believes.
    pub(super) fn sections(&self, service: &str) -> String {
        let Some(Access { dir, root }) = &self.0 else {
            return String::new();
        };
        let file = |path: String| quoted(&dir.join(path));
        format!(
            "\n[tls]\nca = {}\nguests = {}\ncert = {}\nkey = {}\n\n[trust]\nroot = {}\n",
            file("tls/ca.pem".into()),
            file("tls/guests.pem".into()),
            file(format!("tls/{service}.pem")),
            file(format!("tls/{service}.key")),
            quoted(root),
        )
    }

    /// How mirrors join the archive.
    pub(super) fn enroll(&self, port: Option<u16>, fetch: u16, nats: &str) -> String {
        let (Some(Access { dir, .. }), Some(port)) = (&self.0, port) else {
            return String::new();
        };
        format!(
            "\n[enroll]\nlisten = \"127.0.0.1:{port}\"\naddress = \"127.0.0.1:{port}\"\nfetch = \"127.0.0.1:{fetch}\"\n\
             nats_url = \"{nats}\"\naccess = {}\n",
            quoted(&dir.join("enroll"))
        )
    }

    /// How others publish to the archive.
    pub(super) fn publish(&self, port: Option<u16>) -> String {
        let (Some(_), Some(port)) = (&self.0, port) else {
            return String::new();
        };
        format!("\n[publish]\nlisten = \"127.0.0.1:{port}\"\naddress = \"127.0.0.1:{port}\"\n")
    }

    /// The rest of a service's `[nats]`.
    pub(super) fn nats(&self, service: &str) -> String {
        let Some(Access { dir, .. }) = &self.0 else {
            return String::new();
        };
        let (user, ca) = (
            dir.join(format!("creds/{service}.creds")),
            dir.join("tls/ca.pem"),
        );
        format!("credentials = {}\nca = {}\n", quoted(&user), quoted(&ca))
    }

    /// A list of keys that are believed; nothing where the root document says it.
    pub(super) fn keys<'a>(
        &self,
        files: impl IntoIterator<Item = &'a PathBuf>,
        name: &str,
    ) -> String {
        if self.0.is_some() {
            return String::new();
        }
        let files: Vec<String> = files.into_iter().map(|file| quoted(file)).collect();
        format!("{name} = [{}]\n", files.join(", "))
    }

    /// A mirror's key; nothing where the root document says it.
    pub(super) fn key(&self, file: &Path) -> String {
        match self.0 {
            Some(_) => String::new(),
            None => format!("key = {}\n", quoted(file)),
        }
    }
}

/// Gives the newest root document of the folder; makes another when keys or mirrors are others.
fn root_document(dir: &Path, keys: &PublicKeys) -> Result<PathBuf, Failure> {
    make_dir(dir)?;
    let signers = ROOT_KEYS.map(|name| {
        write_key(dir, name)?;
        runtime::key::read_secret(&dir.join(format!("{name}.sec"))).or_exit(CONFIG)
    });
    let signers = signers
        .into_iter()
        .collect::<Result<Vec<SecretKey>, Failure>>()?;
    let newest = newest(dir)?;
    let version = match &newest {
        Some((root, _)) => root.version().next(),
        None => Some(RootVersion::FIRST),
    };
    let version = version
        .ok_or_else(|| Failure::text(CONFIG, "there is no number left for a root document"))?;
    let wanted = parts(version, &signers, keys)?;
    let same = |root: &Root| {
        let parts = root.parts();
        (&parts.keys, &parts.mirrors) == (&wanted.keys, &wanted.mirrors)
    };
    if let Some((_, path)) = newest.filter(|(root, _)| same(root)) {
        return Ok(path);
    }
    let mut document = SignedRoot::new(&Root::new(wanted).or_exit(DATA)?).or_exit(DATA)?;
    for signer in &signers {
        document.sign(signer);
    }
    let path = file_of(dir, version);
    std::fs::write(&path, document.encode()).or_exit(CREATE)?;
    Ok(path)
}

fn file_of(dir: &Path, version: RootVersion) -> PathBuf {
    dir.join(format!("root-{version}.mlr"))
}

fn newest(dir: &Path) -> Result<Option<(Root, PathBuf)>, Failure> {
    let versions = std::iter::successors(Some(RootVersion::FIRST), |version| version.next());
    let files = versions.map(|version| file_of(dir, version));
    let Some(path) = files.take_while(|path| path.exists()).last() else {
        return Ok(None);
    };
    let document = runtime::trust::read(&path).or_exit(CONFIG)?;
    Ok(Some((document.read().or_exit(CONFIG)?, path)))
}

fn parts(
    version: RootVersion,
    signers: &[SecretKey],
    files: &PublicKeys,
) -> Result<RootParts, Failure> {
    let mut keys: BTreeMap<KeyNumber, PublicKey> = BTreeMap::new();
    let mut list = |key: PublicKey| {
        keys.insert(key.number(), key);
        BTreeSet::from([key.number()])
    };
    let read = |file: &Path| runtime::key::read_public(file).or_exit(CONFIG);
    let one = |keys| RoleKeys {
        keys,
        threshold: Threshold::ONE,
    };
    let root = signers.iter().flat_map(|signer| list(signer.public()));
    let root = RoleKeys {
        keys: root.collect(),
        threshold: Threshold::new(ROOT_THRESHOLD).unwrap_or(Threshold::ONE),
    };
    let archive = one(list(read(&files.archive)?));
    let consistency = one(list(read(&files.consistency)?));
    let mut mirrors = BTreeMap::new();
    for (id, file) in &files.mirrors {
        mirrors.insert(MirrorId::new(id).or_exit(CONFIG)?, list(read(file)?));
    }
    let issued: Timestamp = runtime::boot::now();
    Ok(RootParts {
        version,
        issued,
        expires: issued.plus_ms(YEAR_MS),
        keys,
        root,
        archive,
        consistency,
        mirrors,
    })
}
