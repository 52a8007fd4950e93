//! The part of each channel that this mirror carries, as its configuration says.

use mirrorlog_core::id::ChannelId;
use mirrorlog_core::view::{View, ViewError};

use crate::config::{Config, ViewSection};

/// A view for each channel.
#[derive(Clone, Debug, Default)]
pub(crate) struct Views(Vec<(Vec<ChannelId>, View)>);

/// A `[[views]]` that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("[[views]] number {number} of the configuration cannot be used")]
pub(crate) struct BadView {
    number: usize,
    #[source]
    source: ViewError,
}

impl Views {
    /// Reads the configuration's views.
    ///
    /// # Errors
    /// [`BadView`] with its number, from 1 on.
    pub(crate) fn of_config(config: &Config) -> Result<Self, BadView> {
        let view = |(index, section): (usize, &ViewSection)| {
            let number = index + 1;
            let view = section.view();
            let view = view.map_err(|source| BadView { number, source })?;
            Ok((section.channels.clone(), view))
        };
        let views = config.views.iter().enumerate().map(view);
        Ok(Self(views.collect::<Result<_, _>>()?))
    }

    /// What is carried of a channel: of the first view that is for it, else everything.
    pub(crate) fn of(&self, channel: &ChannelId) -> View {
        let is_for = |(channels, _): &&(Vec<ChannelId>, View)| {
            channels.is_empty() || channels.contains(channel)
        };
        let found = self.0.iter().find(is_for);
        found.map_or(View::All, |(_, view)| view.clone())
    }
}
