//! The services.

use std::path::Path;

use runtime::boot::TelemetryConfig;

use crate::failure::{CONFIG, DOWN, Failure, OrExit as _};

pub(crate) async fn archive(file: &Path, level: Option<&str>) -> Result<u8, Failure> {
    let config = archive::config::Config::load(file).or_exit(CONFIG)?;
    let _telemetry = telemetry("archive", &config.telemetry, level);
    archive::run::serve(config, runtime::boot::shutdown())
        .await
        .or_exit(DOWN)?;
    Ok(0)
}

pub(crate) async fn mirror(file: &Path, level: Option<&str>) -> Result<u8, Failure> {
    let config = mirror::config::Config::load(file).or_exit(CONFIG)?;
    let _telemetry = telemetry("mirror", &config.telemetry, level);
    mirror::run::serve(config, runtime::boot::shutdown())
        .await
        .or_exit(DOWN)?;
    Ok(0)
}

pub(crate) async fn consistency(file: &Path, level: Option<&str>) -> Result<u8, Failure> {
    let config = consistency::config::Config::load(file).or_exit(CONFIG)?;
    let _telemetry = telemetry("consistency", &config.telemetry, level);
    consistency::run::serve(config, runtime::boot::shutdown())
        .await
        .or_exit(DOWN)?;
    Ok(0)
}

pub(crate) async fn directory(file: &Path, level: Option<&str>) -> Result<u8, Failure> {
    let config = directory::config::Config::load(file).or_exit(CONFIG)?;
    let _telemetry = telemetry("directory", &config.telemetry, level);
    directory::run::serve(config, runtime::boot::shutdown())
        .await
        .or_exit(DOWN)?;
    Ok(0)
}

fn telemetry(
    service: &str,
    config: &TelemetryConfig,
    level: Option<&str>,
) -> runtime::boot::TelemetryGuard {
    runtime::boot::telemetry(service, config, level)
}
