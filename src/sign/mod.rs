//! Every signing scheme, making and checking. Bytes in, bytes or yes and no out; comparisons take the same time whatever they find.
//!
//! `outbound.rs` makes the headers a target checks; here are the parts both directions share.

use data_encoding::{BASE64, HEXLOWER};
use ring::{digest, hmac};
use subtle::ConstantTimeEq;

use crate::secret::Secret;

pub mod outbound;

/// Hash functions for HMAC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// HMAC-SHA-256: what every scheme of ours uses.
    Sha256,
    /// HMAC-SHA-512, for `hmac` sources that ask for it.
    Sha512,
    /// HMAC-SHA-1, for senders that know nothing better.
    Sha1,
}

/// A key, made ready once for many messages. Its `Debug` says nothing about the key.
#[derive(Clone)]
pub struct Key(hmac::Key);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl Key {
    /// A key of the given bytes.
    pub fn new(algorithm: Algorithm, bytes: &[u8]) -> Self {
        let algorithm = match algorithm {
            Algorithm::Sha256 => hmac::HMAC_SHA256,
            Algorithm::Sha512 => hmac::HMAC_SHA512,
            Algorithm::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
        };
        Self(hmac::Key::new(algorithm, bytes))
    }

    /// HMAC-SHA-256 with the literal bytes of `secret`, `whsec_` included (Interactor webhooks guide, "Verifying Webhook Signatures").
    pub fn literal(secret: &Secret) -> Self {
        Self::new(Algorithm::Sha256, secret.reveal().as_bytes())
    }

    /// The HMAC over `parts`, one after the other.
    pub fn sign(&self, parts: &[&[u8]]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.0);
        parts.iter().for_each(|part| context.update(part));
        context.sign()
    }

    /// Whether `given` is the HMAC over `parts`. Takes the same time for every `given` of the right length.
    pub fn verifies(&self, parts: &[&[u8]], given: &[u8]) -> bool {
        bool::from(self.sign(parts).as_ref().ct_eq(given))
    }
}

/// The position of the first key for which one of `given` is the HMAC over `parts`; every key is tried.
pub fn matching(keys: &[Key], parts: &[&[u8]], given: &[&[u8]]) -> Option<usize> {
    let mut found = None;
    for (position, key) in keys.iter().enumerate() {
        // Once for all of `given`: how many there are must not decide how much is hashed.
        let tag = key.sign(parts);
        let hit = given.iter().fold(false, |hit, given| same(tag.as_ref(), given) | hit);
        if hit && found.is_none() {
            found = Some(position);
        }
    }
    found
}

/// Whether two texts are the same; takes the same time for texts of one length.
pub fn same(a: &[u8], b: &[u8]) -> bool {
    bool::from(a.ct_eq(b))
}

/// The 32 bytes that exactly 64 lowercase hex digits stand for.
pub fn hex32(text: &[u8]) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    let written = (text.len() == 64).then(|| HEXLOWER.decode_mut(text, &mut bytes));
    matches!(written, Some(Ok(32))).then_some(bytes)
}

/// Lowercase hex.
pub fn hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(bytes)
}

/// Standard base64 with padding.
pub fn base64(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}

/// SHA-256 over `parts`, one after the other.
pub fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    parts.iter().for_each(|part| context.update(part));
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}

/// A secret that is no Standard Webhooks secret. Says nothing about its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a Standard Webhooks secret is `whsec_` and base64 of 24 to 64 bytes")]
pub struct NotAStandardSecret;

/// The key of a Standard Webhooks secret: `whsec_` taken off, base64 of 24–64 bytes (spec 1.0.0, "Signature scheme";
/// the reference libraries accept the bare base64 too).
pub fn standard_key(secret: &Secret) -> Result<Key, NotAStandardSecret> {
    let text = secret.reveal();
    let text = text.strip_prefix("whsec_").unwrap_or(text);
    let bytes = BASE64.decode(text.as_bytes()).map_err(|_| NotAStandardSecret)?;
    if !(24..=64).contains(&bytes.len()) {
        return Err(NotAStandardSecret);
    }
    Ok(Key::new(Algorithm::Sha256, &bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_vectors_of_standard_webhooks_hold() {
        let vectors = [
            (
                "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
                "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk.1649367553.",
                r#"{"email":"test@example.com","username":"test_user"}"#,
                "tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=",
            ),
            (
                "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
                "msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.",
                r#"{"test": 2432232314}"#,
                "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
            ),
        ];
        for (secret, prefix, body, signature) in vectors {
            let key = standard_key(&Secret::new(secret)).unwrap();
            assert_eq!(base64(key.sign(&[prefix.as_bytes(), body.as_bytes()]).as_ref()), signature);
        }
    }

    #[test]
    fn only_standard_secrets_make_standard_keys() {
        for bad in ["", "whsec_", "whsec_c2hvcnQ=", "not base64!", "whsec_your_test_secret", &base64(&[7; 65])] {
            assert_eq!(standard_key(&Secret::new(bad)).unwrap_err(), NotAStandardSecret, "{bad}");
        }
        assert!(standard_key(&Secret::new(base64(&[7; 24]))).is_ok() && standard_key(&Secret::new(base64(&[7; 64]))).is_ok());
    }

    #[test]
    fn hex_is_exact() {
        assert_eq!(hex32(hex(&[0xab; 32]).as_bytes()), Some([0xab; 32]));
        for bad in ["", "ab", &"AB".repeat(32), &"g0".repeat(32), &"ab".repeat(33)] {
            assert_eq!(hex32(bad.as_bytes()), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_signed_verifies_and_nothing_else(secret: Vec<u8>, body: Vec<u8>, flip in 0usize..32) {
            let keys = [Key::new(Algorithm::Sha256, b"another"), Key::new(Algorithm::Sha256, &secret)];
            let tag = keys[1].sign(&[&body]);
            prop_assert_eq!(matching(&keys, &[&body], &[tag.as_ref()]), Some(1));
            let mut forged = tag.as_ref().to_vec();
            forged[flip] ^= 1;
            prop_assert_eq!(matching(&keys, &[&body], &[&forged]), None);
            prop_assert_eq!(matching(&keys, &[&body], &[&[]]), None);
        }

        #[test]
        fn no_text_breaks_the_parsers(text: String, bytes: Vec<u8>) {
            let _ = hex32(&bytes);
            let _ = standard_key(&Secret::new(text));
        }
    }
}
