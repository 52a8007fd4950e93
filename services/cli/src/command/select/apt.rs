//! apt's sources, and the lists that they name.

use std::path::{Path, PathBuf};

use client::{Candidate, Carried, Change, Client, FindError, GetError, SuitesError, Watch};
use mirrorlog_core::client::sources::{self, Form, Kept, Suite};

use super::super::client::{directory_failed, failed};
use super::written::{Draft, Piece, file_of, not_replaced};
use crate::args::SelectArgs;
use crate::failure::{ABSENT, CONFIG, DATA, Failure, IO, OrExit as _};
use crate::output::plain;

/// Where apt looks for its methods.
const METHODS: &str = "/usr/lib/apt/methods";

/// Where the list of a channel goes: not into a folder of which apt reads every file.
pub(super) fn list_file(file: &Path, channel: &Carried) -> PathBuf {
    let folder = file.parent().unwrap_or(Path::new("/"));
    let read_whole = folder.extension().is_some_and(|ending| ending == "d");
    let folder = folder.parent().filter(|_| read_whole).unwrap_or(folder);
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    folder.join(format!("{stem}-{}.mirrors", channel.id))
}

/// True for a path that apt's methods write as it is: on others, such as those with a `+`, apt 2.6 waits for ever.
pub(super) fn is_plain(path: &Path) -> bool {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"-_./".contains(b);
    path.as_os_str().as_encoded_bytes().iter().all(plain)
}

/// What is needed for apt's files.
pub(super) struct Apt<'a> {
    pub(super) client: &'a Client,
    pub(super) args: &'a SelectArgs,
    pub(super) channels: &'a [Carried],
    pub(super) chosen: &'a Candidate,
    pub(super) watch: &'a dyn Watch,
}

impl Apt<'_> {
    pub(super) async fn draft(&self) -> Result<Draft, Failure> {
        let file = file_of(self.args);
        let old =
            Change::new(&file, |old| old.unwrap_or_default().to_owned()).map_err(not_replaced)?;
        let mut kept = Kept::read(old.new_text());
        refuse_loss(&file, &kept)?;
        if let Some(keyring) = &self.args.signed_by {
            kept.signed_by = Some(signed_by(keyring)?);
        }
        let mut lists = Vec::new();
        if self.args.form == Form::MirrorFile {
            for channel in self.channels {
                lists.push(self.list(channel, &file).await?);
            }
        }
        let suites = self.suites(&kept).await?;
        let placed = suites
            .into_iter()
            .map(|(channel, suite)| (self.uri(channel, &file), suite));
        let stanzas = sources::stanzas(placed);
        let text = sources::deb822(&stanzas, &self.remarks(), &kept);
        let sources = Piece::new(&file, |_| text.clone())?;
        let mut hints = Vec::new();
        if self.args.form == Form::Mirrorlog {
            let uri = sources::method_uri(self.directory(), &self.channels[0].mount);
            hints.extend(no_method(&uri, Path::new(METHODS)));
        }
        if kept.signed_by.is_none() {
            hints.push(
                "no key is named: apt trusts any of its own keys here; --signed-by FILE names one"
                    .to_owned(),
            );
        }
        let pieces = lists.into_iter().chain([sources]).collect();
        Ok(Draft {
            pieces,
            text,
            hints,
        })
    }

    /// The suites to write, each with its channel.
    async fn suites(&self, kept: &Kept) -> Result<Vec<(&Carried, Suite)>, Failure> {
        let Self {
            client,
            args,
            channels,
            watch,
            ..
        } = *self;
        let mut found: Vec<(&Carried, Suite)> = Vec::new();
        // Nothing has to be looked up where everything is said.
        if args.suites.is_empty() || args.components.is_empty() || channels.len() > 1 {
            for channel in channels {
                let pinned = client.pin(&channel.id, None, watch).await;
                let pinned = pinned.map_err(|error| failed(GetError::Pin(error)))?;
                let suites = pinned.suites(watch).await.map_err(not_found)?;
                found.extend(suites.into_iter().map(|suite| (channel, suite)));
            }
        }
        let known: Vec<Suite> = found.iter().map(|(_, suite)| suite.clone()).collect();
        let codename = codename();
        let picked = sources::pick(
            &known,
            &args.suites,
            &args.components,
            kept,
            codename.as_deref(),
        );
        let picked = picked
            .map_err(|error| Failure::text(ABSENT, format!("{}: {error}", channels[0].id)))?;
        let names = || {
            known
                .iter()
                .map(|suite| suite.name.as_str())
                .collect::<Vec<_>>()
                .join(", ")
        };
        if let Some(unknown) = picked.iter().find(|suite| suite.components.is_empty()) {
            let (unknown, channel) = (&unknown.name, &channels[0].id);
            let text = format!(
                "{channel} has no suite {unknown}, but {}; --component takes it nevertheless",
                names()
            );
            return Err(Failure::text(ABSENT, text));
        }
        let channel_of = |suite: &Suite| {
            found
                .iter()
                .find(|(_, one)| one.name == suite.name)
                .map(|(channel, _)| *channel)
        };
        Ok(picked
            .into_iter()
            .map(|suite| (channel_of(&suite).unwrap_or(&channels[0]), suite))
            .collect())
    }

    fn uri(&self, channel: &Carried, file: &Path) -> String {
        let directory = self.directory();
        match self.args.form {
            Form::Plain => self.chosen.live(&channel.mount),
            Form::MirrorFile => format!("mirror+file:{}", list_file(file, channel).display()),
            Form::MirrorHttp => {
                let country = self.args.client.country.map(|country| country.to_string());
                sources::list_uri(directory, &channel.id, country.as_deref())
            }
            Form::Mirrorlog => sources::method_uri(directory, &channel.mount),
        }
    }

    fn directory(&self) -> &str {
        self.args
            .client
            .directory
            .as_deref()
            .unwrap_or_default()
            .trim_end_matches('/')
    }

    /// What stands above it for people. The same in each run, so that a file that says the same is not written anew.
    fn remarks(&self) -> Vec<String> {
        vec![match self.args.form {
            Form::Plain => match self.chosen.country {
                Some(country) => format!("The mirror {} in {country}.", self.chosen.id),
                None => format!("The mirror {}.", self.chosen.id),
            },
            Form::MirrorFile => format!(
                "The list is refreshed by `{}`, which a timer should run.",
                self.refresh()
            ),
            Form::MirrorHttp => "apt asks the directory for the mirrors in every run.".to_owned(),
            Form::Mirrorlog => {
                "The mirrorlog method asks the directory for the mirrors in every run.".to_owned()
            }
        }]
    }

    fn refresh(&self) -> String {
        let channel = self
            .args
            .channel
            .as_ref()
            .map_or_else(String::new, |channel| format!(" {channel}"));
        let file = match &self.args.sources {
            Some(_) => format!(" --sources {}", file_of(self.args).display()),
            None => String::new(),
        };
        let country = self.args.client.country;
        let country = country.map_or_else(String::new, |country| format!(" --country {country}"));
        let directory = self.directory();
        format!(
            "mirrorlog select{channel} --as mirror+file --auto --apply --directory {directory}{country}{file}"
        )
    }

    /// The list of a channel in a file.
    async fn list(&self, channel: &Carried, file: &Path) -> Result<Piece, Failure> {
        let list = self
            .client
            .apt_list(&channel.id)
            .await
            .map_err(directory_failed)?;
        let live = self.chosen.live(&channel.mount);
        let remarks = [format!("{}, {} first.", channel.id, self.chosen.id)];
        let text = sources::list_with_first(&list, &self.chosen.url, &live, &remarks);
        Piece::new(&list_file(file, channel), |_| text)
    }
}

/// What is said where apt has no method in `methods` for sources at `uri`.
fn no_method(uri: &str, methods: &Path) -> Option<String> {
    let (name, _) = uri.split_once("://")?;
    let method = methods.join(name);
    (!method.exists()).then(|| {
        let method = method.display();
        format!(
            "apt has no method {name} yet: run `ln -s \"$(command -v mirrorlog)\" {method}` as root"
        )
    })
}

/// Refuses to replace a file of somebody else's that says more than the new one would.
fn refuse_loss(file: &Path, kept: &Kept) -> Result<(), Failure> {
    if kept.lost.is_empty() {
        return Ok(());
    }
    let lost: Vec<String> = kept.lost.iter().map(|one| plain(one)).collect();
    let text = format!(
        "{} was not written by `select`, and what it says would be lost ({}): say --sources with another FILE, and \
         switch off there what it replaces",
        file.display(),
        lost.join(", ")
    );
    Err(Failure::text(DATA, text))
}

/// The field for a keyring.
fn signed_by(keyring: &Path) -> Result<String, Failure> {
    let path = std::path::absolute(keyring).or_exit(CONFIG)?;
    let text = path.display().to_string();
    if !path.is_file() {
        return Err(Failure::text(
            CONFIG,
            format!("there is no keyring {text}: give --signed-by a file"),
        ));
    }
    if !sources::is_word(&text) {
        return Err(Failure::text(
            CONFIG,
            format!("apt takes no blanks in the path of a keyring: {text:?}"),
        ));
    }
    Ok(format!("Signed-By: {text}\n"))
}

/// The release of this system, by os-release(5).
fn codename() -> Option<String> {
    let text = std::fs::read_to_string("/etc/os-release").ok()?;
    let name = text
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))?;
    let name = name.trim_matches(['"', '\'']);
    (!name.is_empty()).then(|| name.to_owned())
}

fn not_found(error: SuitesError) -> Failure {
    match error {
        SuitesError::Find(error) => failed(GetError::Find(error)),
        SuitesError::Release { source, .. } => failed(GetError::Find(FindError::Stop(source))),
        SuitesError::Scratch(_) => Failure::new(IO, error.into()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_method_that_apt_lacks_is_named() {
        let methods = tempfile::tempdir().unwrap();
        let hint = |uri: &str| no_method(uri, methods.path());
        let tls = "mirrorlog+https://m.example.org/debian/";
        let said = hint(tls).unwrap();
        let method = methods.path().join("mirrorlog+https");
        assert!(
            said.contains(&format!(
                "ln -s \"$(command -v mirrorlog)\" {}",
                method.display()
            )),
            "{said}"
        );
        std::fs::write(&method, "").unwrap();
        assert_eq!(hint(tls), None);
        assert!(hint("mirrorlog://m.example.org/debian/").is_some());
    }

    #[test]
    fn a_foreign_file_of_several_repositories_is_refused() {
        let other = "Types: deb-src\nEnabled: no\nURIs: http://a/\n\nTypes: deb\nURIs: http://b/\n";
        let file = Path::new("/etc/apt/sources.list.d/debian.sources");
        let refused = refuse_loss(file, &Kept::read(other)).unwrap_err();
        assert_eq!(refused.code, DATA);
        for part in ["debian.sources", "2 stanzas", "Enabled: no", "--sources"] {
            assert!(refused.to_string().contains(part), "{refused}");
        }
        assert!(refuse_loss(file, &Kept::read("Types: deb\nURIs: http://b/\n")).is_ok());
    }
}
