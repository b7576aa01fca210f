//! The store that is measured.

use std::{path::Path, sync::Arc};

use anyhow::Context;
use semel::store::{
    Clock, Store,
    embedded::{EmbeddedStore, Options},
};

/// Opens the store in `folder`, as `serve` does.
pub(crate) fn open(folder: &Path, clock: Arc<dyn Clock>) -> anyhow::Result<Arc<dyn Store>> {
    let (store, _recovery) =
        EmbeddedStore::open(folder, Options { clock, ..Options::default() }).context("cannot open the store")?;
    Ok(Arc::new(store))
}
