//! What a package manager is told: apt's sources in deb822 format (sources.list(5)), the mirror list of a file
//! (apt-transport-mirror(1)), and where pkg_add looks (installurl(5), pkg_add(1)).

mod kept;
mod pick;
mod pkg_add;

use std::fmt::Write as _;

pub use kept::Kept;
pub use pick::{PickError, pick};
pub use pkg_add::{Below, PACKAGE_FOLDERS, PkgAdd, Place, above_release, installurl, is_release};

use crate::id::{ChannelId, Mount};

/// First line of what is written, so that it is known again.
pub const MARK: &str = "# Written by `mirrorlog select`";
/// Priority of the line that a list ends with: after all that a directory lists.
const LAST_PRIORITY: u32 = 1000;
const PRIORITY: &str = "priority:";

/// How apt is led to a mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// The mirror's own URL.
    Plain,
    /// A list of mirrors in a file on this machine, the chosen one first.
    MirrorFile,
    /// A list of mirrors that apt asks the directory for in every run.
    MirrorHttp,
    /// The `mirrorlog` method, which pins, climbs and waits.
    Mirrorlog,
}

impl Form {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Plain,
        Self::MirrorFile,
        Self::MirrorHttp,
        Self::Mirrorlog,
    ];

    /// The form as it stands on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::MirrorFile => "mirror+file",
            Self::MirrorHttp => "mirror+http",
            Self::Mirrorlog => "mirrorlog",
        }
    }
}

/// The URI of a list that apt asks the directory for.
pub fn list_uri(directory: &str, channel: &ChannelId, country: Option<&str>) -> String {
    let country = country.map_or_else(String::new, |country| format!("&country={country}"));
    format!("mirror+{directory}/mirrors.txt?channel={channel}{country}")
}

/// The URI of the `mirrorlog` method, which is another one for a directory behind TLS.
pub fn method_uri(directory: &str, mount: &Mount) -> String {
    match directory.split_once("://") {
        Some(("https", rest)) => format!("mirrorlog+https://{rest}{mount}/"),
        Some((_, rest)) => format!("mirrorlog://{rest}{mount}/"),
        None => format!("mirrorlog://{directory}{mount}/"),
    }
}

/// A suite of a tree, with its components, as its Release says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suite {
    /// As apt wants it: the folder below `dists`, which may be nested, such as `bookworm/updates`.
    pub name: String,
    /// As apt wants them.
    pub components: Vec<String>,
}

impl Suite {
    /// Reads the `Components` of a Release or InRelease. Old nested suites name them with their own folder in front,
    /// which apt takes without it. None when the file says nothing of them.
    pub fn read(name: &str, release: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(release);
        let mut lines = text.lines();
        let field = lines.find_map(|line| line.strip_prefix("Components:"))?;
        let inner = name.split_once('/').map(|(_, inner)| format!("{inner}/"));
        let component = |word: &str| {
            let prefix = inner.as_deref().unwrap_or_default();
            word.strip_prefix(prefix).unwrap_or(word).to_owned()
        };
        let components: Vec<String> = field.split_whitespace().map(component).collect();
        let name = name.to_owned();
        (!components.is_empty() && components.iter().all(|word| is_word(word)))
            .then_some(Self { name, components })
    }
}

/// True for what stands in a field as one word and begins no other field.
pub fn is_word(text: &str) -> bool {
    !text.is_empty()
        && text.chars().all(|c| !c.is_whitespace() && !c.is_control())
        && !text.starts_with('#')
}

/// True when a URL has only characters that mean nothing to a shell, to apt and in a field, so neither query nor
/// fragment.
pub fn is_plain_url(url: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"._~:/%[]@-".contains(&b);
    !url.is_empty() && url.bytes().all(fits)
}

/// One stanza's worth: suites with the same components at the same place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stanza {
    /// Where.
    pub uri: String,
    /// Which.
    pub suites: Vec<String>,
    /// Of each.
    pub components: Vec<String>,
}

/// Puts suites into as few stanzas as their components and places allow.
pub fn stanzas(suites: impl IntoIterator<Item = (String, Suite)>) -> Vec<Stanza> {
    let mut stanzas: Vec<Stanza> = Vec::new();
    for (uri, suite) in suites {
        let same = |one: &&mut Stanza| one.uri == uri && one.components == suite.components;
        match stanzas.iter_mut().find(same) {
            Some(one) if one.suites.contains(&suite.name) => {}
            Some(one) => one.suites.push(suite.name),
            None => stanzas.push(Stanza {
                uri,
                suites: vec![suite.name],
                components: suite.components,
            }),
        }
    }
    stanzas
}

/// A sources file. `remarks`: lines below the mark; `kept`: what an older file says beside.
pub fn deb822(stanzas: &[Stanza], remarks: &[String], kept: &Kept) -> String {
    let mut text = format!("{MARK}\n");
    for remark in remarks {
        text.push_str(&format!("# {remark}\n"));
    }
    for (place, stanza) in stanzas.iter().enumerate() {
        let Stanza {
            uri,
            suites,
            components,
        } = stanza;
        let types = kept.types.as_deref().unwrap_or("deb");
        let gap = if place == 0 { "" } else { "\n" };
        // Writing to a string cannot fail.
        write!(
            text,
            "{gap}Types: {types}\nURIs: {uri}\nSuites: {}\nComponents: {}\n",
            suites.join(" "),
            components.join(" ")
        )
        .ok();
        for field in kept.architectures.iter().chain(&kept.signed_by) {
            text.push_str(field);
        }
    }
    text
}

/// The mirror list for a file: what the directory lists, the chosen mirror first, its live tree last.
///
/// `url`: the chosen mirror's; `live`: its live tree. A list that nobody refreshes any more names a build that is
/// collected one day; its last line still leads somewhere then.
pub fn list_with_first(list: &str, url: &str, live: &str, remarks: &[String]) -> String {
    let is_chosen = |line: &str| {
        line.strip_prefix(url)
            .is_some_and(|rest| rest.starts_with('/'))
    };
    // apt obeys a file: what it would not take from a directory by itself, such as `file:`, is left out.
    let web = |line: &&str| {
        (line.starts_with("http://") || line.starts_with("https://"))
            && line.chars().all(|c| c == '\t' || !c.is_control())
    };
    let (chosen, others): (Vec<&str>, Vec<&str>) =
        list.lines().filter(web).partition(|line| is_chosen(line));
    let mut text = format!("{MARK}\n");
    for remark in remarks {
        text.push_str(&format!("# {remark}\n"));
    }
    if chosen.is_empty() {
        text.push_str(&format!("{live}\tpriority:1\n"));
    }
    for line in chosen {
        text.push_str(&at_priority(line, 1));
    }
    // Lines of one mirror had the same priority, and have it again.
    let (mut priority, mut last) = (1, None);
    for line in others {
        let old = Some(keys(line).find(|key| key.starts_with(PRIORITY)));
        if last != old {
            priority += 1;
        }
        last = old;
        text.push_str(&at_priority(line, priority));
    }
    text.push_str(&format!("{live}\tpriority:{LAST_PRIORITY} type:index\n"));
    text
}

/// A line of a list, with another priority.
fn at_priority(line: &str, priority: u32) -> String {
    let uri = line.split_once('\t').map_or(line, |(uri, _)| uri);
    let others = keys(line).filter(|key| !key.starts_with(PRIORITY));
    let others: String = others.map(|key| format!(" {key}")).collect();
    format!("{uri}\t{PRIORITY}{priority}{others}\n")
}

fn keys(line: &str) -> impl Iterator<Item = &str> {
    let keys = line.split_once('\t').map_or("", |(_, keys)| keys);
    keys.split_whitespace()
}

#[cfg(test)]
mod tests;
