//! `[site]` of server.toml: what the operator says to the world at the base domain.

use super::file::Node;
use super::section::{Fix, Section};
use super::values::{switch, text};
use crate::names::Hostname;

/// The most contacts that are named.
const CONTACTS_MAX: usize = 8;

/// `[site]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SiteConfig {
    /// Where `https://<domain>/` sends on to; None = a page of its own.
    pub redirect: Option<String>,
    /// Where abuse is reported, as URIs.
    pub contacts: Vec<String>,
    /// Whether search engines may take what tunnels show.
    pub may_index: bool,
    /// Whether browsers see a page before their first visit to a tunnel.
    pub interstitial: bool,
}

pub(super) fn site(mut section: Section<'_>) -> SiteConfig {
    let redirect = section.get("redirect", web);
    let contacts = section.list("contacts", "\"mailto:abuse@example.com\"", contact);
    if contacts
        .as_ref()
        .is_some_and(|list| list.len() > CONTACTS_MAX)
    {
        let what = format!("has more than {CONTACTS_MAX} contacts; write fewer");
        section.object("contacts", what);
    }
    let may_index = section.get("may_index", switch).unwrap_or_default();
    let interstitial = section.get("interstitial", switch).unwrap_or_default();
    section.finish();
    SiteConfig {
        redirect,
        contacts: contacts.unwrap_or_default(),
        may_index,
        interstitial,
    }
}

/// An address of the web: it stands in a header and in a page.
fn web(node: &Node) -> Result<String, Fix> {
    let text = text(node)?;
    let bad = || format!("{text:?} is no address of the web; write \"https://example.com/\"");
    let rest = (text.strip_prefix("https://"))
        .or_else(|| text.strip_prefix("http://"))
        .ok_or_else(bad)?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let (host, port) = authority.split_once(':').unwrap_or((authority, "443"));
    let is_port = port.parse::<u16>().is_ok();
    if Hostname::parse(host).is_err() || !is_port || !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(bad());
    }
    Ok(text)
}

fn contact(node: &Node) -> Result<String, Fix> {
    let text = text(node)?;
    let is_mail = |mail: &str| {
        let host = mail.split_once('@').map(|(_, host)| host);
        mail.bytes().all(|b| b.is_ascii_graphic())
            && !mail.starts_with('@')
            && host.is_some_and(|host| Hostname::parse(host).is_ok())
    };
    match text.strip_prefix("mailto:") {
        Some(mail) if is_mail(mail) => Ok(text),
        None if text.starts_with("https://") => web(node),
        None if is_mail(&text) => Err(format!("{text:?} is no URI; write \"mailto:{text}\"")),
        _ => Err(format!(
            "{text:?} is no contact; write \"mailto:abuse@example.com\" or \"https://…\""
        )),
    }
}
