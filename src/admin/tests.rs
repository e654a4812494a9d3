//! Real sockets in temporary directories, and backends that remember what they were asked.

mod calls;
mod health;
mod often;
mod refusals;
mod sockets;
mod streams;
