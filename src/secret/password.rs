//! Passwords as they are kept: argon2id in PHC's text form. Only the hash ever leaves the process that was
//! given the password. Slow on purpose: a task that must not wait calls it elsewhere.

use argon2::{Algorithm, Argon2, Block, Params, Version};
use data_encoding::{BASE32_NOPAD, BASE64_NOPAD};

/// What it costs: 19 MiB, twice over, one lane.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;
/// How long what is kept of a password is.
const LENGTH: usize = 32;

/// What a password is kept as; the salt is random, and a new one each time.
pub fn hash(password: &str, salt: [u8; 16]) -> String {
    let digest = digest(password, &salt, (MEMORY_KIB, PASSES, LANES), LENGTH)
        .expect("these costs and lengths are allowed");
    let (salt, digest) = (BASE64_NOPAD.encode(&salt), BASE64_NOPAD.encode(&digest));
    format!("$argon2id$v=19$m={MEMORY_KIB},t={PASSES},p={LANES}${salt}${digest}")
}

/// Whether a password is the one that was kept so. Costs what the text says: only for texts that were
/// checked.
pub fn fits(kept: &str, password: &str) -> bool {
    let read = || {
        let mut parts = kept.strip_prefix("$argon2id$v=19$")?.split('$');
        let mut costs = parts.next()?.split(',');
        let mut cost = |name| costs.next()?.strip_prefix(name)?.parse().ok();
        let costs = (cost("m=")?, cost("t=")?, cost("p=")?);
        let salt = BASE64_NOPAD.decode(parts.next()?.as_bytes()).ok()?;
        let wanted = BASE64_NOPAD.decode(parts.next()?.as_bytes()).ok()?;
        let found = digest(password, &salt, costs, wanted.len())?;
        Some(aws_lc_rs::constant_time::verify_slices_are_equal(&found, &wanted).is_ok())
    };
    read().unwrap_or_default()
}

fn digest(
    password: &str,
    salt: &[u8],
    (memory, passes, lanes): (u32, u32, u32),
    length: usize,
) -> Option<Vec<u8>> {
    let params = Params::new(memory, passes, lanes, Some(length)).ok()?;
    let mut blocks = vec![Block::default(); params.block_count()];
    let mut out = vec![0; length];
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into_with_memory(password.as_bytes(), salt, &mut out, &mut blocks)
        .ok()?;
    Some(out)
}

/// A password that nobody guesses, made of 15 random bytes: letters and digits that can be read aloud.
pub fn spelled(random: [u8; 15]) -> String {
    BASE32_NOPAD.encode(&random).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_fits_its_own_hash_and_no_other() {
        let kept = hash("correct horse", [7; 16]);
        assert!(fits(&kept, "correct horse"));
        for wrong in ["", "correct horse ", "Correct horse"] {
            assert!(!fits(&kept, wrong), "{wrong}");
        }
        assert_ne!(kept, hash("correct horse", [8; 16]), "the salt counts");
        for broken in ["", "$argon2id$v=19$", "$argon2id$v=19$m=19456,t=2,p=1$x$y"] {
            assert!(!fits(broken, "correct horse"), "{broken}");
        }
    }

    #[test]
    fn the_hash_is_the_one_that_others_make() {
        // The reference implementation's own vector: argon2id, v=19, m=65536, t=2, p=1.
        let kept = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$\
                    CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
        assert!(fits(kept, "password"));
        assert!(!fits(kept, "passwore"));
    }

    #[test]
    fn spelled_passwords_have_only_letters_and_digits() {
        let text = spelled([0xa5; 15]);
        assert_eq!(text.len(), 24);
        assert!(
            text.bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        );
    }
}
