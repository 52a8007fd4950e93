//! `apt-method`, also as `…/methods/mirrorlog`: what apt starts.

use std::ffi::OsStr;
use std::io::BufReader;
use std::path::Path;

use client::apt::{MethodError, begin};
use rustix::fs::OFlags;
use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use crate::failure::{CONFIG, DATA, Failure, IO, OrExit as _};

/// Threads of the method: its work is waiting.
const THREADS: usize = 2;

/// True when apt started this program as one of its methods, which it does without arguments.
pub(crate) fn is_called(mut args: impl Iterator<Item = std::ffi::OsString>) -> bool {
    let Some(program) = args.next() else {
        return false;
    };
    let program = Path::new(&program);
    let folder = program.parent().and_then(Path::file_name);
    let name = program
        .file_name()
        .and_then(OsStr::to_str)
        .unwrap_or_default();
    let among_methods = folder == Some(OsStr::new("methods")) && name.starts_with("mirrorlog");
    args.next().is_none() && (among_methods || name.starts_with("mirrorlog+"))
}

/// Serves apt until it closes the input. Starts threads only after rights that are not needed are given up.
pub(crate) fn run() -> Result<u8, Failure> {
    let input = BufReader::new(std::io::stdin());
    let begun = begin(input, Box::new(std::io::stdout()));
    let Some(method) = begun.map_err(failed)? else {
        return Ok(0);
    };
    let settings = method.settings();
    // While it may: the folder is the user's to whom it changes.
    let state = settings
        .state()
        .filter(|dir| std::fs::create_dir_all(dir).is_ok());
    if let Some(user) = settings
        .user()
        .filter(|_| rustix::process::geteuid().is_root())
    {
        let (uid, gid) = ids(user).inspect_err(|failure| method.fail(&failure.to_string()))?;
        if let Some(state) = state {
            give(&state, uid, gid);
        }
        // This thread is the only one, so it is the whole process.
        set_thread_groups(&[gid]).or_exit(IO)?;
        set_thread_res_gid(gid, gid, gid).or_exit(IO)?;
        set_thread_res_uid(uid, uid, uid).or_exit(IO)?;
    }
    let level = if settings.debug() {
        "client=debug"
    } else {
        "error"
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .enable_all()
        .build();
    runtime.or_exit(IO)?.block_on(async {
        let _telemetry = runtime::boot::telemetry(
            "apt-method",
            &runtime::boot::TelemetryConfig::default(),
            Some(level),
        );
        method.run().await.map_err(failed)
    })?;
    Ok(0)
}

/// Gives a folder of root's to the user; a link that leads elsewhere, and what is somebody else's, stays as it is.
/// Whoever cannot keep a state goes on without one.
fn give(dir: &Path, uid: Uid, gid: Gid) {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Ok(folder) = rustix::fs::open(dir, flags, rustix::fs::Mode::empty()) else {
        return;
    };
    if rustix::fs::fstat(&folder).is_ok_and(|stat| stat.st_uid == 0) {
        rustix::fs::fchown(&folder, Some(uid), Some(gid)).ok();
    }
}

fn failed(error: MethodError) -> Failure {
    let code = match &error {
        MethodError::Input(_) => DATA,
        MethodError::Key(_) | MethodError::Country(_) | MethodError::Options(_) => CONFIG,
    };
    Failure::new(code, error.into())
}

/// A user of this machine and its group, by passwd(5).
fn ids(user: &str) -> Result<(Uid, Gid), Failure> {
    let passwd = std::fs::read_to_string("/etc/passwd").or_exit(IO)?;
    let line = passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, ..] = fields.as_slice() else {
            return None;
        };
        (*name == user).then_some((uid.parse().ok()?, gid.parse().ok()?))
    });
    let unknown = || {
        Failure::text(
            CONFIG,
            format!("APT::Sandbox::User {user} is not in /etc/passwd"),
        )
    };
    let (uid, gid) = line.ok_or_else(unknown)?;
    Ok((Uid::from_raw(uid), Gid::from_raw(gid)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apt_calls_it_by_its_folder_and_without_arguments() {
        let called = |words: &[&str]| is_called(words.iter().map(|word| (*word).into()));
        assert!(called(&["/usr/lib/apt/methods/mirrorlog"]));
        assert!(called(&["/usr/lib/apt/methods/mirrorlog+https"]));
        assert!(!called(&["/usr/lib/apt/methods/mirrorlog", "status"]));
        assert!(!called(&["/usr/bin/mirrorlog"]) && !called(&["mirrorlog"]) && !called(&[]));
    }
}
