//! What a stream says, in the format of server-sent events (HTML, 9.2): `retry`, `id`, `event` and `data`, and an empty line.
//!
//! Every frame carries the cursor behind it as `id`, those without an event too: a browser that comes back sends the last one it saw,
//! and one that was told of nothing yet must not begin anew where it has come back to. Such a cursor is a place, not the id of an event,
//! which may be somebody else's.

use crate::{
    api::{events, follow::shown},
    clock::{Timestamp, rfc3339_s},
    envelope::EventUid,
    store::EventRow,
};

/// How long a browser waits before it comes back, in milliseconds.
const RETRY_MS: u32 = 2000;
/// Longest type that becomes the name of a frame, in bytes.
const NAME_MAX: usize = 256;
/// Names that mean something else to whoever listens: ours, and those that browsers give to what is no event.
const RESERVED: [&str; 6] = [HEARTBEAT, LAGGING, EXPIRED, "open", "error", "message"];

/// The name of the frame that shows that the stream lives.
const HEARTBEAT: &str = "heartbeat";
/// The name of a last frame: whoever reads is too slow.
pub(super) const LAGGING: &str = "lagging";
/// The name of a last frame: the token has ended.
pub(super) const EXPIRED: &str = "expired";

/// What comes first.
pub(super) fn first(cursor: EventUid) -> Vec<u8> {
    format!("retry: {RETRY_MS}\nid: {}\n\n", shown(cursor)).into_bytes()
}

/// Writes `row` behind `out`. A type that cannot be a name (or would be taken for another one) stands in the data alone: listeners of
/// `message` get it.
pub(super) fn event(out: &mut Vec<u8>, row: &EventRow) {
    let envelope = &row.envelope;
    out.extend_from_slice(format!("id: {}\n", row.uid).as_bytes());
    if is_name(&envelope.r#type) {
        out.extend_from_slice(format!("event: {}\n", envelope.r#type).as_bytes());
    }
    data(out, events::raw(envelope).get());
    out.push(b'\n');
}

/// Shows that the stream lives, as Interactor's streams do.
pub(super) fn heartbeat(now: Timestamp, cursor: EventUid) -> Vec<u8> {
    let (cursor, now) = (shown(cursor), rfc3339_s(now));
    format!("id: {cursor}\nevent: {HEARTBEAT}\ndata: {{\"timestamp\": \"{now}\"}}\n\n").into_bytes()
}

/// What comes last: why it ends, and where to go on.
pub(super) fn last(name: &str, cursor: EventUid) -> Vec<u8> {
    let cursor = shown(cursor);
    format!("id: {cursor}\nevent: {name}\ndata: {{\"after\": \"{cursor}\"}}\n\n").into_bytes()
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= NAME_MAX && !text.contains(char::is_control) && !RESERVED.contains(&text)
}

/// Writes `text` as lines of data: within JSON line breaks are white space, and whoever reads joins the lines with one.
fn data(out: &mut Vec<u8>, text: &str) {
    for line in text.split('\n').flat_map(|line| line.strip_suffix('\r').unwrap_or(line).split('\r')) {
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(line.as_bytes());
        out.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::envelope::{Envelope, tests::sample};

    const AT: EventUid = EventUid { salt: 0xab, seq: 3 };

    fn row(envelope: Envelope) -> EventRow {
        let rules = Vec::new();
        EventRow { uid: AT, envelope, rules, deliveries: 0, duplicates: 0, mismatches: 0, last_duplicate_at: None }
    }

    fn written(envelope: Envelope) -> String {
        let mut out = Vec::new();
        event(&mut out, &row(envelope));
        String::from_utf8(out).unwrap()
    }

    /// Frames as a browser reads them: name and data of each; HTML, 9.2.6.
    fn read(text: &str) -> Vec<(String, String)> {
        let (mut frames, mut name, mut lines) = (Vec::new(), String::new(), Vec::new());
        for line in text.replace("\r\n", "\n").replace('\r', "\n").split('\n') {
            match line.split_once(": ") {
                Some(("event", value)) => name = value.to_owned(),
                Some(("data", value)) => lines.push(value.to_owned()),
                _ if line == "data:" => lines.push(String::new()),
                _ if line.is_empty() && !lines.is_empty() => {
                    frames.push((std::mem::take(&mut name), std::mem::take(&mut lines).join("\n")));
                }
                _ => {}
            }
        }
        frames
    }

    #[test]
    fn an_event_is_its_id_type_and_envelope() {
        let text = written(sample());
        let (head, rest) = text.split_once("data: ").unwrap();
        assert_eq!(head, "id: ev_00000000000000ab0000000000000003\nevent: credential.expired\n");
        assert_eq!(rest.as_bytes(), [&sample().to_json()[..], b"\n\n"].concat());
    }

    #[test]
    fn line_breaks_of_the_sender_end_no_frame() {
        let body = Bytes::from_static(b"{\"a\":\r\n\r1,\n\n\"b\":\r\r\n2}");
        let envelope = Envelope { data: Some(0..body.len()), body, ..sample() };
        let [(name, data)] = &read(&written(envelope))[..] else { panic!() };
        assert_eq!(name, "credential.expired");
        let data: Value = serde_json::from_str(data).unwrap();
        assert_eq!(data["data"], serde_json::json!({"a": 1, "b": 2}));
    }

    #[test]
    fn a_hostile_type_is_no_frame_of_its_own_and_none_of_ours() {
        for kind in ["a\ndata: x", "a\r\n\r\nevent: b", "error", "heartbeat", "lagging", "", "a\u{85}b", &"x".repeat(257)] {
            let text = written(Envelope { r#type: kind.to_owned(), ..sample() });
            assert!(!text.contains("\nevent:"), "{kind:?}: {text}");
            let [(_, data)] = &read(&text)[..] else { panic!("{kind:?}") };
            assert_eq!(serde_json::from_str::<Value>(data).unwrap()["type"], kind);
        }
    }

    #[test]
    fn our_own_frames_are_those_of_the_seed() {
        let now = "2026-01-20T12:00:30.7Z".parse().unwrap();
        let id = "at_00000000000000ab0000000000000003";
        assert_eq!(
            String::from_utf8(heartbeat(now, AT)).unwrap(),
            format!("id: {id}\nevent: heartbeat\ndata: {{\"timestamp\": \"2026-01-20T12:00:30Z\"}}\n\n")
        );
        let last = String::from_utf8(last(LAGGING, AT)).unwrap();
        assert_eq!(read(&last), [("lagging".to_owned(), format!("{{\"after\": \"{id}\"}}"))]);
        assert_eq!(String::from_utf8(first(AT)).unwrap(), format!("retry: 2000\nid: {id}\n\n"));
    }

    proptest! {
        #[test]
        fn whatever_the_sender_writes_is_one_frame(kind in ".{0,40}", inner in "[\r\n\t a-z:]{0,40}") {
            let body = Bytes::from(format!("{{{}\"x\":{}}}", inner.replace(|c: char| !c.is_whitespace(), ""), serde_json::json!(inner)));
            let envelope = Envelope { r#type: kind.clone(), data: Some(0..body.len()), body, ..sample() };
            let frames = read(&written(envelope));
            prop_assert_eq!(frames.len(), 1);
            let data: Value = serde_json::from_str(&frames[0].1).unwrap();
            prop_assert_eq!(&data["type"], &kind);
            prop_assert_eq!(&data["data"]["x"], &inner);
        }
    }
}
