//! The page at `/`: what there is, and what to try.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Response, StatusCode};

use super::{api, engine::Engine, shelf::Shelf};

/// The page.
pub(crate) async fn page<DB: Shelf>(_engine: &Engine<DB>, _address: SocketAddr) -> Response<Bytes> {
    api::text(StatusCode::OK, "semel sandbox")
}
