//! All blobs of a store, one folder at a time.

use mirrorlog_core::id::Digest;

use super::{Store, StoreError};

impl Store {
    /// All digests in order, for sweeps and scrubs. Holds the names of one of 256 folders in memory;
    /// content that comes or goes meanwhile may be listed or not.
    ///
    /// # Errors
    /// None now; each item may be [`StoreError::Io`].
    pub fn digests(
        &self,
    ) -> Result<impl Iterator<Item = Result<Digest, StoreError>> + use<>, StoreError> {
        let store = self.clone();
        Ok(
            (0..=u8::MAX).flat_map(move |first| match list(&store, first) {
                Ok(digests) => digests.into_iter().map(Ok).collect::<Vec<_>>(),
                Err(e) => vec![Err(e)],
            }),
        )
    }
}

fn list(store: &Store, first: u8) -> Result<Vec<Digest>, StoreError> {
    let folder = hex::encode([first]);
    let path = store.dir().join(&folder);
    let listed = match std::fs::read_dir(&path) {
        Ok(listed) => listed,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(StoreError::io("list", &path, e)),
    };
    let mut digests = Vec::new();
    for item in listed {
        let name = item
            .map_err(|e| StoreError::io("list", &path, e))?
            .file_name();
        // What is not named by a digest is not ours.
        let digest = name
            .to_str()
            .and_then(|rest| format!("{folder}{rest}").parse::<Digest>().ok());
        digests.extend(digest);
    }
    digests.sort_unstable();
    Ok(digests)
}
