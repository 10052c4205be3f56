//! `contacts_file`: contacts in CSV or JSON beside the configuration. A file that goes bad while the relay runs changes nothing.
//!
//! CSV: a header line that names the columns (`namespace`, `email`, `slack`, `whatsapp`; others are left alone), several addresses
//! in one cell separated by `;`. JSON: a list of objects as under `contacts`.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use serde_json::{Map, Value as Json};

use super::entry::{Contact, contact_of_json};
use crate::{
    config::decode::{Context, Located},
    sign::sha256,
};

/// Largest file, in bytes.
const FILE_MAX: usize = 16 * 1024 * 1024;
/// Most contacts of one file.
const CONTACTS_MAX: usize = 200_000;

/// A file of contacts, read when the configuration was.
#[derive(Debug, Clone)]
pub struct ContactsFile {
    /// Where it is.
    pub(super) path: PathBuf,
    /// What it said then.
    pub(super) contacts: Arc<Vec<Contact>>,
}

impl ContactsFile {
    /// Reads the file that `shown`, a path of the configuration, names.
    pub(super) fn decode(shown: &Located<String>, cx: &mut Context) -> Option<Self> {
        let path = cx.resolve_path(&shown.value, shown.place);
        match read(&path).and_then(|text| parse(&path, &text)) {
            Ok(contacts) => Some(Self { path, contacts: Arc::new(contacts) }),
            Err(reason) => {
                cx.error("bad-contacts-file", shown.place, format!("`{}` cannot be used: {reason}", shown.value));
                None
            }
        }
    }
}

/// What a file was like when it was last looked at: unchanged, it need not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    modified: Option<SystemTime>,
    size: u64,
}

impl Seen {
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        Ok(Self { modified: metadata.modified().ok(), size: metadata.len() })
    }
}

/// The hash of a text, so that one which was only touched, or is still bad, is not told of again.
pub(super) fn fingerprint(text: &str) -> [u8; 32] {
    sha256(&[text.as_bytes()])
}

/// The text of the file at `path`.
pub(super) fn read(path: &Path) -> Result<String, String> {
    let regular = fs::metadata(path).map_err(|error| error.to_string())?.is_file();
    if !regular {
        return Err("this is not a regular file".to_owned());
    }
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(|error| error.to_string())?;
    let limit = u64::try_from(FILE_MAX).unwrap_or(u64::MAX);
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if FILE_MAX < bytes.len() {
        return Err("it is larger than 16 MiB".to_owned());
    }
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())
}

/// The contacts of `text`: JSON where `path` ends so, else CSV.
pub(super) fn parse(path: &Path, text: &str) -> Result<Vec<Contact>, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let json = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
    let contacts = if json { of_json(text) } else { of_csv(text) }?;
    if CONTACTS_MAX < contacts.len() {
        return Err(format!("it holds more than {CONTACTS_MAX} contacts"));
    }
    Ok(contacts)
}

fn of_json(text: &str) -> Result<Vec<Contact>, String> {
    let items: Vec<Json> = serde_json::from_str(text).map_err(|error| format!("it is no list in JSON: {error}"))?;
    let read = |(index, item): (usize, &Json)| contact_of_json(item).map_err(|reason| format!("contact {}: {reason}", index + 1));
    items.iter().enumerate().map(read).collect()
}

fn of_csv(text: &str) -> Result<Vec<Contact>, String> {
    let mut rows = rows(text)?.into_iter();
    let (_, header) = rows.next().ok_or("it is empty: the first line names the columns")?;
    let header: Vec<String> = header.iter().map(|cell| cell.trim().to_ascii_lowercase()).collect();
    if !header.iter().any(|column| column == "namespace") {
        return Err("line 1: the first line names the columns, and there is no `namespace`".to_owned());
    }
    rows.filter(|(_, row)| row.iter().any(|cell| !cell.trim().is_empty()))
        .map(|(line, row)| contact_of_row(&header, &row).map_err(|reason| format!("line {line}: {reason}")))
        .collect()
}

fn contact_of_row(header: &[String], row: &[String]) -> Result<Contact, String> {
    if row.len() != header.len() {
        return Err(format!("{} cells, and the first line names {}", row.len(), header.len()));
    }
    let mut map = Map::new();
    for (column, cell) in header.iter().zip(row).filter(|(_, cell)| !cell.trim().is_empty()) {
        let cell = cell.trim();
        let value = match column.as_str() {
            "namespace" | "slack" => Json::from(cell),
            "email" | "whatsapp" => cell.split(';').map(str::trim).filter(|item| !item.is_empty()).map(Json::from).collect(),
            _ => continue,
        };
        map.insert(column.clone(), value);
    }
    contact_of_json(&Json::Object(map))
}

/// The rows of a CSV (RFC 4180), each with the line it begins on.
fn rows(text: &str) -> Result<Vec<(usize, Vec<String>)>, String> {
    let (mut rows, mut row, mut cell) = (Vec::new(), Vec::new(), String::new());
    let (mut line, mut began, mut quoted) = (1, 1, false);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '\n' {
            line += 1;
        }
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                cell.push('"');
            }
            '"' if quoted => quoted = false,
            _ if quoted => cell.push(c),
            '"' if cell.is_empty() => quoted = true,
            ',' => row.push(std::mem::take(&mut cell)),
            '\r' if chars.peek() == Some(&'\n') => {}
            '\n' => {
                row.push(std::mem::take(&mut cell));
                rows.push((began, std::mem::take(&mut row)));
                began = line;
            }
            _ => cell.push(c),
        }
    }
    if quoted {
        return Err(format!("line {began}: a quote is opened and never closed"));
    }
    if !cell.is_empty() || !row.is_empty() {
        row.push(cell);
        rows.push((began, row));
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn csv(text: &str) -> String {
        match parse(Path::new("contacts.csv"), text) {
            Ok(contacts) => {
                let shown = |it: &Contact| {
                    let them: Vec<_> = it.ways.email.iter().map(ToString::to_string).collect();
                    let more = it.ways.whatsapp.iter().map(ToString::to_string);
                    format!("{}={}", it.namespace.text(), them.into_iter().chain(more).collect::<Vec<_>>().join("+"))
                };
                contacts.iter().map(shown).collect::<Vec<_>>().join(" ")
            }
            Err(reason) => format!("error: {reason}"),
        }
    }

    #[test]
    fn csv_with_quotes_and_several_addresses() {
        assert_eq!(
            csv(
                "\u{feff}Namespace,email,team,whatsapp\r\nuser_1,a@x.example; b@x.example,red,\r\n\"acme-*\",,\"a, \"\"b\"\"\",+15550100\r\n\r\n*,ops@x.example,,"
            ),
            "user_1=a@x.example+b@x.example acme-*=+15550100 *=ops@x.example"
        );
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        insta::assert_snapshot!(csv(""), @"error: it is empty: the first line names the columns");
        insta::assert_snapshot!(csv("name,email\na,b"), @"error: line 1: the first line names the columns, and there is no `namespace`");
        insta::assert_snapshot!(csv("namespace,email\na,a@x.example\nb,nobody"), @"error: line 3: expected a mail address such as dana@example.com, found `nobody`");
        insta::assert_snapshot!(csv("namespace,email\na,b,c"), @"error: line 2: 3 cells, and the first line names 2");
        insta::assert_snapshot!(csv("namespace,email\na,\"b"), @"error: line 2: a quote is opened and never closed");
        insta::assert_snapshot!(csv("namespace,email\na,\n"), @"error: line 2: a contact needs `email`, `slack` or `whatsapp`");
    }

    #[test]
    fn json_is_a_list_of_contacts() {
        let path = Path::new("contacts.JSON");
        let good = parse(path, r#"[{"namespace": "user_1", "email": "a@x.example"}]"#).unwrap();
        assert_eq!(good[0].ways.email[0].address(), "a@x.example");
        let bad = |text| parse(path, text).unwrap_err();
        insta::assert_snapshot!(bad("{}"), @"it is no list in JSON: invalid type: map, expected a sequence at line 1 column 0");
        insta::assert_snapshot!(bad(r#"[{"namespace": "a", "email": []}]"#), @"contact 1: a contact needs `email`, `slack` or `whatsapp`");
    }

    proptest! {
        #[test]
        fn no_text_breaks_it(text in r#"[a@.,;"\r\n *é]{0,40}"#) {
            let _ = (csv(&text), csv(&format!("namespace,email\n{text}")));
        }
    }
}
