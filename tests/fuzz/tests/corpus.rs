//! Every input that was kept is played: seeds, what fuzzing found interesting, and what once made something panic.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use fuzz::decoders;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

#[test]
fn every_input_that_was_kept_is_taken_or_refused() {
    for decoder in decoders() {
        let folder = corpus().join(decoder.name);
        let files = fs::read_dir(&folder);
        let files = files.unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut played = 0;
        for file in files {
            let file = file.unwrap().path();
            let input = fs::read(&file).unwrap();
            let longest = decoder.max_bytes;
            assert!(
                input.len() <= longest,
                "{} is longer than {longest} bytes",
                file.display()
            );
            let run = std::panic::AssertUnwindSafe(|| (decoder.run)(&input));
            assert!(
                std::panic::catch_unwind(run).is_ok(),
                "{} panics",
                file.display()
            );
            played += 1;
        }
        assert!(played > 0, "{} has no inputs", folder.display());
    }
}

#[test]
fn every_folder_of_inputs_is_a_decoders() {
    let names: BTreeSet<String> = decoders().map(|one| one.name.to_owned()).collect();
    assert_eq!(
        names.len(),
        decoders().count(),
        "two decoders have one name"
    );
    let folders = fs::read_dir(corpus()).unwrap();
    let folders = folders.map(|folder| folder.unwrap().file_name().into_string().unwrap());
    assert_eq!(folders.collect::<BTreeSet<_>>(), names);
}

#[test]
fn every_dictionary_is_a_decoders() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("dict");
    for file in fs::read_dir(folder).unwrap() {
        let name = file.unwrap().path().file_stem().unwrap().to_owned();
        assert!(
            fuzz::find(name.to_str().unwrap()).is_some(),
            "{}",
            name.display()
        );
    }
}
