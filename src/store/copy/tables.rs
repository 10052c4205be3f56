//! What there is to copy: every table that both back ends have, column by column. A test holds the list against the tables themselves.

use serde::{Deserialize, Serialize};

use crate::{
    sign::hex,
    store::{postgres, shard_of},
};

/// What a column holds, and how wide PostgreSQL has it; in SQLite all numbers are alike, and yes is 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum Kind {
    /// 16 bits.
    Small,
    /// 32 bits.
    Int,
    /// 64 bits.
    Long,
    /// Yes or no.
    Bool,
    /// Text, which in SQLite may hold NUL.
    Text,
    /// Bytes.
    Bytes,
}

/// A column.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct Column {
    pub(in crate::store) name: &'static str,
    pub(in crate::store) kind: Kind,
}

/// One cell of a row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(in crate::store) enum Cell {
    Null,
    /// A number, or yes (1) or no (0).
    Int(i64),
    Text(String),
    Bytes(Vec<u8>),
}

/// The cells of a row, in the order of its table's columns.
pub(in crate::store) type Row = Vec<Cell>;

impl Cell {
    /// Bytes it takes, roughly.
    pub(in crate::store) fn size(&self) -> usize {
        match self {
            Self::Null | Self::Int(_) => 8,
            Self::Text(text) => text.len(),
            Self::Bytes(bytes) => bytes.len(),
        }
    }

    /// Its number.
    fn int(&self) -> i64 {
        if let Self::Int(it) = self { *it } else { 0 }
    }

    fn shown(&self) -> String {
        match self {
            Self::Null => "null".to_owned(),
            Self::Int(it) => it.to_string(),
            Self::Text(text) => format!("{text:?}"),
            Self::Bytes(bytes) => hex(bytes),
        }
    }
}

/// Makes a number of the cells of a row.
pub(in crate::store) type Made = fn(&[Cell]) -> i64;

/// A table.
#[derive(Debug)]
pub(in crate::store) struct Table {
    pub(in crate::store) name: &'static str,
    /// The key's first.
    pub(in crate::store) columns: &'static [Column],
    /// How many columns are the key.
    pub(in crate::store) key: usize,
    /// Rows read at once: few where they may be large.
    pub(in crate::store) chunk: usize,
    /// A column that only PostgreSQL has, made of the others.
    pub(in crate::store) derived: Option<(Column, Made)>,
}

impl Table {
    /// The columns of its key.
    pub(in crate::store) fn key_columns(&self) -> &'static [Column] {
        self.columns.get(..self.key).unwrap_or_default()
    }

    /// `"a", "b"`: names for a statement.
    pub(in crate::store) fn names(columns: &[Column]) -> String {
        columns.iter().map(|column| format!("\"{}\"", column.name)).collect::<Vec<_>>().join(", ")
    }
}

/// A row as an error names it: `seq 5`.
pub(in crate::store) fn row_name(table: &Table, row: &[Cell]) -> String {
    let named = table.key_columns().iter().zip(row).map(|(column, cell)| format!("{} {}", column.name, cell.shown()));
    named.collect::<Vec<_>>().join(", ")
}

/// Rows of tables whose rows are small.
const MANY: usize = 2000;
/// Rows of tables that hold what others sent: each may be as large as `server.max_body`.
const FEW: usize = 32;

const fn long(name: &'static str) -> Column {
    Column { name, kind: Kind::Long }
}

const fn int(name: &'static str) -> Column {
    Column { name, kind: Kind::Int }
}

const fn small(name: &'static str) -> Column {
    Column { name, kind: Kind::Small }
}

const fn yes(name: &'static str) -> Column {
    Column { name, kind: Kind::Bool }
}

const fn text(name: &'static str) -> Column {
    Column { name, kind: Kind::Text }
}

const fn bytes(name: &'static str) -> Column {
    Column { name, kind: Kind::Bytes }
}

const fn table(name: &'static str, key: usize, chunk: usize, columns: &'static [Column]) -> Table {
    Table { name, columns, key, chunk, derived: None }
}

/// All of them, in the order in which they are copied.
pub(in crate::store) static TABLES: &[Table] = &[
    table("settings", 1, MANY, &[text("key"), text("value")]),
    Table { derived: Some((small("shard"), shard)), ..table("targets", 1, MANY, &[long("id"), text("name")]) },
    Table { derived: Some((long("size"), size)), ..table("events", 1, FEW, EVENT) },
    table("deliveries", 1, MANY, DELIVERY),
    table("bodies", 1, FEW, &[long("place"), text("content_type"), bytes("body"), bytes("progress"), yes("reached")]),
    table("attempts", 2, FEW * 4, ATTEMPT),
    table(
        "dedupe",
        1,
        MANY,
        &[bytes("key"), bytes("body"), long("seq"), long("seen_at"), yes("hashed"), long("suffix"), long("forget_at")],
    ),
    table("handling", 1, MANY, &[long("place"), text("plan"), int("cancels")]),
    table("awaited", 2, MANY, &[bytes("key"), long("place")]),
    table("resets", 1, MANY, &[bytes("key"), long("seq"), long("at")]),
    table(
        "throttled",
        5,
        MANY,
        &[long("target_id"), bytes("key"), yes("suppressed"), long("at"), long("place"), long("keep_until")],
    ),
    table("digests", 2, MANY, &[long("target_id"), bytes("key"), long("carrier"), long("ends_at"), int("gathered")]),
    table("rejections", 1, MANY, REJECTION),
    table("quarantine", 1, FEW, &[long("id"), text("source"), long("size"), bytes("sealed")]),
    table("replays", 1, MANY, &[long("id"), text("tag"), long("seq"), int("first"), int("last"), long("at")]),
    table("threads", 1, MANY, &[bytes("key"), text("root"), long("begun_at")]),
    table(
        "records",
        2,
        FEW * 4,
        &[text("kind"), text("id"), text("owner"), long("revision"), text("doc"), bytes("sealed"), long("removed_at")],
    ),
    table(
        "audit",
        1,
        FEW * 4,
        &[long("id"), long("at"), text("who"), text("action"), text("subject"), text("before"), text("after")],
    ),
];

/// The place of the body among the columns of `events`: in SQLite it lies in a table of its own, behind all others.
pub(in crate::store) const BODY: usize = EVENT.len() - 1;

const EVENT: &[Column] = &[
    long("seq"),
    text("id"),
    text("source"),
    text("kind"),
    text("type"),
    text("subject"),
    text("namespace"),
    text("time"),
    text("timestamp"),
    long("received_at"),
    text("traceparent"),
    yes("replayed"),
    text("content_type"),
    int("data_start"),
    int("data_len"),
    text("rules"),
    int("deliveries"),
    int("duplicates"),
    int("mismatches"),
    long("last_duplicate_at"),
    bytes("body"),
];

const DELIVERY: &[Column] = &[
    long("place"),
    long("target_id"),
    long("created_at"),
    long("due_at"),
    long("settled_at"),
    long("first_attempt_at"),
    long("stood_still_ms"),
    long("resolved_at"),
    long("renewed_at"),
    long("carrier"),
    int("attempts"),
    int("uncounted"),
    int("unmade"),
    small("state"),
    small("cause"),
    small("severity"),
    small("turn"),
    small("stage"),
    yes("replay"),
    yes("out_of_order"),
    yes("unconfirmed"),
    bytes("order_key"),
    text("rule"),
    text("template"),
    text("error"),
    text("note"),
    text("recipient"),
];

const ATTEMPT: &[Column] = &[
    long("place"),
    int("number"),
    long("started_at"),
    long("duration_us"),
    int("status"),
    text("error"),
    text("detail"),
    small("outcome"),
    small("cause"),
    long("retry_at"),
    bytes("response"),
    yes("counts"),
    long("epoch"),
];

const REJECTION: &[Column] = &[
    long("id"),
    text("source"),
    long("at"),
    int("status"),
    text("code"),
    text("reason"),
    text("path"),
    text("remote"),
    long("bytes"),
    text("accepted_as"),
    long("retried_at"),
];

/// The shard of a target's lane.
fn shard(row: &[Cell]) -> i64 {
    match row.get(1) {
        Some(Cell::Text(name)) => shard_of(&name.as_str().into()).into(),
        _ => 0,
    }
}

/// What an event takes, as it is counted when it comes.
fn size(row: &[Cell]) -> i64 {
    let counted = ["id", "type", "subject", "namespace", "content_type", "body"];
    let cells = || EVENT.iter().zip(row);
    let bytes = cells().filter(|(column, _)| counted.contains(&column.name)).map(|(_, cell)| match cell {
        Cell::Null => 0,
        other => other.size(),
    });
    let deliveries = cells().find(|(column, _)| column.name == "deliveries").map_or(0, |(_, cell)| cell.int());
    postgres::size_of_event(bytes.sum(), deliveries)
}
