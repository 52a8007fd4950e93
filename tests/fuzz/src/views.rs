//! Views: names and globs of a mirror that nobody trusts, matched with every path of a build.

use std::collections::BTreeSet;

use mirrorlog_core::layout::Layout;
use mirrorlog_core::limits::{VIEW_MAX_BYTES, VIEW_NAMES_MAX};
use mirrorlog_core::path::EntryPath;
use mirrorlog_core::view::{Part, Prepared, Selection, View};

/// Lines, each with what it is in front: `a` an architecture, `c` a component, `i` and `x` globs, `p` a path.
pub(crate) fn view(data: &[u8]) {
    let mut part = Part::default();
    let mut paths = Vec::new();
    for line in data.split(|&byte| byte == b'\n') {
        let Some((kind, rest)) = line.split_first() else {
            continue;
        };
        if *kind == b'p' {
            paths.extend(EntryPath::new(rest));
            continue;
        }
        let Ok(text) = std::str::from_utf8(rest) else {
            return;
        };
        let set = match kind {
            b'a' => &mut part.architectures,
            b'c' => &mut part.components,
            b'i' => &mut part.include,
            _other => &mut part.exclude,
        };
        set.insert(text.to_owned());
    }
    let Ok(view) = View::new(part.clone()) else {
        return;
    };
    let all = [
        &part.architectures,
        &part.components,
        &part.include,
        &part.exclude,
    ];
    let all: Vec<&String> = all.into_iter().flatten().collect();
    assert!(
        all.len() <= VIEW_NAMES_MAX
            && all.iter().map(|one| one.len()).sum::<usize>() <= VIEW_MAX_BYTES
    );
    assert_eq!(view.is_all(), all.is_empty());
    assert!(
        view.covers(&part.architectures, &part.components)
            || !part.include.is_empty()
            || !part.exclude.is_empty()
    );
    let nobody = BTreeSet::new();
    assert!(!view.is_all() || view.covers(&nobody, &nobody));
    assert!(!view.to_string().contains('\n'));
    let prepared = Prepared::new(view);
    for layout in [Layout::Plain, Layout::Debian, Layout::OpenBsd] {
        let selection = prepared.selection(layout);
        for path in paths.iter().filter(|path| selection.has(path)) {
            leads_to(&selection, path);
        }
    }
}

/// What belongs to a view is found by whoever goes down from the top.
fn leads_to(selection: &Selection, path: &EntryPath) {
    let bytes = path.as_bytes();
    let slashes = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    for (at, _) in slashes {
        let folder = &bytes[..at];
        assert!(
            selection.has_below(folder),
            "{path:?} belongs, and nothing below {folder:?}"
        );
    }
}
