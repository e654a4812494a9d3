//! Who may log in, and with what. Not the checking of a password: that takes long, and is the role's.

use std::fmt;

/// Someone with a password.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AuthUser {
    name: String,
    hash: PasswordHash,
}

/// An argon2id hash in PHC's text form, with costs that checking it may have.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PasswordHash(String);

/// Why someone cannot log in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// No name for HTTP Basic.
    #[error("{name:?} is no user name; use 1 to 64 characters, and no colon")]
    Name {
        /// What was given.
        name: String,
    },
    /// No argon2id hash.
    #[error("the hash is no argon2id hash in PHC form ($argon2id$v=19$m=…,t=…,p=…$salt$hash)")]
    Hash,
    /// An argon2id hash that costs too much or protects too little.
    #[error("the hash has m={memory},t={passes},p={lanes}; m is 8192 to 65536, t 1 to 6, p 1 to 4")]
    Costs {
        /// KiB.
        memory: u32,
        /// How often the memory is gone over.
        passes: u32,
        /// Lanes.
        lanes: u32,
    },
}

impl AuthUser {
    /// Checks both.
    pub fn new(name: &str, hash: &str) -> Result<Self, AuthError> {
        Self::check_name(name)?;
        Ok(Self {
            name: name.to_owned(),
            hash: PasswordHash::new(hash)?,
        })
    }

    /// Whether HTTP Basic can carry a name.
    pub fn check_name(name: &str) -> Result<(), AuthError> {
        let fits = (1..=64).contains(&name.chars().count());
        if !fits || name.contains(|c: char| c == ':' || c.is_control()) {
            let name = name.chars().take(64).collect();
            return Err(AuthError::Name { name });
        }
        Ok(())
    }

    /// The user name of HTTP Basic.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the password must fit.
    pub const fn hash(&self) -> &PasswordHash {
        &self.hash
    }
}

impl PasswordHash {
    /// Checks the form and the costs; whoever writes a policy must not decide how long we work for it.
    pub fn new(text: &str) -> Result<Self, AuthError> {
        let mut parts = text.split('$');
        let mut next = || parts.next().ok_or(AuthError::Hash);
        if (next()?, next()?, next()?) != ("", "argon2id", "v=19") {
            return Err(AuthError::Hash);
        }
        let (memory, passes, lanes) = costs(next()?).ok_or(AuthError::Hash)?;
        let (salt, hash) = (next()?, next()?);
        if parts.next().is_some() || !is_base64(salt, 11..=64) || !is_base64(hash, 22..=86) {
            return Err(AuthError::Hash);
        }
        let fit = (8192..=65_536).contains(&memory)
            && (1..=6).contains(&passes)
            && (1..=4).contains(&lanes);
        if !fit {
            return Err(AuthError::Costs {
                memory,
                passes,
                lanes,
            });
        }
        Ok(Self(text.to_owned()))
    }

    /// The PHC text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

fn costs(text: &str) -> Option<(u32, u32, u32)> {
    let mut parts = text.split(',');
    let mut cost = |name: &str| parts.next()?.strip_prefix(name)?.parse().ok();
    let found = (cost("m=")?, cost("t=")?, cost("p=")?);
    parts.next().is_none().then_some(found)
}

fn is_base64(text: &str, lengths: std::ops::RangeInclusive<usize>) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/');
    lengths.contains(&text.len()) && text.bytes().all(plain)
}
