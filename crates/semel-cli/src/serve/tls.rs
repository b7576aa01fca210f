//! What a client shows of itself when it connects.

use std::sync::Arc;

/// The subject of the verified client certificate, as RFC 4514 writes it: an extension of every request of its connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ClientSubject(pub Arc<str>);
