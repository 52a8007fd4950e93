//! `index.txt`: what `ls -l` prints of a folder, or one name a line.

/// Most characters of a mode such as `-rw-r--r--`: some systems put a mark behind it.
const MODE_BYTES: std::ops::RangeInclusive<usize> = 10..=11;

/// The names in an `index.txt`, in its order. `total N`, `.` and `..` are no names; of a symlink the target
/// is left out.
///
/// Rows are those of BSD's and GNU's ls: a date has month and day, then a time, a year, or with `-T` both;
/// or it is as in ISO 8601.
pub fn listed_names(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|&b| b == b'\n')
        .filter_map(name_of)
        .filter(|name| ![&b""[..], b".", b".."].contains(name))
}

fn name_of(line: &[u8]) -> Option<&[u8]> {
    if line.strip_prefix(b"total ").is_some_and(is_number) {
        return None;
    }
    let plain = line.strip_prefix(b"./").unwrap_or(line);
    Some(row(line).unwrap_or(plain))
}

/// The name in a row of `ls -l`; `None` when the line is none.
fn row(line: &[u8]) -> Option<&[u8]> {
    let mut rest = line;
    let mode = field(&mut rest)?;
    if !is_mode(mode) || !is_number(field(&mut rest)?) {
        return None;
    }
    let (_owner, _group) = (field(&mut rest)?, field(&mut rest)?);
    if !is_number(field(&mut rest)?) {
        return None;
    }
    let first = field(&mut rest)?;
    if first.len() == 10 && first[4] == b'-' {
        let _time = field(&mut rest)?;
        let mut after = rest;
        let zone = field(&mut after);
        if zone.is_some_and(|z| z.len() == 5 && b"+-".contains(&z[0]) && is_number(&z[1..])) {
            rest = after;
        }
    } else {
        let (_day, time) = (field(&mut rest)?, field(&mut rest)?);
        if time.iter().filter(|&&b| b == b':').count() == 2 {
            let _year = field(&mut rest)?;
        }
    }
    // One space ends the date; more belong to the name.
    let name = rest.strip_prefix(b" ")?;
    const ARROW: &[u8] = b" -> ";
    let end = match mode[0] {
        b'l' => name.windows(ARROW.len()).position(|at| at == ARROW),
        _other => None,
    };
    Some(&name[..end.unwrap_or(name.len())])
}

/// Takes spaces and the field behind them; its own end stays.
fn field<'l>(rest: &mut &'l [u8]) -> Option<&'l [u8]> {
    let start = rest.iter().position(|&b| b != b' ')?;
    let end = rest[start..].iter().position(|&b| b == b' ')? + start;
    let field = &rest[start..end];
    *rest = &rest[end..];
    Some(field)
}

fn is_mode(text: &[u8]) -> bool {
    MODE_BYTES.contains(&text.len())
        && b"-bcdlps".contains(&text[0])
        && text[1..10].iter().all(|b| b"-rwxsStT".contains(b))
}

fn is_number(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(u8::is_ascii_digit)
}
