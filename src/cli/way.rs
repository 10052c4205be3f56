//! From a source as `routes.yaml` declares it to the way its sender would take: where to, and how to prove itself.

use super::{
    send::Way,
    sender::{Hmac, Scheme},
};
use crate::{
    ingest::{
        Source,
        kinds::{self, HmacProof, Kind, Proof},
    },
    secret::Secret,
    sign::outbound::{Content, Encoding},
};

impl Way {
    /// The way to `source`, with the first of its secrets; `None` where nobody sends to it.
    pub(super) fn of(source: &Source) -> Option<Self> {
        let (scheme, secret) = match source.kind.proof() {
            Proof::None => (Scheme::Nothing, None),
            Proof::Static { header, values } => (Scheme::Static(header.to_string()), values.first()),
            Proof::Hmac(proof) => (scheme(&source.kind, &proof), proof.secrets.first()),
        };
        let secret = secret.cloned().unwrap_or_else(|| Secret::new(""));
        Some(Self { kind: source.kind(), path: path(source)?, scheme, secret })
    }
}

fn path(source: &Source) -> Option<String> {
    let path = source.path.clone()?;
    match source.kind.path_secrets().first() {
        Some(secret) => Some(format!("{path}/{}", secret.reveal())),
        None => Some(path),
    }
}

fn scheme(kind: &Kind, proof: &HmacProof<'_>) -> Scheme {
    match kind {
        Kind::Interactor(_) if proof.unix => Scheme::Timestamped,
        Kind::Interactor(_) => Scheme::Interactor,
        Kind::Agent(_) => Scheme::Agent,
        Kind::Standard(_) => Scheme::Standard,
        Kind::Trigger(_) | Kind::Poll(_) => Scheme::Nothing,
        Kind::Hmac(it) => it.written().map_or(Scheme::Stripe, |(prefix, base64)| Scheme::Hmac(hmac(proof, prefix, base64))),
    }
}

fn hmac(proof: &HmacProof<'_>, prefix: &str, base64: bool) -> Hmac {
    Hmac {
        header: proof.headers.first().map(ToString::to_string).unwrap_or_default(),
        prefix: prefix.to_owned(),
        encoding: if base64 { Encoding::Base64 } else { Encoding::Hex },
        algorithm: proof.algorithm,
        content: if proof.content == kinds::Content::Body { Content::Body } else { Content::TimestampBody },
        timestamp_header: proof.timestamps.first().map(ToString::to_string),
    }
}
