//! `semel sandbox`: the four source APIs on one port, real origins on the transactional mode, with a control surface that
//! loses replies, stalls, moves the clock and shows what really happened (`dialects.md`).
#![allow(dead_code, reason = "landing in parts")]

mod api;
mod books;
mod credicorp;
mod etherfuse;
mod nora;
mod yonne;

use api::Vendor;

/// All of them, in the order in which they are listed.
fn vendors() -> [&'static dyn Vendor; 4] {
    [&etherfuse::Etherfuse, &credicorp::Credicorp, &yonne::Yonne, &nora::Nora]
}
