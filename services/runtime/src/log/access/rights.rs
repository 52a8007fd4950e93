//! What each role may publish and subscribe to. Everything else is refused by the server.

use std::fmt;

use mirrorlog_core::id::{Lane, MirrorId};

use crate::log::declare::{
    BUCKETS, CLIENTS_WORDS, EVENTS, FEEDBACK, LOG, ORDER, REPORT, REPORTS, ROOT, SALT, VERDICT,
    VERDICTS, bucket_stream, streams,
};

/// The user of people, who may do everything.
pub(super) const ADMIN: &str = "admin";

/// Consumers on one stream that one service of the centre has at the same time, all replicas together.
const READERS_MAX: usize = 16;

/// Names of files beside those of mirrors: keys and certificates of others.
const RESERVED: [&str; 7] = [
    ADMIN, "ca", "guests", "nats", "operator", "system", "account",
];

/// A role on the log. Each has an account: the archive's has the streams, and of that account the others reach what
/// [`imports`] names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Right {
    /// Makes streams and buckets; publishes events, heads, drains and orders.
    Archive,
    /// Publishes verdicts and which build is wanted; holds the lease. The archive makes its consumers.
    Consistency,
    /// Publishes what clients saw. The archive makes its consumers.
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

    /// Whether the role asks the archive for its consumers and JetStream by another name, from an account without streams.
    pub(in crate::log) fn asks(self) -> bool {
        match self {
            Self::Archive => false,
            Self::Consistency | Self::Directory | Self::Mirror => true,
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

    /// The user of that name, whoever it is; none for people's, and where nobody can be called so.
    pub(in crate::log) fn named(name: &str) -> Option<Self> {
        if let Some(user) = Self::central().into_iter().find(|user| user.name == name) {
            return Some(user);
        }
        Self::mirror(&MirrorId::new(name).ok()?).ok()
    }

    /// Its name, unique among all users.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the role's permissions are filled in with: the names of the consumers that it may use.
    pub(super) fn consumers(&self) -> Vec<String> {
        let name = &self.name;
        match self.right {
            Right::Archive => Vec::new(),
            Right::Consistency | Right::Directory => readers(name),
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

/// The names that consumers of a service of the centre may have on each stream. Replicas share a user, and what was made
/// for a reader that is gone stands for a minute.
pub(in crate::log) fn readers(service: &str) -> Vec<String> {
    (1..=READERS_MAX)
        .map(|place| format!("{service}-{place}"))
        .collect()
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
/// Each of a user's consumers in permissions.
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

/// What an account reaches of the archive's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Import {
    /// As the archive calls it.
    pub(super) subject: String,
    /// As those call it who ask.
    pub(super) local: String,
}

/// All that a role may publish to, but mirrors' notices, which stay with them. None for the archive.
pub(super) fn imports(right: Right) -> Vec<Import> {
    if !right.asks() {
        return Vec::new();
    }
    let filled = permissions(right).publish.into_iter();
    let filled = filled.map(|subject| subject.replace(NAME, "*").replace(CONSUMER, "*"));
    let reached = filled.filter(|subject| !subject.starts_with("mirrorlog.peer."));
    let mut imports: Vec<Import> = reached
        .map(|local| {
            let asked = local.strip_prefix(ASKED_API);
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
/// The same as those call it who are in another account than the streams: under `$JS.API` every account is answered by
/// nats-server itself, theirs with "no JetStream here".
pub(in crate::log) const ASKED_API: &str = "mirrorlog.jetstream";

/// Where a user asks the archive for a consumer.
pub(in crate::log) fn consumer_request(user: &str) -> String {
    format!("mirrorlog.consumer.{user}")
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
    may.extend(asks(Right::Consistency, &["wanted", "lease", ROOT]));
    may
}

fn directory() -> Vec<String> {
    let mut may = vec!["mirrorlog.feedback.*.*".into(), keys(SALT)];
    may.extend(asks(Right::Directory, &[SALT, ROOT]));
    may
}

/// What services of the centre ask of streams: how all of them are, single values of the buckets `looked_up`, and what
/// is in those that they read.
fn asks(right: Right, looked_up: &[&str]) -> Vec<String> {
    let mut may = vec![consumer_request(NAME)];
    may.extend(every_stream().map(|stream| format!("{ASKED_API}.STREAM.INFO.{stream}")));
    for name in looked_up {
        may.push(format!("{ASKED_API}.STREAM.MSG.GET.{}", bucket(name)));
    }
    for (stream, _) in readable(right, NAME) {
        may.extend(uses_consumers(&stream));
    }
    may
}

/// Whoever makes a consumer chooses where its messages go: those who ask use theirs only.
fn uses_consumers(stream: &str) -> [String; 2] {
    ["INFO", "MSG.NEXT"].map(|verb| format!("{ASKED_API}.CONSUMER.{verb}.{stream}.{CONSUMER}"))
}

fn mirror() -> Vec<String> {
    let mut may = vec![
        format!("mirrorlog.report.{NAME}.*"),
        format!("mirrorlog.peer.*.{NAME}"),
        consumer_request(NAME),
        format!("{ASKED_API}.STREAM.INFO.{REPORT}"),
        format!("{ASKED_API}.STREAM.MSG.GET.{}", bucket(ROOT)),
        format!("$JS.ACK.{LOG}.{CONSUMER}.>"),
    ];
    let read = readable(Right::Mirror, NAME).into_iter();
    let streams = read.map(|(stream, _)| stream);
    for stream in streams.chain([LOG.to_owned()]) {
        may.push(format!("{ASKED_API}.STREAM.INFO.{stream}"));
        may.extend(uses_consumers(&stream));
    }
    may
}

/// The streams that a user reads without acks, and which part of each. The archive reads whatever it wants.
pub(in crate::log) fn readable(right: Right, user: &str) -> Vec<(String, String)> {
    let whole = |stream: &str, subjects: &str| (stream.to_owned(), subjects.to_owned());
    let values = |name: &str| (bucket(name), keys(name));
    let mut parts = match right {
        Right::Archive => return Vec::new(),
        Right::Consistency => vec![
            whole(LOG, EVENTS),
            whole(REPORT, REPORTS),
            whole(VERDICT, VERDICTS),
            values("wanted"),
            values("lease"),
        ],
        Right::Directory => vec![
            whole(LOG, EVENTS),
            whole(VERDICT, VERDICTS),
            whole(FEEDBACK, CLIENTS_WORDS),
            values("wanted"),
            values(SALT),
        ],
        Right::Mirror => vec![
            (ORDER.to_owned(), format!("mirrorlog.order.{user}")),
            (VERDICT.to_owned(), format!("mirrorlog.verdict.*.{user}")),
        ],
    };
    parts.extend(["head", "drain", ROOT].map(values));
    parts
}

/// Any consumer of a stream. The archive's own are made for a reader each, and named by the server.
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
    fn nobody_but_the_archive_makes_consumers_or_reaches_what_does() {
        for right in Right::ALL.into_iter().filter(|right| right.asks()) {
            let imports = imports(right);
            let reached = imports.iter().map(|import| &import.subject);
            for subject in permissions(right).publish.iter().chain(reached) {
                for verb in ["CREATE", "DURABLE", "DELETE", "PURGE", "UPDATE"] {
                    assert!(!subject.contains(verb), "{right} {subject}");
                }
                let put = subject.starts_with("$KV.");
                assert!(!put || right != Right::Mirror, "{subject}");
            }
            for Import { subject, local } in &imports {
                let filled_in = !subject.contains("{{") && !local.contains("{{");
                assert!(filled_in, "{right} {subject}");
                assert!(!subject.starts_with("mirrorlog.peer."), "{right} {subject}");
                assert!(!subject.starts_with(ASKED_API), "{right} {subject}");
            }
        }
        assert_eq!(imports(Right::Archive), []);
    }

    #[test]
    fn what_a_mirror_reads_is_its_own() {
        let read = readable(Right::Mirror, "nz1");
        let of = |stream: &str| read.iter().find(|(name, _)| name == stream);
        assert_eq!(of(ORDER).unwrap().1, "mirrorlog.order.nz1");
        assert_eq!(of(VERDICT).unwrap().1, "mirrorlog.verdict.*.nz1");
        for stream in [REPORT, FEEDBACK, LOG, "KV_mirrorlog_salt"] {
            assert_eq!(of(stream), None, "{stream}");
        }
    }

    #[test]
    fn users_are_found_by_name() {
        for (name, right) in [
            ("archive", Some(Right::Archive)),
            ("directory", Some(Right::Directory)),
            ("nz1", Some(Right::Mirror)),
            ("admin", None),
            ("NZ1", None),
            ("", None),
        ] {
            let user = User::named(name);
            assert_eq!(user.map(|user| user.right()), right, "{name}");
        }
        // No mirror has a name that is a service's consumer's.
        let mirror = User::named("directory-1").unwrap();
        for consumer in User::named("directory").unwrap().consumers() {
            assert!(!mirror.consumers().contains(&consumer), "{consumer}");
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
