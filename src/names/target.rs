//! What a person types to name an origin, read into one shape.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// How visits reach a tunnel.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// By host name, HTTP understood.
    Http,
    /// By public port, bytes only.
    Tcp,
    /// By SNI, not decrypted.
    Tls,
    /// By public port, datagrams.
    Udp,
}

impl Kind {
    /// The name used in settings and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Udp => "udp",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Kind {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        [Self::Http, Self::Tcp, Self::Tls, Self::Udp]
            .into_iter()
            .find(|k| k.as_str() == text)
            .ok_or(())
    }
}

/// Where a tunnel leads, as `open` and `[[tunnel]]` take it.
///
/// `3000` · `host:port` · `http://…` · `https://…` · `https+insecure://…` · `unix:/path` · `file:/dir` ·
/// `tcp://…` · `tls://…` · `udp://…`. A bare port is HTTP on both loopback families.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// HTTP in clear.
    Http {
        /// Host name or address; none means both loopback families.
        host: Option<String>,
        /// TCP port.
        port: u16,
    },
    /// HTTP over TLS.
    Https {
        /// Host name or address.
        host: String,
        /// TCP port.
        port: u16,
        /// Whether the certificate is checked; `https+insecure://` leaves that out.
        verify: bool,
    },
    /// HTTP over a Unix socket.
    Unix {
        /// Absolute path.
        path: PathBuf,
    },
    /// A directory served as files.
    File {
        /// Absolute path.
        dir: PathBuf,
    },
    /// Bytes to a host and port.
    Stream {
        /// `Tcp`, `Tls` or `Udp`.
        kind: Kind,
        /// Host name or address; none means both loopback families.
        host: Option<String>,
        /// Port.
        port: u16,
    },
}

/// Why a text is no target.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Nothing was given.
    #[error("a target cannot be empty; write a port such as 3000")]
    Empty,
    /// The scheme is not one of ours.
    #[error(
        "{scheme:?} is not a kind of target; use http, https, https+insecure, unix, file, tcp, tls or udp"
    )]
    Scheme {
        /// What stood before the colon.
        scheme: String,
    },
    /// No number from 1 to 65535.
    #[error("{text:?} is not a port; ports are 1 to 65535")]
    Port {
        /// What was given.
        text: String,
    },
    /// A path, query or user where only an address may stand.
    #[error(
        "{text:?} has more than a host and a port; a target is an address, without path or user"
    )]
    More {
        /// What was given.
        text: String,
    },
    /// A host that cannot be one.
    #[error("{text:?} is not a host")]
    Host {
        /// What was given.
        text: String,
    },
    /// `unix:` and `file:` want an absolute path.
    #[error("{text:?} is not an absolute path")]
    RelativePath {
        /// What was given.
        text: String,
    },
}

impl Target {
    /// The kind of tunnel that leads here.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Stream { kind, .. } => *kind,
            _ => Kind::Http,
        }
    }

    /// The authority an origin of this target knows itself by (`localhost:3000`), for `--host rewrite`.
    pub fn own_authority(&self) -> String {
        match self {
            Self::Http { host, port } => {
                authority(host.as_deref().unwrap_or("localhost"), *port, 80)
            }
            Self::Https { host, port, .. } => authority(host, *port, 443),
            Self::Unix { .. } | Self::File { .. } => "localhost".to_owned(),
            Self::Stream { host, port, .. } => {
                authority(host.as_deref().unwrap_or("localhost"), *port, 0)
            }
        }
    }
}

fn authority(host: &str, port: u16, default: u16) -> String {
    let host = if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    };
    if port == default {
        host
    } else {
        format!("{host}:{port}")
    }
}

fn parse_port(text: &str) -> Result<u16, TargetError> {
    let digits = !text.is_empty() && text.len() <= 5 && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse::<u16>() {
        Ok(port) if digits && port != 0 => Ok(port),
        _ => Err(TargetError::Port {
            text: text.to_owned(),
        }),
    }
}

/// Splits `host:port`, `[v6]:port`, `host` or `port`, keeping to what a person may type.
fn parse_address(
    text: &str,
    default_port: Option<u16>,
) -> Result<(Option<String>, u16), TargetError> {
    let text = text.strip_suffix('/').unwrap_or(text);
    if text.contains(['/', '?', '#', '@', '\\'])
        || text.chars().any(|c| c.is_whitespace() || c.is_control())
    {
        return Err(TargetError::More {
            text: text.to_owned(),
        });
    }
    if text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty() {
        return Ok((None, parse_port(text)?));
    }
    let bad_host = || TargetError::Host {
        text: text.to_owned(),
    };
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or_else(bad_host)?;
        host.parse::<std::net::Ipv6Addr>().map_err(|_| bad_host())?;
        (host, rest.strip_prefix(':').map(parse_port).transpose()?)
    } else if let Some((host, port)) = text.rsplit_once(':') {
        if host.contains(':') {
            return Err(bad_host());
        }
        (host, Some(parse_port(port)?))
    } else {
        (text, None)
    };
    let is_name =
        super::Hostname::parse(host).is_ok() || host.parse::<std::net::Ipv6Addr>().is_ok();
    if !is_name {
        return Err(bad_host());
    }
    let port = port.or(default_port).ok_or_else(|| TargetError::Port {
        text: text.to_owned(),
    })?;
    // `localhost` and a bare port are the same wish: both loopback families.
    let host = Some(host.to_ascii_lowercase()).filter(|h| h != "localhost");
    Ok((host, port))
}

fn parse_path(text: &str) -> Result<PathBuf, TargetError> {
    let path = PathBuf::from(
        text.strip_prefix("//")
            .filter(|p| p.starts_with('/'))
            .unwrap_or(text),
    );
    if path.is_absolute() {
        Ok(path)
    } else {
        Err(TargetError::RelativePath {
            text: text.to_owned(),
        })
    }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(TargetError::Empty);
        }
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Self::Unix {
                path: parse_path(path)?,
            });
        }
        if let Some(path) = text.strip_prefix("file:") {
            return Ok(Self::File {
                dir: parse_path(path)?,
            });
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            let (host, port) = parse_address(text, None)?;
            return Ok(Self::Http { host, port });
        };
        let stream = |kind| {
            let (host, port) = parse_address(rest, None)?;
            Ok(Self::Stream { kind, host, port })
        };
        let https = |verify| {
            let (host, port) = parse_address(rest, Some(443))?;
            Ok(Self::Https {
                host: host.unwrap_or_else(|| "localhost".to_owned()),
                port,
                verify,
            })
        };
        match scheme {
            "http" => {
                let (host, port) = parse_address(rest, Some(80))?;
                Ok(Self::Http { host, port })
            }
            "https" => https(true),
            "https+insecure" => https(false),
            "tcp" => stream(Kind::Tcp),
            "tls" => stream(Kind::Tls),
            "udp" => stream(Kind::Udp),
            _ => Err(TargetError::Scheme {
                scheme: scheme.chars().take(40).collect(),
            }),
        }
    }
}

/// The one canonical text: two targets are the same exactly if their texts are.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let full = |host: Option<&str>, port: u16| match host {
            Some(host) if host.contains(':') => format!("[{host}]:{port}"),
            Some(host) => format!("{host}:{port}"),
            None => format!("localhost:{port}"),
        };
        match self {
            Self::Http { host, port } => write!(f, "http://{}", full(host.as_deref(), *port)),
            Self::Https {
                host,
                port,
                verify: true,
            } => write!(f, "https://{}", full(Some(host), *port)),
            Self::Https {
                host,
                port,
                verify: false,
            } => write!(f, "https+insecure://{}", full(Some(host), *port)),
            Self::Unix { path } => write!(f, "unix:{}", path.display()),
            Self::File { dir } => write!(f, "file:{}", dir.display()),
            Self::Stream { kind, host, port } => {
                write!(f, "{kind}://{}", full(host.as_deref(), *port))
            }
        }
    }
}

impl serde::Serialize for Target {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Target {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_read_as_people_write_them() {
        for (text, shown) in [
            ("3000", "http://localhost:3000"),
            ("localhost:3000", "http://localhost:3000"),
            ("http://127.0.0.1:8080/", "http://127.0.0.1:8080"),
            ("http://app", "http://app:80"),
            ("https://localhost:8443", "https://localhost:8443"),
            (
                "https+insecure://nas.local",
                "https+insecure://nas.local:443",
            ),
            ("[::1]:3000", "http://[::1]:3000"),
            ("unix:/run/app.sock", "unix:/run/app.sock"),
            ("unix:///run/app.sock", "unix:/run/app.sock"),
            ("file:/srv/www", "file:/srv/www"),
            ("tcp://db:5432", "tcp://db:5432"),
            ("udp://53", "udp://localhost:53"),
        ] {
            let target: Target = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(target.to_string(), shown, "{text}");
            assert_eq!(
                shown.parse::<Target>().map(|t| t.to_string()),
                Ok(shown.to_owned()),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_target_says_why() {
        for bad in [
            "",
            "0",
            "65536",
            "99999999",
            "ftp://a:1",
            "http://a:b",
            "http://u@h:1",
            "http://h:1/path",
            "a b:1",
            "unix:rel",
            "file:",
            "::1:3000",
            "host",
            "http://h:1?x",
            "tcp://h",
        ] {
            assert!(bad.parse::<Target>().is_err(), "{bad}");
        }
    }
}
