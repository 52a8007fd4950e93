//! Configuration: one TOML file, parsed whole, and the environment over it.

use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use toml::{Table, Value};

use super::fields::{Field, Kind, fields_of};

const PREFIX: &str = "MIRRORLOG_";
/// Variables of the program that are no configuration (see INTERFACE.md): a field of such a name cannot be overridden.
const RESERVED: [&str; 5] = [
    "MIRRORLOG_CONFIG",
    "MIRRORLOG_DIRECTORY",
    "MIRRORLOG_KEY",
    "MIRRORLOG_LOG",
    "MIRRORLOG_NATS_SERVER",
];

/// Why there is no configuration. A person has to mend it: Halt.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read configuration {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The file is no TOML, or not what the service takes.
    #[error("configuration {} is not valid", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong, and on which line.
        #[source]
        source: toml::de::Error,
    },
    /// A variable that overrides a field has no value for it.
    #[error("environment variable {name}={value:?} is not {expected}, which {field} needs")]
    Override {
        /// The variable.
        name: String,
        /// Its value.
        value: String,
        /// The field, with dots.
        field: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A variable names a field inside something that is no table in the file.
    #[error("environment variable {name} sets {field}, but the file has a plain value above it")]
    NoTable {
        /// The variable.
        name: String,
        /// The field, with dots.
        field: String,
    },
}

/// Reads a TOML file and applies `MIRRORLOG_…` variables over it: `MIRRORLOG_HTTP_LISTEN` sets
/// `http.listen`, whether the file has it or not. Variables that name no field of `T` are not ours to judge.
///
/// # Errors
/// [`ConfigError`], each naming the file or the variable.
pub fn load_config<T: DeserializeOwned>(file: &Path) -> Result<T, ConfigError> {
    let text = std::fs::read_to_string(file).map_err(|source| ConfigError::Read {
        path: file.to_owned(),
        source,
    })?;
    // Names and values that are no UTF-8 cannot be ours.
    let env = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    parse_config(file, &text, env)
}

/// The folder against which a configuration's relative paths resolve.
pub fn folder_of(file: &Path) -> PathBuf {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        Some(_) | None => PathBuf::from("."),
    }
}

/// [`load_config`] of a text that was read from `file`, under an environment.
///
/// # Errors
/// As `load_config`, but for reading.
pub fn parse_config<T: DeserializeOwned>(
    file: &Path,
    text: &str,
    env: impl Iterator<Item = (String, String)>,
) -> Result<T, ConfigError> {
    let invalid = |source| ConfigError::Invalid {
        path: file.to_owned(),
        source,
    };
    let fields = fields_of::<T>();
    let ours = |name: &str| {
        fields
            .iter()
            .find(|field| !RESERVED.contains(&name) && variable_of(field) == name)
    };
    let mut overrides = env
        .filter_map(|(name, value)| ours(&name).map(|field| (field, name, value)))
        .peekable();
    if overrides.peek().is_none() {
        // Parsed in one step, errors name line and column.
        return toml::from_str(text).map_err(invalid);
    }
    let mut table: Table = toml::from_str(text).map_err(invalid)?;
    for (field, name, value) in overrides {
        set(&mut table, field, &name, &value)?;
    }
    table.try_into().map_err(invalid)
}

/// `http.listen` is `MIRRORLOG_HTTP_LISTEN`.
fn variable_of(field: &Field) -> String {
    let name = field.path.join("_").replace('-', "_");
    format!("{PREFIX}{}", name.to_ascii_uppercase())
}

fn set(table: &mut Table, field: &Field, name: &str, text: &str) -> Result<(), ConfigError> {
    let value = value_of(field, text).map_err(|expected| ConfigError::Override {
        name: name.to_owned(),
        value: text.to_owned(),
        field: field.path.join("."),
        expected,
    })?;
    let Some((last, folders)) = field.path.split_last() else {
        return Ok(());
    };
    let mut inner = table;
    for folder in folders {
        let below = inner
            .entry(*folder)
            .or_insert_with(|| Value::Table(Table::new()));
        let no_table = || ConfigError::NoTable {
            name: name.to_owned(),
            field: field.path.join("."),
        };
        inner = below.as_table_mut().ok_or_else(no_table)?;
    }
    inner.insert((*last).to_owned(), value);
    Ok(())
}

fn value_of(field: &Field, text: &str) -> Result<Value, &'static str> {
    match field.kind {
        Kind::Text => Ok(Value::String(text.to_owned())),
        Kind::Integer => text
            .trim()
            .parse()
            .map(Value::Integer)
            .map_err(|_| "a whole number"),
        Kind::Float => text
            .trim()
            .parse()
            .map(Value::Float)
            .map_err(|_| "a number"),
        Kind::Bool => text
            .trim()
            .parse()
            .map(Value::Boolean)
            .map_err(|_| "true or false"),
        // `20MiB`, `["a", "b"]`, `7`: TOML where it is TOML, else a text.
        Kind::Other => Ok(text
            .parse()
            .unwrap_or_else(|_| Value::String(text.to_owned()))),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::net::SocketAddr;

    use serde::Deserialize;

    use super::*;
    use crate::boot::{ByteSize, Span, TelemetryConfig};

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        id: String,
        key: PathBuf,
        http: Http,
        #[serde(default)]
        telemetry: TelemetryConfig,
        limits: Option<Limits>,
        #[serde(default)]
        channels: Vec<String>,
        lane: Option<Lane>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Http {
        listen: SocketAddr,
        #[serde(default)]
        public_url: Option<String>,
        #[serde(default)]
        quiet: bool,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "kebab-case")]
    struct Limits {
        cache: ByteSize,
        retain_builds: u32,
        #[serde(default)]
        grace: Option<Span>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Lane {
        Bulk,
        Priority,
    }

    const FILE: &str = "id = 'nz1'\nkey = 'nz1.sec'\n[http]\nlisten = '127.0.0.1:80'\n";

    fn parse(text: &str, env: &[(&str, &str)]) -> Result<Sample, ConfigError> {
        let env = env
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        parse_config(Path::new("mirror.toml"), text, env)
    }

    #[test]
    fn the_file_alone() {
        let sample = parse(FILE, &[("PATH", "/bin"), ("MIRRORLOG_NO_SUCH_FIELD", "1")]).unwrap();
        assert_eq!((sample.id.as_str(), sample.http.listen.port()), ("nz1", 80));
        assert!(sample.limits.is_none());
    }

    #[test]
    fn the_environment_wins() {
        let env = [
            ("MIRRORLOG_ID", "au1"),
            ("MIRRORLOG_HTTP_LISTEN", "[::1]:8080"),
            ("MIRRORLOG_HTTP_PUBLIC_URL", "http://au1.test"),
            ("MIRRORLOG_HTTP_QUIET", "true"),
            ("MIRRORLOG_TELEMETRY_OTLP", "http://127.0.0.1:4317"),
            ("MIRRORLOG_CHANNELS", "['noble', 'jammy']"),
            ("MIRRORLOG_LANE", "priority"),
        ];
        let sample = parse(FILE, &env).unwrap();
        assert_eq!(sample.id, "au1");
        assert_eq!(sample.http.listen, "[::1]:8080".parse().unwrap());
        assert_eq!(sample.http.public_url.as_deref(), Some("http://au1.test"));
        assert!(sample.http.quiet);
        assert_eq!(
            sample.telemetry.otlp.as_deref(),
            Some("http://127.0.0.1:4317")
        );
        assert_eq!(sample.channels, ["noble", "jammy"]);
        assert_eq!(sample.lane, Some(Lane::Priority));
    }

    #[test]
    fn a_section_may_come_from_the_environment_alone() {
        let env = [
            ("MIRRORLOG_LIMITS_CACHE", "20MiB"),
            ("MIRRORLOG_LIMITS_RETAIN_BUILDS", "7"),
        ];
        let limits = parse(FILE, &env).unwrap().limits.unwrap();
        assert_eq!((limits.cache.0, limits.retain_builds), (20 << 20, 7));
        let env = [
            ("MIRRORLOG_LIMITS_CACHE", "4096"),
            env[1],
            ("MIRRORLOG_LIMITS_GRACE", "10m"),
        ];
        let limits = parse(FILE, &env).unwrap().limits.unwrap();
        assert_eq!(
            (limits.cache.0, limits.grace.unwrap().0.as_secs()),
            (4096, 600)
        );
        let required = parse("[http]", &[("MIRRORLOG_HTTP_LISTEN", "127.0.0.1:1")]).unwrap_err();
        assert!(matches!(required, ConfigError::Invalid { .. }));
    }

    #[test]
    fn variables_of_the_program_are_no_overrides() {
        let sample = parse(FILE, &[("MIRRORLOG_KEY", "/etc/archive.pub")]).unwrap();
        assert_eq!(sample.key, Path::new("nz1.sec"));
    }

    #[test]
    fn faults_name_their_place() {
        let error = parse(FILE, &[("MIRRORLOG_LIMITS_RETAIN_BUILDS", "many")]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "environment variable MIRRORLOG_LIMITS_RETAIN_BUILDS=\"many\" is not a whole number, which limits.retain-builds needs"
        );
        let error = parse(&format!("{FILE}colour = 'red'"), &[]).unwrap_err();
        let ConfigError::Invalid { source, .. } = error else {
            panic!("{error}")
        };
        assert!(
            source.to_string().contains("line 5") && source.to_string().contains("colour"),
            "{source}"
        );
        let error = parse("http = 1", &[("MIRRORLOG_HTTP_LISTEN", "127.0.0.1:1")]).unwrap_err();
        assert!(matches!(error, ConfigError::NoTable { .. }));
        let error = load_config::<Sample>(Path::new("/no/such/file")).unwrap_err();
        assert!(matches!(error, ConfigError::Read { .. }));
    }

    #[test]
    fn relative_paths_resolve_beside_the_file() {
        assert_eq!(
            folder_of(Path::new("/etc/mirrorlog/mirror.toml")),
            Path::new("/etc/mirrorlog")
        );
        assert_eq!(folder_of(Path::new("mirror.toml")), Path::new("."));
    }
}
