//! What self-probes and doctors find, as JSON. The schema only grows.

use serde::{Deserialize, Serialize};

use crate::codes::Code;
use crate::times::WallTime;

/// Whether a tunnel works from end to end, found by asking for it through its public name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeJson {
    /// `works`, `broken`, or `unchecked` when it cannot be told from where the client is.
    pub state: String,
    /// When it was asked.
    pub at: WallTime,
    /// What is wrong: `name`, `connection`, `tls`, `answer`, `proof`; `certificate` beside `works` when
    /// visitors are warned of the certificate.
    #[serde(default)]
    pub cause: Option<String>,
    /// One sentence.
    pub detail: String,
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckState {
    /// Nothing to do.
    Ok,
    /// It works, and could work better; or it cannot be told from here.
    Warn,
    /// Something does not work.
    Fail,
}

/// One thing that a doctor looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckJson {
    /// `daemon`, `joined`, `server`, `dns`, `udp`, `tcp`, `certificate`, `clock`, `socket_buffers`, `mtu`,
    /// `origin`, `probe`.
    pub name: String,
    /// The tunnel's name, of checks that are made for each.
    #[serde(default)]
    pub tunnel: Option<String>,
    /// How it ended.
    pub state: CheckState,
    /// What was found, one sentence.
    pub what: String,
    /// What to do about it; null when there is nothing to do.
    #[serde(default)]
    pub fix: Option<String>,
}

/// `GET /v1/doctor`, and what `doctor --json` prints.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoctorJson {
    /// In the order in which they are worth reading.
    pub checks: Vec<CheckJson>,
}

impl CheckJson {
    /// All is well.
    pub fn ok(name: &str, what: impl Into<String>) -> Self {
        Self {
            name: name.to_owned(),
            tunnel: None,
            state: CheckState::Ok,
            what: what.into(),
            fix: None,
        }
    }

    /// Something could be better.
    pub fn warn(name: &str, what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            state: CheckState::Warn,
            fix: Some(fix.into()),
            ..Self::ok(name, what)
        }
    }

    /// Something does not work.
    pub fn fail(name: &str, what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            state: CheckState::Fail,
            ..Self::warn(name, what, fix)
        }
    }

    /// The same, of one tunnel.
    #[must_use]
    pub fn of(self, tunnel: impl Into<String>) -> Self {
        Self {
            tunnel: Some(tunnel.into()),
            ..self
        }
    }

    /// What a failure of this check is in the table of codes.
    fn code(&self) -> Code {
        match self.name.as_str() {
            "daemon" => Code::DaemonUnreachable,
            "server" => Code::ServerUnreachable,
            "origin" => Code::OriginUnreachable,
            _ => Code::Internal,
        }
    }
}

impl DoctorJson {
    /// The exit code: of several failures that of the one nearest to us; warnings are none.
    pub fn exit(&self) -> u8 {
        let failed = self.checks.iter().filter(|c| c.state == CheckState::Fail);
        let code = failed.map(CheckJson::code).min_by_key(|code| match code {
            Code::DaemonUnreachable => 0,
            Code::ServerUnreachable => 1,
            Code::OriginUnreachable => 2,
            _ => 3,
        });
        code.map_or(0, |code| code.row().exit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_failure_decides_the_exit_code() {
        let doctor = |failed: &[&str]| {
            let ok = CheckJson::ok("clock", "right");
            let warn = CheckJson::warn("mtu", "small", "look");
            let failed = failed.iter().map(|name| CheckJson::fail(name, "x", "y"));
            let checks = [ok, warn].into_iter().chain(failed).collect();
            DoctorJson { checks }.exit()
        };
        assert_eq!(doctor(&[]), 0, "warnings are no failures");
        assert_eq!(doctor(&["dns"]), 1);
        assert_eq!(doctor(&["dns", "origin"]), 8);
        assert_eq!(doctor(&["origin", "server", "udp"]), 7);
        assert_eq!(doctor(&["socket_buffers", "daemon"]), 3);
    }

    #[test]
    fn a_check_is_a_name_a_state_what_and_fix() {
        let check = CheckJson::fail("origin", "nothing listens", "start it").of("app");
        let text = serde_json::to_string(&check).unwrap();
        assert_eq!(
            text,
            r#"{"name":"origin","tunnel":"app","state":"fail","what":"nothing listens","fix":"start it"}"#
        );
    }
}
