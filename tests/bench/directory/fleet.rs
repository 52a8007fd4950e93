//! A thousand mirrors that are one: it answers at all their addresses, and verdicts say that all are complete.

use std::time::Duration;

use e2e::{Network, Record, mmdb};
use mirrorlog_core::id::{Build, ChannelId, Digest, MirrorId, PoolId};
use mirrorlog_core::statement::{Statement, Verdict, VerdictState};
use mirrorlog_core::time::Timestamp;
use mirrorlog_core::view::View;
use runtime::log::{Log, NatsConfig};
use wire::Signed;

const COUNTRIES: [&str; 40] = [
    "nz", "au", "us", "ca", "mx", "br", "ar", "cl", "gb", "ie", "fr", "de", "ch", "at", "it", "es",
    "pt", "nl", "be", "dk", "se", "no", "fi", "pl", "cz", "gr", "tr", "ru", "in", "cn", "jp", "kr",
    "tw", "sg", "th", "id", "za", "ke", "eg", "ng",
];
/// A lease above any that was taken.
const LEASE: u64 = 1 << 40;

/// What came of it.
pub(crate) struct Fleet {
    /// A redirect's target, as long as the directory's.
    pub(crate) example: String,
}

impl Fleet {
    /// Makes a network's one mirror a thousand, each in one of forty countries.
    pub(crate) fn muster(network: &Network, count: usize) -> Self {
        let port = network.url("nz1").rsplit_once(':').unwrap().1.to_owned();
        let root = network.channel("nz1", "bench")["root"]
            .as_str()
            .unwrap()
            .to_owned();
        for service in ["consistency", "directory", "nz1"] {
            network.kill(service);
        }
        network.configure("nz1", |config| {
            config["http"]["listen"] = format!("0.0.0.0:{port}").into();
        });
        network.restart("nz1");
        let country = network.scratch().join("country.mmdb");
        std::fs::write(&country, mmdb(&networks())).unwrap();
        let url = |number: usize| {
            format!(
                "http://127.{}.{}.{}:{port}",
                10 + number / 62_500,
                number / 250 % 250,
                number % 250 + 1
            )
        };
        network.configure("directory", |config| {
            let mirrors = (0..count).map(|number| {
                let mut mirror = toml::Table::new();
                mirror.insert("id".to_owned(), format!("m{number}").into());
                mirror.insert("pool".to_owned(), pool(number).into());
                mirror.insert("url".to_owned(), url(number).into());
                toml::Value::Table(mirror)
            });
            config.insert("mirrors".to_owned(), mirrors.collect::<Vec<_>>().into());
            config["http"]
                .as_table_mut()
                .unwrap()
                .insert("trusted_proxies".to_owned(), vec!["127.0.0.0/8"].into());
            let mut geo = toml::Table::new();
            geo.insert("country".to_owned(), country.to_str().unwrap().into());
            config.insert("geo".to_owned(), geo.into());
            config["probe"]["every"] = "10s".into();
        });
        let state = network.config("directory").with_file_name("state");
        std::fs::remove_dir_all(state).unwrap();
        say_complete(network, count, root.parse().unwrap());
        network.restart("directory");
        Self {
            example: format!("{}/@/bench/1", url(count / 2)),
        }
    }
}

/// The networks from which clients come: one /16 a country.
pub(crate) fn networks() -> Vec<([u8; 4], u8, Record)> {
    let network = |(number, country): (usize, &&'static str)| {
        let code: &'static str = country;
        (
            [20, u8::try_from(number).unwrap(), 0, 0],
            16,
            Record::FlatCountry(code),
        )
    };
    COUNTRIES.iter().enumerate().map(network).collect()
}

fn pool(number: usize) -> &'static str {
    COUNTRIES[number % COUNTRIES.len()]
}

fn say_complete(network: &Network, count: usize, root: Digest) {
    let config = network.config("consistency");
    let key = runtime::key::read_secret(&config.with_file_name("consistency.sec")).unwrap();
    let url = network.nats().to_owned();
    let running = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    running.block_on(async {
        let log = Log::connect(&NatsConfig::new(url), "bench", false)
            .await
            .unwrap();
        let channel = ChannelId::new("bench").unwrap();
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let now_ms = i64::try_from(since.unwrap_or(Duration::ZERO).as_millis()).unwrap();
        let wanted = log.bucket("wanted").await.unwrap();
        for number in 0..count {
            let mirror = MirrorId::new(&format!("m{number}")).unwrap();
            let pool = PoolId::new(pool(number)).unwrap();
            let key_name = wire::kv::wanted_key(&channel, &pool);
            let verdict = Verdict {
                mirror: mirror.clone(),
                pool,
                channel: channel.clone(),
                build: Build::FIRST,
                root,
                view: View::All,
                state: VerdictState::Complete,
                issued: Timestamp::from_ms(now_ms),
                lease_revision: LEASE,
                audited_files: 1,
                new_files: 1,
            };
            let signed = Signed::sign(&key, &Statement::Verdict(verdict)).encode();
            log.publish_verdict(&channel, &mirror, signed.into())
                .await
                .unwrap();
            if number < COUNTRIES.len() {
                let build = wire::kv::encode_wanted(Build::FIRST);
                wanted.put(&key_name, build.into()).await.unwrap();
            }
        }
    });
}
