//! Views: the part of a channel that a mirror declares to carry.
//!
//! A view is a rule over paths, never a list: it says of every entry of every build whether it belongs, from its path and
//! the channel's layout alone. So a mirror, the consistency service and the directory agree without asking each other.
//!
//! **Architectures.** An entry that names an architecture is carried if the view names it too; one that names none is
//! always carried. In a Debian tree names are `binary-arm64/`, `Contents-arm64.gz`, `…_arm64.deb` and their like; `all` is
//! every architecture's; sources (`source/`, `.dsc`, `.orig.tar.xz`, …) count as an architecture `source`. In an OpenBSD
//! tree it is a folder's name (`7.8/amd64/`). A plain tree names none.
//!
//! **Components** (Debian): `pool/<component>/…` and `dists/<suite>/<component>/…`; a suite's own files and its by-hash
//! folder are always carried.
//!
//! **Globs.** With `include`, only what one of these matches; never what `exclude` matches. `*` does not cross a slash,
//! `**` does, and a glob that ends with a slash means all below.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use crate::layout::Layout;
use crate::limits::{VIEW_MAX_BYTES, VIEW_NAMES_MAX};
use crate::path::EntryPath;

/// The part of a channel that a mirror carries.
///
/// A report and a verdict always name the view that they speak of.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum View {
    /// Everything.
    #[default]
    All,
    /// Less than everything.
    Part(Box<Part>),
}

/// What a partial mirror carries; made by [`View::new`].
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Part {
    /// Architectures; empty: all.
    pub architectures: BTreeSet<String>,
    /// Components of a Debian tree; empty: all.
    pub components: BTreeSet<String>,
    /// Globs of what is carried; empty: everything.
    pub include: BTreeSet<String>,
    /// Globs of what is not.
    pub exclude: BTreeSet<String>,
}

/// Why rules are no view.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ViewError {
    /// An architecture or a component that could not be one.
    #[error(
        "{0:?} is no architecture and no component: use letters, digits, '.', '-', '_', '+' and '/'"
    )]
    Name(String),
    /// A glob that is none.
    #[error("glob {glob:?} is not valid: {reason}")]
    Glob {
        /// Which.
        glob: String,
        /// Why.
        reason: String,
    },
    /// More than a view may have.
    #[error(
        "a view has at most {VIEW_NAMES_MAX} names and globs, of {VIEW_MAX_BYTES} bytes in all"
    )]
    TooLarge,
}

impl View {
    /// A view of these rules; everything when there are none.
    ///
    /// # Errors
    /// [`ViewError`].
    pub fn new(part: Part) -> Result<Self, ViewError> {
        let names = || part.architectures.iter().chain(&part.components);
        let all = || names().chain(&part.include).chain(&part.exclude);
        let bytes: usize = all().map(String::len).sum();
        if all().count() > VIEW_NAMES_MAX || bytes > VIEW_MAX_BYTES {
            return Err(ViewError::TooLarge);
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-+/".contains(c);
        let bad = |name: &&String| {
            let slashed = name.starts_with('/') || name.ends_with('/') || name.contains("//");
            name.is_empty() || slashed || !name.chars().all(plain)
        };
        if let Some(bad) = names().find(bad) {
            return Err(ViewError::Name(bad.clone()));
        }
        let hopeless = |glob: &&String| {
            let parts = || glob.split('/');
            glob.is_empty()
                || glob.contains(char::is_control)
                || glob.starts_with('/')
                || parts().any(|part| [".", ".."].contains(&part))
        };
        if let Some(glob) = part.include.union(&part.exclude).find(hopeless) {
            return Err(ViewError::Glob {
                glob: glob.escape_default().to_string(),
                reason: "no path is so: no slash at its start, no . and .., nothing unprintable"
                    .to_owned(),
            });
        }
        for glob in part.include.union(&part.exclude) {
            parsed(glob)?;
        }
        Ok(match all().next() {
            None => Self::All,
            Some(_) => Self::Part(Box::new(part)),
        })
    }

    /// True when nothing is left out.
    pub fn is_all(&self) -> bool {
        *self == Self::All
    }

    /// Whether whoever needs these architectures and components finds all of them here. Empty: all there are.
    /// A view with globs promises nothing of the kind.
    pub fn covers(&self, architectures: &BTreeSet<String>, components: &BTreeSet<String>) -> bool {
        let has = |mine: &BTreeSet<String>, asked: &BTreeSet<String>| {
            mine.is_empty() || (!asked.is_empty() && asked.is_subset(mine))
        };
        match self {
            Self::All => true,
            Self::Part(part) => {
                has(&part.architectures, architectures)
                    && has(&part.components, components)
                    && part.include.is_empty()
                    && part.exclude.is_empty()
            }
        }
    }
}

impl fmt::Display for View {
    /// `everything`, or `architectures amd64 arm64; components main; without *-dbg_*`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Part(part) = self else {
            return f.write_str("everything");
        };
        let rules = [
            ("architectures", &part.architectures),
            ("components", &part.components),
            ("only", &part.include),
            ("without", &part.exclude),
        ];
        let mut separator = "";
        for (what, names) in rules.into_iter().filter(|(_, names)| !names.is_empty()) {
            write!(f, "{separator}{what}")?;
            for name in names {
                write!(f, " {name}")?;
            }
            separator = "; ";
        }
        Ok(())
    }
}

/// What a view selects of a channel of one layout. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Selection(Option<Selected>);

#[derive(Clone, Debug)]
struct Selected {
    rules: Arc<Rules>,
    layout: Layout,
}

/// A part with its globs ready to match. They are the same for each layout, and dear to make.
#[derive(Debug)]
struct Rules {
    part: Part,
    include: GlobSet,
    exclude: GlobSet,
    /// Those of `exclude` that leave nothing below a folder.
    exclude_below: GlobSet,
    /// The globs are more than can be matched: nothing is selected.
    broken: bool,
}

impl Selection {
    /// Everything.
    pub const ALL: Self = Self(None);

    /// What a view says of a channel of this layout.
    pub fn new(view: &View, layout: Layout) -> Self {
        Prepared::new(view.clone()).selection(layout)
    }

    /// The view.
    pub fn view(&self) -> View {
        self.0.as_ref().map_or(View::All, |selected| {
            View::Part(Box::new(selected.rules.part.clone()))
        })
    }

    /// The layout that it is for; none when nothing is left out.
    pub fn layout(&self) -> Option<Layout> {
        self.0.as_ref().map(|selected| selected.layout)
    }

    /// True when nothing is left out.
    pub fn is_all(&self) -> bool {
        self.0.is_none()
    }

    /// Whether an entry belongs to the view.
    pub fn has(&self, path: &EntryPath) -> bool {
        self.0.as_ref().is_none_or(|Selected { rules, layout }| {
            let bytes = path.as_bytes();
            let included = rules.part.include.is_empty() || rules.include.is_match(as_path(bytes));
            included
                && rules.may_have(*layout, bytes, false)
                && !rules.exclude.is_match(as_path(bytes))
        })
    }

    /// Whether something below a folder may belong: false only when nothing can.
    pub fn has_below(&self, folder: &[u8]) -> bool {
        self.0.as_ref().is_none_or(|Selected { rules, layout }| {
            let below = [folder, b"/", UNLIKELY].concat();
            // What is on the way to a component leads to it.
            let way = component_of(&below).map(|rest| &rest[..rest.len() - UNLIKELY.len()]);
            let leads = |name: &String| {
                let name = [name.as_bytes(), b"/"].concat();
                way.is_some_and(|way| name.starts_with(way))
            };
            let on_the_way = rules.part.components.iter().any(leads);
            rules.may_have(*layout, &below, on_the_way)
                && !rules.exclude_below.is_match(as_path(&below))
        })
    }
}

/// A view whose globs are made ready once for all layouts, when they are first needed. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Prepared(Arc<Once>);

#[derive(Debug, Default)]
struct Once {
    view: View,
    rules: OnceLock<Arc<Rules>>,
}

impl Prepared {
    /// Of a view.
    pub fn new(view: View) -> Self {
        Self(Arc::new(Once {
            view,
            rules: OnceLock::new(),
        }))
    }

    /// The view.
    pub fn view(&self) -> &View {
        &self.0.view
    }

    /// What it selects of a channel of this layout.
    pub fn selection(&self, layout: Layout) -> Selection {
        let View::Part(part) = &self.0.view else {
            return Selection::ALL;
        };
        let rules = self.0.rules.get_or_init(|| Arc::new(Rules::new(part)));
        Selection(Some(Selected {
            rules: rules.clone(),
            layout,
        }))
    }
}

impl PartialEq for Prepared {
    fn eq(&self, other: &Self) -> bool {
        self.view() == other.view()
    }
}

impl Eq for Prepared {}

impl std::hash::Hash for Prepared {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.view().hash(state);
    }
}

impl PartialEq for Selection {
    fn eq(&self, other: &Self) -> bool {
        fn key(one: &Selection) -> Option<(&Part, Layout)> {
            one.0.as_ref().map(|one| (&one.rules.part, one.layout))
        }
        key(self) == key(other)
    }
}

impl Eq for Selection {}

/// A name that no rule means.
const UNLIKELY: &[u8] = b"\x7f";

impl Rules {
    fn new(part: &Part) -> Self {
        let below = part.exclude.iter();
        let below = below.filter(|glob| glob.ends_with('/') || glob.ends_with("/**"));
        let below: BTreeSet<String> = below.cloned().collect();
        let sets = [&part.include, &part.exclude, &below].map(globs);
        // Each glob was checked when the view was made; all together may still be too many for one matcher.
        let broken = sets.iter().any(Result::is_err);
        let [include, exclude, exclude_below] = sets.map(Result::unwrap_or_default);
        Self {
            include,
            exclude,
            exclude_below,
            broken,
            part: part.clone(),
        }
    }

    /// All rules but globs, and but components for what `leads` to one.
    fn may_have(&self, layout: Layout, path: &[u8], leads: bool) -> bool {
        let Part {
            architectures,
            components,
            ..
        } = &self.part;
        let named = |names: &BTreeSet<String>, name: &[u8]| {
            std::str::from_utf8(name).is_ok_and(|name| names.contains(name))
        };
        let foreign = !architectures.is_empty()
            && architecture(layout, path).is_some_and(|name| !named(architectures, name));
        let inside = leads
            || components.is_empty()
            || layout != Layout::Debian
            || in_components(path, components);
        !foreign && inside && !self.broken
    }
}

fn as_path(path: &[u8]) -> &Path {
    use std::os::unix::ffi::OsStrExt as _;
    Path::new(std::ffi::OsStr::from_bytes(path))
}

fn parsed(glob: &str) -> Result<globset::Glob, ViewError> {
    let below = if glob.ends_with('/') { "**" } else { "" };
    let parsed = GlobBuilder::new(&format!("{glob}{below}"))
        .literal_separator(true)
        .build();
    parsed.map_err(|error| ViewError::Glob {
        glob: glob.to_owned(),
        reason: error.kind().to_string(),
    })
}

fn globs(set: &BTreeSet<String>) -> Result<GlobSet, ViewError> {
    let mut built = GlobSetBuilder::new();
    for glob in set {
        built.add(parsed(glob)?);
    }
    built.build().map_err(|error| ViewError::Glob {
        glob: String::new(),
        reason: error.kind().to_string(),
    })
}

/// Whether a path of a Debian tree is in one of these components, or in none at all.
fn in_components(path: &[u8], components: &BTreeSet<String>) -> bool {
    let Some(rest) = component_of(path) else {
        return true;
    };
    let is_in = |name: &String| {
        let below = rest.strip_prefix(name.as_bytes());
        below.is_some_and(|below| below.starts_with(b"/"))
    };
    components.iter().any(is_in)
}

/// A path from its component on; `None` for what is in no component: a suite's own files and its by-hash folder.
fn component_of(path: &[u8]) -> Option<&[u8]> {
    if let Some(rest) = path.strip_prefix(b"pool/") {
        return Some(rest);
    }
    let rest = path.strip_prefix(b"dists/")?;
    let slash = rest.iter().position(|&b| b == b'/')?;
    let rest = &rest[slash + 1..];
    (rest.contains(&b'/') && !rest.starts_with(b"by-hash/")).then_some(rest)
}

/// The architecture that a path names; `None` for one that is every architecture's.
fn architecture(layout: Layout, path: &[u8]) -> Option<&[u8]> {
    let name = match layout {
        Layout::Plain => None,
        Layout::Debian => debian(path),
        Layout::OpenBsd => folders(path).find(|folder| OPENBSD.contains(folder)),
    };
    name.filter(|name| *name != b"all")
}

/// The folders of a path, from the top. Of several that name an architecture the topmost counts, so that whoever goes
/// down may turn back there.
fn folders(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let end = path.iter().rposition(|&b| b == b'/').unwrap_or(0);
    path[..end].split(|&b| b == b'/')
}

fn debian(path: &[u8]) -> Option<&[u8]> {
    let file = path.rsplit(|&b| b == b'/').next()?;
    let in_dists = path.starts_with(b"dists/");
    if in_dists {
        let of_folder = |folder: &'_ [u8]| -> Option<usize> {
            let prefixes: [&[u8]; 2] = [b"binary-", b"installer-"];
            let found = prefixes.iter().find(|prefix| folder.starts_with(prefix));
            found.map(|prefix| prefix.len())
        };
        // `dists` and the suite, which may be called as it likes.
        for folder in folders(path).skip(2) {
            if let Some(at) = of_folder(folder) {
                return Some(&folder[at..]);
            }
            if folder == b"source" {
                return Some(folder);
            }
            if let Some(rest) = contents(folder) {
                return Some(rest);
            }
        }
        for prefix in [&b"Components-"[..], b"Commands-"] {
            if let Some(rest) = file.strip_prefix(prefix) {
                return Some(until_dot(rest));
            }
        }
        return contents(file);
    }
    if is_source(file) {
        return Some(b"source");
    }
    let binary = BINARIES.iter().find_map(|end| file.strip_suffix(*end))?;
    let at = binary.iter().rposition(|&b| b == b'_')?;
    Some(&binary[at + 1..])
}

/// `Contents-amd64.gz`, `Contents-udeb-amd64.xz`, `Contents-amd64.diff`.
fn contents(name: &[u8]) -> Option<&[u8]> {
    let rest = name.strip_prefix(b"Contents-")?;
    Some(until_dot(rest.strip_prefix(b"udeb-").unwrap_or(rest)))
}

fn until_dot(name: &[u8]) -> &[u8] {
    let end = name.iter().position(|&b| b == b'.').unwrap_or(name.len());
    &name[..end]
}

/// Files of a source package: its description, its archives, their signatures.
fn is_source(file: &[u8]) -> bool {
    let file = file.strip_suffix(b".asc").unwrap_or(file);
    let packed = || {
        let mut parts = file.rsplit(|&b| b == b'.');
        let (compression, tar) = (parts.next(), parts.next());
        tar == Some(b"tar") && compression.is_some_and(|one| COMPRESSIONS.contains(&one))
    };
    file.ends_with(b".dsc") || file.ends_with(b".diff.gz") || packed()
}

const BINARIES: [&[u8]; 5] = [b".deb", b".udeb", b".ddeb", b".changes", b".buildinfo"];
const COMPRESSIONS: [&[u8]; 6] = [b"gz", b"bz2", b"xz", b"lzma", b"zst", b"lz"];
/// OpenBSD's platforms, and the architectures of its packages.
const OPENBSD: [&[u8]; 21] = [
    b"alpha",
    b"amd64",
    b"aarch64",
    b"arm",
    b"arm64",
    b"armv7",
    b"hppa",
    b"i386",
    b"landisk",
    b"loongson",
    b"luna88k",
    b"m88k",
    b"macppc",
    b"mips64",
    b"mips64el",
    b"octeon",
    b"powerpc",
    b"powerpc64",
    b"riscv64",
    b"sh",
    b"sparc64",
];

#[cfg(test)]
mod tests;
