#![no_main]

use std::sync::LazyLock;

use fuzz::Decoder;

static DECODER: LazyLock<&Decoder> = LazyLock::new(|| fuzz::chosen(fuzz::ASKED));

libfuzzer_sys::fuzz_target!(|data: &[u8]| (DECODER.run)(data));
