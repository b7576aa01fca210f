//! What operators see of the gateway from outside: the page of metrics, and traces.

mod collector;
mod metrics;
mod traces;
