//! What an older sources file says, and what of it a newer one cannot go on saying.

use super::MARK;

/// What an older sources file says and a newer one goes on saying.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// `deb`, or `deb deb-src`.
    pub types: Option<String>,
    /// Its suites.
    pub suites: Vec<String>,
    /// Its components.
    pub components: Vec<String>,
    /// The whole `Architectures` field.
    pub architectures: Option<String>,
    /// The whole `Signed-By` field, which may hold a key on lines of its own.
    pub signed_by: Option<String>,
    /// What would be lost of a file that is not ours, for people. Such a file is not to be replaced.
    pub lost: Vec<String>,
}

impl Kept {
    /// Reads a file in deb822 format. Of fields that differ between stanzas, the first counts.
    pub fn read(text: &str) -> Self {
        let stanzas = stanzas(text);
        let mut kept = Self::default();
        if !text.starts_with(MARK) && stanzas.len() > 1 {
            kept.lost.push(format!("{} stanzas", stanzas.len()));
        }
        for field in stanzas.into_iter().flatten() {
            let words: Vec<String> = field.words().map(str::to_owned).collect();
            match field.name.as_str() {
                "types" => {
                    kept.types.get_or_insert(words.join(" "));
                }
                "suites" => kept.suites.extend(words),
                "components" => kept.components.extend(words),
                "architectures" => {
                    kept.architectures.get_or_insert(field.whole);
                }
                "signed-by" => {
                    kept.signed_by.get_or_insert(field.whole);
                }
                "uris" => {}
                "enabled" if words == ["yes"] => {}
                _another if text.starts_with(MARK) => {}
                _another => {
                    let first = field.whole.lines().next().unwrap_or_default();
                    kept.lost.push(first.trim_end().to_owned());
                }
            }
        }
        kept.lost.dedup();
        kept
    }
}

struct Field {
    /// In small letters.
    name: String,
    /// With its name, and all its lines.
    whole: String,
}

impl Field {
    fn words(&self) -> impl Iterator<Item = &str> {
        let words = self.whole.split_once(':').map_or("", |(_, words)| words);
        words.split_whitespace()
    }
}

/// The fields of each stanza. Remarks are none, not even within a field.
fn stanzas(text: &str) -> Vec<Vec<Field>> {
    let mut stanzas: Vec<Vec<Field>> = Vec::new();
    let mut ended = true;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if line.trim().is_empty() {
            ended = true;
            continue;
        }
        let goes_on = line.starts_with([' ', '\t']);
        let last = stanzas.last_mut().filter(|_| !ended);
        match (goes_on, line.split_once(':'), last) {
            (true, _, Some(stanza)) => {
                if let Some(field) = stanza.last_mut() {
                    field.whole.push_str(&format!("{line}\n"));
                }
            }
            (false, Some((name, _)), last) => {
                let field = Field {
                    name: name.trim().to_ascii_lowercase(),
                    whole: format!("{line}\n"),
                };
                match last {
                    Some(stanza) => stanza.push(field),
                    None => stanzas.push(vec![field]),
                }
                ended = false;
            }
            (true, _, None) | (false, None, _) => {}
        }
    }
    stanzas
}
