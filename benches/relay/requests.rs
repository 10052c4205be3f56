//! Signed Interactor events as the bytes of HTTP requests: about 600 bytes of body, a random id each, and in `data.at` the instant the
//! request was due, last of all, so that the receiver finds it at the end of whatever it gets.

use std::io::Write;

use hookyard::{
    clock::{Clock, Timestamp},
    secret::Secret,
    sign::{self, Key},
};
use ring::rand::{SecureRandom, SystemRandom};

use crate::Outcome;

/// Path of the source that takes the events in.
pub(crate) const PATH: &str = "/webhooks/interactor";
/// The secret the events are signed with.
pub(crate) const SECRET: &str = "whsec_bench_inbound_secret";

const ID_LEN: usize = 12; // random bytes in an event's id
const NOTES: &str = "Approved after a second look by the finance desk; the supplier confirmed the changed delivery date by phone, the amount \
    stays within the yearly budget of the department, and the contract number on the invoice agrees with the one on file.";

/// Makes signed requests.
#[derive(Clone)]
pub(crate) struct Signer {
    key: Key,
    random: SystemRandom,
    clock: Clock,
}

/// Many requests, made before the clock starts.
pub(crate) struct Batch {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Signer {
    /// Signs with [`SECRET`].
    pub(crate) fn new() -> Self {
        Self { key: Key::literal(&Secret::new(SECRET)), random: SystemRandom::new(), clock: Clock::system() }
    }

    /// The time now, as written into `data.at`.
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// `count` requests, due now.
    pub(crate) fn batch(&self, count: usize) -> Outcome<Batch> {
        let mut batch = Batch { bytes: Vec::new(), ends: Vec::with_capacity(count) };
        for _ in 0..count {
            self.write(self.now(), &mut batch.bytes)?;
            batch.ends.push(batch.bytes.len());
        }
        Ok(batch)
    }

    /// Appends one request, due at `at`, to `out`.
    pub(crate) fn write(&self, at: Timestamp, out: &mut Vec<u8>) -> Outcome {
        let timestamp = at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let body = self.body(at, &timestamp)?;
        let signature = sign::hex(self.key.sign(&[body.as_bytes()]).as_ref());
        write!(
            out,
            "POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
             X-Interactor-Timestamp: {timestamp}\r\nX-Interactor-Signature: sha256={signature}\r\n\r\n{body}",
            body.len()
        )?;
        Ok(())
    }

    fn body(&self, at: Timestamp, timestamp: &str) -> Outcome<String> {
        let mut id = [0; ID_LEN];
        self.random.fill(&mut id).map_err(|_| "the system gives no random bytes")?;
        let (id, at) = (sign::hex(&id), at.as_nanosecond());
        Ok(format!(
            r#"{{"id":"evt_{id}","type":"workflow.instance.completed","timestamp":"{timestamp}","data":{{"instance_id":"inst_{id}","workflow_name":"approval_workflow","namespace":"user_123","final_state":"approved","workflow_data":{{"request_id":"req_{id}","approved":true,"amount":5000,"notes":"{NOTES}"}},"at":{at}}}}}"#
        ))
    }
}

impl Batch {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The bytes of the `index`th.
    pub(crate) fn get(&self, index: usize) -> Option<&[u8]> {
        let end = *self.ends.get(index)?;
        let start = index.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        self.bytes.get(start..end)
    }
}

/// The instant in `data.at` of an event or of its envelope, in nanoseconds since 1970: the digits before the closing braces.
pub(crate) fn due_at(body: &[u8]) -> Option<i64> {
    let digits = body.strip_suffix(b"}}")?;
    let start = digits.iter().rposition(|byte| !byte.is_ascii_digit())? + 1;
    str::from_utf8(digits.get(start..)?).ok()?.parse().ok()
}
