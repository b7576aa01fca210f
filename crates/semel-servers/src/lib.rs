//! Private real servers for tests, benches and the demo, and a proxy in front of them that misbehaves when asked.
//!
//! Every server listens on a free port of the loopback interface and has its data in a temporary folder. It is stopped
//! and its folder deleted when its handle is dropped, and also when the process ends without dropping it, even killed.
//! What is `shared()` serves all tests of a process; who crashes or configures a server starts one of its own.
//!
//! Everything blocks, for milliseconds to a few seconds, and needs no runtime.

mod certificates;
mod cluster;
mod keeper;
mod pgbouncer;
mod ports;
mod postgres;
mod programs;
mod proxy;
mod redis;

pub use certificates::Tls;
pub use cluster::RedisCluster;
pub use keeper::until;
pub use pgbouncer::{PgBouncer, PoolMode};
pub use postgres::{PostgresOptions, PrivatePostgres, Replication};
pub use proxy::{Mode, TcpProxy, Trigger};
pub use redis::{PrivateRedis, RedisOptions};
