//! What the outcome of a question means. Pure: what came back and where we are are handed in.

use std::net::IpAddr;

use crate::admin::checks::ProbeJson;
use crate::codes::Code;
use crate::link::outside::{Answer, OutsideError, Trust};
use crate::times::WallTime;

use super::is_private;

const WORKS: &str = "works";
pub(super) const BROKEN: &str = "broken";
const UNCHECKED: &str = "unchecked";

/// What was asked for.
pub(super) struct Asked<'a> {
    pub(super) host: &'a str,
    pub(super) proof: &'a str,
}

/// Where we are, as far as it matters to what can be seen from here.
pub(super) struct Surroundings {
    /// Where the link goes.
    pub(super) server: IpAddr,
    /// What the public name is.
    pub(super) found: Vec<IpAddr>,
}

impl Surroundings {
    /// The link goes to an inner address, and the name to an outer one: both stand behind one router,
    /// and many routers do not let the inside reach their outer address.
    fn is_behind_same_router(&self) -> bool {
        is_private(self.server)
            && !self.is_same_machine()
            && self.found.iter().any(|ip| !is_private(*ip))
    }

    /// The name leads to the very address that the link goes to.
    fn is_same_machine(&self) -> bool {
        let server = self.server.to_canonical();
        self.found.iter().any(|ip| ip.to_canonical() == server)
    }
}

/// Judges one outcome.
pub(super) fn judge(
    outcome: Result<Answer, OutsideError>,
    asked: &Asked<'_>,
    around: &Surroundings,
    at: WallTime,
) -> ProbeJson {
    let said = |state: &str, cause: Option<&str>, detail: String| ProbeJson {
        state: state.to_owned(),
        at,
        cause: cause.map(str::to_owned),
        detail,
    };
    let (cause, detail) = match outcome {
        Ok(answer) if is_proof(&answer, asked.proof) => return works(&answer, asked, said),
        Ok(answer) => wrong(&answer, asked),
        Err(error) => failed(&error, asked),
    };
    // Silence is a firewall's: ours or the server's, and from here they look the same.
    let blind = matches!(
        cause,
        Cause::NoResolver | Cause::NoWay | Cause::Silent | Cause::Busy
    );
    if around.is_behind_same_router() && cause != Cause::Name && !cause.is_ours() {
        let detail = format!(
            "could not check from here: {} is an address of the router that the server is behind, too, and \
             it does not let the inside in ({detail})",
            asked.host
        );
        return said(UNCHECKED, Some(cause.word()), detail);
    }
    let state = if blind { UNCHECKED } else { BROKEN };
    let detail = match state {
        UNCHECKED => format!("could not check from here: {detail}"),
        _ => detail,
    };
    said(state, Some(cause.word()), detail)
}

/// The whole took too long.
pub(super) fn late(host: &str, at: WallTime) -> ProbeJson {
    ProbeJson {
        state: UNCHECKED.to_owned(),
        at,
        cause: Some(Cause::Silent.word().to_owned()),
        detail: format!("could not check from here: {host} gave no answer in time"),
    }
}

/// Where it went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    Name,
    NoResolver,
    Refused,
    Silent,
    NoWay,
    Tls,
    /// An error of our own server.
    Ours,
    /// Our own server has no time: strangers who probe a lot may be the reason, so it says nothing.
    Busy,
    /// Something that is not our server, or not our client.
    Stranger,
}

impl Cause {
    const fn word(self) -> &'static str {
        match self {
            Self::Name | Self::NoResolver => "name",
            Self::Refused | Self::Silent | Self::NoWay => "connection",
            Self::Tls => "tls",
            Self::Ours | Self::Busy => "answer",
            Self::Stranger => "proof",
        }
    }

    /// Whether it was certainly our own server that answered.
    const fn is_ours(self) -> bool {
        matches!(self, Self::Ours | Self::Busy)
    }
}

fn is_proof(answer: &Answer, proof: &str) -> bool {
    answer.status == http::StatusCode::OK && answer.body == proof.as_bytes()
}

fn works(
    answer: &Answer,
    asked: &Asked<'_>,
    said: impl FnOnce(&str, Option<&str>, String) -> ProbeJson,
) -> ProbeJson {
    let warned = match answer.certificate.trust {
        Trust::Vouched => return said(WORKS, None, "it works through its public name".to_owned()),
        Trust::Unvouched => answer.certificate.unvouched(),
        Trust::WrongName => format!("the certificate is not for {}", asked.host),
        Trust::Expired => "the certificate has expired".to_owned(),
        Trust::NotYet => "the certificate is not good yet".to_owned(),
    };
    let detail = format!("it works through its public name; {warned}");
    said(WORKS, Some("certificate"), detail)
}

fn failed(error: &OutsideError, asked: &Asked<'_>) -> (Cause, String) {
    let cause = match error {
        OutsideError::NoAddress { .. } => Cause::Name,
        OutsideError::NoResolver { .. } => Cause::NoResolver,
        OutsideError::Refused { .. } => Cause::Refused,
        OutsideError::Silent { .. } | OutsideError::NoAnswer { .. } => Cause::Silent,
        OutsideError::NoWay { .. } => Cause::NoWay,
        OutsideError::Tls { .. } => Cause::Tls,
        OutsideError::Http { .. } => Cause::Stranger,
    };
    let why = std::error::Error::source(error).map_or_else(String::new, |e| format!(": {e}"));
    let detail = match error {
        OutsideError::NoAddress { .. } | OutsideError::NoResolver { .. } => error.to_string(),
        _ => format!("{}: {error}{why}", asked.host),
    };
    (cause, detail)
}

/// An answer without the proof.
fn wrong(answer: &Answer, asked: &Asked<'_>) -> (Cause, String) {
    let (host, status) = (asked.host, answer.status.as_u16());
    let ours = answer.fields.get("wormkey-error");
    let ours = ours.and_then(|code| code.to_str().ok());
    match ours.and_then(Code::from_name) {
        Some(code) => {
            let cause = match code {
                Code::RateLimited | Code::Overloaded | Code::Draining => Cause::Busy,
                _ => Cause::Ours,
            };
            let why = code.row().cause.trim_end_matches('.');
            let detail = format!("the server answers {status} for {host}: {why}");
            (cause, detail)
        }
        None => {
            let detail = format!(
                "{host} answers {status}, and the answer is not this client's: the name leads somewhere else"
            );
            (Cause::Stranger, detail)
        }
    }
}
