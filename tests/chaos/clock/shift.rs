//! A process whose clock is set forward or back while it runs: libfaketime between it and the system.

use std::path::{Path, PathBuf};

use e2e::Network;

/// What the process is started with, and the file that says how wrong its clock is.
pub(super) struct Shift {
    library: String,
    file: PathBuf,
}

impl Shift {
    /// `tools`: where `deploy/setup --with-chaos` unpacks; the clock is right at first.
    pub(super) fn new(tools: &Path, dir: &Path) -> Self {
        let lib = tools.join("usr/lib");
        let folders = std::fs::read_dir(&lib).into_iter().flatten();
        let files =
            folders.map(|folder| folder.unwrap().path().join("faketime/libfaketimeMT.so.1"));
        let library = files.into_iter().find(|file| file.is_file());
        let library = library.unwrap_or_else(|| {
            panic!(
                "no libfaketime in {}: deploy/setup --with-chaos",
                lib.display()
            )
        });
        let shift = Self {
            library: library.to_str().unwrap().to_owned(),
            file: dir.join("clock"),
        };
        shift.by_seconds(0);
        shift
    }

    /// Sets the clock so much forward from the right time, or back.
    pub(super) fn by_seconds(&self, seconds: i64) {
        // By rename: whoever reads it reads all of it.
        let new = self.file.with_extension("new");
        std::fs::write(&new, format!("{seconds:+}\n")).unwrap();
        std::fs::rename(new, &self.file).unwrap();
    }

    /// Starts a killed service with this clock. Only the time of day is wrong: what measures spans goes on as it is.
    pub(super) fn restart(&self, network: &Network, name: &str) {
        let file = self.file.to_str().unwrap();
        let env = [
            ("LD_PRELOAD", self.library.as_str()),
            ("FAKETIME_TIMESTAMP_FILE", file),
            ("FAKETIME_NO_CACHE", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ("NO_FAKE_STAT", "1"),
        ];
        network.spawn_by(name, &[], &env);
        e2e::until(&format!("{name} is ready with a clock of its own"), || {
            network.is_ready(name)
        });
    }
}
