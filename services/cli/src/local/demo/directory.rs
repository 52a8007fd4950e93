//! The demo's part on the directory: apt asks it, while a mirror is dead.

use std::path::Path;
use std::time::{Duration, Instant};

use super::{Story, apt, check, repository};
use crate::failure::Failure;

/// Longest wait until a dead mirror is in no answer: five probe intervals.
const PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(100);

impl Story {
    pub(super) async fn apt_asks_the_directory(&mut self, deb: &Path) -> Result<(), Failure> {
        self.step("the directory");
        let url = self.network.directory_url()?;
        let package = repository::package_of(deb);
        self.network.kill("nz1").await?;
        let killed = Instant::now();
        self.apt_by_method(&url, &package).await?;
        let begun = killed;
        let why = loop {
            let why = self.run(&["--json", "why", "nz1", "demo"]).await?.json;
            if why["offered"] == false {
                break why;
            }
            let patient = begun.elapsed() < PATIENCE;
            check(patient, "a dead mirror is out of every answer")?;
            tokio::time::sleep(POLL).await;
        };
        self.say(&format!(
            "nz1 is out of every answer after {:.1} s: {}",
            begun.elapsed().as_secs_f64(),
            why["reason"].as_str().unwrap_or_default()
        ));
        let ways = [
            ("list", format!("mirror+{url}/mirrors.txt?channel=demo")),
            ("redirect", format!("{url}/demo")),
        ];
        for (way, source) in ways {
            let begun = Instant::now();
            let apt = apt::Apt::new(&self.repository, way, &source)?;
            apt.run(&["update"]).await?;
            apt.run(&["download", &package]).await?;
            self.say(&format!(
                "apt by {way}: update and download {package}, {:.2} s",
                begun.elapsed().as_secs_f64()
            ));
        }
        self.network.start_again("nz1").await
    }

    /// With a method of its own apt needs nobody to notice that a mirror is dead.
    async fn apt_by_method(&mut self, url: &str, package: &str) -> Result<(), Failure> {
        let begun = Instant::now();
        let host = url.trim_start_matches("http://");
        let key = self.network.archive_key();
        let apt = apt::Apt::new(
            &self.repository,
            "method",
            &format!("mirrorlog://{host}/demo"),
        )?;
        let apt = apt.with_method(&key)?;
        apt.run(&["update"]).await?;
        apt.run(&["download", package]).await?;
        self.say(&format!(
            "nz1 is killed; apt by mirrorlog's method, a moment later: update and download {package}, {:.2} s",
            begun.elapsed().as_secs_f64()
        ));
        Ok(())
    }
}
