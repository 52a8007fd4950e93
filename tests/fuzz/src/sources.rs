//! What `select` reads of the system and of directories, and writes for apt and pkg_add, which obey it.

use mirrorlog_core::client::sources::{
    Kept, MARK, Suite, deb822, installurl as with_url, is_word, list_with_first, pick, stanzas,
};

/// An older file, a NUL, and a Release.
pub(crate) fn apt_sources(data: &[u8]) {
    let (old, release) = crate::cut(data, 0);
    // A return at the end of a line is no part of it, and is not written again.
    let old = String::from_utf8_lossy(old).replace('\r', "");
    let kept = Kept::read(&old);
    let Some(suite) = Suite::read("bookworm/updates", release) else {
        return;
    };
    assert!(suite.components.iter().all(|word| is_word(word)));
    let Ok(picked) = pick(&[suite], &[], &[], &kept, None) else {
        return;
    };
    let placed = picked
        .into_iter()
        .map(|suite| ("http://mirror.test/debian".to_owned(), suite));
    let stanzas = stanzas(placed);
    let written = deb822(&stanzas, &[], &kept);
    let again = Kept::read(&written);
    assert!(written.starts_with(MARK) && again.lost.is_empty());
    assert_eq!(again.suites, ["bookworm/updates"], "{written:?}");
    assert_eq!(again.components, stanzas[0].components, "{written:?}");
    assert_eq!(
        (again.architectures, again.signed_by),
        (kept.architectures, kept.signed_by),
        "{written:?}"
    );
}

/// A list of mirrors that a directory says.
pub(crate) fn apt_list(data: &[u8]) {
    let list = String::from_utf8_lossy(data);
    let (url, live) = ("http://m.test", "http://m.test/debian");
    let written = list_with_first(&list, url, live, &[]);
    for line in written.lines().skip(1) {
        let (uri, keys) = line.split_once('\t').unwrap();
        assert!(
            uri.starts_with("http://") || uri.starts_with("https://"),
            "{line:?}"
        );
        let priorities = keys.split(' ').filter(|key| key.starts_with("priority:"));
        assert_eq!(priorities.count(), 1, "{line:?}");
        assert!(
            !line.replacen('\t', " ", 1).contains(char::is_control),
            "{line:?}"
        );
    }
    assert!(written.ends_with('\n') && written.lines().count() <= list.lines().count() + 3);
    assert!(
        written
            .lines()
            .nth(1)
            .is_some_and(|line| line.starts_with(url))
    );
}

/// An older `/etc/installurl`.
pub(crate) fn installurl(data: &[u8]) {
    let old = String::from_utf8_lossy(data).replace('\r', "");
    let url = "https://mirror.test/pub/OpenBSD";
    let written = with_url(&old, url);
    let said = |line: &'_ str| line.split('#').next().unwrap_or_default().trim().to_owned();
    let last = written.lines().map(said).rfind(|said| !said.is_empty());
    assert_eq!(last.as_deref(), Some(url));
    assert_eq!(with_url(&written, url), written);
}
