//! Every server starts, answers, crashes, comes back, and is gone after its owner, however that ended.

mod postgres;
mod proxy;
mod redis;
