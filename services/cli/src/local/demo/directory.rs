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
        self.network.kill("nz1").await?;
        let begun = Instant::now();
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
            "nz1 is killed, and out of every answer after {:.1} s: {}",
            begun.elapsed().as_secs_f64(),
            why["reason"].as_str().unwrap_or_default()
        ));
        let package = repository::package_of(deb);
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
}
