//! The rate of the hour: what is fetched by day and by night.

use std::time::Duration;

use fetcher::limit::RateLimiter;
use jiff::civil::Time;
use runtime::boot::ByteRate;
use tokio_util::sync::CancellationToken;

use crate::config::FetchSection;

/// Pause between two looks at the clock.
const EVERY: Duration = Duration::from_secs(5);

impl FetchSection {
    /// The rate at a time of day: of the first window that it is in, else the general one.
    pub(crate) fn rate_at(&self, time: Time) -> Option<ByteRate> {
        let inside = |from: Time, to: Time| match from <= to {
            true => from <= time && time < to,
            // Over midnight.
            false => from <= time || time < to,
        };
        let mut windows = self.windows.iter();
        let window = windows.find(|window| inside(window.from, window.to));
        window.map_or(self.rate, |window| window.rate)
    }

    /// The rate now, by the clock of this machine's place.
    pub(crate) fn rate_now(&self) -> Option<ByteRate> {
        self.rate_at(jiff::Zoned::now().time())
    }
}

/// Keeps a limiter at the rate of the hour.
pub(crate) async fn run(
    fetch: FetchSection,
    limiter: std::sync::Arc<RateLimiter>,
    stop: CancellationToken,
) {
    if fetch.windows.is_empty() {
        return;
    }
    loop {
        let rate = fetch.rate_now();
        if limiter.rate() != rate {
            let text = rate.map_or_else(|| "no limit".to_owned(), |rate| rate.to_string());
            tracing::info!(rate = text, "the rate of the hour changes");
            limiter.set_rate(rate);
        }
        let pause = tokio::time::sleep(EVERY);
        if stop.run_until_cancelled(pause).await.is_none() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn windows_say_the_rate_of_the_hour() {
        let fetch: FetchSection = toml::from_str(
            "rate = \"20mbit\"\n[[windows]]\nfrom = \"22:30\"\nto = \"06:00\"\n\
             [[windows]]\nfrom = \"06:00\"\nto = \"08:00\"\nrate = \"5mbit\"\n",
        )
        .unwrap();
        let at = |time: &str| {
            let rate = fetch.rate_at(time.parse().unwrap());
            rate.map(|rate| rate.to_string())
        };
        assert_eq!(at("12:00"), Some("20mbit".to_owned()));
        assert_eq!(
            [at("22:30"), at("00:00"), at("05:59:59")],
            [None, None, None]
        );
        assert_eq!(at("06:00"), Some("5mbit".to_owned()));
        assert_eq!(at("08:00"), Some("20mbit".to_owned()));
        let wrong =
            toml::from_str::<FetchSection>("[[windows]]\nfrom = \"25:00\"\nto = \"06:00\"\n");
        let wrong = wrong.unwrap_err().to_string();
        assert!(wrong.contains("is no time of day"), "{wrong}");
    }
}
