//! Signs stdin with a key file and writes signify's signature to stdout: the smallest `archive.sign_command`.

use std::io::{Read as _, Write as _};
use std::path::Path;

fn main() -> anyhow::Result<()> {
    let file = std::env::args_os().nth(1);
    let file = file.ok_or_else(|| anyhow::anyhow!("usage: sign_with KEY.sec < statement"))?;
    let key = runtime::key::read_secret(Path::new(&file))?;
    let mut message = Vec::new();
    std::io::stdin().lock().read_to_end(&mut message)?;
    let signature = wire::signify::print_signature(&key.sign(&message), "by sign_with");
    std::io::stdout().lock().write_all(signature.as_bytes())?;
    Ok(())
}
