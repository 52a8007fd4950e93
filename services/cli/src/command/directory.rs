//! `directory export` and `why`.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::args::WhyArgs;
use crate::failure::{ABSENT, CONFIG, CREATE, DATA, DOWN, Failure, OrExit as _, USAGE};
use crate::output::{BOLD, Output, count, date, plain};

/// A state is old after this time: a running directory saves one every half minute.
const OLD_MS: i64 = 5 * 60 * 1000;
const TIMEOUT: Duration = Duration::from_secs(10);

/// Writes the lists as static files.
pub(crate) fn export(config: &Path, dir: &Path, output: &Output) -> Result<u8, Failure> {
    let config = directory::config::Config::load(config).or_exit(CONFIG)?;
    let exported = directory::export::export(&config, dir).map_err(|error| {
        let code = match error {
            directory::export::ExportError::NoState { .. } => ABSENT,
            directory::export::ExportError::State(_) => DATA,
            directory::export::ExportError::Foreign { .. }
            | directory::export::ExportError::Write { .. } => CREATE,
        };
        Failure::new(code, error.into())
    })?;
    let (files, saved) = (exported.files, exported.saved.as_ms());
    let old = runtime::boot::now().ms_since(exported.saved) > OLD_MS;
    if old {
        output.note(&format!(
            "the state is of {}: mirrors may have died since; is the directory running?",
            date(saved)
        ));
    }
    if output.json {
        output.json(&json!({ "dir": dir, "files": files, "saved_ms": saved }));
    } else {
        output.line(&format!(
            "wrote {} to {}, as of {}",
            count(files, "file"),
            dir.display(),
            date(saved)
        ));
    }
    Ok(0)
}

/// Says why a mirror is, or is not, offered.
pub(crate) async fn why(
    config: Option<&Path>,
    args: &WhyArgs,
    output: &Output,
) -> Result<u8, Failure> {
    let url = match (&args.directory, config) {
        (Some(url), _) => url.trim_end_matches('/').to_owned(),
        (None, Some(config)) => configured(config)?,
        (None, None) => {
            let text = "no directory given: use --directory URL, or --config with the archive's configuration";
            return Err(Failure::text(CONFIG, text));
        }
    };
    let answer = ask(&url, args).await?;
    let id = args.mirror.as_str();
    let is = |one: &&Value| one["id"] == id;
    let all = |name: &str| answer[name].as_array().cloned().unwrap_or_default();
    let (mirrors, excluded) = (all("mirrors"), all("excluded"));
    let place = mirrors.iter().position(|one| one["id"] == id);
    let reason = excluded.iter().find(is).map(|one| one["reason"].clone());
    if place.is_none() && reason.is_none() {
        let known = mirrors.iter().chain(&excluded);
        let known: Vec<&str> = known
            .filter_map(|one| one["id"].as_str())
            .take(20)
            .collect();
        let known = known.join(", ");
        let text = format!("the directory at {url} knows no mirror {id}; it knows {known}");
        return Err(Failure::text(ABSENT, text));
    }
    let found = place.and_then(|place| mirrors.get(place));
    let dns = found.map_or(Value::Null, |one| one["dns_reason"].clone());
    let document = json!({
        "mirror": id,
        "channel": args.channel.as_str(),
        "build": answer["build"],
        "offered": place.is_some(),
        "place": place.map(|place| place + 1),
        "of": answer["offered"],
        "tier": found.map(|one| one["tier"].clone()),
        "score": found.map(|one| one["score"].clone()),
        "reason": reason,
        "dns_reason": dns,
    });
    if output.json {
        output.json(&document);
    } else {
        sentence(&document, output);
    }
    Ok(0)
}

fn sentence(document: &Value, output: &Output) {
    let word = |name: &str| plain(document[name].as_str().unwrap_or_default());
    let build = match document["build"].as_u64() {
        Some(build) => format!("build {build} of {}", word("channel")),
        None => format!("{}, of which no build is wanted yet", word("channel")),
    };
    let mirror = word("mirror");
    output.line(&match document["place"].as_u64() {
        Some(place) => format!(
            "{BOLD}{mirror}{BOLD:#} is offered for {build}: place {place} of {}, tier {}",
            document["of"],
            word("tier")
        ),
        None => format!(
            "{BOLD}{mirror}{BOLD:#} is not offered for {build}: {}",
            word("reason")
        ),
    });
    if document["dns_reason"].is_string() {
        output.line(&format!("in no DNS pool: {}", word("dns_reason")));
    }
}

fn configured(config: &Path) -> Result<String, Failure> {
    let config = archive::config::Config::load(config).or_exit(CONFIG)?;
    let url = config.directory_http.ok_or_else(|| {
        let text = "the archive's configuration names no directory: set [directory] http, or use --directory URL";
        Failure::text(CONFIG, text)
    })?;
    Ok(url.trim_end_matches('/').to_owned())
}

async fn ask(url: &str, args: &WhyArgs) -> Result<Value, Failure> {
    if !["http://", "https://"]
        .iter()
        .any(|scheme| url.starts_with(scheme))
    {
        let text = format!("{url:?} is no URL of a directory: write http://HOST:PORT");
        return Err(Failure::text(USAGE, text));
    }
    let mut query = vec![
        ("channel", args.channel.to_string()),
        ("limit", "1000".to_owned()),
    ];
    query.extend(args.build.map(|build| ("build", build.to_string())));
    query.extend(args.country.map(|country| ("country", country.to_string())));
    query.extend(args.client_ip.map(|ip| ("client_ip", ip.to_string())));
    let client = fetcher::web::client(TIMEOUT, 1).or_exit(CONFIG)?;
    let request = client.get(format!("{url}/v1/mirrors")).query(&query);
    let answer = request.send().await.map_err(|error| {
        let text = format!("the directory does not answer at {url}; is it running?");
        Failure::new(DOWN, anyhow::Error::new(error).context(text))
    })?;
    let status = answer.status();
    let text = answer.text().await.or_exit(DOWN)?;
    if !status.is_success() {
        let code = match status.as_u16() {
            404 | 410 => ABSENT,
            400 => CONFIG,
            _other => DOWN,
        };
        return Err(Failure::text(code, plain(text.trim())));
    }
    serde_json::from_str(&text).or_exit(DATA)
}
