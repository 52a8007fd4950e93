//! `nats-config`: accounts, permissions, streams and TLS for a network of one's own.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use mirrorlog_core::id::MirrorId;
use runtime::boot::now;
use runtime::log::access::{Permissions, Realm, Right, User, permissions};
use runtime::tls::{Authority, Subject};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::args::NatsConfigArgs;
use crate::failure::{CONFIG, CREATE, Failure, IO, OrExit as _, make_dir};
use crate::output::Output;

/// Name of the network's authority in its certificate.
const AUTHORITY: &str = "mirrorlog";
/// The same of the authority of mirrors that join by a token.
const GUESTS: &str = "mirrorlog guests";
/// Every service reaches those of its own machine by these.
const LOCAL_HOSTS: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
const SECRET_MODE: u32 = 0o600;
const PUBLIC_MODE: u32 = 0o644;

/// What was written.
pub(crate) struct Written {
    pub(crate) config: PathBuf,
    pub(crate) users: Vec<(String, PathBuf)>,
}

pub(crate) fn run(args: &NatsConfigArgs, output: &Output) -> Result<u8, Failure> {
    let written = write(args)?;
    if output.json {
        let users = written
            .users
            .iter()
            .map(|(name, file)| (name.clone(), json!(file)));
        let rights = Right::ALL.map(|right| {
            let Permissions {
                publish,
                subscribe,
                answers,
            } = permissions(right);
            (
                right.to_string(),
                json!({ "publish": publish, "subscribe": subscribe, "answers": answers }),
            )
        });
        output.json(&json!({
            "config": written.config,
            "users": serde_json::Map::from_iter(users),
            "ca": args.dir.join("tls/ca.pem"),
            "permissions": serde_json::Map::from_iter(rights),
        }));
        return Ok(0);
    }
    output.line(&format!("wrote {}", written.config.display()));
    for (name, file) in &written.users {
        output.line(&format!("user {name}: {}", file.display()));
    }
    for user in &args.revoke {
        output.line(&format!(
            "{user} is shut out when nats-server starts with the new configuration"
        ));
    }
    output.line(&format!(
        "run it: nats-server -c {0}; after a change: restart it",
        written.config.display()
    ));
    Ok(0)
}

/// Writes everything; what is there stays.
pub(crate) fn write(args: &NatsConfigArgs) -> Result<Written, Failure> {
    let shut_out = |id: &MirrorId| args.revoke.iter().any(|user| user == id.as_str());
    if let Some(member) = args.mirror.iter().find(|member| shut_out(&member.id)) {
        let id = &member.id;
        let text = format!(
            "--mirror {id} and --revoke {id}: shut it out first, and let it in by another run"
        );
        return Err(Failure::text(CONFIG, text));
    }
    make_dir(&args.dir)?;
    let dir = args.dir.canonicalize().or_exit(IO)?;
    let mut realm = Realm::open(&dir).or_exit(CREATE)?;
    let mut users = Vec::new();
    for user in User::central() {
        let shut_out = args.revoke.iter().any(|name| name == user.name());
        if !shut_out {
            users.push((
                user.name().to_owned(),
                realm.admit(&user, now()).or_exit(CREATE)?,
            ));
        }
    }
    users.push((
        "admin".to_owned(),
        realm.admit_admin(now()).or_exit(CREATE)?,
    ));
    for member in &args.mirror {
        let user = User::mirror(&member.id).or_exit(CONFIG)?;
        users.push((
            user.name().to_owned(),
            realm.admit(&user, now()).or_exit(CREATE)?,
        ));
    }
    note_enrolled(&mut realm, args.enrolled.as_deref())?;
    for user in &args.revoke {
        realm.revoke(user, now()).or_exit(CONFIG)?;
    }
    write_certificates(&dir, args)?;
    let enroll = realm.write_enroll().or_exit(CREATE)?;
    let guests = [
        ("ca.pem", PUBLIC_MODE),
        ("guests.pem", PUBLIC_MODE),
        ("guests.key", SECRET_MODE),
    ];
    for (name, mode) in guests {
        let text = std::fs::read_to_string(dir.join("tls").join(name)).or_exit(IO)?;
        write_file(&enroll.join(name), text, mode)?;
    }
    write_streams(&dir)?;
    let config = dir.join("nats-server.conf");
    let settings = Settings::of(&dir, args)?;
    let text = server_config(&dir, &settings, &security(&dir)?);
    write_file(&config, text, PUBLIC_MODE)?;
    Ok(Written { config, users })
}

/// Takes in the users that the archive made for mirrors that joined: `ID/USER.user` each.
fn note_enrolled(realm: &mut Realm, folder: Option<&Path>) -> Result<(), Failure> {
    let Some(folder) = folder else { return Ok(()) };
    for entry in std::fs::read_dir(folder).or_exit(IO)? {
        let entry = entry.or_exit(IO)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let Ok(id) = MirrorId::new(&name) else {
            continue;
        };
        for file in std::fs::read_dir(entry.path()).or_exit(IO)? {
            let name = file.or_exit(IO)?.file_name().to_string_lossy().into_owned();
            if let Some(user) = name.strip_suffix(".user") {
                realm.note(id.as_str(), user).or_exit(CREATE)?;
            }
        }
    }
    Ok(())
}

/// The authority, and a certificate for the server, each role and each mirror; those that are there stay.
fn write_certificates(dir: &Path, args: &NatsConfigArgs) -> Result<(), Failure> {
    let tls = dir.join("tls");
    make_dir(&tls)?;
    let authority = authority(&tls, "ca", AUTHORITY)?;
    // Mirrors that join by a token are believed as callers and as peers, never as the archive or the log.
    self::authority(&tls, "guests", GUESTS)?;
    let central = ["nats", "archive", "consistency", "directory"];
    let central = central.map(|name| (name, args.host.as_slice()));
    let mirrors = args.mirror.iter();
    let mirrors = mirrors.map(|member| (member.id.as_str(), member.hosts.as_slice()));
    for (name, hosts) in central.into_iter().chain(mirrors) {
        let (cert, key) = (
            tls.join(format!("{name}.pem")),
            tls.join(format!("{name}.key")),
        );
        if cert.exists() && key.exists() {
            continue;
        }
        let local = LOCAL_HOSTS.map(str::to_owned).into_iter();
        let subject = Subject {
            name: name.to_owned(),
            hosts: hosts.iter().cloned().chain(local).collect(),
        };
        let (cert_pem, key_pem) = authority.issue(&subject, now()).or_exit(CREATE)?;
        write_file(&key, key_pem, SECRET_MODE)?;
        write_file(&cert, cert_pem, PUBLIC_MODE)?;
    }
    Ok(())
}

/// An authority's files; those that are there stay.
fn authority(tls: &Path, file: &str, name: &str) -> Result<Authority, Failure> {
    let (cert, key) = (
        tls.join(format!("{file}.pem")),
        tls.join(format!("{file}.key")),
    );
    if cert.exists() && key.exists() {
        return Authority::read(&cert, &key).or_exit(CONFIG);
    }
    let authority = Authority::generate(name, now()).or_exit(CREATE)?;
    write_file(&key, authority.key_pem(), SECRET_MODE)?;
    write_file(&cert, authority.pem(), PUBLIC_MODE)?;
    Ok(authority)
}

/// The archive makes the streams itself; these are for those who look, or make them with other replicas.
fn write_streams(dir: &Path) -> Result<(), Failure> {
    let streams = dir.join("streams");
    make_dir(&streams)?;
    for (name, config) in runtime::log::declared_streams() {
        let text = serde_json::to_string_pretty(&config).or_exit(CREATE)?;
        write_file(&streams.join(format!("{name}.json")), text, PUBLIC_MODE)?;
    }
    Ok(())
}

/// What was chosen once, and stays so.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    listen: SocketAddr,
    store: PathBuf,
}

impl Settings {
    /// What is asked, else what was asked before, else the usual.
    fn of(dir: &Path, args: &NatsConfigArgs) -> Result<Self, Failure> {
        let file = dir.join("settings.toml");
        let before = match std::fs::read_to_string(&file) {
            Ok(text) => toml::from_str(&text)
                .with_context(|| format!("{} is not valid", file.display()))
                .or_exit(CONFIG)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Self {
                listen: (Ipv4Addr::UNSPECIFIED, 4222).into(),
                store: "/var/lib/mirrorlog/jetstream".into(),
            },
            Err(error) => return Err(error).or_exit(IO),
        };
        let settings = Self {
            listen: args.listen.unwrap_or(before.listen),
            store: args.store.clone().unwrap_or(before.store),
        };
        write_file(
            &file,
            &toml::to_string(&settings).or_exit(CREATE)?,
            PUBLIC_MODE,
        )?;
        Ok(settings)
    }
}

fn server_config(dir: &Path, settings: &Settings, security: &str) -> String {
    let Settings { listen, store } = settings;
    let (cert, key) = pair(dir, "nats");
    format!(
        "# nats-server 2.10.23 or newer. Written by `mirrorlog nats-config`, and again at each of its runs.\n\
         # Nothing in it is secret; keys/, creds/, enroll/ and the keys in tls/ are.\n\
         listen: \"{listen}\"\n\
         max_payload: 1MB\n\
         max_connections: 4096\n\
         # Those who do not read are let go.\n\
         write_deadline: \"10s\"\n\n\
         # For mirrors that reach only port 443:\n\
         # websocket {{\n\
         #   port: 443\n\
         #   tls {{ cert_file: {cert}, key_file: {key} }}\n\
         # }}\n\n\
         jetstream {{\n  store_dir: {}\n  # An acked message is durable.\n  sync_interval: always\n}}\n\n{security}",
        quoted(store),
    )
}

/// What nats-server is told of TLS and of users.
pub(crate) fn security(dir: &Path) -> Result<String, Failure> {
    let realm = Realm::open(dir).or_exit(CREATE)?;
    let who = realm.server_config(now()).or_exit(CREATE)?;
    let (cert, key) = pair(dir, "nats");
    Ok(format!(
        "tls {{\n  cert_file: {cert}\n  key_file: {key}\n  timeout: 5\n}}\n\n\
         # Who may speak: each role by its own signing key, with its permissions in an account's token; the archive's\n\
         # account has the streams, and the others reach of it what they need.\n{who}"
    ))
}

/// A certificate and its key, as nats-server reads their names.
fn pair(dir: &Path, name: &str) -> (String, String) {
    let file = |end: &str| quoted(&dir.join("tls").join(format!("{name}.{end}")));
    (file("pem"), file("key"))
}

fn quoted(path: &Path) -> String {
    serde_json::Value::from(path.to_string_lossy()).to_string()
}

/// Writes a file whole or not at all; one that was there keeps no wider mode.
pub(crate) fn write_file(path: &Path, bytes: impl AsRef<[u8]>, mode: u32) -> Result<(), Failure> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let beside = path.with_added_extension("new");
    // What is there of an earlier try may have another mode, or lead elsewhere.
    let gone = match std::fs::remove_file(&beside) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    };
    let written = gone
        .and_then(|()| {
            std::fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(mode)
                .open(&beside)
        })
        .and_then(|mut file| {
            file.write_all(bytes.as_ref())
                .and_then(|()| file.sync_all())
        })
        .and_then(|()| std::fs::rename(&beside, path));
    written
        .with_context(|| format!("cannot write {}", path.display()))
        .or_exit(CREATE)
}
