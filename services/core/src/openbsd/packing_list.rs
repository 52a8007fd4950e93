//! A package's packing list, `+CONTENTS`: what it is called and what it depends on.

use std::fmt;
use std::str::FromStr;

use super::name::{PackageName, PackageNameError};
use super::spec::{Spec, SpecError};

/// Most dependencies of one package; stops one list from filling memory.
pub const DEPENDS_MAX: usize = 4096;

/// Why a text is no dependency.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DependError {
    /// Not three fields.
    #[error("dependency {0:?} is not pkgpath:spec:default")]
    Fields(String),
    /// The second field.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The third field.
    #[error("default of dependency {depend:?}")]
    Default {
        /// The dependency.
        depend: String,
        /// What is wrong with the name.
        #[source]
        source: PackageNameError,
    },
}

/// One `@depend pkgpath:spec:default` of a packing list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Depend {
    /// The port that it was built from, such as `devel/gettext,-runtime`.
    pub pkgpath: String,
    /// Which packages will do.
    pub spec: Spec,
    /// The one that was there when the package was built.
    pub default: PackageName,
}

impl FromStr for Depend {
    type Err = DependError;
    fn from_str(text: &str) -> Result<Self, DependError> {
        let fields: Vec<&str> = text.split(':').collect();
        let [pkgpath, spec, default] = fields[..] else {
            return Err(DependError::Fields(text.to_owned()));
        };
        let default = PackageName::new(default).map_err(|source| DependError::Default {
            depend: text.to_owned(),
            source,
        })?;
        Ok(Self {
            pkgpath: pkgpath.to_owned(),
            spec: Spec::new(spec)?,
            default,
        })
    }
}

impl fmt::Display for Depend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            pkgpath,
            spec,
            default,
        } = self;
        write!(f, "{pkgpath}:{spec}:{default}")
    }
}

/// Why a text is no packing list.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PackingListError {
    /// A line that matters is not readable text.
    #[error("packing list has an @name or @depend that is no text")]
    NoText,
    /// The package's own name.
    #[error("@name of the packing list")]
    Name(#[from] PackageNameError),
    /// It says twice what it is.
    #[error("packing list has two @name lines")]
    TwoNames,
    /// It does not say what it is.
    #[error("packing list has no @name line")]
    NoName,
    /// A dependency.
    #[error("@depend of the packing list")]
    Depend(#[from] DependError),
    /// More than any package has.
    #[error("packing list has more than {DEPENDS_MAX} @depend lines")]
    TooManyDepends,
}

/// What a packing list says of the package itself; its files are passed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackingList {
    /// The package.
    pub name: PackageName,
    /// What it needs at run time.
    pub depends: Vec<Depend>,
}

impl PackingList {
    /// Reads a whole list.
    ///
    /// # Errors
    /// [`PackingListError`] as [`PackingLines`].
    pub fn parse(text: &[u8]) -> Result<Self, PackingListError> {
        let mut lines = PackingLines::default();
        text.split(|&b| b == b'\n')
            .try_for_each(|line| lines.add(line))?;
        lines.finish()
    }
}

/// Reads a packing list line by line: those of large packages have tens of megabytes.
///
/// Other keywords, those that pkg_add itself no longer knows (`@pkgdep`, `@newdepend`, `@libdepend`) among
/// them, are passed over.
#[derive(Clone, Debug, Default)]
pub struct PackingLines {
    name: Option<PackageName>,
    depends: Vec<Depend>,
}

impl PackingLines {
    /// Takes the next line, without its end.
    ///
    /// # Errors
    /// [`PackingListError`] when it is an `@name` or `@depend` that makes no sense, or one too many.
    pub fn add(&mut self, line: &[u8]) -> Result<(), PackingListError> {
        let text = |value: &[u8]| match std::str::from_utf8(value) {
            Ok(value) => Ok(value.trim().to_owned()),
            Err(_) => Err(PackingListError::NoText),
        };
        if let Some(value) = line.strip_prefix(b"@name ") {
            let name = PackageName::new(&text(value)?)?;
            if self.name.replace(name).is_some() {
                return Err(PackingListError::TwoNames);
            }
        } else if let Some(value) = line.strip_prefix(b"@depend ") {
            if self.depends.len() == DEPENDS_MAX {
                return Err(PackingListError::TooManyDepends);
            }
            self.depends.push(text(value)?.parse()?);
        }
        Ok(())
    }

    /// The list, when all lines were taken.
    ///
    /// # Errors
    /// [`PackingListError::NoName`].
    pub fn finish(self) -> Result<PackingList, PackingListError> {
        Ok(PackingList {
            name: self.name.ok_or(PackingListError::NoName)?,
            depends: self.depends,
        })
    }
}
