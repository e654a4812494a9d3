//! What is said to an origin that speaks no HTTP, and how a danger shows in its reply. Pure: bytes in,
//! a danger out. Nothing here guesses a password, and nothing changes anything.
//!
//! To add a probe, add a row: what to say (nothing, for those who speak first), and how to read the reply.

use super::danger::{self, Danger};

/// One row of the table.
pub(super) struct Probe {
    /// The words; none waits for a greeting.
    pub(super) say: &'static [u8],
    /// Reads what has come so far.
    pub(super) read: fn(&[u8]) -> Option<&'static Danger>,
}

/// Who speaks first. Any greeting at all ends the questions: it is none of the others.
pub(super) static GREETING: Probe = Probe {
    say: b"",
    read: mysql,
};

/// All others, each asked over a connection of its own.
pub(super) static PROBES: &[Probe] = &[
    Probe {
        say: b"*1\r\n$4\r\nPING\r\n",
        read: redis,
    },
    Probe {
        say: b"version\r\n",
        read: memcached,
    },
    // A startup message of protocol 3.0 for the user and the database "postgres".
    Probe {
        say: b"\0\0\0\x29\0\x03\0\0user\0postgres\0database\0postgres\0\0",
        read: postgres,
    },
    // OP_MSG with { listDatabases: 1, nameOnly: true, $db: "admin" }.
    Probe {
        say: b"\x47\0\0\0\x01\0\0\0\0\0\0\0\xdd\x07\0\0\0\0\0\0\0\x32\0\0\0\
               \x10listDatabases\0\x01\0\0\0\x08nameOnly\0\x01\x02$db\0\x06\0\0\0admin\0\0",
        read: mongodb,
    },
];

fn redis(reply: &[u8]) -> Option<&'static Danger> {
    if reply.starts_with(b"+PONG\r\n") {
        return Some(&danger::REDIS_OPEN);
    }
    let asks = reply.starts_with(b"-NOAUTH ") || reply.starts_with(b"-DENIED ");
    asks.then_some(&danger::REDIS)
}

fn memcached(reply: &[u8]) -> Option<&'static Danger> {
    let version = reply.strip_prefix(b"VERSION ")?;
    version
        .first()?
        .is_ascii_digit()
        .then_some(&danger::MEMCACHED_OPEN)
}

/// An AuthenticationOk before any question is trust; the role need not even exist.
fn postgres(reply: &[u8]) -> Option<&'static Danger> {
    match reply {
        [b'R', 0, 0, 0, 8, 0, 0, 0, 0, ..] => Some(&danger::POSTGRES_TRUST),
        [b'R', 0, 0, _, _, 0, 0, 0, _, ..] => Some(&danger::POSTGRES),
        [b'E', 0, 0, _, _, fields @ ..] if has(fields, b"FATAL\0") => Some(&danger::POSTGRES),
        _ => None,
    }
}

fn mongodb(reply: &[u8]) -> Option<&'static Danger> {
    // The length, our request's number at the place of "in reply to", and OP_MSG.
    let is_message =
        reply.get(8..12) == Some(&[1, 0, 0, 0]) && reply.get(12..16) == Some(&[0xdd, 7, 0, 0]);
    if !is_message {
        return None;
    }
    if has(reply, b"\x04databases\0") {
        return Some(&danger::MONGODB_OPEN);
    }
    has(reply, b"\x01ok\0").then_some(&danger::MONGODB)
}

/// The handshake of protocol 10: three bytes of length, packet 0, 10, a version, a zero.
fn mysql(reply: &[u8]) -> Option<&'static Danger> {
    let [_, _, 0, 0, 10, version @ ..] = reply else {
        return None;
    };
    let version = version.get(..version.iter().position(|byte| *byte == 0)?)?;
    let is_version =
        version.first().is_some_and(u8::is_ascii_digit) && version.iter().all(u8::is_ascii_graphic);
    is_version.then_some(&danger::MYSQL)
}

fn has(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}
