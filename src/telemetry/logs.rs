//! Logs on stderr: JSON lines for machines, one readable line per event for people. Untrusted text cannot forge a line in either.

use std::{fmt, io::IsTerminal};

use tracing::Subscriber;
use tracing_subscriber::{
    EnvFilter,
    field::MakeExt,
    fmt::{MakeWriter, format},
};

/// A filter of logs, such as `info` or `hookyard::deliver=debug,warn`. Parsed when the command line is read.
#[derive(Debug, Clone)]
pub struct Filter(String);

impl Filter {
    /// What a running relay says about its work.
    pub fn info() -> Self {
        Self("info".to_owned())
    }

    /// Only what somebody should look at.
    pub fn warn() -> Self {
        Self("warn".to_owned())
    }
}

impl std::str::FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = EnvFilter::builder().parse(text);
        parsed.map(|_| Self(text.to_owned())).map_err(|error| error.to_string())
    }
}

/// Who reads the logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reader {
    Machine,
    Person { colour: bool },
}

/// Sends the logs that `filter` lets through to stderr, for the rest of the process. A second call changes nothing.
pub fn init(filter: &Filter) {
    let terminal = std::io::stderr().is_terminal();
    let reader = if terminal { Reader::Person { colour: coloured(&std::io::stderr()) } } else { Reader::Machine };
    // Fails when somebody listens already: then there are logs.
    let _ = tracing::subscriber::set_global_default(subscriber(filter, reader, std::io::stderr));
}

/// Whether `stream` is a terminal that takes colours, and nobody asked for none (no-color.org).
pub fn coloured(stream: &impl IsTerminal) -> bool {
    let asked = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    stream.is_terminal() && asked("NO_COLOR").is_none() && asked("TERM").is_none_or(|term| term != "dumb")
}

fn subscriber<W>(filter: &Filter, reader: Reader, writer: W) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let filter = EnvFilter::builder().parse_lossy(&filter.0);
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    match reader {
        Reader::Machine => Box::new(builder.json().flatten_event(true).with_current_span(false).finish()),
        Reader::Person { colour } => {
            let fields = format::debug_fn(write_field).delimited(" ");
            Box::new(builder.with_ansi(colour).with_target(false).fmt_fields(fields).finish())
        }
    }
}

fn write_field(writer: &mut format::Writer<'_>, field: &tracing::field::Field, value: &dyn fmt::Debug) -> fmt::Result {
    let text = plain(&format!("{value:?}"));
    match field.name() {
        "message" => write!(writer, "{text}"),
        name => write!(writer, "{name}={text}"),
    }
}

/// `text` with everything escaped that a terminal would act upon: control characters, line and paragraph separators, and
/// the marks that turn the direction of writing around.
pub fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if acts(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(reader: Reader, text: &str) -> String {
        let kept = Kept::default();
        let writer = kept.clone();
        let subscriber = subscriber(&"info".parse().unwrap(), reader, move || writer.clone());
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(event.id = %text, event.kind = text, "took {text}");
            tracing::debug!("left out");
        });
        String::from_utf8(kept.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn no_text_forges_a_line() {
        let evil = "evt\n2026-01-20T12:00:00Z ERROR forged \u{1b}[31m\u{202e}\u{9b}2J\r\u{7f}";
        for reader in [Reader::Machine, Reader::Person { colour: false }] {
            let text = logged(reader, evil);
            assert_eq!(text.matches('\n').count(), 1, "{text}");
            assert!(!text.contains('\u{1b}') && !text.contains('\r'), "{text}");
        }
        assert_eq!(logged(Reader::Person { colour: true }, evil).matches('\n').count(), 1);
    }

    #[test]
    fn machines_get_flat_json() {
        let line: serde_json::Value = serde_json::from_str(&logged(Reader::Machine, "evt_1")).unwrap();
        assert_eq!(
            (&line["message"], &line["event.id"], &line["level"]),
            (&"took evt_1".into(), &"evt_1".into(), &"INFO".into())
        );
    }

    #[test]
    fn a_filter_is_checked_when_it_is_read() {
        assert!("hookyard::deliver=debug,warn".parse::<Filter>().is_ok());
        assert!("hookyard=loud".parse::<Filter>().is_err());
    }

    proptest! {
        #[test]
        fn plain_text_has_nothing_to_act_upon(text: String) {
            prop_assert!(!plain(&text).chars().any(acts));
        }
    }
}
