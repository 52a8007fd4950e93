//! Generates Rust from the protos, with protox in place of protoc.

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use prost::Message as _;

const DIRECTORY: &str = "mirrorlog/v1";

fn main() -> ExitCode {
    match generate() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // As text, not as a quoted and escaped string.
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn generate() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    // A directory is watched with all its files, so that a new proto is seen too.
    println!("cargo:rerun-if-changed={DIRECTORY}");
    let files = protos()?;
    // With {:?} protox names file, line and column.
    let descriptors = protox::compile(&files, ["."])
        .map_err(|error| format!("protos in {DIRECTORY} do not compile: {error:?}"))?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?).join("descriptors.bin");
    std::fs::write(&out, descriptors.encode_to_vec())
        .map_err(|error| format!("cannot write {}: {error}", out.display()))?;
    tonic_prost_build::configure()
        .bytes(".mirrorlog.v1")
        .codec_path("crate::codec::StreamCodec")
        .compile_fds(descriptors)?;
    Ok(())
}

/// All protos, sorted, so that the same sources give the same descriptors.
fn protos() -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut files = Vec::new();
    for file in std::fs::read_dir(DIRECTORY)? {
        let path = file?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "proto")
        {
            files.push(path);
        }
    }
    files.sort();
    if files.is_empty() {
        return Err(format!("no protos in {DIRECTORY}").into());
    }
    Ok(files)
}
