//! Where an address is, by the operator's databases.
//!
//! Both forms are read: MaxMind's (`country.iso_code`, `continent.code`) and the flat one of public-domain files
//! (`country_code`). A file that changes is read again; one that cannot be read leaves the last one in use.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::{Duration, SystemTime};

use maxminddb::Reader;
use mirrorlog_core::directory::place::{Asn, Continent, Country, Place};
use serde::Deserialize;
use tokio::time::MissedTickBehavior;
use wire::causes;

use crate::config::GeoSection;

/// How often files are looked at.
const EVERY: Duration = Duration::from_secs(60);

type Database = Reader<Vec<u8>>;

/// Why a database cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{} is no readable MaxMind DB file", path.display())]
pub(crate) struct GeoError {
    path: PathBuf,
    #[source]
    source: maxminddb::MaxMindDbError,
}

/// The databases. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Geo(Arc<RwLock<Databases>>);

#[derive(Default)]
struct Databases {
    country: Option<File>,
    asn: Option<File>,
}

struct File {
    path: PathBuf,
    modified: Option<SystemTime>,
    database: Database,
}

impl File {
    fn open(path: &Path) -> Result<Self, GeoError> {
        let modified = modified(path);
        let database = Reader::open_readfile(path);
        Ok(Self {
            path: path.to_owned(),
            modified,
            database: database.map_err(|source| GeoError {
                path: path.to_owned(),
                source,
            })?,
        })
    }

    fn refresh(&mut self) {
        if modified(&self.path) == self.modified {
            return;
        }
        match Self::open(&self.path) {
            Ok(fresh) => {
                tracing::info!(file = %self.path.display(), "geographic database read again");
                *self = fresh;
            }
            Err(error) => {
                tracing::warn!(error = causes(&error), "the last database stays in use");
            }
        }
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path)
        .and_then(|meta| meta.modified())
        .ok()
}

#[derive(Deserialize)]
struct CountryRecord<'a> {
    #[serde(borrow, default)]
    country: Option<Code<'a>>,
    #[serde(borrow, default)]
    continent: Option<Code<'a>>,
    #[serde(borrow, default)]
    country_code: Option<&'a str>,
}

#[derive(Deserialize)]
struct Code<'a> {
    #[serde(borrow, alias = "code", default)]
    iso_code: Option<&'a str>,
}

#[derive(Deserialize)]
struct AsRecord {
    #[serde(default)]
    autonomous_system_number: Option<u32>,
}

impl Geo {
    /// Reads the databases that are configured.
    ///
    /// # Errors
    /// [`GeoError`]: a service that silently knows no countries would send everybody anywhere.
    pub(crate) fn open(section: &GeoSection) -> Result<Self, GeoError> {
        let open = |path: &Option<PathBuf>| path.as_deref().map(File::open).transpose();
        Ok(Self(Arc::new(RwLock::new(Databases {
            country: open(&section.country)?,
            asn: open(&section.asn)?,
        }))))
    }

    /// Looks at the files now and then, for ever.
    pub(crate) async fn follow(self) {
        let mut every = tokio::time::interval(EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            let this = self.clone();
            let refreshed = tokio::task::spawn_blocking(move || this.refresh()).await;
            if let Err(error) = refreshed {
                tracing::warn!(%error, "geographic databases could not be looked at");
            }
        }
    }

    fn refresh(&self) {
        let mut databases = self
            .0
            .write()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let Databases { country, asn } = &mut *databases;
        for file in [country, asn].into_iter().flatten() {
            file.refresh();
        }
    }

    /// Where an address is, as far as anybody said.
    pub(crate) fn place(&self, address: IpAddr) -> Place {
        let address = address.to_canonical();
        let databases = self
            .0
            .read()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let (mut country, mut continent, mut asn) = (None, None, None);
        if let Some(file) = &databases.country
            && let Some(record) = look_up::<CountryRecord<'_>>(&file.database, address)
        {
            let nested = record.country.and_then(|code| code.iso_code);
            country = nested
                .or(record.country_code)
                .and_then(|code| code.parse::<Country>().ok());
            continent = record
                .continent
                .and_then(|code| code.iso_code)
                .and_then(Continent::from_code);
        }
        if let Some(file) = &databases.asn {
            let record = look_up::<AsRecord>(&file.database, address);
            asn = record
                .and_then(|record| record.autonomous_system_number)
                .map(Asn);
        }
        Place {
            address: Some(address),
            country,
            continent: country.and_then(Continent::of).or(continent),
            asn,
        }
    }
}

fn look_up<'a, T: Deserialize<'a>>(database: &'a Database, address: IpAddr) -> Option<T> {
    match database
        .lookup(address)
        .and_then(|found| found.decode::<T>())
    {
        Ok(record) => record,
        Err(error) => {
            tracing::debug!(%error, "a geographic record cannot be read");
            None
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_database_that_cannot_be_read_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let (absent, garbage) = (dir.path().join("absent"), dir.path().join("garbage"));
        std::fs::write(&garbage, "no database").unwrap();
        for path in [absent, garbage] {
            let shown = format!("{} is no readable MaxMind DB file", path.display());
            let country = GeoSection {
                country: Some(path.clone()),
                asn: None,
            };
            let asn = GeoSection {
                country: None,
                asn: Some(path),
            };
            for section in [country, asn] {
                let error = Geo::open(&section).err().unwrap();
                assert_eq!(error.to_string(), shown);
            }
        }
    }

    #[test]
    fn without_databases_only_the_address_is_known() {
        let geo = Geo::open(&GeoSection::default()).unwrap();
        geo.refresh();
        for (asked, address) in [
            ("192.0.2.7", "192.0.2.7"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
            ("2001:db8::7", "2001:db8::7"),
        ] {
            let expected = Place {
                address: Some(address.parse().unwrap()),
                ..Place::default()
            };
            assert_eq!(geo.place(asked.parse().unwrap()), expected, "{asked}");
        }
    }

    /// Field names only; a whole database is read in e2e.
    #[test]
    fn both_forms_of_record_are_read() {
        let read = |text| {
            let record: CountryRecord<'_> = serde_json::from_str(text).unwrap();
            let codes = [
                record.country.and_then(|code| code.iso_code),
                record.continent.and_then(|code| code.iso_code),
                record.country_code,
            ];
            codes.map(|code| code.map(str::to_owned))
        };
        let known = |text: &str| Some(text.to_owned());
        let maxmind = r#"{
            "continent": {"code": "OC", "geoname_id": 6255151, "names": {"en": "Oceania"}},
            "country": {"iso_code": "NZ", "geoname_id": 2186224, "names": {"en": "New Zealand"}},
            "registered_country": {"iso_code": "AU"}
        }"#;
        assert_eq!(read(maxmind), [known("NZ"), known("OC"), None]);
        let flat = r#"{"country_code": "NZ"}"#;
        assert_eq!(read(flat), [None, None, known("NZ")]);
        assert_eq!(read(r#"{"country": {}}"#), [None, None, None]);
        assert_eq!(read("{}"), [None, None, None]);
    }
}
