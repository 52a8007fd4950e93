//! `mirror adopt`.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use mirror::adopt::{AdoptError, Amount, Switched, Taking};
use mirror::config::Config;
use serde_json::{Value, json};

use crate::args::AdoptArgs;
use crate::failure::{ABSENT, AGAIN, CONFIG, CREATE, DOWN, Failure, IO, OrExit as _};
use crate::output::{Output, bytes, count};

/// Pause between two looks at how far it has come.
const LOOK: Duration = Duration::from_millis(200);

/// Takes a tree over, or gives its name away or back.
pub(crate) async fn run(file: &Path, args: AdoptArgs, output: &Output) -> Result<u8, Failure> {
    let config = Config::load(file).or_exit(CONFIG)?;
    if args.switch || args.undo {
        let renamed = match args.switch {
            true => mirror::adopt::switch(&config, &args.mount, &args.from),
            false => mirror::adopt::undo(&config, &args.mount, &args.from),
        };
        let renamed = renamed.map_err(failure)?;
        return Ok(say_names(&renamed, args.switch, output));
    }
    take(&config, args, output).await
}

async fn take(config: &Config, args: AdoptArgs, output: &Output) -> Result<u8, Failure> {
    let begun = Instant::now();
    let AdoptArgs {
        mount,
        from,
        dry_run,
        ..
    } = args;
    let prepared = mirror::adopt::prepare(config, &mount, &from).await;
    let take = Arc::new(prepared.map_err(failure)?);
    let taking = Arc::new(Taking::default());
    let (worker, counter) = (Arc::clone(&take), Arc::clone(&taking));
    let mut work = tokio::task::spawn_blocking(move || worker.run(dry_run, &counter));
    let bar = output.bars().then(ProgressBar::new_spinner);
    if let Some(bar) = &bar
        && let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}")
    {
        bar.set_style(style);
    }
    let taken = loop {
        tokio::select! {
            done = &mut work => break done.or_exit(IO)?.map_err(failure)?,
            () = tokio::time::sleep(LOOK) => {
                if let Some(bar) = &bar {
                    let read = taking.read_bytes();
                    let rate = read as f64 / begun.elapsed().as_secs_f64().max(0.001);
                    bar.set_message(format!("reading {}, {}/s", bytes(read), bytes(rate as u64)));
                    bar.tick();
                }
            }
        }
    };
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    let seconds = begun.elapsed().as_secs_f64();
    let builds: Vec<Value> = take
        .wanted()
        .iter()
        .map(|wanted| json!({ "channel": wanted.channel.as_str(), "build": wanted.build.get() }))
        .collect();
    if output.json {
        let amount = |amount: Amount| json!({ "files": amount.files, "bytes": amount.bytes });
        output.json(&json!({
            "mount": mount.as_str(), "channels": builds, "dry_run": dry_run,
            "have": amount(taken.have), "missing": amount(taken.missing), "taken": amount(taken.taken),
            "hashed_bytes": taken.hashed_bytes, "copied_bytes": taken.copied_bytes, "unread": taken.unread, "seconds": seconds,
        }));
        return Ok(0);
    }
    if let Some(first) = &taken.first_unread {
        output.note(&format!(
            "{} could not be read or lie behind a symlink that leads out of the tree, {} for one; what they have is \
             fetched (instead of a symlink, `mount --bind` leads to another disk)",
            count(taken.unread, "file or folder"),
            first.display()
        ));
    }
    let amount = |amount: Amount| format!("{} files, {}", amount.files, bytes(amount.bytes));
    for wanted in take.wanted() {
        output.line(&format!(
            "compared with {} build {}",
            wanted.channel, wanted.build
        ));
    }
    let there = if dry_run { "there" } else { "in the store" };
    output.line(&format!("{there}: {}", amount(taken.have)));
    output.line(&format!("to be fetched: {}", amount(taken.missing)));
    output.line(&match dry_run {
        true => format!(
            "nothing was changed; {} were read",
            bytes(taken.hashed_bytes)
        ),
        false => format!(
            "of the tree: {}, in {seconds:.1} s; a mirror that runs, or is started now, fetches the rest",
            amount(taken.taken)
        ),
    });
    if taken.copied_bytes > 0 {
        output.note(&format!(
            "{} had to be copied: the store cannot share them with the tree",
            bytes(taken.copied_bytes)
        ));
    }
    Ok(0)
}

fn say_names(names: &Switched, forth: bool, output: &Output) -> u8 {
    let Switched {
        name,
        tree,
        export,
        changed,
    } = names;
    if output.json {
        output.json(&json!({ "name": name, "tree": tree, "export": export, "changed": changed, "switched": forth }));
    } else if forth {
        let already = if *changed { "" } else { " already" };
        output.line(&format!(
            "{} leads to {}{already}",
            name.display(),
            export.display()
        ));
        output.line(&match tree.exists() {
            true => format!(
                "the old tree is {}; --undo gives its name back",
                tree.display()
            ),
            false => format!(
                "the old tree is no longer at {}: there is no --undo",
                tree.display()
            ),
        });
    } else {
        output.line(&format!("{} is the old tree again", name.display()));
    }
    0
}

fn failure(error: AdoptError) -> Failure {
    let code = match &error {
        AdoptError::NoChannel { .. } | AdoptError::Tree { .. } | AdoptError::NothingToUndo(_) => {
            ABSENT
        }
        AdoptError::Journal(_) | AdoptError::Down { .. } | AdoptError::Manifest { .. } => DOWN,
        AdoptError::Config(_) | AdoptError::NoExport => CONFIG,
        AdoptError::NotYet(_) => AGAIN,
        AdoptError::Name { .. } | AdoptError::InTheWay(_) => CREATE,
        AdoptError::Read(_) | AdoptError::Store(_) | AdoptError::Task(_) => IO,
    };
    Failure::new(code, anyhow::Error::new(error))
}
