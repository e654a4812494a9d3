//! Addresses as text, without the formatter, which takes ten times as long: each visit writes its visitor's
//! several times. Only what is common is done here; IPv6 is left to the formatter.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

/// The longest text of an IPv4 address with a port.
const IPV4_MAX: usize = 21;

/// An IP address.
pub fn ip_text(ip: IpAddr) -> String {
    let mut out = String::with_capacity(IPV4_MAX);
    put_ip(&mut out, ip);
    out
}

/// An IP address and a port.
pub fn address_text(addr: SocketAddr) -> String {
    if addr.is_ipv6() {
        return addr.to_string();
    }
    let mut out = String::with_capacity(IPV4_MAX);
    put_ip(&mut out, addr.ip());
    out.push(':');
    put_number(&mut out, addr.port());
    out
}

fn put_ip(out: &mut String, ip: IpAddr) {
    let IpAddr::V4(ip) = ip else {
        // Writing to a text cannot fail.
        let _ = write!(out, "{ip}");
        return;
    };
    for (at, octet) in ip.octets().into_iter().enumerate() {
        if at > 0 {
            out.push('.');
        }
        put_number(out, octet.into());
    }
}

fn put_number(out: &mut String, number: u16) {
    let digits = [10_000, 1000, 100, 10, 1].map(|unit| b'0' + (number / unit % 10) as u8);
    let first = digits.iter().position(|digit| *digit != b'0').unwrap_or(4);
    digits[first..]
        .iter()
        .for_each(|digit| out.push(char::from(*digit)));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn addresses_read_as_the_formatter_writes_them(addr: SocketAddr) {
            prop_assert_eq!(address_text(addr), addr.to_string());
            prop_assert_eq!(ip_text(addr.ip()), addr.ip().to_string());
        }
    }

    #[test]
    fn every_number_has_its_digits() {
        for number in 0..=u16::MAX {
            let mut out = String::new();
            put_number(&mut out, number);
            assert_eq!(out, number.to_string());
        }
    }
}
