//! apt's messages: a line with a number and a title, then fields, then an empty line.

use std::fmt::Write as _;
use std::io::{self, BufRead};

/// Longest message, in bytes: apt's configuration is one.
const MESSAGE_MAX_BYTES: usize = 4 << 20;

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    code: u16,
    title: &'static str,
    fields: Vec<(String, String)>,
}

impl Message {
    /// Begins a message.
    pub fn new(code: u16, title: &'static str) -> Self {
        Self {
            code,
            title,
            fields: Vec::new(),
        }
    }

    /// Adds a field; what would break out of its line becomes spaces.
    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        let value = value.to_string();
        let line = value.chars().map(|c| if c.is_control() { ' ' } else { c });
        self.fields.push((name.to_owned(), line.collect()));
        self
    }

    /// The code, which says what it is about.
    pub fn code(&self) -> u16 {
        self.code
    }

    /// A field's value; names in any case.
    pub fn get(&self, name: &str) -> Option<&str> {
        let field = self
            .fields
            .iter()
            .find(|(field, _)| field.eq_ignore_ascii_case(name));
        field.map(|(_, value)| value.as_str())
    }

    /// All values of a field that may come several times.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let fields = self.fields.iter();
        let named = fields.filter(move |(field, _)| field.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str())
    }

    /// As it goes to apt.
    pub fn to_text(&self) -> String {
        let mut text = format!("{} {}\n", self.code, self.title);
        for (name, value) in &self.fields {
            // Writing to a string cannot fail.
            writeln!(text, "{name}: {value}").ok();
        }
        text.push('\n');
        text
    }

    /// Reads the next message; none at the end.
    ///
    /// # Errors
    /// Of the input; what is no message is `InvalidData`.
    pub fn read(input: &mut impl BufRead) -> io::Result<Option<Self>> {
        let bad =
            |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("apt sent {what}"));
        let mut first = None;
        let mut fields = Vec::new();
        let mut whole = 0;
        loop {
            let mut line = Vec::new();
            let mut limited = io::Read::take(&mut *input, (MESSAGE_MAX_BYTES - whole) as u64 + 1);
            let read = limited.read_until(b'\n', &mut line)?;
            whole += read;
            if whole > MESSAGE_MAX_BYTES {
                return Err(bad("a message that is too long"));
            }
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches(['\n', '\r']);
            match (&first, line) {
                // Empty lines in front of a message mean nothing.
                (None, "") if read > 0 => {}
                (None, "") => return Ok(None),
                (Some(code), "") => {
                    return Ok(Some(Self {
                        code: *code,
                        title: "",
                        fields,
                    }));
                }
                (None, line) => {
                    let code = line.split(' ').next().unwrap_or_default().parse::<u16>();
                    first =
                        Some(code.map_err(|_| bad(&format!("{line:?}, which begins no message")))?);
                }
                (Some(_), line) => {
                    let (name, value) = line
                        .split_once(':')
                        .ok_or_else(|| bad(&format!("{line:?}, which is no field")))?;
                    fields.push((name.trim().to_owned(), value.trim().to_owned()));
                }
            }
        }
    }
}

/// A word of apt's that means yes.
pub(crate) fn is_true(word: &str) -> bool {
    ["yes", "true", "with", "on", "enable", "1"]
        .iter()
        .any(|yes| word.eq_ignore_ascii_case(yes))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_one_after_the_other() {
        let mut input = io::Cursor::new(
            "\n600 URI Acquire\nURI: mirrorlog://h/a%20b\nFilename: /x y\nIndex-File: true\n\n601 Configuration\n\
             Config-Item: A=b\nConfig-Item: C=d:e\n\n600 URI Acquire\nURI: last\n",
        );
        let first = Message::read(&mut input).unwrap().unwrap();
        assert_eq!(
            (first.code(), first.get("uri"), first.get("Filename")),
            (600, Some("mirrorlog://h/a%20b"), Some("/x y"))
        );
        assert_eq!(
            (
                first.get("Index-File").is_some_and(is_true),
                first.get("Fail-Ignore")
            ),
            (true, None)
        );
        let second = Message::read(&mut input).unwrap().unwrap();
        assert_eq!(
            second.all("Config-Item").collect::<Vec<_>>(),
            ["A=b", "C=d:e"]
        );
        // The end of the input ends a message too.
        assert_eq!(
            Message::read(&mut input).unwrap().unwrap().get("URI"),
            Some("last")
        );
        assert_eq!(Message::read(&mut input).unwrap(), None);
        assert!(Message::read(&mut io::Cursor::new("hello\n\n")).is_err());
        assert!(Message::read(&mut io::Cursor::new("600 x\nhello\n\n")).is_err());
        let long = format!("600 x\nURI: {}", "x".repeat(MESSAGE_MAX_BYTES));
        assert!(Message::read(&mut io::Cursor::new(long)).is_err());
    }

    #[test]
    fn a_value_stays_on_its_line() {
        let text = Message::new(400, "URI Failure")
            .with("Message", "a\nURI: b")
            .to_text();
        assert_eq!(text, "400 URI Failure\nMessage: a URI: b\n\n");
    }
}
