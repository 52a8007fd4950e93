//! Paths of one build into a folder. Nothing is put there before all of it is here.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use mirrorlog_core::client::climb::Level;
use mirrorlog_core::id::{Build, ChannelId};
use mirrorlog_core::layout::Layout;
use runtime::beneath::{Folders, Place, Top, explained};
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::Client;
use crate::closure::{self, DependError, PACKAGES_MAX, Shelf};
use crate::fetch::{Durability, Fetched, part_name};
use crate::part::digest_of_open;
use crate::pin::{self, Aim, FindError, Found, PinError, Pinned, WantedFile, shown};
use crate::session::Stop;
use crate::watch::{Event, Watch};

/// Files that come at the same time.
const FILES_AT_ONCE: usize = 6;
/// How often a newer build may take the place of the one that was planned.
const REPLANS_MAX: u32 = 3;

/// What is to be fetched.
#[derive(Clone, Debug)]
pub struct Job {
    /// From which channel.
    pub channel: ChannelId,
    /// From which build; none: the one that is wanted.
    pub build: Option<Build>,
    /// Paths in the build: files, or folders with all that is below them.
    pub paths: Vec<Vec<u8>>,
    /// The folder for them; each by its last component.
    pub into: PathBuf,
    /// Whether packages bring what they need.
    pub needs: Needs,
    /// Between two looks for a build that nobody has yet.
    pub retry_after: Duration,
    /// After this time it is not looked for again.
    pub give_up_after: Duration,
}

/// Whether packages bring what they need, where the layout's packages say so themselves (`openbsd`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Out of the same build.
    Brought,
    /// Only what is named comes.
    Left,
}

/// One file that was fetched.
#[derive(Clone, Debug)]
pub struct Delivered {
    /// Its path in the build.
    pub path: String,
    /// Where it is now.
    pub file: PathBuf,
    /// What it is.
    pub wanted: WantedFile,
    /// How it came.
    pub fetched: Fetched,
    /// The package that needs it; none for what was asked for.
    pub needed_by: Option<String>,
}

/// What was fetched.
#[derive(Debug)]
pub struct Got {
    /// From which build.
    pub build: Build,
    /// The files, in the order of the paths.
    pub files: Vec<Delivered>,
    /// What the archive says about packages among them.
    pub notices: Vec<(String, String)>,
}

/// Why it was not fetched.
#[derive(Debug, thiserror::Error)]
pub enum GetError {
    /// No build was pinned.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// A path.
    #[error(transparent)]
    Find(FindError),
    /// What a package needs.
    #[error(transparent)]
    Depend(DependError),
    /// Two paths end in one name.
    #[error("{first} and {second} would both be {name} in the folder: fetch them into two folders")]
    SameName {
        /// One path.
        first: String,
        /// The other.
        second: String,
        /// Their name.
        name: String,
    },
    /// A file does not come.
    #[error("{path} of build {build} of {channel} is not to be had")]
    Stop {
        /// The path.
        path: String,
        /// Of which channel.
        channel: ChannelId,
        /// Which build.
        build: Build,
        /// Why.
        #[source]
        source: Stop,
    },
    /// It was waited for, and nobody has it.
    #[error("nobody has build {} of {channel} after {} s: try again later", build.map_or_else(|| "?".to_owned(), |build| build.to_string()), waited.as_secs())]
    TimedOut {
        /// Of which channel.
        channel: ChannelId,
        /// Which build.
        build: Option<Build>,
        /// How long it was waited for.
        waited: Duration,
    },
    /// A file cannot be put into its place.
    #[error("cannot write {}", path.display())]
    Write {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// What would be fetched.
#[derive(Debug)]
pub struct Plan {
    /// From which build.
    pub build: Build,
    /// The files.
    pub files: Vec<WantedFile>,
    /// Who would be asked, in this order: name and level.
    pub sources: Vec<(String, Level)>,
}

/// Where a file is before it has its place.
enum Came {
    /// In its place already.
    Here,
    /// Beside it, under this name.
    Part(String),
}

impl Came {
    /// Opens the folder anew: the files that are fetched may be more than the folders that can be open.
    fn place(&self, into: &Top, name: &Path) -> Result<Place, GetError> {
        let place = place(into, name, Folders::There)?;
        match self {
            Self::Here => Ok(place),
            Self::Part(part) => {
                let part = place.beside(part.as_bytes());
                part.map_err(|error| write(place.path(), error))
            }
        }
    }
}

/// A file and where it goes.
struct Task {
    file: WantedFile,
    /// Below the folder.
    name: PathBuf,
    needed_by: Option<String>,
}

/// Fetches all paths of one build, verified, and puts them into the folder once all are here.
///
/// # Errors
/// [`GetError`]. What has come stays beside its place as `.NAME.part-…`; the next run goes on with it.
pub async fn get(client: &Client, job: &Job, watch: &dyn Watch) -> Result<Got, GetError> {
    let begun = Instant::now();
    let mut aim = job.build.map_or(Aim::Wanted, Aim::Named);
    let mut replans = 0;
    loop {
        let (error, build) = match attempt(client, job, aim, watch).await {
            Ok(got) => return Ok(got),
            Err(error) => match stop_of(&error) {
                Some((Stop::Replan(to), Some(from))) if replans < REPLANS_MAX => {
                    let (from, to) = (*from, *to);
                    watch.tell(Event::Replanned {
                        channel: &job.channel,
                        from,
                        to,
                    });
                    replans += 1;
                    aim = Aim::Newer { from, to };
                    continue;
                }
                Some((Stop::Wait, build)) => {
                    let build = build.copied();
                    (error, build)
                }
                _other => return Err(error),
            },
        };
        let waited = begun.elapsed();
        if job.retry_after.is_zero() {
            return Err(error);
        }
        if waited + job.retry_after > job.give_up_after {
            return Err(GetError::TimedOut {
                channel: job.channel.clone(),
                build,
                waited,
            });
        }
        wait(&job.channel, build, job.retry_after, watch).await;
    }
}

/// Says what [`get`] would fetch. Waits for nothing.
///
/// # Errors
/// [`GetError`].
pub async fn plan(client: &Client, job: &Job, watch: &dyn Watch) -> Result<Plan, GetError> {
    let aim = job.build.map_or(Aim::Wanted, Aim::Named);
    let pinned = pin::pin(&client.0, &job.channel, aim, watch).await?;
    let tasks = tasks(&pinned, job, watch).await?;
    Ok(Plan {
        build: pinned.build(),
        files: tasks.into_iter().map(|task| task.file).collect(),
        sources: pinned.session.standing(),
    })
}

/// What stopped it, and at which build.
fn stop_of(error: &GetError) -> Option<(&Stop, Option<&Build>)> {
    match error {
        GetError::Pin(PinError::Stop { source, build, .. }) => Some((source, build.as_ref())),
        GetError::Stop { source, build, .. } => Some((source, Some(build))),
        GetError::Find(FindError::Stop(source)) => Some((source, None)),
        GetError::Pin(_)
        | GetError::Find(_)
        | GetError::Depend(_)
        | GetError::SameName { .. }
        | GetError::TimedOut { .. }
        | GetError::Write { .. } => None,
    }
}

/// Tells once a second how long it still is.
async fn wait(channel: &ChannelId, build: Option<Build>, whole: Duration, watch: &dyn Watch) {
    const TICK: Duration = Duration::from_secs(1);
    let until = tokio::time::Instant::now() + whole;
    let mut left = whole;
    loop {
        watch.tell(Event::Waiting {
            channel,
            build,
            left,
            whole,
        });
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(TICK)).await;
        left = until.saturating_duration_since(tokio::time::Instant::now());
    }
}

async fn attempt(client: &Client, job: &Job, aim: Aim, watch: &dyn Watch) -> Result<Got, GetError> {
    let pinned = pin::pin(&client.0, &job.channel, aim, watch).await?;
    let tasks = tasks(&pinned, job, watch).await?;
    let into = Top::make(&job.into).map_err(|source| GetError::Write {
        path: job.into.clone(),
        source,
    })?;
    let (done, tasks) = fetch_all(&pinned, job, &into, tasks, watch).await?;
    let notices = notices(&pinned, &tasks);
    for (package, text) in &notices {
        watch.tell(Event::Notice { package, text });
    }
    let mut files = Vec::with_capacity(tasks.len());
    for (
        Task {
            file: wanted,
            name,
            needed_by,
        },
        (came, fetched),
    ) in tasks.into_iter().zip(done)
    {
        let file = job.into.join(&name);
        put(&into, &name, &came, &wanted)?;
        let path = shown(wanted.path.as_bytes());
        files.push(Delivered {
            path,
            file,
            wanted,
            fetched,
            needed_by,
        });
    }
    Ok(Got {
        build: pinned.build(),
        files,
        notices,
    })
}

/// Fetches all tasks and, where packages say what they need, that too, until nothing is missing.
async fn fetch_all(
    pinned: &Pinned,
    job: &Job,
    into: &Top,
    tasks: Vec<Task>,
    watch: &dyn Watch,
) -> Result<(Vec<(Came, Fetched)>, Vec<Task>), GetError> {
    let brings = job.needs == Needs::Brought && pinned.snapshot().layout == Layout::OpenBsd;
    let mut shelf = Shelf::default();
    let (mut done, mut all): (Vec<(Came, Fetched)>, Vec<Task>) = (Vec::new(), Vec::new());
    let mut wave = tasks;
    while !wave.is_empty() {
        let fetches = stream::iter(&wave).map(|task| fetch_task(pinned, task, into, watch));
        let fetched: Vec<(Came, Fetched)> = fetches.buffered(FILES_AT_ONCE).try_collect().await?;
        let mut next: Vec<Task> = Vec::new();
        for (task, (came, _)) in wave.iter().zip(&fetched).filter(|_| brings) {
            let place = came.place(into, &task.name)?;
            let needed = shelf.needed(pinned, &task.file.path, &place, watch).await;
            for path in needed.map_err(|trouble| needs_error(pinned, task, trouble))? {
                let known = |one: &Task| one.file.path.as_bytes() == path;
                if !all.iter().chain(&wave).chain(&next).any(known) {
                    next.push(needed_task(pinned, task, &path, watch).await?);
                }
            }
        }
        done.extend(fetched);
        all.append(&mut wave);
        if !next.is_empty() {
            let places: Vec<&Task> = all.iter().chain(&next).collect();
            check_places(&places, &job.into)?;
        }
        if all.len() + next.len() > PACKAGES_MAX && brings {
            return Err(GetError::Depend(DependError::TooMany));
        }
        wave = next;
    }
    Ok((done, all))
}

/// A package that another one needs goes beside it.
async fn needed_task(
    pinned: &Pinned,
    by: &Task,
    path: &[u8],
    watch: &dyn Watch,
) -> Result<Task, GetError> {
    let file = pinned
        .file(path, watch)
        .await
        .map_err(|error| find_error(pinned, path, error))?;
    let name = by.name.with_file_name(OsStr::from_bytes(file.path.name()));
    Ok(Task {
        file,
        name,
        needed_by: Some(shown(by.file.path.name())),
    })
}

fn needs_error(pinned: &Pinned, task: &Task, trouble: closure::Trouble) -> GetError {
    match trouble {
        closure::Trouble::Depend(error) => GetError::Depend(error),
        closure::Trouble::Find(error) => find_error(pinned, task.file.path.as_bytes(), error),
    }
}

/// What the paths lead to, and the names under which it is put into the folder.
async fn tasks(pinned: &Pinned, job: &Job, watch: &dyn Watch) -> Result<Vec<Task>, GetError> {
    let mut tasks: Vec<Task> = Vec::new();
    for path in &job.paths {
        let path = path.strip_prefix(b"/").unwrap_or(path);
        let path = path.strip_suffix(b"/").unwrap_or(path);
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let find = |error| find_error(pinned, path, error);
        match pinned.find(path, watch).await.map_err(find)? {
            Found::File(file) => {
                let name = PathBuf::from(OsStr::from_bytes(name));
                tasks.push(Task {
                    file,
                    name,
                    needed_by: None,
                });
            }
            Found::Folder(folder) => {
                for file in pinned.below(&folder, watch).await.map_err(find)? {
                    let below = &file.path.as_bytes()[folder.len()..];
                    let below = below.strip_prefix(b"/").unwrap_or(below);
                    let name = Path::new(OsStr::from_bytes(name)).join(OsStr::from_bytes(below));
                    tasks.push(Task {
                        file,
                        name,
                        needed_by: None,
                    });
                }
            }
        }
    }
    // A path that is named twice comes once.
    let mut seen = BTreeSet::new();
    tasks.retain(|task| seen.insert((task.name.clone(), task.file.path.clone())));
    check_places(&tasks.iter().collect::<Vec<_>>(), &job.into)?;
    Ok(tasks)
}

/// No two files have one place, none has its place where another one needs a folder, and none where a folder is.
fn check_places(tasks: &[&Task], into: &Path) -> Result<(), GetError> {
    let mut places: BTreeMap<&Path, &WantedFile> = BTreeMap::new();
    for task in tasks {
        if let Some(other) = places.insert(&task.name, &task.file) {
            return Err(same_name(other, task));
        }
    }
    for task in tasks {
        let above = task.name.ancestors().skip(1);
        if let Some(other) = above.filter_map(|folder| places.get(folder)).next() {
            return Err(same_name(other, task));
        }
        let path = into.join(&task.name);
        if path.is_dir() {
            let source = std::io::Error::from(std::io::ErrorKind::IsADirectory);
            return Err(GetError::Write { path, source });
        }
    }
    Ok(())
}

fn same_name(other: &WantedFile, task: &Task) -> GetError {
    GetError::SameName {
        first: shown(other.path.as_bytes()),
        second: shown(task.file.path.as_bytes()),
        name: task.name.display().to_string(),
    }
}

/// A look-up that stopped says at which build it did.
fn find_error(pinned: &Pinned, path: &[u8], error: FindError) -> GetError {
    match error {
        FindError::Stop(source) => GetError::Stop {
            path: shown(path),
            channel: pinned.channel().clone(),
            build: pinned.build(),
            source,
        },
        error @ (FindError::Absent { .. }
        | FindError::Folder { .. }
        | FindError::Manifest { .. }
        | FindError::TooMany { .. }) => GetError::Find(error),
    }
}

/// What the archive says about packages among the files: those whose names begin with the package's.
fn notices(pinned: &Pinned, tasks: &[Task]) -> Vec<(String, String)> {
    let about = |package: &str| {
        tasks.iter().any(|task| {
            let name = String::from_utf8_lossy(task.file.path.name()).into_owned();
            let rest = name.strip_prefix(package);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '_', '.']))
        })
    };
    let all = pinned.snapshot().notices.iter();
    let here = all.filter(|notice| about(&notice.package));
    here.map(|notice| (notice.package.clone(), notice.text.clone()))
        .collect()
}

async fn fetch_task(
    pinned: &Pinned,
    task: &Task,
    into: &Top,
    watch: &dyn Watch,
) -> Result<(Came, Fetched), GetError> {
    let file = place(into, &task.name, Folders::Made)?;
    if is_here(&file, &task.file) {
        let fetched = Fetched {
            had_bytes: task.file.entry.size_bytes,
            ..Fetched::default()
        };
        return Ok((Came::Here, fetched));
    }
    let name = part_name(file.name(), &task.file);
    let part = file.beside(name.as_bytes());
    let part = part.map_err(|error| write(file.path(), error))?;
    let fetched = pinned
        .fetch_part(&task.file, &part, Durability::Synced, watch)
        .await;
    let fetched = fetched.map_err(|source| GetError::Stop {
        path: shown(task.file.path.as_bytes()),
        channel: pinned.channel().clone(),
        build: pinned.build(),
        source,
    })?;
    Ok((Came::Part(name), fetched))
}

/// Another run for the same file may have put it there in between.
fn put(into: &Top, name: &Path, came: &Came, wanted: &WantedFile) -> Result<(), GetError> {
    match came {
        Came::Here => Ok(()),
        Came::Part(_) => {
            let file = place(into, name, Folders::There)?;
            match came.place(into, name)?.rename(&file) {
                Err(Errno::NOENT) if is_here(&file, wanted) => Ok(()),
                renamed => renamed.map_err(|error| write(file.path(), error)),
            }
        }
    }
}

/// The place of a file below the folder: no symlink there is followed, which somebody else may have made.
fn place(into: &Top, name: &Path, folders: Folders) -> Result<Place, GetError> {
    let path = name.as_os_str().as_bytes();
    into.place(path, folders)
        .map_err(|error| write(&into.shown(path), error))
}

fn write(path: &Path, error: Errno) -> GetError {
    GetError::Write {
        path: path.to_owned(),
        source: explained(error),
    }
}

/// True when the very content is there; what else is there is only looked at.
fn is_here(file: &Place, wanted: &WantedFile) -> bool {
    let Ok((open, stat)) = file.open(OFlags::RDONLY) else {
        return false;
    };
    let same_size = u64::try_from(stat.st_size) == Ok(wanted.entry.size_bytes);
    same_size && digest_of_open(open).is_ok_and(|digest| digest == wanted.entry.digest)
}

#[cfg(test)]
mod tests;
