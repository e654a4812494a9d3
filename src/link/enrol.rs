//! Binds a join token's secret to one link, so that whoever relays or replays it gains nothing.

use aws_lc_rs::hmac;

/// HMAC-SHA-256 of the connection's TLS exporter, keyed by the token's secret.
pub fn proof(secret: &[u8; 32], exporter: &[u8; 32]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(hmac::sign(&key(secret), exporter).as_ref());
    out
}

/// Whether `claimed` is the proof, in constant time.
pub fn check_proof(secret: &[u8; 32], exporter: &[u8; 32], claimed: &[u8; 32]) -> bool {
    hmac::verify(&key(secret), exporter, claimed).is_ok()
}

fn key(secret: &[u8; 32]) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_holds_for_its_secret_and_its_connection_only() {
        let good = proof(&[1; 32], &[2; 32]);
        assert!(check_proof(&[1; 32], &[2; 32], &good));
        assert!(!check_proof(&[9; 32], &[2; 32], &good));
        assert!(!check_proof(&[1; 32], &[9; 32], &good));
        assert!(!check_proof(&[1; 32], &[2; 32], &[0; 32]));
    }
}
