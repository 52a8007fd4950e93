//! The services.

use std::path::Path;

use runtime::boot::TelemetryConfig;
use runtime::log::NatsConfig;
use runtime::tls::TlsConfig;

use crate::failure::{CONFIG, DOWN, Failure, OrExit as _};

pub(crate) async fn archive(file: &Path, level: Option<&str>) -> Result<u8, Failure> {
    let config = archive::config::Config::load(file).or_exit(CONFIG)?;
    let _telemetry = telemetry("archive", &config.telemetry, level);
    standing("archive", &config.nats, config.tls.as_ref())?;
    archive::run::serve(config, runtime::boot::shutdown())
        .await
        .or_exit(DOWN)?;
    Ok(0)
}

pub(crate) async fn mirror(file: &Path, level: Option<&str>) -> Result<u8, Failure> {
    let config = mirror::config::Config::load(file).or_exit(CONFIG)?;
    let _telemetry = telemetry("mirror", &config.telemetry, level);
    standing(config.mirror.id.as_str(), &config.nats, config.tls.as_ref())?;
    mirror::run::serve(config, runtime::boot::shutdown())
        .await
        .or_exit(DOWN)?;
    Ok(0)
}

pub(crate) async fn consistency(file: &Path, level: Option<&str>) -> Result<u8, Failure> {
    let config = consistency::config::Config::load(file).or_exit(CONFIG)?;
    let _telemetry = telemetry("consistency", &config.telemetry, level);
    standing("consistency", &config.nats, config.tls.as_ref())?;
    consistency::run::serve(config, runtime::boot::shutdown())
        .await
        .or_exit(DOWN)?;
    Ok(0)
}

pub(crate) async fn directory(file: &Path, level: Option<&str>) -> Result<u8, Failure> {
    let config = directory::config::Config::load(file).or_exit(CONFIG)?;
    let _telemetry = telemetry("directory", &config.telemetry, level);
    standing("directory", &config.nats, config.tls.as_ref())?;
    directory::run::serve(config, runtime::boot::shutdown())
        .await
        .or_exit(DOWN)?;
    Ok(0)
}

/// What makes a service known to others is looked at before it starts: without it, it would only try again and again.
/// A certificate whose time is over is no reason not to serve what is public.
fn standing(service: &str, nats: &NatsConfig, tls: Option<&TlsConfig>) -> Result<(), Failure> {
    nats.check(service).or_exit(CONFIG)?;
    for concern in tls
        .map(|tls| tls.concerns(runtime::boot::now()))
        .unwrap_or_default()
    {
        match concern.is_bad() {
            true => tracing::error!("{concern}"),
            false => tracing::warn!("{concern}"),
        }
    }
    Ok(())
}

fn telemetry(
    service: &str,
    config: &TelemetryConfig,
    level: Option<&str>,
) -> runtime::boot::TelemetryGuard {
    runtime::boot::telemetry(service, config, level)
}
