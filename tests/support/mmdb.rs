//! A small geographic database in MaxMind's format (MaxMind DB file format specification 2.0), IPv4 only.

/// What a database says of a network.
#[derive(Clone, Debug)]
pub enum Record {
    /// MaxMind's form: `country.iso_code`.
    Country(&'static str),
    /// The flat form of public-domain files: `country_code`.
    FlatCountry(&'static str),
    /// `autonomous_system_number`
    As(u32),
}

/// The bytes of a database that knows these networks: address, prefix length, record. The first networks must not
/// lie inside later ones.
pub fn mmdb(networks: &[([u8; 4], u8, Record)]) -> Vec<u8> {
    // A tree node is two records; 0 is free, odd numbers are data, even ones are nodes.
    let mut nodes: Vec<[Slot; 2]> = vec![[Slot::Free; 2]];
    let mut data = Vec::new();
    for (address, length, record) in networks {
        let offset = data.len();
        data.extend(encode(record));
        let bits = u32::from_be_bytes(*address);
        let mut at = 0;
        for depth in 0..*length {
            let bit = usize::from(bits >> (31 - depth) & 1 == 1);
            if depth + 1 == *length {
                nodes[at][bit] = Slot::Data(offset);
                break;
            }
            at = match nodes[at][bit] {
                Slot::Node(next) => next,
                Slot::Free | Slot::Data(_) => {
                    nodes.push([Slot::Free; 2]);
                    nodes[at][bit] = Slot::Node(nodes.len() - 1);
                    nodes.len() - 1
                }
            };
        }
    }
    let count = nodes.len();
    let mut file = Vec::new();
    for slot in nodes.iter().flatten() {
        let value = match slot {
            Slot::Free => count,
            Slot::Node(node) => *node,
            Slot::Data(offset) => count + 16 + offset,
        };
        file.extend_from_slice(&u32::try_from(value).unwrap().to_be_bytes()[1..]);
    }
    file.extend_from_slice(&[0; 16]);
    file.extend(data);
    file.extend_from_slice(b"\xab\xcd\xefMaxMind.com");
    file.extend(map(&[
        ("binary_format_major_version", u16_value(2)),
        ("binary_format_minor_version", u16_value(0)),
        ("build_epoch", vec![0x01, 0x02, 0x01]),
        ("database_type", text("test")),
        ("description", map(&[])),
        ("ip_version", u16_value(4)),
        ("languages", vec![0x00, 0x04]),
        ("node_count", u32_value(u32::try_from(count).unwrap())),
        ("record_size", u16_value(24)),
    ]));
    file
}

#[derive(Clone, Copy)]
enum Slot {
    Free,
    Node(usize),
    Data(usize),
}

fn encode(record: &Record) -> Vec<u8> {
    match record {
        Record::Country(code) => map(&[("country", map(&[("iso_code", text(code))]))]),
        Record::FlatCountry(code) => map(&[("country_code", text(code))]),
        Record::As(number) => map(&[("autonomous_system_number", u32_value(*number))]),
    }
}

fn map(fields: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = vec![7 << 5 | u8::try_from(fields.len()).unwrap()];
    for (name, value) in fields {
        bytes.extend(text(name));
        bytes.extend(value);
    }
    bytes
}

/// Shorter than 29 bytes.
fn text(text: &str) -> Vec<u8> {
    assert!(text.len() < 29);
    let mut bytes = vec![2 << 5 | u8::try_from(text.len()).unwrap()];
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

fn u16_value(value: u16) -> Vec<u8> {
    let mut bytes = vec![5 << 5 | 2];
    bytes.extend_from_slice(&value.to_be_bytes());
    bytes
}

fn u32_value(value: u32) -> Vec<u8> {
    let mut bytes = vec![6 << 5 | 4];
    bytes.extend_from_slice(&value.to_be_bytes());
    bytes
}
