//! Start-up that every service shares: configuration, telemetry, shutdown, health, metrics, the clock.

mod config;
mod fields;
mod guest;
pub mod health;
pub mod metrics;
mod networks;
mod port;
pub mod serve;
mod shutdown;
mod telemetry;
mod units;

use mirrorlog_core::time::Timestamp;

pub use config::{ConfigError, folder_of, load_config, parse_config};
pub use guest::Reading;
pub use health::Health;
pub use networks::{NetworkLimits, Networks, Place, client_behind};
pub use port::HeldPort;
pub use serve::{
    GrpcLimits, HttpLimits, grpc_server, listen, serve_grpc, serve_grpc_unix, serve_http,
    serve_http_within,
};
pub use shutdown::shutdown;
pub use telemetry::{TelemetryConfig, TelemetryGuard, telemetry};
pub use units::{ByteRate, ByteSize, Span, UnitError, text, texts};

/// Reads the wall clock: the one place where services do.
pub fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let ms = match since {
        Ok(after) => i64::try_from(after.as_millis()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |ms| -ms),
    };
    Timestamp::from_ms(ms)
}
