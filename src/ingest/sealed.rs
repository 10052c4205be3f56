//! The compact form in which a request is sealed into the quarantine and read back. Values of headers that may be fixed secrets are
//! kept only as keyed hashes, against which a retry holds the configured values.

use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use bytes::Bytes;
use zeroize::Zeroizing;

use super::{doctor::is_signature, kinds::Proof, request::Raw, source::Source};
use crate::{
    clock::{from_ms, to_ms},
    seal::{self, Error, Sealer},
};

/// What sealed requests belong to, for the sealer.
const PLACE: &[u8] = b"rejection";
/// The form in which requests are sealed: hashes are under the sealer's own key of that time.
const VERSION: u8 = 1;
/// The form of those that were sealed anew: the key of the hashes stands in front, since the sealer's is another since.
const SEALED_ANEW: u8 = 2;
/// Bytes of that key.
const DIGEST_KEY: usize = 32;
/// A header whose value follows.
const PLAIN: u8 = 0;
/// A header of whose value the keyed hash follows.
const HASHED: u8 = 1;

/// Seals `request` whole.
pub(crate) fn seal(request: &Raw, sources: &[Source], sealer: &Sealer) -> Result<Vec<u8>, Error> {
    let mut out = Vec::with_capacity(request.body.len() + 1024);
    out.push(VERSION);
    out.extend_from_slice(&to_ms(request.arrived_at).to_le_bytes());
    put(&mut out, request.method.as_str().as_bytes());
    put(&mut out, request.path.as_bytes());
    put(&mut out, request.peer.to_string().as_bytes());
    put(&mut out, &request.body);
    for (name, value) in &request.headers {
        let plain = is_plain(name, sources);
        put(&mut out, name.as_str().as_bytes());
        out.push(if plain { PLAIN } else { HASHED });
        if plain { put(&mut out, value.as_bytes()) } else { put(&mut out, &sealer.digest(value.as_bytes())) }
    }
    sealer.seal(&out, PLACE)
}

/// Seals anew, under today's key, what was sealed under a former one. What it says stays as it is.
pub(crate) fn seal_anew(sealed: &[u8], sealer: &Sealer) -> Result<Vec<u8>, Error> {
    let plain = Zeroizing::new(sealer.open(sealed, PLACE)?);
    match plain.split_first() {
        Some((&VERSION, rest)) => {
            let key = sealer.digest_key(sealed).ok_or(Error::NotOurs)?;
            let mut out = Zeroizing::new(Vec::with_capacity(plain.len() + DIGEST_KEY));
            out.push(SEALED_ANEW);
            out.extend_from_slice(&*key);
            out.extend_from_slice(rest);
            sealer.seal(&out, PLACE)
        }
        Some((&SEALED_ANEW, _)) => sealer.seal(&plain, PLACE),
        _ => Err(Error::NotOurs),
    }
}

/// Reads a sealed request back. Headers kept as hashes come back where a source of `sources` has a value that fits.
pub(crate) fn open(sealed: &[u8], sources: &[Source], sealer: &Sealer) -> Result<Raw, Error> {
    let plain = sealer.open(sealed, PLACE)?;
    let digest_key = sealer.digest_key(sealed).ok_or(Error::NotOurs)?;
    read(&plain, sources, &digest_key).ok_or(Error::NotOurs)
}

/// `digest_key` is that of hashes in the form that names none.
fn read(mut rest: &[u8], sources: &[Source], digest_key: &[u8; DIGEST_KEY]) -> Option<Raw> {
    let rest = &mut rest;
    let digest_key = match byte(rest)? {
        VERSION => digest_key,
        SEALED_ANEW => {
            let (key, after) = rest.split_first_chunk::<DIGEST_KEY>()?;
            *rest = after;
            key
        }
        _ => return None,
    };
    let (arrived, after) = rest.split_first_chunk::<8>()?;
    *rest = after;
    let method = Method::from_bytes(take(rest)?).ok()?;
    let path = std::str::from_utf8(take(rest)?).ok()?.to_owned();
    let peer: IpAddr = std::str::from_utf8(take(rest)?).ok()?.parse().ok()?;
    let body = Bytes::copy_from_slice(take(rest)?);
    let mut headers = HeaderMap::new();
    while !rest.is_empty() {
        let name = HeaderName::from_bytes(take(rest)?).ok()?;
        let (form, bytes) = (byte(rest)?, take(rest)?);
        let value = if form == PLAIN { HeaderValue::from_bytes(bytes).ok() } else { recalled(&name, bytes, sources, digest_key) };
        value.map(|value| headers.append(name, value));
    }
    let arrived_at = from_ms(i64::from_le_bytes(*arrived));
    Some(Raw { method, path, headers, body, arrived_at, peer })
}

/// The configured value of header `name` whose hash is `digest`.
fn recalled(name: &HeaderName, hash: &[u8], sources: &[Source], digest_key: &[u8; DIGEST_KEY]) -> Option<HeaderValue> {
    let values = sources.iter().flat_map(|source| match source.kind.proof() {
        Proof::Static { header, values } if header == name => values,
        _ => &[],
    });
    let mut fitting = values.filter(|value| seal::digest(digest_key, value.reveal().as_bytes()) == hash);
    fitting.next().and_then(|value| HeaderValue::from_str(value.reveal()).ok())
}

/// Whether the value of `name` is kept as it is: what verifying and mapping need, and what is no secret. Never that of a static header.
fn is_plain(name: &HeaderName, sources: &[Source]) -> bool {
    let known = [header::CONTENT_TYPE, header::CONTENT_ENCODING, header::USER_AGENT].contains(name) || name == "traceparent";
    let prefixed = ["webhook-", "svix-", "x-interactor-", "x-github-"].iter().any(|prefix| name.as_str().starts_with(prefix));
    let timed = name.as_str().contains("timestamp");
    let used = sources.iter().any(|source| is_read(name, source));
    let fixed = sources.iter().any(|source| matches!(source.kind.proof(), Proof::Static { header, .. } if header == name));
    !fixed && (known || prefixed || timed || used || is_signature(name))
}

fn is_read(name: &HeaderName, source: &Source) -> bool {
    let proof = match source.kind.proof() {
        Proof::Hmac(proof) => proof.headers.contains(&name) || proof.timestamps.contains(&name),
        Proof::Static { .. } | Proof::None => false,
    };
    proof || source.kind.mapped_headers().contains(&name)
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    // Bodies and headers are far below 4 GiB.
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn byte(rest: &mut &[u8]) -> Option<u8> {
    let (byte, after) = rest.split_first()?;
    *rest = after;
    Some(*byte)
}

fn take<'b>(rest: &mut &'b [u8]) -> Option<&'b [u8]> {
    let (length, after) = rest.split_first_chunk::<4>()?;
    let (bytes, after) = after.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
    *rest = after;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        ingest::{request::tests::request, source::tests::source},
        secret::Secret,
        sign,
    };

    fn sealer() -> Sealer {
        Sealer::new(&Secret::new(sign::base64(&[7; 32]))).unwrap()
    }

    fn trigger(values: &str) -> Source {
        source("t", &format!(r#"{{"kind": "trigger", "path": "/t", "header": {{"name": "X-Key", "values": {values}}}}}"#))
            .unwrap()
    }

    #[test]
    fn a_request_comes_back_as_it_was_sealed() {
        let raw = request(
            "/a",
            &[("x-webhook-signature", "ab"), ("content-type", "text/plain"), ("x-webhook-signature", "cd")],
            b"\0body",
        );
        assert_eq!(open(&seal(&raw, &[], &sealer()).unwrap(), &[], &sealer()).unwrap(), raw);
    }

    #[test]
    fn static_values_are_kept_as_hashes_only() {
        let raw = request("/t", &[("x-key", "right-key"), ("authorization", "Bearer tok-1234")], b"{}");
        let sealed = seal(&raw, &[trigger(r#"["wrong-key"]"#)], &sealer()).unwrap();
        let plain = sealer().open(&sealed, PLACE).unwrap();
        for secret in ["right-key", "tok-1234"] {
            assert!(!plain.windows(secret.len()).any(|part| part == secret.as_bytes()), "{secret}");
        }
        let mended = open(&sealed, &[trigger(r#"["wrong-key", "right-key"]"#)], &sealer()).unwrap();
        assert_eq!(mended.headers["x-key"], "right-key");
        assert!(open(&sealed, &[trigger(r#"["wrong-key"]"#)], &sealer()).unwrap().headers.is_empty());
    }

    #[test]
    fn what_is_sealed_anew_says_the_same_without_the_former_key() {
        let raw = request("/t", &[("x-key", "right-key"), ("content-type", "text/plain")], b"{}");
        let old = seal(&raw, &[trigger(r#"["wrong-key"]"#)], &sealer()).unwrap();
        let former = [Secret::new(sign::base64(&[7; 32]))];
        let both = Sealer::of_key(&[8; 32]).with_former(&former).unwrap();
        let new = seal_anew(&old, &both).unwrap();
        // And once more, under a third.
        let third = Sealer::of_key(&[9; 32]).with_former(&[Secret::new(sign::base64(&[8; 32]))]).unwrap();
        let newer = seal_anew(&new, &third).unwrap();
        let mended = [trigger(r#"["wrong-key", "right-key"]"#)];
        for (sealed, sealer) in [(&old, both), (&new, Sealer::of_key(&[8; 32])), (&newer, Sealer::of_key(&[9; 32]))] {
            assert_eq!(open(sealed, &mended, &sealer).unwrap(), raw);
        }
        assert!(seal_anew(&old, &Sealer::of_key(&[8; 32])).is_err());
        assert!(!new.windows(9).any(|part| part == b"right-key"));
    }

    proptest! {
        #[test]
        fn no_bytes_break_it(bytes: Vec<u8>, cut in 0usize..60) {
            let _ = read(&bytes, &[], &[7; 32]);
            let raw = request("/a", &[("a-signature", "b")], b"x");
            let plain = sealer().open(&seal(&raw, &[], &sealer()).unwrap(), PLACE).unwrap();
            let _ = read(plain.get(..cut).unwrap_or_default(), &[], &[7; 32]);
        }
    }
}
