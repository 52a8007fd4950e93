//! Where clients and mirrors are: networks, countries, continents.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::LazyLock;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// A country by its two letters (ISO 3166-1 alpha-2), in capitals.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Country([u8; 2]);

/// The text is no country code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no country code: two letters are needed, as in ISO 3166")]
pub struct CountryError(pub String);

impl Country {
    /// The two letters, in capitals.
    pub fn as_str(&self) -> &str {
        // Letters only, so this never falls back.
        std::str::from_utf8(&self.0).unwrap_or("??")
    }

    /// The two letters in lower case, as in pools' names.
    pub fn to_lower(self) -> String {
        self.as_str().to_ascii_lowercase()
    }
}

impl FromStr for Country {
    type Err = CountryError;
    fn from_str(text: &str) -> Result<Self, CountryError> {
        match text.as_bytes() {
            &[a, b] if a.is_ascii_alphabetic() && b.is_ascii_alphabetic() => {
                Ok(Self([a.to_ascii_uppercase(), b.to_ascii_uppercase()]))
            }
            _other => Err(CountryError(text.to_owned())),
        }
    }
}

impl fmt::Display for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A continent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Continent {
    /// AF
    Africa,
    /// AN
    Antarctica,
    /// AS
    Asia,
    /// EU
    Europe,
    /// NA
    NorthAmerica,
    /// OC
    Oceania,
    /// SA
    SouthAmerica,
}

/// Which countries are where, by GeoNames' division: a country on two continents counts with its capital.
const CONTINENTS: [(Continent, &str); 7] = [
    (
        Continent::Africa,
        "AO BF BI BJ BW CD CF CG CI CM CV DJ DZ EG EH ER ET GA GH GM GN GQ GW KE KM LR LS LY MA MG ML MR MU MW \
         MZ NA NE NG RE RW SC SD SH SL SN SO SS ST SZ TD TG TN TZ UG YT ZA ZM ZW",
    ),
    (Continent::Antarctica, "AQ BV GS HM TF"),
    (
        Continent::Asia,
        "AE AF AM AZ BD BH BN BT CC CN CX CY GE HK ID IL IN IO IQ IR JO JP KG KH KP KR KW KZ LA LB LK MM MN MO \
         MV MY NP OM PH PK PS QA SA SG SY TH TJ TM TR TW UZ VN YE",
    ),
    (
        Continent::Europe,
        "AD AL AT AX BA BE BG BY CH CZ DE DK EE ES FI FO FR GB GG GI GR HR HU IE IM IS IT JE LI LT LU LV MC MD \
         ME MK MT NL NO PL PT RO RS RU SE SI SJ SK SM UA VA XK",
    ),
    (
        Continent::NorthAmerica,
        "AG AI AW BB BL BM BQ BS BZ CA CR CU CW DM DO GD GL GP GT HN HT JM KN KY LC MF MQ MS MX NI PA PM PR SV \
         SX TC TT US VC VG VI",
    ),
    (
        Continent::Oceania,
        "AS AU CK FJ FM GU KI MH MP NC NF NR NU NZ PF PG PN PW SB TK TL TO TV UM VU WF WS",
    ),
    (
        Continent::SouthAmerica,
        "AR BO BR CL CO EC FK GF GY PE PY SR UY VE",
    ),
];

/// [`CONTINENTS`] by first and second letter: every request asks.
static BY_LETTERS: LazyLock<[[Option<Continent>; 26]; 26]> = LazyLock::new(|| {
    let mut table = [[None; 26]; 26];
    for (continent, codes) in CONTINENTS {
        for code in codes.split(' ') {
            if let &[a, b] = code.as_bytes() {
                table[usize::from(a - b'A')][usize::from(b - b'A')] = Some(continent);
            }
        }
    }
    table
});

impl Continent {
    /// All of them, by name.
    pub const ALL: [Self; 7] = [
        Self::Africa,
        Self::Antarctica,
        Self::Asia,
        Self::Europe,
        Self::NorthAmerica,
        Self::Oceania,
        Self::SouthAmerica,
    ];

    /// The continent as it stands in names: `north-america`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Africa => "africa",
            Self::Antarctica => "antarctica",
            Self::Asia => "asia",
            Self::Europe => "europe",
            Self::NorthAmerica => "north-america",
            Self::Oceania => "oceania",
            Self::SouthAmerica => "south-america",
        }
    }

    /// The continent for people: `North America`.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Africa => "Africa",
            Self::Antarctica => "Antarctica",
            Self::Asia => "Asia",
            Self::Europe => "Europe",
            Self::NorthAmerica => "North America",
            Self::Oceania => "Oceania",
            Self::SouthAmerica => "South America",
        }
    }

    /// The two letters that geographic databases write.
    pub fn from_code(code: &str) -> Option<Self> {
        Some(match code {
            "AF" => Self::Africa,
            "AN" => Self::Antarctica,
            "AS" => Self::Asia,
            "EU" => Self::Europe,
            "NA" => Self::NorthAmerica,
            "OC" => Self::Oceania,
            "SA" => Self::SouthAmerica,
            _other => return None,
        })
    }

    /// The continent by its name in names.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.as_str() == name)
    }

    /// The continent that a country counts with; none for codes that are no country.
    pub fn of(country: Country) -> Option<Self> {
        let [a, b] = country
            .0
            .map(|letter| usize::from(letter.wrapping_sub(b'A')));
        BY_LETTERS.get(a)?.get(b).copied().flatten()
    }
}

/// An autonomous system's number (RFC 6793).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Asn(pub u32);

/// Where a client is, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Its address, IPv4 as IPv4.
    pub address: Option<IpAddr>,
    /// Its country.
    pub country: Option<Country>,
    /// Its continent.
    pub continent: Option<Continent>,
    /// Its autonomous system.
    pub asn: Option<Asn>,
}

impl Place {
    /// Somewhere in a country.
    pub fn in_country(country: Country) -> Self {
        Self {
            country: Some(country),
            continent: Continent::of(country),
            ..Self::default()
        }
    }

    /// Somewhere on a continent.
    pub fn on_continent(continent: Continent) -> Self {
        Self {
            continent: Some(continent),
            ..Self::default()
        }
    }
}

/// A network as feedback tells networks apart: the autonomous system where it is known, else a block of
/// addresses, so that a missing database makes no single network of everybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Network {
    /// Known to the AS database.
    As(Asn),
    /// An IPv4 /16, by its first two bytes.
    V4Block(u16),
    /// An IPv6 /32, by its first four bytes.
    V6Block(u32),
}

impl Network {
    /// The network of a place; none when nothing is known of it.
    pub fn of(place: &Place) -> Option<Self> {
        if let Some(asn) = place.asn {
            return Some(Self::As(asn));
        }
        Some(match place.address?.to_canonical() {
            IpAddr::V4(address) => {
                let [a, b, ..] = address.octets();
                Self::V4Block(u16::from_be_bytes([a, b]))
            }
            IpAddr::V6(address) => {
                let [a, b, ..] = address.segments();
                Self::V6Block(u32::from(a) << 16 | u32::from(b))
            }
        })
    }
}

/// The part of an address that one household or office shares: an IPv4 /24, an IPv6 /48.
pub fn neighbourhood(address: IpAddr) -> IpNet {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpNet::V4(Ipv4Net::new_assert(v4, 24).trunc()),
        IpAddr::V6(v6) => IpNet::V6(Ipv6Net::new_assert(v6, 48).trunc()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_country_is_on_one_continent() {
        let mut all: Vec<&str> = CONTINENTS
            .iter()
            .flat_map(|(_, codes)| codes.split(' '))
            .collect();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        // 249 of ISO 3166-1, and Kosovo, which databases write XK.
        assert_eq!((all.len(), count), (250, 250));
        assert!(all.iter().all(|code| code.parse::<Country>().is_ok()));
    }

    #[test]
    fn codes_have_no_case() {
        let nz: Country = "nZ".parse().unwrap();
        assert_eq!((nz.as_str(), nz.to_lower().as_str()), ("NZ", "nz"));
        assert_eq!(Continent::of(nz), Some(Continent::Oceania));
        for bad in ["", "n", "nzl", "n1", "ÄÖ"] {
            assert!(bad.parse::<Country>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_network_is_its_as_or_else_its_block() {
        let at = |address: &str, asn| Place {
            address: Some(address.parse().unwrap()),
            asn,
            ..Place::default()
        };
        let network = |address, asn| Network::of(&at(address, asn)).unwrap();
        assert_eq!(network("10.1.2.3", Some(Asn(7))), Network::As(Asn(7)));
        assert_eq!(network("10.1.2.3", None), network("10.1.99.9", None));
        assert_ne!(network("10.1.2.3", None), network("10.2.2.3", None));
        assert_eq!(network("::ffff:10.1.2.3", None), network("10.1.2.3", None));
        assert_eq!(network("2001:db8::1", None), network("2001:db8:9::1", None));
        assert_eq!(
            neighbourhood("10.1.2.3".parse().unwrap()).to_string(),
            "10.1.2.0/24"
        );
    }
}
