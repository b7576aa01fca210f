//! The store that a configuration names, opened; and `semel store`, what operators do with one.

use std::{fmt::Write as _, path::Path, sync::Arc};

use anyhow::Context as _;
use semel::store::{
    Store,
    embedded::{EmbeddedStore, Options, Recovery},
    memory::MemoryStore,
};

use crate::config::{Place, StoreConfig};

/// The store, and what was found in it, in words. `data` is the data folder.
pub(crate) fn open(config: &StoreConfig, data: &Path) -> anyhow::Result<(Arc<dyn Store>, String)> {
    match &config.place {
        Place::Memory => {
            let words = "records in memory, all forgotten when this process ends";
            Ok((Arc::new(MemoryStore::new()), words.to_owned()))
        }
        Place::Embedded => {
            let (store, recovery) = EmbeddedStore::open(data, Options::default())
                .with_context(|| format!("cannot open the records in {}", data.display()))?;
            Ok((Arc::new(store), format!("data in {}: {}", data.display(), recovered(&recovery))))
        }
        Place::Postgres(url) | Place::Redis(url) => {
            anyhow::bail!("{} at {} is not supported yet", config.place.kind(), url.place())
        }
    }
}

fn recovered(recovery: &Recovery) -> String {
    let mut words = format!("{} record(s), opened in {:.0?}", recovery.records, recovery.took);
    if recovery.abandoned_in_flight > 0 {
        let _ = write!(
            words,
            "; {} of them were in flight when the process before ended: their outcome is unknown",
            recovery.abandoned_in_flight
        );
    }
    if recovery.torn_bytes > 0 {
        let _ = write!(
            words,
            "; a last write of {} bytes was cut short and left out: nobody had been told that it was done",
            recovery.torn_bytes
        );
    }
    words
}
