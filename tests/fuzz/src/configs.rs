//! The services' configuration files. Operators write them, and what is wrong must be told, not panicked about.

use std::path::Path;

use runtime::boot::parse_config;

const FILE: &str = "/etc/mirrorlog/fuzz.toml";

fn text(data: &[u8], read: impl Fn(&Path, &str) -> Result<String, String>) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    // Either is shown to people.
    let (Ok(told) | Err(told)) = read(Path::new(FILE), text);
    assert!(!told.is_empty());
}

macro_rules! configs {
    ($($name:ident of $service:path),*) => {$(
        pub(crate) fn $name(data: &[u8]) {
            text(data, |file, text| match <$service>::parse(file, text) {
                Ok(config) => Ok(format!("{config:?}")),
                Err(error) => Err(runtime::chain(&error)),
            });
        }
    )*};
}

configs! {
    config_archive of archive::Config,
    config_mirror of mirror::config::Config,
    config_consistency of consistency::Config,
    config_directory of directory::Config
}

/// `NAME=VALUE` on lines, an empty line, and a mirror's configuration.
pub(crate) fn config_environment(data: &[u8]) {
    text(data, |file, all| {
        let (variables, text) = all.split_once("\n\n").unwrap_or((all, ""));
        let variables = variables.lines().filter_map(|line| line.split_once('='));
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let read = parse_config::<mirror::config::Config>(file, text, variables);
        read.map(|config| format!("{config:?}"))
            .map_err(|error| runtime::chain(&error))
    });
}
