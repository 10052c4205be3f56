//! Where rejected requests go: a log row for each that is worth one, whole requests sealed. Written behind the answer's back, through a
//! bounded queue, so that a flood of bad requests slows nobody down.

use std::{borrow::Cow, sync::Arc};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tracing::warn;

use super::{
    answer::Code,
    doctor::{self, is_signature},
    inbound::Inbound,
    limits::Keyed,
    request::Raw,
    sealed,
    source::Source,
    told::Told,
};
use crate::{
    clock::Clock,
    config::decode::Rate,
    envelope::Name,
    seal::Sealer,
    sign,
    store::{NewRejection, Store},
};

/// Whole requests kept per source.
const KEPT_MAX: u32 = 10_000;
/// Bytes of whole requests kept per source.
const KEPT_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Rejections that wait to be written.
const QUEUE_MAX: usize = 4_096;
/// KiB of whole requests that wait to be written; what finds no room loses its body, not its row.
const QUEUE_KIB_MAX: usize = 32 * 1024;
/// Rejections written in one go.
const BATCH_MAX: usize = 256;
/// Rows of requests that are not kept, per source and code.
const SAMPLES: Rate = Rate::per_second(1, 100);
/// Longest path a row shows, in characters.
const PATH_MAX: usize = 200;
/// Longest reason a row shows, in characters.
const REASON_MAX: usize = 400;

/// A request that was not accepted.
#[derive(Debug)]
pub(crate) struct Refused {
    /// The request; without its body where that was not read.
    pub(crate) request: Raw,
    /// What its sender was told.
    pub(crate) code: Code,
    /// Why, where that is known already.
    pub(crate) reason: Option<Cow<'static, str>>,
    /// What it went by,
    pub(crate) inbound: Arc<Inbound>,
    /// and there the position of the source it was meant for.
    pub(crate) source: Option<usize>,
    /// How many bytes its body has, as far as is known.
    pub(crate) bytes: u64,
}

/// The way into the rejection log.
pub(crate) struct Quarantine {
    queue: mpsc::Sender<Message>,
    room: Arc<Semaphore>,
    samples: Keyed<(Option<Name>, Code)>,
}

enum Message {
    Refused { refused: Box<Refused>, kept: Option<OwnedSemaphorePermit> },
    Flush(oneshot::Sender<()>),
}

impl Quarantine {
    /// Opens the log; its writer runs until this is dropped. Must be called on a runtime.
    pub(crate) fn start(sealer: Sealer, store: Arc<dyn Store>, clock: &Clock) -> Self {
        let (queue, inbox) = mpsc::channel(QUEUE_MAX);
        tokio::spawn(write(inbox, sealer, store));
        Self { queue, room: Arc::new(Semaphore::new(QUEUE_KIB_MAX)), samples: Keyed::new(SAMPLES, clock) }
    }

    /// Takes note of `refused`: kept whole where it can be retried and bears a proof, else a row if there have not been too many.
    pub(crate) fn note(&self, mut refused: Refused) {
        let worth = is_retriable(refused.code) && has_proof(&refused);
        let kept = worth.then(|| self.make_room(refused.request.body.len())).flatten();
        if kept.is_none() {
            refused.request.body.clear();
            let source = source_name(&refused.inbound.sources, refused.source).cloned();
            if self.samples.take(&(source, refused.code)).is_err() {
                return;
            }
        }
        if self.queue.try_send(Message::Refused { refused: Box::new(refused), kept }).is_err() {
            warn!("a rejection is not written: too many wait already");
        }
    }

    /// Waits until everything noted so far is written.
    pub(crate) async fn flush(&self) {
        let (done, written) = oneshot::channel();
        if self.queue.send(Message::Flush(done)).await.is_ok() {
            // The writer only goes when this does.
            let _ = written.await;
        }
    }

    fn make_room(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let kib = u32::try_from(bytes / 1024 + 1).ok()?;
        self.room.clone().try_acquire_many_owned(kib).ok()
    }
}

/// Whether the request bears any proof of its sender: a header that looks like a signature, one that a source is proven by, or a
/// secret in its path.
fn has_proof(refused: &Refused) -> bool {
    let sources = &refused.inbound.sources;
    let secret_path = match refused.source {
        Some(source) => sources.get(source).is_some_and(Source::has_path_secret),
        None => ends_in_secret(sources, &refused.request.path),
    };
    secret_path || refused.request.headers.keys().any(|name| is_signature(name) || refused.inbound.proofs.contains(name))
}

/// Whether a path of no source ends in the path secret of one, as it does when that source is renamed.
fn ends_in_secret(sources: &[Source], path: &str) -> bool {
    let last = path.rsplit('/').next().unwrap_or_default().as_bytes();
    let secrets = sources.iter().flat_map(|source| source.kind.path_secrets());
    secrets.fold(false, |found, secret| sign::same(secret.reveal().as_bytes(), last) | found)
}

/// Whether another configuration could take in what was refused with `code`.
fn is_retriable(code: Code) -> bool {
    match code {
        Code::NotFound
        | Code::InvalidTimestamp
        | Code::InvalidSignature
        | Code::InvalidHeader
        | Code::UnsupportedMediaType
        | Code::InvalidJson
        | Code::InvalidEvent => true,
        Code::MethodNotAllowed | Code::PayloadTooLarge | Code::RequestTimeout | Code::RateLimited | Code::Unavailable => false,
    }
}

/// Writes what comes in, batch by batch.
async fn write(mut inbox: mpsc::Receiver<Message>, sealer: Sealer, store: Arc<dyn Store>) {
    let mut messages = Vec::with_capacity(BATCH_MAX);
    let mut told = Told::default();
    while inbox.recv_many(&mut messages, BATCH_MAX).await > 0 {
        let mut refused = Vec::new();
        let mut flushed = Vec::new();
        for message in messages.drain(..) {
            match message {
                Message::Refused { refused: one, kept } => refused.push((one, kept)),
                Message::Flush(done) => flushed.push(done),
            }
        }
        if !refused.is_empty() {
            write_batch(refused, sealer.clone(), &*store, &mut told).await;
        }
        // Nobody may be waiting any more.
        flushed.into_iter().for_each(|done| _ = done.send(()));
    }
}

async fn write_batch(
    refused: Vec<(Box<Refused>, Option<OwnedSemaphorePermit>)>,
    sealer: Sealer,
    store: &dyn Store,
    told: &mut Told,
) {
    // Diagnosing and sealing is work for the processor, not for the runtime.
    let made = tokio::task::spawn_blocking(move || {
        let rows: Vec<_> = refused.iter().map(|(refused, kept)| row(refused, kept.is_some(), &sealer)).collect();
        (rows, refused)
    });
    let Ok((rows, refused)) = made.await else {
        warn!("rejections are not written: making their rows failed");
        return;
    };
    told.tell(&rows);
    if let Err(error) = store.reject(rows, KEPT_MAX, KEPT_BYTES_MAX).await {
        warn!(count = refused.len(), "rejections are not written: {error}");
    }
}

/// The row of a rejection; `keep`: with the request, sealed.
fn row(refused: &Refused, keep: bool, sealer: &Sealer) -> NewRejection {
    let sources = &*refused.inbound.sources;
    let source = refused.source.and_then(|source| sources.get(source));
    let case = doctor::Case { request: &refused.request, code: refused.code, source, sources };
    let reason = match &refused.reason {
        Some(reason) => reason.to_string(),
        None => doctor::diagnose(case),
    };
    NewRejection {
        source: source.map(|source| source.name.clone()),
        at: refused.request.arrived_at,
        status: refused.code.status().as_u16(),
        code: refused.code.word(),
        reason: cut(&reason, REASON_MAX),
        path: cut(&shown_path(&refused.request.path, source, sources), PATH_MAX),
        remote: refused.request.peer.to_string(),
        bytes: refused.bytes,
        sealed: keep.then(|| sealed::seal(&refused.request, sources, sealer).ok()).flatten(),
    }
}

/// The path as it may be shown: what follows the path of a source with a path secret is masked, and of a path of no source all that
/// may be such a secret.
fn shown_path(path: &str, source: Option<&Source>, sources: &[Source]) -> String {
    if let Some(source) = source {
        return source.masked_path().unwrap_or_default();
    }
    let triggers = sources.iter().filter(|source| source.has_path_secret());
    let below = |source: &&Source| {
        let before = source.path.as_deref();
        before.and_then(|before| path.strip_prefix(before)).is_some_and(|rest| rest.starts_with('/'))
    };
    let near = triggers.filter(below).find_map(Source::masked_path);
    near.unwrap_or_else(|| masked(&without_secrets(path, sources)))
}

/// `path` with the path secret of any source starred out: the source may have been renamed since its sender was told.
fn without_secrets(path: &str, sources: &[Source]) -> String {
    let secrets = sources.iter().flat_map(|source| source.kind.path_secrets()).filter(|secret| !secret.is_empty());
    secrets.fold(path.to_owned(), |path, secret| path.replace(secret.reveal(), "***"))
}

/// Segments of a path of no source that are shown: enough to recognise a source that moved.
const SEGMENTS_SHOWN: usize = 2;
/// Longest segment that is shown, in bytes.
const SEGMENT_MAX: usize = 20;
/// Most digits in a segment that is shown.
const DIGITS_MAX: usize = 2;

/// A path of no source as it may be shown: it may have belonged to one with a path secret, or be mistyped.
fn masked(path: &str) -> String {
    let segments = path.split('/').skip(1).enumerate();
    segments.fold(String::new(), |shown, (at, segment)| {
        let plain = segment.is_empty() || (at < SEGMENTS_SHOWN && is_wordy(segment));
        shown + "/" + if plain { segment } else { "***" }
    })
}

/// Whether `segment` reads like a name rather than like something drawn at random.
fn is_wordy(segment: &str) -> bool {
    let digits = segment.bytes().filter(u8::is_ascii_digit).count();
    let named = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    segment.len() <= SEGMENT_MAX && digits <= DIGITS_MAX && segment.bytes().all(named)
}

/// The beginning of `text`, control characters replaced.
fn cut(text: &str, max: usize) -> String {
    let shown: String = text.chars().take(max).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(max).is_some() { shown + "…" } else { shown }
}

/// The name under which rejections of `source` are listed.
pub(crate) fn source_name(sources: &[Source], source: Option<usize>) -> Option<&Name> {
    source.and_then(|source| sources.get(source)).map(|source| &source.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_no_source_show_no_secret_and_stay_recognisable() {
        for (path, shown) in [
            ("/", "/"),
            ("/webhooks/renamed", "/webhooks/renamed"),
            ("/webhooks/interactor/", "/webhooks/interactor/"),
            ("//hooks-v2", "//hooks-v2"),
            ("/triggers/gone/secret", "/triggers/gone/***"),
            ("/a/b/c/d", "/a/b/***/***"),
            ("/hooks/aB3xYz9Q1", "/hooks/***"),
            ("/abcdefghijklmnopqrstu", "/***"),
            ("/a%20b/c", "/***/c"),
            ("", ""),
            ("*", ""),
        ] {
            assert_eq!(masked(path), shown, "{path}");
        }
    }
}
