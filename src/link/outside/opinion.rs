//! What doctors think of a certificate and of socket buffers: one sentence, and what to do. Pure.

use std::time::Duration;

use super::{Certificate, Trust};
use crate::link::Buffers;
use crate::times::{WallTime, show_duration};

/// A certificate that ends sooner should have been renewed by now.
const SOON: Duration = Duration::from_secs(14 * 86_400);

/// A finding, how bad it is, and its cure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opinion {
    /// All is well.
    Well(String),
    /// It works, and could be better: what, and what to do.
    Poor(String, String),
    /// It does not work: what, and what to do.
    Bad(String, String),
}

impl Certificate {
    /// What visitors of `host` will make of it.
    pub fn opinion(&self, host: &str, now: WallTime) -> Opinion {
        let left = self.until.map(|until| until.since(now));
        let renew = "renew it, or repair what renews it; the server reads the new one at `wormkeyctl server reload`";
        match self.trust {
            Trust::WrongName => Opinion::Bad(
                format!("the certificate is not for {host}, so browsers refuse it"),
                "have it made for the tunnel domain and its wildcard, *.domain".to_owned(),
            ),
            Trust::Expired => Opinion::Bad(
                "the certificate has expired, so browsers refuse it".to_owned(),
                format!("{renew}; or set this machine's clock, if that is wrong"),
            ),
            Trust::NotYet => Opinion::Bad(
                "the certificate is not good yet".to_owned(),
                "set the clock of this machine, or of the one that made the certificate".to_owned(),
            ),
            Trust::Vouched | Trust::Unvouched if left.is_some_and(|left| left < SOON) => {
                let left = show_duration(left.unwrap_or_default());
                Opinion::Poor(
                    format!("the certificate expires in {left}"),
                    renew.to_owned(),
                )
            }
            Trust::Unvouched => Opinion::Poor(
                self.unvouched(),
                "let the server use one from an authority that browsers know: [tls] mode in server.toml"
                    .to_owned(),
            ),
            Trust::Vouched => Opinion::Well(match left {
                Some(left) => format!("the certificate is good for {}", show_duration(left)),
                None => "the certificate is good".to_owned(),
            }),
        }
    }

    /// Who made a certificate that nobody vouches for.
    pub fn unvouched(&self) -> String {
        match &self.issuer {
            _ if self.self_signed => {
                "the certificate is self-signed, so browsers warn visitors".to_owned()
            }
            Some(issuer) => {
                format!("this machine does not know who issued the certificate: {issuer}")
            }
            None => "this machine does not know who issued the certificate".to_owned(),
        }
    }
}

impl Buffers {
    /// Whether the kernel gives links what they ask for.
    pub fn opinion(self) -> Opinion {
        let kib = |bytes: usize| bytes / 1024;
        let (wanted, receive, send) = (self.wanted, self.receive, self.send);
        if !self.are_capped() {
            let what = format!("UDP sockets get the {} KiB they ask for", kib(wanted));
            return Opinion::Well(what);
        }
        Opinion::Poor(
            format!(
                "UDP sockets ask for {} KiB and get {} to receive, {} to send: large transfers are slower",
                kib(wanted),
                kib(receive),
                kib(send)
            ),
            format!(
                "sudo sysctl -w net.core.rmem_max={wanted} net.core.wmem_max={wanted}; to keep it, a file in /etc/sysctl.d"
            ),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn browsers_that_refuse_are_worse_than_browsers_that_warn() {
        let now = WallTime::from_millis(1_700_000_000_000);
        let opinion = |trust, days: u64, self_signed| {
            let certificate = Certificate {
                issuer: Some("Somebody".to_owned()),
                self_signed,
                until: Some(now.plus(Duration::from_secs(days * 86_400))),
                trust,
            };
            certificate.opinion("app.t.example", now)
        };
        assert!(matches!(
            opinion(Trust::Vouched, 60, false),
            Opinion::Well(_)
        ));
        assert!(matches!(
            opinion(Trust::Vouched, 13, false),
            Opinion::Poor(..)
        ));
        let Opinion::Poor(what, _) = opinion(Trust::Unvouched, 60, true) else {
            panic!("a self-signed certificate works");
        };
        assert!(what.contains("self-signed"), "{what}");
        let Opinion::Poor(what, _) = opinion(Trust::Unvouched, 60, false) else {
            panic!("one's own authority works");
        };
        assert!(what.contains("Somebody"), "{what}");
        for trust in [Trust::WrongName, Trust::Expired, Trust::NotYet] {
            assert!(
                matches!(opinion(trust, 60, true), Opinion::Bad(..)),
                "{trust:?}"
            );
        }
    }

    #[test]
    fn capped_buffers_come_with_the_command_that_cures_them() {
        let buffers = Buffers {
            wanted: 4_194_304,
            receive: 212_992,
            send: 4_194_304,
        };
        let Opinion::Poor(what, fix) = buffers.opinion() else {
            panic!("capped");
        };
        assert!(what.contains("208 to receive"), "{what}");
        assert!(fix.contains("net.core.rmem_max=4194304"), "{fix}");
        let enough = Buffers {
            receive: 4_194_304,
            ..buffers
        };
        assert!(matches!(enough.opinion(), Opinion::Well(_)));
    }
}
