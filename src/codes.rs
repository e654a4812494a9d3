//! The one table of codes: what the edge, the admin API, the CLI and QUIC close reasons call an
//! error. Not the errors themselves: each border maps its own enum to a code in its `respond.rs`.

use std::fmt;

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The stable text, as in `wormkey-error` and problem+json's `code`.
    pub name: &'static str,
    /// HTTP status at the edge or in the admin API.
    pub status: u16,
    /// Exit code of `wormkeyctl`.
    pub exit: u8,
    /// Number on the wire: control errors and QUIC close reasons.
    pub wire: u32,
    /// What happened, one sentence an outsider may read.
    pub cause: &'static str,
    /// What to do about it.
    pub fix: &'static str,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $wire:literal, $name:literal, $status:literal, $exit:literal, $cause:literal, $fix:literal;)*) => {
        /// Every error that crosses a border of wormkey. The list only grows.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code { $($(#[$doc])* #[doc = $cause] $variant,)* }

        impl Code {
            /// All of them, in table order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The row of this code.
            pub const fn row(self) -> Row {
                match self {
                    $(Self::$variant => Row { name: $name, status: $status, exit: $exit, wire: $wire, cause: $cause, fix: $fix },)*
                }
            }
        }
    };
}

codes! {
    // What visitors can get.
    BadRequest = 1, "bad_request", 400, 2, "The request is not acceptable.", "It breaks a rule of HTTP (RFC 9110, RFC 9112); send one that does not.";
    MethodNotAllowed = 2, "method_not_allowed", 405, 4, "This method is not served here.", "Use one of the methods that the Allow field of the answer names.";
    RequestTimeout = 3, "request_timeout", 408, 9, "The request took too long to arrive.", "Try again, and send the whole request without pauses.";
    NotImplemented = 4, "not_implemented", 501, 4, "That is not supported here.", "Leave out the feature that was asked for.";
    Unauthorized = 5, "unauthorized", 401, 4, "This tunnel asks for credentials.", "Send the credentials the tunnel's owner gave you.";
    Forbidden = 6, "forbidden", 403, 4, "That is not allowed.", "Ask the owner of the tunnel, or the operator, to allow it.";
    Suspended = 7, "suspended", 403, 4, "The operator has suspended this.", "Ask the operator of the server.";
    NoSuchTunnel = 8, "no_such_tunnel", 404, 5, "No tunnel answers this name.", "Check the spelling of the address, or ask whoever gave it to you.";
    TunnelExpired = 9, "tunnel_expired", 410, 5, "Wormhole closed or expired.", "Ask its owner to open a new one.";
    TunnelClosed = 10, "tunnel_closed", 410, 5, "Wormhole closed or expired.", "Ask its owner to open a new one.";
    TooLarge = 11, "too_large", 413, 2, "The request is larger than allowed.", "Send less: at most 100 fields and 32 KiB of head, 8 KiB of address, 1 MiB to the admin API; where signatures are checked, 1 MiB of body unless the server takes more.";
    Misdirected = 12, "misdirected", 421, 2, "The name asked for is not the one this connection is for.", "Open a new connection for the other name.";
    RateLimited = 13, "rate_limited", 429, 4, "Too many requests.", "Wait for the time that Retry-After gives.";
    TunnelOffline = 14, "tunnel_offline", 502, 7, "The tunnel is there, but the machine behind it is away.", "Wait; it comes back by itself when that machine is online.";
    OriginUnreachable = 15, "origin_unreachable", 502, 8, "The service behind the tunnel does not answer.", "Start the local service, or check the target's port.";
    OriginError = 16, "origin_error", 502, 8, "The service behind the tunnel gave an answer that is no HTTP.", "Look at the local service's log.";
    OriginTimeout = 17, "origin_timeout", 504, 9, "The service behind the tunnel took too long.", "Look at the local service; the operator can raise [tunnels] origin_timeout.";
    Draining = 18, "draining", 503, 7, "The server is about to restart.", "Try again in a moment.";
    Overloaded = 19, "overloaded", 503, 7, "The server has too much to do.", "Try again later.";
    ShareOver = 21, "share_over", 410, 5, "This share link has expired or is used up.", "Ask whoever gave it to you for a new one.";
    BadSignature = 22, "bad_signature", 401, 4, "This tunnel takes signed requests only.", "Sign the very bytes that are sent, with the secret that the tunnel's owner has, and send each request once, within five minutes.";
    Internal = 20, "internal", 500, 1, "Something went wrong inside wormkey.", "Try again; the log of the daemon has the detail.";

    // What people at the admin API and devices on a link can get besides.
    Usage = 40, "usage", 400, 2, "The request is not understood.", "See `wormkeyctl --help`.";
    BadName = 41, "bad_name", 400, 2, "That is no name for a tunnel.", "Use 1 to 40 of a-z, 0-9 and single hyphens inside.";
    NameTaken = 42, "name_taken", 409, 6, "The name is taken.", "Choose another name, or leave it out to get one.";
    NameReserved = 43, "name_reserved", 409, 6, "The name is reserved.", "Choose another name.";
    Conflict = 44, "conflict", 409, 6, "That contradicts what is there already.", "Close the other one first, or use another name.";
    NotFound = 45, "not_found", 404, 5, "There is nothing of that name.", "`wormkeyctl list` shows what there is.";
    NotJoined = 46, "not_joined", 409, 4, "This device has not joined a server.", "Get a join token with `wormkeyctl server invite` on the server, then `wormkeyctl join wkj_…` here.";
    AlreadyJoined = 47, "already_joined", 409, 6, "This device has joined already.", "Use `wormkeyctl join --replace`, or `wormkeyctl leave` first.";
    BadToken = 48, "bad_token", 403, 4, "The join token is not valid.", "Get a new one with `wormkeyctl server invite`.";
    TokenExpired = 49, "token_expired", 403, 4, "The join token has expired.", "Get a new one with `wormkeyctl server invite`.";
    TokenUsed = 50, "token_used", 403, 4, "The join token has been used up.", "Get a new one with `wormkeyctl server invite`.";
    Revoked = 51, "revoked", 403, 4, "This device's enrolment has been revoked.", "Ask the operator for a new join token.";
    UnknownDevice = 52, "unknown_device", 403, 4, "The server does not know this device.", "Join again with a new token.";
    WrongPin = 53, "wrong_pin", 502, 7, "The server's key is not the one this device trusts.", "Do not go on: either the server was replaced (join again), or somebody is in between.";
    ServerUnreachable = 54, "server_unreachable", 502, 7, "The server cannot be reached.", "Check the network and the server; wormkeyd keeps trying.";
    VersionMismatch = 55, "version_mismatch", 426, 7, "Client and server are too far apart in version.", "Upgrade the older of the two.";
    TargetNotAllowed = 56, "target_not_allowed", 403, 4, "The client's settings do not allow this target.", "List it under [origins] in client.toml, then run `wormkeyctl reload`.";
    UnsupportedKind = 57, "unsupported_kind", 501, 4, "This kind of tunnel is not served here.", "For tcp and udp the operator sets [listen] tcp_ports; else upgrade the older of client and server, or use a target for HTTP.";
    LimitReached = 58, "limit_reached", 429, 4, "A limit of the server is reached.", "Ask for less, close something first, or have the operator raise the limit.";
    DiskFull = 59, "disk_full", 507, 1, "The state directory is full.", "Free some space; nothing that was acknowledged is lost.";
    Storage = 60, "storage", 500, 1, "The state database refused a write.", "Look at the daemon's log.";
    TimedOut = 61, "timed_out", 504, 9, "That took too long.", "Try again; `wormkeyctl status` shows what the daemon is doing.";
    DaemonUnreachable = 62, "daemon_unreachable", 503, 3, "The daemon is not running.", "Start wormkeyd, or name its socket with --socket.";
    PortTaken = 65, "port_taken", 409, 6, "The public port is taken.", "Choose another port, or leave it out to get one.";
    PortNotAllowed = 66, "port_not_allowed", 403, 4, "That is no public port of this server.", "Choose one of the range that the answer names, or leave it out to get one.";
    BadConfiguration = 63, "bad_configuration", 422, 78, "The configuration is not valid.", "Mend the lines named; the old configuration stays in force.";
    BadDomain = 70, "bad_domain", 400, 2, "That is no domain of one's own.", "Write a name of the public DNS that is not the server's, such as app.example.org or *.app.example.org.";
    DomainTaken = 71, "domain_taken", 409, 6, "The domain leads to another tunnel already.", "Take it from that tunnel first; if it is yours and another user's tunnel has it, place the record that the answer names, and ask again.";
    ExposedOrigin = 64, "exposed_origin", 403, 4, "What stands behind this tunnel should not be public, so it is kept back.", "Mend what the message names, or open it all the same with `--yes-expose` (`yes_expose = true` under [[tunnel]] and in the API).";

    // How a link or a stream ends.
    Done = 100, "done", 200, 0, "Closed on purpose.", "Nothing to do.";
    Superseded = 101, "superseded", 409, 0, "A newer link of the same device took over.", "Nothing to do.";
    Protocol = 102, "protocol", 400, 1, "The peer broke the tunnel protocol.", "Upgrade the older of the two; report it if both are current.";
    Cancelled = 103, "cancelled", 499, 1, "It was given up: the other side went away first, or said no.", "Nothing to do, unless it was not meant; then do it again.";
    Dormant = 104, "dormant", 503, 7, "The link slept while the server had no room for more sleeping ones.", "Nothing to do: wormkeyd connects again when the device is awake; the operator can raise the limits under [dormant].";
}

impl Code {
    /// The stable text.
    pub const fn as_str(self) -> &'static str {
        self.row().name
    }

    /// HTTP status.
    pub const fn status(self) -> u16 {
        self.row().status
    }

    /// The code of a number on the wire; an unknown one is the newer peer's, so it reads as `Internal`.
    pub fn from_wire(number: u64) -> Self {
        Self::ALL
            .iter()
            .copied()
            .find(|c| u64::from(c.row().wire) == number)
            .unwrap_or(Self::Internal)
    }

    /// The code of a stable text.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|c| c.as_str() == name)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_unique() {
        for (i, a) in Code::ALL.iter().enumerate() {
            for b in &Code::ALL[i + 1..] {
                assert_ne!(a.row().name, b.row().name);
                assert_ne!(a.row().wire, b.row().wire);
            }
            assert_eq!(Code::from_wire(u64::from(a.row().wire)), *a);
            assert_eq!(Code::from_name(a.as_str()), Some(*a));
        }
        assert_eq!(Code::from_wire(9_999), Code::Internal);
    }
}
