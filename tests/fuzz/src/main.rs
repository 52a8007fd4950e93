//! Runs cargo-fuzz for one decoder: `fuzz NAME [libFuzzer's options]`, `fuzz --keep NAME`; without a name, lists them.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};
use fuzz::{Decoder, decoders};

const HERE: &str = env!("CARGO_MANIFEST_DIR");

fn main() -> anyhow::Result<()> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let keep = arguments.first().is_some_and(|first| first == "--keep");
    if keep {
        arguments.remove(0);
    }
    let Some((name, options)) = arguments.split_first() else {
        return list();
    };
    let decoder = fuzz::find(name);
    let decoder =
        decoder.with_context(|| format!("no decoder is called {name}; `just fuzz` lists them"))?;
    let (target, decoder) = decoder;
    fuzz_one(target, decoder, keep, options)
}

fn list() -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    for decoder in decoders() {
        writeln!(
            out,
            "{:20} at most {} bytes",
            decoder.name, decoder.max_bytes
        )?;
    }
    Ok(())
}

/// What it finds goes to `target/fuzz`; with `keep`, what of that reaches more than the corpus does is copied there.
fn fuzz_one(target: &str, decoder: &Decoder, keep: bool, options: &[String]) -> anyhow::Result<()> {
    let here = Path::new(HERE);
    let kept = here.join("corpus").join(decoder.name);
    let found = here.join("../../target/fuzz").join(decoder.name);
    std::fs::create_dir_all(&found).with_context(|| format!("cannot make {}", found.display()))?;
    // The libraries are those of the workspace.
    let lock = here.join("fuzz/Cargo.lock");
    std::fs::copy(here.join("../../Cargo.lock"), &lock)
        .with_context(|| format!("cannot write {}", lock.display()))?;
    let (first, second) = if keep {
        (&kept, &found)
    } else {
        (&found, &kept)
    };
    let mut run = Command::new("cargo");
    run.args([
        "+nightly",
        "fuzz",
        "run",
        "--sanitizer",
        "none",
        "--debug-assertions",
        "--fuzz-dir",
    ]);
    run.arg(here.join("fuzz"))
        .arg(target)
        .arg(first)
        .arg(second);
    run.arg("--").arg(format!("-max_len={}", decoder.max_bytes));
    run.arg("-timeout=5").arg("-rss_limit_mb=2048");
    let dictionary = here.join("dict").join(format!("{}.dict", decoder.name));
    if dictionary.exists() {
        run.arg(format!("-dict={}", dictionary.display()));
    }
    if keep {
        run.arg("-merge=1");
    }
    let status = run
        .args(options)
        .env("MIRRORLOG_FUZZ", decoder.name)
        .status();
    let status = status.context("cannot start cargo")?;
    ensure!(
        status.success(),
        "cargo fuzz ended with {status}; it needs nightly and `cargo install cargo-fuzz --locked`"
    );
    Ok(())
}
