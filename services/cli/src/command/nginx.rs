//! `mirror nginx-snippet`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use serde_json::json;

use crate::failure::{CONFIG, CREATE, Failure, OrExit as _};
use crate::output::Output;

const SNIPPET: &str = include_str!("../../../../deploy/nginx.conf");

/// Prints a configuration of nginx for the mirror of a configuration.
pub(crate) fn snippet(file: &Path, output: &Output) -> Result<u8, Failure> {
    let config = mirror::config::Config::load(file).or_exit(CONFIG)?;
    let Some(export) = config.export else {
        let text = format!(
            "{} has no [export]: nginx would have no files to serve; add it with dir = \"…\" and start the mirror again",
            file.display()
        );
        return Err(Failure::text(CONFIG, text));
    };
    let dir = std::path::absolute(&export.dir).or_exit(CREATE)?;
    let host = config.mirror.fqdn.unwrap_or_else(|| "_".to_owned());
    let text = SNIPPET
        .replace("@DIR@", &quoted(&dir.to_string_lossy()))
        .replace("@HOST@", &quoted(&host))
        .replace("@MIRROR@", &reached(config.http.listen).to_string());
    if output.json {
        output.json(&json!({ "nginx": text, "export": dir }));
    } else {
        output.line(text.trim_end());
    }
    Ok(0)
}

/// Where nginx on the same machine reaches the mirror.
fn reached(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// A word of nginx's configuration.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nginx_reaches_a_mirror_that_listens_everywhere() {
        let reach =
            |listen: &str| reached(listen.parse().unwrap_or(([0, 0, 0, 0], 0).into())).to_string();
        assert_eq!(reach("0.0.0.0:8080"), "127.0.0.1:8080");
        assert_eq!(reach("[::]:8080"), "[::1]:8080");
        assert_eq!(reach("127.0.1.1:80"), "127.0.1.1:80");
        assert_eq!(quoted("/a \"b\"\\"), "\"/a \\\"b\\\"\\\\\"");
    }
}
