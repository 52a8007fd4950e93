//! What apt says to its method.

use client::apt::{Message, Settings, Wanted};

/// Messages, one behind the other.
pub(crate) fn apt_message(data: &[u8]) {
    let mut input = data;
    while let Ok(Some(message)) = Message::read(&mut input) {
        let settings = Settings::of(&message);
        let shown = (
            settings.feedback(),
            settings.wait(),
            settings.timeout(),
            settings.state(),
        );
        let written = message.to_text();
        let again = Message::read(&mut written.as_bytes()).unwrap().unwrap();
        assert_eq!(again, message, "{written:?}");
        let again = Settings::of(&again);
        assert_eq!(
            (
                again.feedback(),
                again.wait(),
                again.timeout(),
                again.state()
            ),
            shown
        );
    }
}

pub(crate) fn apt_uri(data: &[u8]) {
    let Ok(uri) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(wanted) = Wanted::parse(uri) {
        let directory = wanted.directory();
        let (scheme, host) = directory.split_once("://").unwrap();
        assert!(
            ["http", "https"].contains(&scheme) && !host.is_empty(),
            "{directory:?}"
        );
        assert!(
            !host.contains(['/', '@', '?', '#']) && !host.contains(char::is_whitespace),
            "{directory:?}"
        );
        let parts = wanted.path().split(|&byte| byte == b'/');
        assert!(
            parts
                .into_iter()
                .all(|part| ![&b"."[..], b".."].contains(&part))
        );
    }
}
