//! Views: the part of a channel that a mirror declares to carry.

/// The part of a channel that a mirror carries.
///
/// A report and a verdict always name the view that they speak of.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum View {
    /// Everything.
    #[default]
    All,
}
