//! Which proxy a connection goes through: `HTTPS_PROXY` and `NO_PROXY` as curl reads them. Pure but
//! for one reader of the environment.

use std::fmt;
use std::net::IpAddr;

use data_encoding::BASE64;
use http::{HeaderValue, Uri};
use ipnet::IpNet;
use percent_encoding::percent_decode_str;

use crate::secret::Secret;

/// What a list may hold; a longer one is somebody's mistake.
const EXEMPT: usize = 256;

/// An HTTP proxy that takes `CONNECT`.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Proxy {
    /// Without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) authorization: Option<Secret<HeaderValue>>,
}

/// The proxy to use, and for which servers not to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    proxy: Option<Proxy>,
    exempt: Vec<Exempt>,
}

/// Why a proxy setting is not usable. The setting itself is not shown: it may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// Not a URL of a proxy.
    #[error("the proxy is no URL; write http://user:password@host:port")]
    Unreadable,
    /// Only plain HTTP proxies are spoken to.
    #[error("proxies of kind {scheme:?} are not supported; only http:// ones are")]
    Scheme {
        /// What was asked for.
        scheme: String,
    },
}

/// A server that is reached without the proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Exempt {
    host: ExemptHost,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum ExemptHost {
    All,
    Net(IpNet),
    /// The domain itself and all below it.
    Domain(String),
}

impl Proxies {
    /// No proxy at all.
    pub fn none() -> Self {
        Self::default()
    }

    /// From texts as in `HTTPS_PROXY` and `NO_PROXY`; an empty proxy is none.
    pub fn parse(https_proxy: &str, no_proxy: &str) -> Result<Self, ProxyError> {
        let proxy = Some(https_proxy.trim()).filter(|text| !text.is_empty());
        Ok(Self {
            proxy: proxy.map(Proxy::parse).transpose()?,
            exempt: no_proxy
                .split([',', ' '])
                .filter_map(exempt)
                .take(EXEMPT)
                .collect(),
        })
    }

    /// From the environment: `https_proxy`, `HTTPS_PROXY`, `all_proxy` or `ALL_PROXY`, the first that
    /// is set, and `no_proxy` or `NO_PROXY`.
    pub fn from_env() -> Result<Self, ProxyError> {
        let first = |names: &[&str]| {
            let mut values = names.iter().filter_map(|name| std::env::var(name).ok());
            values.find(|value| !value.is_empty()).unwrap_or_default()
        };
        Self::parse(
            &first(&["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]),
            &first(&["no_proxy", "NO_PROXY"]),
        )
    }

    /// The proxy on the way to `host` (a name, or an address without brackets), if there is one.
    pub(super) fn on_the_way_to(&self, host: &str, port: u16) -> Option<&Proxy> {
        let exempt = self.exempt.iter().any(|exempt| exempt.covers(host, port));
        self.proxy.as_ref().filter(|_| !exempt)
    }
}

impl Proxy {
    fn parse(text: &str) -> Result<Self, ProxyError> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
        if !scheme.eq_ignore_ascii_case("http") {
            return Err(ProxyError::Scheme {
                scheme: scheme.chars().take(16).collect(),
            });
        }
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let (credentials, place) = match authority.rsplit_once('@') {
            Some((credentials, place)) => (Some(credentials), place),
            None => (None, authority),
        };
        let uri: Uri = format!("http://{place}/")
            .parse()
            .map_err(|_| ProxyError::Unreadable)?;
        let host = uri.host().unwrap_or_default();
        if host.is_empty() {
            return Err(ProxyError::Unreadable);
        }
        Ok(Self {
            host: bare(host).to_owned(),
            port: uri.port_u16().unwrap_or(80),
            authorization: credentials.map(basic).transpose()?,
        })
    }
}

/// `Basic` credentials (RFC 7617) from the user part of a URL.
fn basic(credentials: &str) -> Result<Secret<HeaderValue>, ProxyError> {
    let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
    let mut plain: Vec<u8> = percent_decode_str(user).collect();
    plain.push(b':');
    plain.extend(percent_decode_str(password));
    let value = format!("Basic {}", BASE64.encode(&plain));
    let value = HeaderValue::from_str(&value).map_err(|_| ProxyError::Unreadable)?;
    Ok(Secret::new(value))
}

fn bare(host: &str) -> &str {
    host.strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host)
}

fn exempt(entry: &str) -> Option<Exempt> {
    let entry = entry.trim();
    let whole = |host| Some(Exempt { host, port: None });
    if entry == "*" {
        return whole(ExemptHost::All);
    }
    if let Some(net) = net(entry) {
        return whole(ExemptHost::Net(net));
    }
    let (host, port) = match entry.rsplit_once(':') {
        Some((host, port)) => (host, Some(port.parse().ok()?)),
        None => (entry, None),
    };
    let host = match net(host) {
        Some(net) => ExemptHost::Net(net),
        None => {
            let domain = host.strip_prefix("*.").unwrap_or(host);
            let domain = domain.trim_matches('.').to_ascii_lowercase();
            ExemptHost::Domain(Some(domain).filter(|domain| !domain.is_empty())?)
        }
    };
    Some(Exempt { host, port })
}

fn net(text: &str) -> Option<IpNet> {
    let text = bare(text);
    let single = || text.parse::<IpAddr>().ok().map(IpNet::from);
    text.parse().ok().or_else(single)
}

impl Exempt {
    fn covers(&self, host: &str, port: u16) -> bool {
        if self.port.is_some_and(|only| only != port) {
            return false;
        }
        match &self.host {
            ExemptHost::All => true,
            ExemptHost::Net(net) => host.parse::<IpAddr>().is_ok_and(|ip| net.contains(&ip)),
            ExemptHost::Domain(domain) => {
                let host = host.trim_end_matches('.').to_ascii_lowercase();
                host.strip_suffix(domain)
                    .is_some_and(|above| above.is_empty() || above.ends_with('.'))
            }
        }
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({}:{})", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(text: &str) -> Proxy {
        Proxies::parse(text, "").unwrap().proxy.unwrap()
    }

    #[test]
    fn proxies_are_read_as_people_write_them() {
        for (text, host, port) in [
            ("http://proxy.example:3128", "proxy.example", 3128),
            ("http://proxy.example:3128/", "proxy.example", 3128),
            ("proxy.example:3128", "proxy.example", 3128),
            ("HTTP://10.0.0.1", "10.0.0.1", 80),
            ("http://[2001:db8::1]:8080", "2001:db8::1", 8080),
            ("http://a%40b:p%3Aw@proxy.example:1", "proxy.example", 1),
        ] {
            let proxy = proxy(text);
            assert_eq!((proxy.host.as_str(), proxy.port), (host, port), "{text}");
        }
        assert_eq!(Proxies::parse(" ", "").unwrap(), Proxies::none());
    }

    #[test]
    fn credentials_are_decoded_and_never_printed() {
        let proxy = proxy("http://us%40er:p%3Ass@proxy.example:3128");
        let expected = format!("Basic {}", BASE64.encode(b"us@er:p:ss"));
        let authorization = proxy.authorization.clone().unwrap();
        assert_eq!(authorization.expose().to_str().unwrap(), expected);
        assert_eq!(format!("{proxy:?}"), "Proxy(proxy.example:3128)");
    }

    #[test]
    fn what_is_no_proxy_is_refused_without_showing_it() {
        for text in ["http://", "http://:80", "http://a b", "http://u:secret@"] {
            let error = Proxies::parse(text, "").unwrap_err();
            assert_eq!(error, ProxyError::Unreadable, "{text}");
            assert!(!error.to_string().contains("secret"));
        }
        for scheme in ["https", "socks5"] {
            let error = Proxies::parse(&format!("{scheme}://proxy:1"), "").unwrap_err();
            assert!(matches!(error, ProxyError::Scheme { .. }), "{error}");
        }
    }

    #[test]
    fn no_proxy_names_domains_addresses_networks_and_ports() {
        let all = "example.com, .local,*.corp,10.0.0.0/8,2001:db8::/32,192.0.2.7,[::1],port.test:8443,,x:y";
        let proxies = Proxies::parse("http://proxy:1", all).unwrap();
        let direct = |host: &str, port| proxies.on_the_way_to(host, port).is_none();
        for host in [
            "example.com",
            "a.example.com",
            "EXAMPLE.com.",
            "x.local",
            "a.corp",
            "10.1.2.3",
            "2001:db8::9",
            "192.0.2.7",
            "::1",
        ] {
            assert!(direct(host, 443), "{host}");
        }
        for host in [
            "badexample.com",
            "example.org",
            "192.0.2.8",
            "11.0.0.1",
            "x",
        ] {
            assert!(!direct(host, 443), "{host}");
        }
        assert!(direct("port.test", 8443) && !direct("port.test", 443));
        let everything = Proxies::parse("http://proxy:1", "*").unwrap();
        assert!(everything.on_the_way_to("example.org", 443).is_none());
    }
}
