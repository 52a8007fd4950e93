//! As much of NATS' protocol as tells one message from the next.

/// The longest line that is no payload.
const LINE_MAX_BYTES: usize = 1 << 16;

/// What stands first in a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) bytes: usize,
    /// Whether it carries a payload: MSG, HMSG, PUB or HPUB. All else keeps the connection itself going.
    pub(super) is_message: bool,
}

/// The first whole frame of a buffer, if it has come in whole.
pub(super) fn first_frame(buffer: &[u8]) -> Option<Frame> {
    let line = buffer.windows(2).position(|pair| pair == b"\r\n");
    let Some(line) = line else {
        let fits = buffer.len() < LINE_MAX_BYTES;
        assert!(fits, "a line of NATS' protocol has no end");
        return None;
    };
    let text = &buffer[..line];
    let mut words = text.split(|byte| byte.is_ascii_whitespace());
    let verb = words.next().unwrap_or_default().to_ascii_uppercase();
    let carries = [&b"MSG"[..], b"HMSG", b"PUB", b"HPUB"].contains(&&verb[..]);
    if !carries {
        let bytes = line + 2;
        return Some(Frame {
            bytes,
            is_message: false,
        });
    }
    let size = words.rfind(|word| !word.is_empty());
    let size = size.and_then(|size| std::str::from_utf8(size).ok()?.parse::<usize>().ok());
    let bytes = line + 2 + size.expect("a message has a size") + 2;
    (buffer.len() >= bytes).then_some(Frame {
        bytes,
        is_message: true,
    })
}

/// The name that a client gives itself in its CONNECT.
pub(super) fn client_name(frame: &[u8]) -> Option<String> {
    let json = frame.strip_prefix(b"CONNECT ")?;
    let options: serde_json::Value = serde_json::from_slice(json).ok()?;
    options["name"].as_str().map(str::to_owned)
}
