//! A file of the system that is replaced: what changes, as a diff, and the older content kept beside it.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use similar::TextDiff;

/// Ending of what is kept. apt says nothing about files that end so.
const ENDING: &str = "bak";
/// Older contents that are kept under numbers.
const KEPT_MAX: u32 = 10_000;
/// Symlinks that are followed, as many as Linux does.
const LINKS_MAX: usize = 40;
/// Largest file that is replaced, in bytes.
const FILE_MAX_BYTES: u64 = 1 << 20;

/// A file and what is to be in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    file: PathBuf,
    old: Option<String>,
    new: String,
}

/// Why a file is not replaced.
#[derive(Debug, thiserror::Error)]
pub enum ReplaceError {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is no such file as is written here.
    #[error("{} is larger than {FILE_MAX_BYTES} bytes or no text: choose another file", .0.display())]
    Foreign(PathBuf),
    /// It, or what is kept of it, is not there yet and cannot be made.
    #[error("cannot create {}", path.display())]
    Create {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It, or what is kept of it, cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Too much is kept.
    #[error("{KEPT_MAX} older contents of {} are kept beside it: remove some", .0.display())]
    Kept(PathBuf),
}

impl Change {
    /// Looks at what is there.
    ///
    /// # Errors
    /// [`ReplaceError::Read`], [`ReplaceError::Foreign`].
    pub fn new(
        file: &Path,
        new: impl FnOnce(Option<&str>) -> String,
    ) -> Result<Self, ReplaceError> {
        // Through a symlink, which stays one.
        let file = end_of(file);
        let read = |source| ReplaceError::Read {
            path: file.clone(),
            source,
        };
        let old = match std::fs::metadata(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(read(error)),
            Ok(data) if !data.is_file() || data.len() > FILE_MAX_BYTES => {
                return Err(ReplaceError::Foreign(file));
            }
            Ok(_) => {
                let bytes = std::fs::read(&file).map_err(read)?;
                Some(String::from_utf8(bytes).map_err(|_| ReplaceError::Foreign(file.clone()))?)
            }
        };
        let new = new(old.as_deref());
        Ok(Self { file, old, new })
    }

    /// Which file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// What it is to say.
    pub fn new_text(&self) -> &str {
        &self.new
    }

    /// True when it says so already.
    pub fn is_done(&self) -> bool {
        self.old.as_deref() == Some(&self.new)
    }

    /// What changes, as a unified diff; empty when nothing does.
    pub fn diff(&self) -> String {
        if self.is_done() {
            return String::new();
        }
        let name = self.file.display().to_string();
        let before = self.old.as_ref().map_or("/dev/null", |_| name.as_str());
        let diff = TextDiff::from_lines(self.old.as_deref().unwrap_or_default(), &self.new);
        diff.unified_diff().header(before, &name).to_string()
    }

    /// Replaces the file. What was there is kept as `FILE.bak`, an older and different one as `FILE.1.bak` and so on.
    /// Gives where it is kept, when something was there.
    ///
    /// # Errors
    /// [`ReplaceError::Create`], [`ReplaceError::Write`], [`ReplaceError::Kept`].
    pub fn apply(&self, keep: Keep) -> Result<Option<PathBuf>, ReplaceError> {
        if self.is_done() {
            return Ok(None);
        }
        let kept = match (&self.old, keep) {
            (Some(old), Keep::Old) => Some(self.keep(old)?),
            (Some(old), Keep::First) if self.kept().symlink_metadata().is_err() => {
                Some(self.keep(old)?)
            }
            (Some(_), Keep::First | Keep::Nothing)
            | (None, Keep::Old | Keep::First | Keep::Nothing) => None,
        };
        self.write(&self.file, &self.new)?;
        Ok(kept)
    }

    /// Where the older content is kept.
    fn kept(&self) -> PathBuf {
        self.beside(&format!(".{ENDING}"))
    }

    fn beside(&self, ending: &str) -> PathBuf {
        let mut name = OsString::from(&self.file);
        name.push(ending);
        PathBuf::from(name)
    }

    fn keep(&self, old: &str) -> Result<PathBuf, ReplaceError> {
        let kept = self.kept();
        match std::fs::read(&kept) {
            Ok(same) if same == old.as_bytes() => return Ok(kept),
            Ok(_another) => {
                let mut numbered =
                    (1..=KEPT_MAX).map(|number| self.beside(&format!(".{number}.{ENDING}")));
                let free = numbered.find(|path| path.symlink_metadata().is_err());
                let free = free.ok_or_else(|| ReplaceError::Kept(self.file.clone()))?;
                let write = |source| ReplaceError::Write {
                    path: free.clone(),
                    source,
                };
                std::fs::rename(&kept, &free).map_err(write)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(ReplaceError::Read { path: kept, source }),
        }
        self.write(&kept, old)?;
        Ok(kept)
    }

    /// Writes a file whole, with the rights of the one that is replaced.
    fn write(&self, path: &Path, text: &str) -> Result<(), ReplaceError> {
        let is_new = path.symlink_metadata().is_err();
        let written = || {
            let folder = path.parent().unwrap_or(Path::new("/"));
            std::fs::create_dir_all(folder)?;
            let mode = std::fs::metadata(&self.file)
                .map_or(0o644, |data| data.permissions().mode() & 0o777);
            // apt says nothing about files that end so either.
            let mut file = tempfile::Builder::new()
                .prefix(".")
                .suffix(".save")
                .tempfile_in(folder)?;
            file.write_all(text.as_bytes())?;
            file.as_file()
                .set_permissions(std::fs::Permissions::from_mode(mode))?;
            file.as_file().sync_all()?;
            file.persist(path).map_err(|error| error.error)?;
            std::fs::File::open(folder)?.sync_all()
        };
        written().map_err(|source| {
            let path = path.to_owned();
            if is_new {
                ReplaceError::Create { path, source }
            } else {
                ReplaceError::Write { path, source }
            }
        })
    }
}

/// The path behind all symlinks, even where nothing is at their end yet.
fn end_of(file: &Path) -> PathBuf {
    let mut path = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    for _ in 0..LINKS_MAX {
        if let Ok(whole) = std::fs::canonicalize(&path) {
            return whole;
        }
        let Ok(target) = std::fs::read_link(&path) else {
            break;
        };
        path = path.parent().unwrap_or(Path::new("/")).join(target);
    }
    path
}

/// What becomes of the content that is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// It is kept beside the file.
    Old,
    /// It is kept unless an older content is kept already.
    First,
    /// It goes: it can be made again.
    Nothing,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn replace(file: &Path, text: &str) -> Option<String> {
        let change = Change::new(file, |_| text.to_owned()).unwrap();
        let kept = change.apply(Keep::Old).unwrap();
        assert_eq!(std::fs::read_to_string(file).unwrap(), text);
        assert!(Change::new(file, |_| text.to_owned()).unwrap().is_done());
        kept.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
    }

    #[test]
    fn nothing_that_was_there_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("deep/m.sources");
        assert_eq!(replace(&file, "one\n"), None);
        let private = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(&file, private).unwrap();
        assert_eq!(replace(&file, "two\n").as_deref(), Some("m.sources.bak"));
        assert_eq!(replace(&file, "two\n"), None, "nothing changes");
        assert_eq!(replace(&file, "three\n").as_deref(), Some("m.sources.bak"));
        assert_eq!(replace(&file, "four\n").as_deref(), Some("m.sources.bak"));
        let mut all: Vec<(String, String)> = std::fs::read_dir(file.parent().unwrap())
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| {
                assert_eq!(
                    entry.metadata().unwrap().permissions().mode() & 0o777,
                    0o600
                );
                let text = std::fs::read_to_string(entry.path()).unwrap();
                (entry.file_name().into_string().unwrap(), text)
            })
            .collect();
        all.sort();
        let expected = [
            ("m.sources", "four\n"),
            ("m.sources.1.bak", "one\n"),
            ("m.sources.2.bak", "two\n"),
            ("m.sources.bak", "three\n"),
        ];
        assert_eq!(
            all,
            expected.map(|(name, text)| (name.to_owned(), text.to_owned()))
        );
    }

    #[test]
    fn a_symlink_stays_and_the_diff_says_what_changes() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link) = (dir.path().join("real"), dir.path().join("link"));
        std::fs::write(&real, "a\nb\nc\n").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let change = Change::new(&link, |old| old.unwrap().replace('b', "B")).unwrap();
        let name = change.file().display().to_string();
        assert_eq!(
            change.diff(),
            format!("--- {name}\n+++ {name}\n@@ -1,3 +1,3 @@\n a\n-b\n+B\n c\n")
        );
        assert_eq!(change.apply(Keep::Nothing).unwrap(), None);
        assert!(link.symlink_metadata().unwrap().is_symlink());
        assert_eq!(std::fs::read_to_string(&real).unwrap(), "a\nB\nc\n");
        let new = Change::new(&dir.path().join("new"), |old| {
            assert_eq!(old, None);
            "x\n".to_owned()
        });
        assert!(new.unwrap().diff().starts_with("--- /dev/null\n"));
    }

    #[test]
    fn a_symlink_to_nothing_stays_one() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("second", &link).unwrap();
        std::os::unix::fs::symlink("deep/real", dir.path().join("second")).unwrap();
        let change = Change::new(&link, |_| "x\n".to_owned()).unwrap();
        assert_eq!(change.apply(Keep::Old).unwrap(), None);
        assert!(link.symlink_metadata().unwrap().is_symlink());
        let real = std::fs::read_to_string(dir.path().join("deep/real"));
        assert_eq!(real.unwrap(), "x\n");
        // A loop has no end; it is left as it is.
        let looped = dir.path().join("loop");
        std::os::unix::fs::symlink("loop", &looped).unwrap();
        assert!(Change::new(&looped, |_| "x\n".to_owned()).is_err());
    }

    #[test]
    fn what_is_kept_once_does_not_pile_up() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("installurl");
        for text in ["one\n", "two\n", "three\n", "four\n"] {
            let change = Change::new(&file, |_| text.to_owned()).unwrap();
            change.apply(Keep::First).unwrap();
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
        let kept = std::fs::read_to_string(dir.path().join("installurl.bak"));
        assert_eq!(kept.unwrap(), "one\n");
    }

    #[test]
    fn what_cannot_be_made_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let change = Change::new(&dir.path().join("missing/new"), |_| "x\n".to_owned()).unwrap();
        std::fs::write(dir.path().join("missing"), "in the way").unwrap();
        let failed = change.apply(Keep::Old).unwrap_err();
        assert!(matches!(failed, ReplaceError::Create { .. }), "{failed}");
    }

    #[test]
    fn what_is_no_such_file_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let foreign = Change::new(dir.path(), |_| String::new()).unwrap_err();
        assert!(matches!(foreign, ReplaceError::Foreign(_)), "{foreign}");
        let binary = dir.path().join("binary");
        std::fs::write(&binary, [0xff, 0xfe]).unwrap();
        assert!(Change::new(&binary, |_| String::new()).is_err());
    }
}
