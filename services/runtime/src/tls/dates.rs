//! From when to when a certificate counts.

use std::fmt;
use std::path::PathBuf;

use mirrorlog_core::time::Timestamp;

use super::TlsConfig;

/// Before a certificate's end people are told.
const WARNING_MS: i64 = 30 * 24 * 3600 * 1000;

/// A certificate that does not count, or soon will not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Concern {
    /// Which setting names it.
    pub setting: &'static str,
    /// The file.
    pub path: PathBuf,
    /// What is the matter.
    pub what: What,
}

/// What is the matter with a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// It does not count before this time.
    Early(Timestamp),
    /// It has counted until this time.
    Ended(Timestamp),
    /// It counts until this time, which is near.
    Ends(Timestamp),
}

impl Concern {
    /// True when nobody believes the certificate now.
    pub fn is_bad(&self) -> bool {
        match self.what {
            What::Early(_) | What::Ended(_) => true,
            What::Ends(_) => false,
        }
    }
}

impl fmt::Display for Concern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            setting,
            path,
            what,
        } = self;
        write!(f, "certificate {} (tls.{setting}) ", path.display())?;
        let new = "get a new one (mirrorlog nats-config, mirror enroll)";
        match what {
            What::Early(at) => write!(f, "counts from {at} on: is this machine's clock right?"),
            What::Ended(at) => write!(f, "has ended at {at}, nobody believes it: {new}"),
            What::Ends(at) => write!(f, "ends at {at}: {new}"),
        }
    }
}

impl TlsConfig {
    /// Looks at the dates of all certificates. What cannot be read is for [`load`](Self::load) to refuse.
    pub fn concerns(&self, now: Timestamp) -> Vec<Concern> {
        let mut files = vec![("ca", &self.ca), ("cert", &self.cert)];
        files.extend(self.guests.as_ref().map(|guests| ("guests", guests)));
        let mut concerns = Vec::new();
        for (setting, path) in files {
            let Ok(pem) = super::read(setting, path, "certificate", "CERTIFICATE") else {
                continue;
            };
            let found = spans(&pem)
                .into_iter()
                .filter_map(|span| concern(span, now));
            concerns.extend(found.map(|what| Concern {
                setting,
                path: path.clone(),
                what,
            }));
        }
        concerns
    }
}

fn concern((from, until): (Timestamp, Timestamp), now: Timestamp) -> Option<What> {
    if now < from {
        Some(What::Early(from))
    } else if now >= until {
        Some(What::Ended(until))
    } else {
        (now.plus_ms(WARNING_MS) >= until).then_some(What::Ends(until))
    }
}

/// Of every certificate in a file.
fn spans(pem: &[u8]) -> Vec<(Timestamp, Timestamp)> {
    let blocks = x509_parser::pem::Pem::iter_from_buffer(pem).filter_map(Result::ok);
    let mut spans = Vec::new();
    for block in blocks {
        if let Ok(certificate) = block.parse_x509() {
            let validity = certificate.validity();
            let at = |time: x509_parser::time::ASN1Time| Timestamp::from_seconds(time.timestamp());
            spans.push((at(validity.not_before), at(validity.not_after)));
        }
    }
    spans
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::tls::{Authority, Clients, Subject};

    const NOW: Timestamp = Timestamp::from_ms(1_790_000_000_000);
    const DAY_MS: i64 = 24 * 3600 * 1000;

    #[test]
    fn people_are_told_in_time() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let authority = Authority::generate("test", NOW).unwrap();
        let subject = Subject {
            name: "nz1".into(),
            hosts: Vec::new(),
        };
        let (cert, key) = authority.issue(&subject, NOW).unwrap();
        let until = spans(cert.as_bytes())[0].1;
        let config = TlsConfig {
            ca: file("ca.pem", authority.pem()),
            cert: file("cert.pem", &cert),
            key: file("key.pem", &key),
            guests: None,
            clients: Clients::Known,
        };
        assert_eq!(config.concerns(NOW), []);
        let one = |at: Timestamp| {
            let concerns = config.concerns(at);
            let [only] = &concerns[..] else {
                panic!("{concerns:?}")
            };
            (only.setting, only.what, only.is_bad())
        };
        let soon = until.plus_ms(-20 * DAY_MS);
        assert_eq!(one(soon), ("cert", What::Ends(until), false));
        assert_eq!(one(until), ("cert", What::Ended(until), true));
        let before = config.concerns(NOW.plus_ms(-2 * DAY_MS));
        assert_eq!(before.len(), 2);
        assert!(before.iter().all(Concern::is_bad));
        assert!(before[0].to_string().contains("clock"), "{}", before[0]);
    }
}
