//! Users, join tokens and devices: who may link at all. A key that was revoked, or has left, is refused for
//! ever; whoever comes back comes with a new key and a new token.

use std::net::SocketAddr;
use std::time::Duration;

use super::entry::{Asked, Engine, audit};
use super::lifecycle::Ending;
use super::limits::{Act, Source};
use super::persist::{RowKey, Work};
use super::state::{Device, Invite, Who};
use super::timers::Timer;
use super::{
    Action, Answer, AskError, AuditRow, Change, DeviceRow, InviteRow, Requester, TunnelState,
    UserRow,
};
use crate::codes::Code;
use crate::names::{DeviceId, InviteId, Pin, UserId};
use crate::times::{Now, WallTime};

/// How long after its end a join token is still known as expired or used, rather than as none.
const REMEMBER_INVITE: Duration = Duration::from_secs(86_400);

/// The most bytes of a device's name.
const DEVICE_NAME: usize = 128;

/// The most characters of a user's name.
const USER_NAME: usize = 40;

/// Who wants to become a device.
pub(super) struct Newcomer {
    pub(super) peer: SocketAddr,
    pub(super) secret_hash: [u8; 32],
    pub(super) pin: Pin,
    pub(super) name: String,
    pub(super) id: DeviceId,
}

/// The join token that the operator wishes for.
pub(super) struct Wish {
    pub(super) user: String,
    pub(super) user_id: UserId,
    pub(super) id: InviteId,
    pub(super) secret_hash: [u8; 32],
    pub(super) uses: u32,
    pub(super) expires_at: WallTime,
}

impl Engine {
    /// The device of a key that proved itself in a handshake.
    pub fn device_of(&self, pin: &Pin) -> Result<DeviceId, AskError> {
        let device = self.pins.get(pin).and_then(|id| self.devices.get(id));
        match device {
            None => Err(AskError::NotEnrolled),
            Some(device) if device.is_revoked() => Err(AskError::Revoked),
            Some(device) => Ok(device.row.id),
        }
    }

    /// The operator makes a join token, and its user on first use.
    pub(super) fn invite(&mut self, now: Now, from: Requester, wish: Wish) -> Asked {
        if !is_user_name(&wish.user) {
            return Err(AskError::BadName {
                name: shorten(&wish.user),
                what: "user",
            });
        }
        if wish.uses == 0 {
            return Err(AskError::NoUses);
        }
        if wish.expires_at <= now.wall {
            return Err(AskError::AlreadyExpired);
        }
        if !self.may_wait() {
            return Err(AskError::Busy);
        }
        self.write_invite(now, from, wish);
        Ok(None)
    }

    fn write_invite(&mut self, now: Now, from: Requester, wish: Wish) {
        let who = self.who(from);
        let (mut changes, mut lines) = (Vec::new(), Vec::new());
        let known = self.users.values().find(|user| user.name == wish.user);
        let (owner, new) = match known {
            Some(user) => (user.id, None),
            None => {
                let user = UserRow {
                    id: wish.user_id,
                    name: wish.user.clone(),
                    created_at: now.wall,
                    suspended_at: None,
                };
                changes.push(Change::User(user.clone()));
                lines.push(audit(now, who, "user.create", user.id, &*user.name));
                (user.id, Some(user))
            }
        };
        let row = InviteRow {
            id: wish.id,
            user: owner,
            secret_hash: wish.secret_hash,
            uses_left: wish.uses,
            created_at: now.wall,
            expires_at: wish.expires_at,
            revoked_at: None,
        };
        let detail = format!("{} uses {}", wish.user, wish.uses);
        changes.push(Change::Invite(row.clone()));
        lines.push(audit(now, who, "invite.create", row.id, detail));
        let founding = new.is_some();
        let user = new;
        let ticket = self.persist(changes, lines, Work::Invite { user, row, from });
        if founding {
            self.founding.insert(wish.user, ticket);
        }
    }

    /// The token is on disk, and works.
    pub(super) fn invited(&mut self, user: Option<UserRow>, row: InviteRow, from: Requester) {
        if let Some(user) = user {
            self.founding.remove(&user.name);
            self.users.insert(user.id, user);
        }
        let expires_at = row.expires_at;
        self.remember_invite(row);
        self.answer(from, Ok(Some(Answer::Invited { expires_at })));
    }

    /// It could not be written: it never worked.
    pub(super) fn not_invited(&mut self, user: Option<UserRow>, from: Requester, error: AskError) {
        if let Some(user) = user {
            self.founding.remove(&user.name);
        }
        self.answer(from, Err(error));
    }

    pub(super) fn remember_invite(&mut self, row: InviteRow) {
        let id = row.id;
        self.secrets.insert(row.secret_hash, id);
        let unsaved = None;
        self.invites.insert(id, Invite { row, unsaved });
        self.remember_invite_for_a_while(id);
    }

    pub(super) fn remember_invite_for_a_while(&mut self, id: InviteId) {
        if let Some(invite) = self.invites.get(&id) {
            let at = invite.row.expires_at.plus(REMEMBER_INVITE);
            self.timers.set_wall(Timer::ForgetInvite(id), at);
        }
    }

    pub(super) fn forget_invite(&mut self, id: InviteId) {
        // One whose withdrawal is still to be written comes back here after that.
        if self.invites.get(&id).is_some_and(|i| i.unsaved.is_none())
            && let Some(invite) = self.invites.remove(&id)
        {
            self.secrets.remove(&invite.row.secret_hash);
        }
    }

    /// A newcomer uses a join token. The token is judged before the key, so that nobody without one
    /// learns anything about keys.
    pub(super) fn enroll(&mut self, now: Now, from: Requester, new: Newcomer) -> Asked {
        let source = Source::from(new.peer.ip());
        self.source_has_room(now, Act::FailedJoin, source)
            .map_err(|retry_in| AskError::TooOften { retry_in })?;
        let asked = self.enroll_with(now, from, new);
        if let Err(AskError::BadToken | AskError::TokenExpired | AskError::TokenUsed) = asked {
            // Only what failed counts: an office that joins at once is no flood.
            let _ = self.source_may(now, Act::FailedJoin, source);
        }
        asked
    }

    fn enroll_with(&mut self, now: Now, from: Requester, new: Newcomer) -> Asked {
        let invite = self.judge_token(now, &new.secret_hash)?;
        let (id, user, uses_left) = (invite.id, invite.user, invite.uses_left);
        match self.device_of(&new.pin) {
            // The answer to its first enrolment may have been lost, and the token used up by it.
            Ok(device) => return self.enrolled_already(device, user).map(Some),
            Err(AskError::NotEnrolled) => {}
            Err(error) => return Err(error),
        }
        if uses_left == 0 {
            return Err(AskError::TokenUsed);
        }
        if !is_device_name(&new.name) {
            return Err(AskError::BadName {
                name: shorten(&new.name),
                what: "device",
            });
        }
        if !self.may_wait() {
            return Err(AskError::Busy);
        }
        self.write_device(now, from, id, user, new);
        Ok(None)
    }

    /// The token's row, whether or not uses are left.
    fn judge_token(&self, now: Now, secret_hash: &[u8; 32]) -> Result<&InviteRow, AskError> {
        let id = self.secrets.get(secret_hash).ok_or(AskError::BadToken)?;
        let row = &self.invites.get(id).ok_or(AskError::BadToken)?.row;
        if row.revoked_at.is_some() {
            Err(AskError::BadToken)
        } else if row.expires_at <= now.wall {
            Err(AskError::TokenExpired)
        } else {
            Ok(row)
        }
    }

    fn enrolled_already(&self, device: DeviceId, user: UserId) -> Result<Answer, AskError> {
        let row = self.devices.get(&device).map(|d| &d.row);
        if row.is_none_or(|row| row.user != user) {
            return Err(AskError::NotYours);
        }
        let user = self.user_name(user).unwrap_or_default().to_owned();
        Ok(Answer::Enrolled { device, user })
    }

    /// Reserves one use of the token and asks for the commit of both.
    fn write_device(
        &mut self,
        now: Now,
        from: Requester,
        invite: InviteId,
        user: UserId,
        new: Newcomer,
    ) {
        let Some(token) = self.invites.get_mut(&invite) else {
            return;
        };
        token.row.uses_left -= 1;
        let row = DeviceRow {
            id: new.id,
            user,
            pin: new.pin,
            name: new.name,
            created_at: now.wall,
            revoked_at: None,
            suspended_at: None,
        };
        let changes = vec![
            Change::Invite(token.row.clone()),
            Change::Device(row.clone()),
        ];
        let who = Who {
            actor: from.actor(None),
            peer: Some(new.peer),
        };
        let detail = format!("{} with {invite}", row.name);
        let line = audit(now, who, "device.enroll", row.id, detail);
        let pin = row.pin;
        let work = Work::Enroll { row, invite, from };
        let ticket = self.persist(changes, vec![line], work);
        self.enrolling.insert(pin, ticket);
    }

    /// The device is on disk, and may link.
    pub(super) fn enrolled(&mut self, now: Now, row: DeviceRow, from: Requester) {
        self.enrolling.remove(&row.pin);
        let user = self.user_name(row.user).unwrap_or_default().to_owned();
        let device = row.id;
        self.remember_device(now, row);
        self.answer(from, Ok(Some(Answer::Enrolled { device, user })));
    }

    /// It could not be written: the token keeps its use.
    pub(super) fn not_enrolled(
        &mut self,
        row: &DeviceRow,
        invite: InviteId,
        from: Requester,
        error: AskError,
    ) {
        self.enrolling.remove(&row.pin);
        if let Some(invite) = self.invites.get_mut(&invite) {
            invite.row.uses_left += 1;
        }
        self.answer(from, Err(error));
    }

    pub(super) fn remember_device(&mut self, now: Now, row: DeviceRow) {
        // Of two rows with one key the revoked one counts: a revocation never un-happens.
        if row.revoked_at.is_some() || !self.pins.contains_key(&row.pin) {
            self.pins.insert(row.pin, row.id);
        }
        self.devices.insert(row.id, Device::new(row, now.monotonic));
    }

    /// A client gives up its tunnels and its enrolment. Its link stays until that is on disk, to
    /// carry the answer.
    pub(super) fn leave(&mut self, now: Now, from: Requester) -> Asked {
        let id = self.asker(from)?;
        let who = self.who(from);
        self.end_device(now, from, id, who, Departure::LEFT)
    }

    /// The operator revokes a device or a join token.
    pub(super) fn revoke(&mut self, now: Now, from: Requester, what: &str) -> Asked {
        if !matches!(from, Requester::Admin { .. }) {
            let what = shorten(what);
            return Err(AskError::NotFound { what });
        }
        if let Ok(id) = what.parse() {
            return self.revoke_invite(now, from, id);
        }
        if let Ok(id) = what.parse() {
            return self.revoke_share(now, from, id);
        }
        let id = self.find_device(what)?;
        let link = self.devices.get(&id).and_then(|d| d.link.as_ref());
        if let Some(link) = link.map(|live| live.id) {
            self.unlink(link);
            let code = Code::Revoked;
            self.act(Action::CutLink { link, code });
        }
        let who = self.who(from);
        self.end_device(now, from, id, who, Departure::REVOKED)
    }

    pub(super) fn find_device(&self, what: &str) -> Result<DeviceId, AskError> {
        let not_found = || AskError::NotFound {
            what: shorten(what),
        };
        if let Ok(id) = what.parse() {
            return self.devices.get(&id).map(|_| id).ok_or_else(not_found);
        }
        let mut named = self
            .devices
            .values()
            .filter(|d| !d.is_revoked() && d.row.name == what);
        match (named.next(), named.next()) {
            (Some(device), None) => Ok(device.row.id),
            (None, _) => Err(not_found()),
            (Some(_), Some(_)) => Err(AskError::Ambiguous {
                what: shorten(what),
            }),
        }
    }

    fn revoke_invite(&mut self, now: Now, from: Requester, id: InviteId) -> Asked {
        let invite = self
            .invites
            .get_mut(&id)
            .ok_or_else(|| AskError::NotFound {
                what: id.to_string(),
            })?;
        if invite.row.revoked_at.is_some() {
            let unsaved = invite.unsaved;
            return self.after_commit(unsaved, from, Answer::Revoked);
        }
        invite.row.revoked_at = Some(now.wall);
        let line = audit(now, self.who(from), "invite.revoke", id, "");
        let rows = vec![RowKey::Invite(id)];
        self.restrict(rows, vec![line], Some((from, Answer::Revoked)));
        Ok(None)
    }

    /// Revokes a device and ends its tunnels, in one transaction.
    fn end_device(
        &mut self,
        now: Now,
        from: Requester,
        id: DeviceId,
        who: Who,
        departure: Departure,
    ) -> Asked {
        let Some(device) = self.devices.get_mut(&id) else {
            return Err(AskError::NotEnrolled);
        };
        if device.is_revoked() {
            let unsaved = device.unsaved;
            return self.after_commit(unsaved, from, departure.answer);
        }
        device.row.revoked_at = Some(now.wall);
        let name = device.row.name.clone();
        let (mut rows, mut lines) = self.end_tunnels(now, id, who, departure.why);
        rows.push(RowKey::Device(id));
        lines.push(audit(now, who, departure.action, id, name));
        self.restrict(rows, lines, Some((from, departure.answer)));
        Ok(None)
    }

    fn end_tunnels(
        &mut self,
        now: Now,
        id: DeviceId,
        who: Who,
        why: &'static str,
    ) -> (Vec<RowKey>, Vec<AuditRow>) {
        let ending = Ending {
            state: TunnelState::Closed,
            who,
            why,
            tell: false,
        };
        let mut lines = Vec::new();
        let mut rows = Vec::new();
        for tunnel in self.tunnels_of(id) {
            lines.extend(self.shut(now, tunnel, ending));
            rows.push(RowKey::Tunnel(tunnel));
        }
        (rows, lines)
    }

    /// A device's end is on disk, and it was told: the link it left over has no more use.
    pub(super) fn dismiss(&mut self, id: DeviceId) {
        let link = self.devices.get(&id).and_then(|d| d.link.as_ref());
        if let Some(link) = link.map(|live| live.id) {
            self.unlink(link);
            let code = Code::Done;
            self.act(Action::CutLink { link, code });
        }
    }
}

/// How a device goes.
struct Departure {
    action: &'static str,
    why: &'static str,
    answer: Answer,
}

impl Departure {
    const LEFT: Self = Self {
        action: "device.leave",
        why: "device left",
        answer: Answer::Left,
    };
    const REVOKED: Self = Self {
        action: "device.revoke",
        why: "device revoked",
        answer: Answer::Revoked,
    };
}

/// 1 to 40 of `a-z 0-9 . _ -`.
fn is_user_name(name: &str) -> bool {
    (1..=USER_NAME).contains(&name.len())
        && name
            .bytes()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'))
}

/// Something printable that is not mistaken for an id.
fn is_device_name(name: &str) -> bool {
    (1..=DEVICE_NAME).contains(&name.len())
        && !name.contains(char::is_control)
        && name.parse::<DeviceId>().is_err()
        && name.parse::<InviteId>().is_err()
}

/// As much of a text as an error should repeat.
fn shorten(text: &str) -> String {
    text.chars().take(64).collect()
}
