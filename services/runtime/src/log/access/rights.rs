//! What each role may publish and subscribe to. Everything else is refused by the server.

use std::fmt;

use mirrorlog_core::id::{Lane, MirrorId};

use crate::log::declare::{
    BUCKETS, FEEDBACK, LOG, ORDER, REPORT, ROOT, SALT, VERDICT, bucket_stream, streams,
};

/// The user of people, who may do everything.
pub(super) const ADMIN: &str = "admin";

/// Names of files beside those of mirrors: keys and certificates of others.
const RESERVED: [&str; 7] = [
    ADMIN, "ca", "guests", "nats", "operator", "system", "account",
];

/// What the centre's services share, and mirrors do not: streams and buckets are in its account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Side {
    /// Archive, consistency service, directory and people.
    Centre,
    /// Mirrors: of the centre's account they reach what [`imports`] names.
    Mirrors,
}

/// A role on the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Right {
    /// Makes streams and buckets; publishes events, heads, drains and orders.
    Archive,
    /// Publishes verdicts and which build is wanted; holds the lease.
    Consistency,
    /// Publishes what clients saw.
    Directory,
    /// Publishes its own reports and notices; reads events, heads, its own orders and verdicts by consumers that the
    /// archive makes for it.
    Mirror,
}

impl Right {
    /// All roles.
    pub const ALL: [Self; 4] = [
        Self::Archive,
        Self::Consistency,
        Self::Directory,
        Self::Mirror,
    ];

    /// The role's name, in files and tokens.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Archive => "archive",
            Self::Consistency => "consistency",
            Self::Directory => "directory",
            Self::Mirror => "mirror",
        }
    }

    /// The account of the role's users.
    pub(super) fn side(self) -> Side {
        match self {
            Self::Archive | Self::Consistency | Self::Directory => Side::Centre,
            Self::Mirror => Side::Mirrors,
        }
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|right| right.as_str() == name)
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a mirror's id cannot be a user's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a mirror cannot be called {0}: that is another user's name, choose another id")]
pub struct UserError(MirrorId);

/// A user: a role's only one, or a mirror.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    right: Right,
    name: String,
}

impl User {
    /// The archive, the consistency service or the directory; replicas of one share a user. No mirror.
    pub fn central() -> [Self; 3] {
        [Right::Archive, Right::Consistency, Right::Directory].map(|right| Self {
            right,
            name: right.as_str().to_owned(),
        })
    }

    /// A mirror.
    ///
    /// # Errors
    /// [`UserError`] for the name of a role: its inbox would be another's.
    pub fn mirror(id: &MirrorId) -> Result<Self, UserError> {
        if RESERVED.contains(&id.as_str()) || Right::named(id.as_str()).is_some() {
            return Err(UserError(id.clone()));
        }
        Ok(Self {
            right: Right::Mirror,
            name: id.to_string(),
        })
    }

    /// Its role.
    pub fn right(&self) -> Right {
        self.right
    }

    /// Its name, unique in the account.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the role's permissions are filled in with: the names of a mirror's consumers.
    pub(super) fn consumers(&self) -> Vec<String> {
        let name = &self.name;
        match self.right {
            Right::Archive | Right::Consistency | Right::Directory => Vec::new(),
            Right::Mirror => vec![
                lane_consumer(name, Lane::Bulk),
                lane_consumer(name, Lane::Priority),
                reader(name),
            ],
        }
    }
}

/// The name of a mirror's consumer of a lane.
pub(in crate::log) fn lane_consumer(mirror: &str, lane: Lane) -> String {
    format!("{mirror}-{lane}")
}

/// The name of a mirror's consumer on each stream that it reads otherwise than by lane.
pub(in crate::log) fn reader(mirror: &str) -> String {
    format!("{mirror}-read")
}

/// Where answers to a user come: nobody else may listen there.
pub(in crate::log) fn inbox(user: &str) -> String {
    format!("_INBOX.{user}")
}

/// Subjects, as NATS writes them; what is not among them is refused. A template of a user's name or tag is a whole
/// token (nats-server fills in no other).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    /// May be published to.
    pub publish: Vec<String>,
    /// May be subscribed to.
    pub subscribe: Vec<String>,
    /// Whether whoever asks there may be answered, once.
    pub answers: bool,
}

/// A user's name in permissions.
const NAME: &str = "{{name()}}";
/// Each of a mirror's consumers in permissions.
const CONSUMER: &str = "{{tag(consumer)}}";

/// What a role may do.
pub fn permissions(right: Right) -> Permissions {
    let mut publish = match right {
        Right::Archive => archive(),
        Right::Consistency => consistency(),
        Right::Directory => directory(),
        Right::Mirror => mirror(),
    };
    publish.sort_unstable();
    publish.dedup();
    let mut subscribe = vec![format!("{}.>", inbox(NAME))];
    match right {
        Right::Archive => subscribe.push(consumer_request("*")),
        Right::Consistency | Right::Directory => {}
        Right::Mirror => subscribe.push("mirrorlog.peer.*.*".into()),
    }
    Permissions {
        publish,
        subscribe,
        answers: right == Right::Archive,
    }
}

/// What mirrors reach of the centre's account.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Import {
    /// As the centre calls it.
    pub(super) subject: String,
    /// As mirrors call it.
    pub(super) local: String,
}

/// All that mirrors may publish to, but their own notices.
pub(super) fn imports() -> Vec<Import> {
    let filled = permissions(Right::Mirror).publish.into_iter();
    let filled = filled.map(|subject| subject.replace(NAME, "*").replace(CONSUMER, "*"));
    let reached = filled.filter(|subject| !subject.starts_with("mirrorlog.peer."));
    let mut imports: Vec<Import> = reached
        .map(|local| {
            let asked = local.strip_prefix(MIRRORS_API);
            Import {
                subject: asked.map_or_else(|| local.clone(), |rest| format!("{API}{rest}")),
                local,
            }
        })
        .collect();
    imports.sort_unstable();
    imports.dedup();
    imports
}

/// JetStream's API.
pub(in crate::log) const API: &str = "$JS.API";
/// The same as mirrors call it: under `$JS.API` every account is answered by nats-server itself, theirs with
/// "no JetStream here".
pub(in crate::log) const MIRRORS_API: &str = "mirrorlog.jetstream";

/// Where a mirror asks the archive for a consumer.
pub(in crate::log) fn consumer_request(mirror: &str) -> String {
    format!("mirrorlog.consumer.{mirror}")
}

fn archive() -> Vec<String> {
    let mut may = vec![
        "mirrorlog.log.bulk.*".into(),
        "mirrorlog.log.priority.*".into(),
        "mirrorlog.order.*".into(),
    ];
    may.extend(["head", "build", "drain", ROOT].map(keys));
    for stream in every_stream() {
        for verb in ["INFO", "CREATE", "UPDATE", "MSG.GET"] {
            may.push(format!("$JS.API.STREAM.{verb}.{stream}"));
        }
        may.extend(any_consumer(&stream));
    }
    may
}

fn consistency() -> Vec<String> {
    let mut may = vec!["mirrorlog.verdict.*.*".into()];
    may.extend(["wanted", "lease"].map(keys));
    for stream in every_stream() {
        may.push(format!("$JS.API.STREAM.INFO.{stream}"));
        may.push(format!("$JS.API.STREAM.MSG.GET.{stream}"));
    }
    let read = [LOG, REPORT, VERDICT].map(str::to_owned).into_iter();
    for stream in read.chain(["head", "wanted", "lease", "drain", ROOT].map(bucket)) {
        may.extend(any_consumer(&stream));
    }
    may
}

fn directory() -> Vec<String> {
    let mut may = vec!["mirrorlog.feedback.*.*".into(), keys(SALT)];
    may.extend(every_stream().map(|stream| format!("$JS.API.STREAM.INFO.{stream}")));
    may.extend([SALT, ROOT].map(|name| format!("$JS.API.STREAM.MSG.GET.{}", bucket(name))));
    let read = [LOG, VERDICT, FEEDBACK].map(str::to_owned).into_iter();
    for stream in read.chain(["head", "wanted", "drain", ROOT, SALT].map(bucket)) {
        may.extend(any_consumer(&stream));
    }
    may
}

fn mirror() -> Vec<String> {
    let mut may = vec![
        format!("mirrorlog.report.{NAME}.*"),
        format!("mirrorlog.peer.*.{NAME}"),
        consumer_request(NAME),
        format!("{MIRRORS_API}.STREAM.INFO.{REPORT}"),
        format!("{MIRRORS_API}.STREAM.MSG.GET.{}", bucket(ROOT)),
        format!("$JS.ACK.{LOG}.{CONSUMER}.>"),
    ];
    // It uses its consumers; to make one is to choose where its messages go.
    for stream in mirrors_streams() {
        may.push(format!("{MIRRORS_API}.STREAM.INFO.{stream}"));
        for verb in ["INFO", "MSG.NEXT"] {
            may.push(format!("{MIRRORS_API}.CONSUMER.{verb}.{stream}.{CONSUMER}"));
        }
    }
    may
}

/// The streams that mirrors read.
fn mirrors_streams() -> impl Iterator<Item = String> {
    let streams = [LOG, ORDER, VERDICT].map(str::to_owned).into_iter();
    streams.chain(["head", "drain", ROOT].map(bucket))
}

/// The part of a stream that is a mirror's to read by its plain reader; `None` where it has none.
pub(in crate::log) fn readable(stream: &str, mirror: &str) -> Option<String> {
    let parts = [
        (ORDER.to_owned(), format!("mirrorlog.order.{mirror}")),
        (VERDICT.to_owned(), format!("mirrorlog.verdict.*.{mirror}")),
        (bucket("head"), keys("head")),
        (bucket("drain"), keys("drain")),
        (bucket(ROOT), keys(ROOT)),
    ];
    let mut parts = parts.into_iter();
    parts.find_map(|(name, part)| (name == stream).then_some(part))
}

/// Any consumer of a stream. Those of the centre are made for a reader each, and named by the server.
fn any_consumer(stream: &str) -> [String; 5] {
    [
        format!("$JS.API.CONSUMER.CREATE.{stream}"),
        format!("$JS.API.CONSUMER.CREATE.{stream}.>"),
        format!("$JS.API.CONSUMER.INFO.{stream}.*"),
        format!("$JS.API.CONSUMER.DELETE.{stream}.*"),
        format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.*"),
    ]
}

fn every_stream() -> impl Iterator<Item = String> {
    let streams = streams().into_iter().map(|stream| stream.name);
    streams.chain(BUCKETS.map(bucket))
}

fn bucket(name: &str) -> String {
    bucket_stream(name).name
}

fn keys(name: &str) -> String {
    format!("$KV.mirrorlog_{name}.>")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_mirror_has_no_name_of_a_role() {
        for name in Right::ALL.map(Right::as_str).into_iter().chain(RESERVED) {
            let id = MirrorId::new(name).unwrap();
            assert!(
                User::mirror(&id)
                    .unwrap_err()
                    .to_string()
                    .contains("choose another id")
            );
        }
        let user = User::mirror(&MirrorId::new("nz1").unwrap()).unwrap();
        assert_eq!(user.consumers(), ["nz1-bulk", "nz1-priority", "nz1-read"]);
    }

    #[test]
    fn nobody_may_delete_or_purge_a_stream() {
        for right in Right::ALL {
            let may = permissions(right).publish;
            for verb in [
                "STREAM.DELETE",
                "STREAM.PURGE",
                "STREAM.MSG.DELETE",
                "SNAPSHOT",
                "RESTORE",
            ] {
                assert!(
                    !may.iter().any(|subject| subject.contains(verb)),
                    "{right} {verb}"
                );
            }
            assert!(
                !may.iter()
                    .any(|subject| subject == ">" || subject.starts_with("$JS.API.>"))
            );
        }
    }

    #[test]
    fn only_the_archive_says_what_is_published() {
        for right in Right::ALL {
            let may = permissions(right).publish;
            let says = |subject: &String| {
                subject.starts_with("mirrorlog.log.")
                    || *subject == keys("head")
                    || *subject == keys(ROOT)
            };
            let makes = |subject: &String| subject.contains("STREAM.CREATE");
            let found = (may.iter().any(says), may.iter().any(makes));
            let expected = right == Right::Archive;
            assert_eq!(found, (expected, expected), "{right}: {may:?}");
        }
    }

    #[test]
    fn a_mirror_neither_makes_consumers_nor_reaches_what_does() {
        let imports = imports();
        let reached = imports.iter().map(|import| &import.subject);
        for subject in permissions(Right::Mirror).publish.iter().chain(reached) {
            for verb in ["CREATE", "DURABLE", "DELETE", "PURGE", "UPDATE"] {
                assert!(!subject.contains(verb), "{subject}");
            }
            assert!(!subject.starts_with("$KV."), "{subject}");
        }
        for Import { subject, local } in &imports {
            assert!(
                !subject.contains("{{") && !local.contains("{{"),
                "{subject}"
            );
            assert!(!subject.starts_with("mirrorlog.peer."), "{subject}");
            assert!(!subject.starts_with(MIRRORS_API), "{subject}");
        }
    }

    #[test]
    fn what_a_mirror_reads_is_its_own() {
        assert_eq!(
            readable(ORDER, "nz1").as_deref(),
            Some("mirrorlog.order.nz1")
        );
        for stream in [REPORT, FEEDBACK, LOG, "KV_mirrorlog_salt", "OTHER"] {
            assert_eq!(readable(stream, "nz1"), None, "{stream}");
        }
        for stream in mirrors_streams().filter(|stream| stream != LOG) {
            assert!(readable(&stream, "nz1").is_some(), "{stream}");
        }
    }

    #[test]
    fn templates_are_whole_tokens() {
        for subject in Right::ALL.iter().flat_map(|right| {
            let may = permissions(*right);
            may.publish.into_iter().chain(may.subscribe)
        }) {
            for token in subject.split('.') {
                assert!(
                    !token.contains("{{") || (token.starts_with("{{") && token.ends_with("}}")),
                    "{subject}"
                );
            }
        }
    }
}
