//! How single values are written, and what to tell those who wrote them otherwise. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Component, PathBuf};
use std::time::Duration;

use super::file::Node;
use super::section::Fix;
use crate::names::Hostname;
use crate::times;

/// Any text.
pub(super) fn text(node: &Node) -> Result<String, Fix> {
    match node {
        Node::Text(text) if text.trim().is_empty() => Err("is empty; leave it out".into()),
        Node::Text(text) => Ok(text.clone()),
        other => Err(format!("is {}; write it in quotes", other.what())),
    }
}

/// `true` or `false`.
pub(super) fn switch(node: &Node) -> Result<bool, Fix> {
    match node {
        Node::Switch(switch) => Ok(*switch),
        other => Err(format!(
            "is {}; write true or false, without quotes",
            other.what()
        )),
    }
}

/// `30s`, `8h`; zero is refused with the reason given.
pub(super) fn duration(zero: &'static str) -> impl Fn(&Node) -> Result<Duration, Fix> {
    move |node| {
        if let Node::Integer(number) = node {
            return Err(format!("{number} has no unit; write \"{number}s\""));
        }
        let duration = times::parse_duration(text(node)?.trim()).map_err(|err| err.to_string())?;
        if duration.is_zero() {
            return Err(format!("0 {zero}"));
        }
        Ok(duration)
    }
}

/// The same, or `never`.
pub(super) fn duration_or_never(
    zero: &'static str,
) -> impl Fn(&Node) -> Result<Option<Duration>, Fix> {
    move |node| match node {
        Node::Text(text) if text == "never" => Ok(None),
        node => duration(zero)(node).map(Some),
    }
}

/// A whole number in a range.
pub(super) fn count(least: usize, most: usize) -> impl Fn(&Node) -> Result<usize, Fix> {
    move |node| match node {
        Node::Integer(number) => usize::try_from(*number)
            .ok()
            .filter(|number| (least..=most).contains(number))
            .ok_or_else(|| format!("{number} is out of range; write {least} to {most}")),
        Node::Text(text) if text.parse::<u64>().is_ok() => {
            Err(format!("{text:?} is in quotes; write {text}"))
        }
        other => Err(format!("is {}; write a whole number", other.what())),
    }
}

/// An address to listen on: `ip:port`.
pub(super) fn address(default_port: u16) -> impl Fn(&Node) -> Result<SocketAddr, Fix> {
    move |node| {
        let text = match node {
            Node::Integer(port) => {
                return Err(format!("{port} is only a port; write \"[::]:{port}\""));
            }
            node => text(node)?,
        };
        text.parse()
            .map_err(|_| why_no_address(&text, default_port))
    }
}

fn why_no_address(text: &str, default_port: u16) -> Fix {
    let port = |text: &str| text.parse::<u16>().ok();
    if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        let full = SocketAddr::new(ip, default_port);
        return format!("{text:?} has no port; write \"{full}\"");
    }
    if let Some(port) = port(text.trim_start_matches([':', '*'])) {
        return format!("{text:?} has no address; write \"[::]:{port}\"");
    }
    match text.rsplit_once(':') {
        Some((host, number)) if port(number).is_none() => format!(
            "{text:?} has no port from 0 to 65535; write \"{}:{default_port}\"",
            if host.is_empty() { "[::]" } else { host }
        ),
        Some((host, number)) if host.parse::<Ipv6Addr>().is_ok() => {
            format!("{text:?} wants brackets; write \"[{host}]:{number}\"")
        }
        Some((_, number)) => format!(
            "{text:?} is a name; write an address of this machine, such as \"{}:{number}\"",
            Ipv4Addr::LOCALHOST
        ),
        None => format!("{text:?} is no address; write \"[::]:{default_port}\""),
    }
}

/// A place to send clients to: `host:port`, with a name or an address.
pub(super) fn host_port(default_port: u16) -> impl Fn(&Node) -> Result<String, Fix> {
    move |node| {
        let text = text(node)?;
        if let Ok(address) = text.parse::<SocketAddr>() {
            return if address.ip().is_unspecified() || address.port() == 0 {
                Err(format!(
                    "{text:?} leads nowhere; write an address that clients can reach"
                ))
            } else {
                Ok(address.to_string())
            };
        }
        if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
            let full = SocketAddr::new(ip, default_port);
            return Err(format!("{text:?} has no port; write \"{full}\""));
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return Err(format!(
                "{text:?} has no port; write \"{text}:{default_port}\""
            ));
        };
        let port = port.parse::<u16>().ok().filter(|port| *port != 0);
        match (Hostname::parse(host), port) {
            (Ok(host), Some(port)) => Ok(format!("{host}:{port}")),
            _ => Err(format!(
                "{text:?} is no host and port; write it like \"tunnel.example.com:{default_port}\""
            )),
        }
    }
}

/// The tunnel domain.
pub(super) fn domain(node: &Node) -> Result<Hostname, Fix> {
    // A slug of 40 characters and a dot go in front, and a host name has 253 at most.
    const LONGEST: usize = 253 - 41;
    let text = text(node)?;
    let bare = text
        .rsplit_once("://")
        .map_or(&*text, |(_, rest)| rest)
        .trim_start_matches("*.");
    let bare = bare.split(['/', ':']).next().unwrap_or_default();
    if bare.parse::<Ipv4Addr>().is_ok() || text.parse::<IpAddr>().is_ok() {
        return Err(format!(
            "{text:?} is an address; write a name, since tunnels answer at names below it"
        ));
    }
    let domain = Hostname::parse(&text).map_err(|err| match Hostname::parse(bare) {
        Ok(bare) => format!("{text:?} is more than a host name; write \"{bare}\""),
        Err(_) => format!("{text:?} is no host name ({err}); write \"tunnel.example.com\""),
    })?;
    if domain.as_str().len() > LONGEST {
        return Err(format!(
            "has {} characters; at most {LONGEST} leave room for the tunnels' names",
            domain.as_str().len()
        ));
    }
    Ok(domain)
}

/// An absolute path without `..`.
pub(super) fn path(node: &Node) -> Result<PathBuf, Fix> {
    let text = text(node)?;
    let path = PathBuf::from(&text);
    if text.contains('\0') {
        return Err("has a zero byte inside; no path has".into());
    }
    if text.starts_with('~') {
        return Err(format!(
            "{text:?} is not absolute; write the home directory out"
        ));
    }
    if !path.is_absolute() {
        return Err(format!("{text:?} is not absolute; begin it with \"/\""));
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(format!("{text:?} has \"..\" inside; write it without"));
    }
    Ok(path)
}

/// The path of a Unix socket.
pub(super) fn socket(node: &Node) -> Result<PathBuf, Fix> {
    // What the kernel's sockaddr_un has room for, without the closing zero.
    const LONGEST: usize = 107;
    let path = path(node)?;
    let length = path.as_os_str().len();
    if length > LONGEST {
        return Err(format!(
            "has {length} bytes; a socket's path has {LONGEST} at most"
        ));
    }
    Ok(path)
}

/// `20000-20999`, or one port.
pub(super) fn port_range(node: &Node) -> Result<(u16, u16), Fix> {
    let text = match node {
        Node::Integer(port) => port.to_string(),
        node => text(node)?,
    };
    let (first, last) = text.split_once('-').unwrap_or((&text, &text));
    let port = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port != 0);
    match (port(first), port(last)) {
        (Some(first), Some(last)) if first <= last => Ok((first, last)),
        (Some(first), Some(last)) => {
            Err(format!("{text:?} runs backwards; write \"{last}-{first}\""))
        }
        _ => Err(format!(
            "{text:?} is no range of ports; write it like \"20000-20999\""
        )),
    }
}

/// One of a few words.
pub(super) fn word<T: Copy>(words: &[(&str, T)]) -> impl Fn(&Node) -> Result<T, Fix> {
    move |node| {
        let text = text(node)?;
        let found = words.iter().find(|(word, _)| *word == text);
        found.map(|(_, value)| *value).ok_or_else(|| {
            let words: Vec<_> = words
                .iter()
                .map(|(word, _)| format!("\"{word}\""))
                .collect();
            format!("{text:?} is not known; write {}", words.join(" or "))
        })
    }
}

/// A level, or a filter of tracing's.
pub(super) fn log_level(node: &Node) -> Result<String, Fix> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let text = text(node)?;
    // A lone word that is no level would be read as a module, and everything else fall silent.
    let lone = (text.split(',').map(str::trim))
        .find(|part| !part.contains(['=', '[']) && !LEVELS.contains(part));
    if let Some(part) = lone {
        return Err(format!(
            "{part:?} is no level; write error, warn, info, debug or trace, or \"info,wormkey::edge=debug\""
        ));
    }
    match tracing_subscriber::EnvFilter::builder().parse(&text) {
        Ok(_) => Ok(text),
        Err(err) => Err(format!(
            "{text:?} is no filter ({err}); write it like \"info,wormkey::edge=debug\""
        )),
    }
}
