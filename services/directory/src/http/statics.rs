//! Every list, feed and page as a file: what `directory export` writes.

use mirrorlog_core::directory::View;
use mirrorlog_core::directory::place::{Continent, Country, Place};
use mirrorlog_core::id::ChannelId;
use mirrorlog_core::time::Timestamp;

use super::ask::Asked;
use super::origin::Origin;
use super::{feeds, list, mirrors, pages, random, status};
use crate::site::Site;

/// Mirrors in a list.
const LIMIT: usize = 20;

/// A path, and what is to be there.
pub(crate) type File = (String, String);

/// All files, in no order.
pub(crate) fn files(site: &Site, view: &View, now: Timestamp) -> Vec<File> {
    let origin = Origin::of(site, None);
    let mut files = vec![
        ("index.html".to_owned(), pages::dashboard(site, view, now)),
        ("mirrors.html".to_owned(), pages::list(site, view, now)),
        (
            "mirrors.atom".to_owned(),
            feeds::mirrors(site, view, now, &origin),
        ),
        (
            "builds.atom".to_owned(),
            feeds::builds(site, view, now, &origin),
        ),
        (
            "status.json".to_owned(),
            format!("{}\n", status::document(site, view, now, &origin)),
        ),
    ];
    let mut places = vec![(String::new(), Place::default())];
    for (_, profile) in pages::told::public(view) {
        let id = profile.mirror.as_str();
        let page = pages::mirror(site, view, id, now);
        files.extend(page.map(|page| (format!("mirrors/{id}.html"), page)));
        let country = profile.country.map(country_place);
        let continent = profile.continent.map(continent_place);
        for place in [country, continent].into_iter().flatten() {
            if !places.iter().any(|known| known.0 == place.0) {
                places.push(place);
            }
        }
    }
    for (channel, _) in view.channels() {
        for (folder, place) in &places {
            files.extend(lists(site, view, channel, folder, *place, now));
        }
    }
    files
}

fn country_place(country: Country) -> (String, Place) {
    (country.to_lower() + "/", Place::in_country(country))
}

fn continent_place(continent: Continent) -> (String, Place) {
    (
        format!("{}/", continent.as_str()),
        Place::on_continent(continent),
    )
}

fn lists(
    site: &Site,
    view: &View,
    channel: &ChannelId,
    folder: &str,
    place: Place,
    now: Timestamp,
) -> Vec<File> {
    let asked = Asked {
        channel: Some(channel.clone()),
        build: None,
        place,
        limit: LIMIT,
        path: None,
        part: Default::default(),
    };
    let list = list::text(site, view, &asked, now, random());
    // A list of nobody: better than the one of yesterday, whose mirrors may be gone.
    let list = list.unwrap_or_else(|refusal| format!("# {}\n", refusal.line()));
    let mut files = vec![(format!("{channel}/{folder}mirrors.txt"), list)];
    if let Ok(document) = mirrors::document(site, view, &asked) {
        files.push((
            format!("{channel}/{folder}mirrors.json"),
            format!("{document}\n"),
        ));
    }
    files
}
