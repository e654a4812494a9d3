//! What policy and limits are asked with: a visit's request, a change of a policy, a share link.

use std::num::NonZeroU64;
use std::time::Duration;

use ::http::Method;

use super::limits::Visitor;
use super::policy::{PasswordHash, PathPattern, Policy};
use crate::names::{DeviceId, ShareId, Slug, TunnelId, UserId};
use crate::secret::Secret;
use crate::times::WallTime;

/// What a visit asks for over HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpAsk {
    /// Its method.
    pub method: Method,
    /// Its path and query: the very bytes that are forwarded.
    pub path: String,
    /// What `Authorization: Basic` says.
    pub credentials: Option<Credentials>,
    /// The share whose cookie it carries; the proof was checked with [`super::policy::share::proves`].
    pub share: Option<ShareId>,
}

impl HttpAsk {
    /// A request of somebody who says nothing of themselves.
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        Self {
            method,
            path: path.into(),
            credentials: None,
            share: None,
        }
    }
}

/// What a visitor says to be let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user name.
    pub user: String,
    /// A keyed digest of user name and password; the same for the same, and of no use to who finds it.
    pub digest: [u8; 32],
    /// For the role, which checks it; the engine neither looks at it nor keeps it.
    pub password: Secret<String>,
    /// What came of a check that [`super::Admission::Verify`] asked for.
    pub checked: Option<Checked>,
    /// The check could not be made. Where credentials are only told of, it is not asked for again.
    pub given_up: bool,
}

/// What came of checking a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// Against what it was checked.
    pub hash: PasswordHash,
    /// Whether it fits.
    pub right: bool,
}

/// A password that has to be checked, outside the lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verification {
    /// Whose visit.
    pub tunnel: TunnelId,
    /// Whose tunnel: owners' checks go by turns.
    pub owner: UserId,
    /// Its name, for who is refused.
    pub realm: Slug,
    /// Check the password against this, also when there is no such user: then it is somebody else's, so
    /// that the time taken tells nothing.
    pub hash: PasswordHash,
    /// What comes of it is only told of, and keeps nobody out.
    pub shadow: bool,
}

/// Bytes a second that a visit may move, each way; to be shared with the other visits of the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bandwidth {
    /// Whose address it is, for the second.
    pub from: Visitor,
    /// Whose tunnel it is, for the last two.
    pub owner: Option<(DeviceId, UserId)>,
    /// All visits of the tunnel together.
    pub tunnel: Option<NonZeroU64>,
    /// All visits of this visitor to the tunnel together.
    pub visitor: Option<NonZeroU64>,
    /// All visits to tunnels of the device together.
    pub device: Option<NonZeroU64>,
    /// All visits to tunnels of the user together.
    pub user: Option<NonZeroU64>,
}

impl Bandwidth {
    /// No bound at all, for what is no visit.
    pub const UNLIMITED: Self = Self {
        from: Visitor::V4([0; 4]),
        owner: None,
        tunnel: None,
        visitor: None,
        device: None,
        user: None,
    };
}

/// A change of a tunnel: of its policy, of its life, or of both at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetAsk {
    /// The tunnel.
    pub tunnel: TunnelId,
    /// What the named parts are to be; none: the policy stays.
    pub policy: Option<Policy>,
    /// Parts as the document calls them (`auth`, `limits`…); empty: the whole policy.
    pub parts: Vec<String>,
    /// What is to be of its life.
    pub life: LifeAsk,
}

/// A change of a tunnel's life, its hold and its labels. What is absent stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LifeAsk {
    /// When it ends, from now on and by the engine's clock; Some(None) = never.
    pub expires_in: Option<Option<Duration>>,
    /// After how long without a visit it closes, counted anew; Some(None) = never.
    pub idle: Option<Option<Duration>>,
    /// How long visits wait for an absent link.
    pub hold: Option<Duration>,
    /// All its labels.
    pub labels: Option<Vec<(String, String)>>,
}

impl LifeAsk {
    /// Whether everything stays.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A share link that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareAsk {
    /// A fresh id.
    pub id: ShareId,
    /// The tunnel it lets into.
    pub tunnel: TunnelId,
    /// The only methods it is for; empty: all that the tunnel allows.
    pub methods: Vec<Method>,
    /// The only paths it is for; empty: all that the tunnel allows.
    pub paths: Vec<PathPattern>,
    /// How many visitors may open it; None = any number.
    pub uses: Option<u32>,
    /// When it stops working; the tunnel's own end if that is earlier.
    pub expires_at: WallTime,
}
