//! A store in a file as one end of a copy ([`crate::store::copy`]). The file that is read is opened to be read only, and its lock is held:
//! no relay works on it meanwhile.

use std::path::Path;

use async_trait::async_trait;
use rusqlite::{
    Connection, OptionalExtension, Statement, ToSql, params_from_iter,
    types::{ToSqlOutput, ValueRef},
};

use super::{
    connect::{self, Lock},
    rows::fault,
    schema,
};
use crate::store::{
    Error as StoreError,
    copy::{
        BODY, Cell, Column, DESTINATION, Destination, Error, KEY, Kind, Mark, NUMBERED, Result, Row, SOURCE, Source, Stamp,
        Table, of_the_place, row_name, unfinished as is_unfinished,
    },
};

/// Pages of the log after which SQLite moves it into the database by itself.
const LOG_PAGES: u32 = 4000;

/// Refuses the store of `conn` when it is a copy that is not whole.
pub(super) fn unfinished(conn: &Connection) -> std::result::Result<(), StoreError> {
    is_unfinished(kept(conn).map_err(fault)?.as_deref())
}

fn kept(conn: &Connection) -> rusqlite::Result<Option<String>> {
    conn.query_row("SELECT value FROM settings WHERE key = ?", [KEY], |row| row.get(0)).optional()
}

/// A file, and the lock on it.
pub(in crate::store) struct End {
    conn: Connection,
    side: &'static str,
    _lock: Lock,
}

/// Dedupe keys as they count: those that came lately lie in a table of their own, the latest of each key last ([`super::keys`]).
const LATELY: &str = "CREATE TEMP TABLE lately (key BLOB PRIMARY KEY, body, seq, seen_at, hashed, suffix, forget_at) WITHOUT ROWID;
    INSERT OR REPLACE INTO temp.lately SELECT key, body, seq, seen_at, hashed, suffix, forget_at FROM main.dedupe_recent ORDER BY seq;";

impl End {
    /// The store in the file at `path`, to be read.
    pub(in crate::store) fn source(path: &Path) -> Result<Self> {
        let end = || {
            if !path.exists() {
                return Err(StoreError::Unreadable(format!("there is no file {}", path.display())));
            }
            let lock = Lock::take(path)?;
            let conn = connect::reader(path).map_err(fault)?;
            fits(path, schema::check(&conn)?, false)?;
            conn.execute_batch(LATELY).map_err(fault)?;
            Ok(Self { conn, side: SOURCE, _lock: lock })
        };
        end().map_err(|error| Error::Store { side: SOURCE, error })
    }

    /// The store in the file at `path`, to be written; made where it is missing.
    pub(in crate::store) fn destination(path: &Path) -> Result<Self> {
        let end = || {
            let lock = Lock::take(path)?;
            // Another version's is not brought up to this one: it is not empty.
            if path.exists() {
                fits(path, schema::check(&connect::reader(path).map_err(fault)?)?, true)?;
            }
            let conn = connect::writer(path)?;
            conn.pragma_update(None, "wal_autocheckpoint", LOG_PAGES).map_err(fault)?;
            conn.execute_batch(LATELY).map_err(fault)?;
            Ok(Self { conn, side: DESTINATION, _lock: lock })
        };
        end().map_err(|error| Error::Store { side: DESTINATION, error })
    }

    fn failed(&self, error: rusqlite::Error) -> Error {
        Error::Store { side: self.side, error: fault(error) }
    }

    fn number(&self, sql: &str) -> Result<i64> {
        self.conn.query_row(sql, [], |row| row.get(0)).map_err(|error| self.failed(error))
    }

    fn rows(&self, sql: &str, table: &Table, after: &[Cell], limit: usize) -> Result<Vec<Row>> {
        let failed = |error| self.failed(error);
        let mut statement = self.conn.prepare_cached(sql).map_err(failed)?;
        let limit = Cell::Int(i64::try_from(limit).unwrap_or(i64::MAX));
        let mut found = statement.query(params_from_iter(after.iter().chain([&limit]))).map_err(failed)?;
        let mut rows = Vec::new();
        while let Some(row) = found.next().map_err(failed)? {
            let mut cells = Row::with_capacity(table.columns.len());
            for (at, column) in table.columns.iter().enumerate() {
                let value = row.get_ref(at).map_err(failed)?;
                let cell =
                    cell(value, column).map_err(|why| Error::Row { table: table.name, row: row_name(table, &cells), why })?;
                cells.push(cell);
            }
            rows.push(cells);
        }
        Ok(rows)
    }

    fn put(&self, table: &Table, rows: &[Row], mark: &Mark) -> Result<()> {
        let failed = |error| self.failed(error);
        let tx = self.conn.unchecked_transaction().map_err(failed)?;
        if table.name == "events" {
            let (mut events, mut bodies) = (self.insert("events", &table.columns[..BODY])?, self.insert("payloads", PAYLOAD)?);
            for row in rows {
                let (event, body) = row.split_at(BODY);
                execute(&mut events, event, table, row)?;
                execute(&mut bodies, &[&row[..1], body].concat(), table, row)?;
            }
        } else {
            let mut insert = self.insert(table.name, table.columns)?;
            for row in rows {
                execute(&mut insert, row, table, row)?;
            }
        }
        self.keep(mark)?;
        tx.commit().map_err(failed)
    }

    fn insert(&self, name: &str, columns: &[Column]) -> Result<Statement<'_>> {
        let marks = vec!["?"; columns.len()].join(", ");
        let sql = format!("INSERT INTO {name} ({}) VALUES ({marks})", Table::names(columns));
        self.conn.prepare(&sql).map_err(|error| self.failed(error))
    }

    fn keep(&self, mark: &Mark) -> Result<()> {
        let sql = "INSERT INTO settings (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value";
        self.conn.execute(sql, [KEY, &mark.written()]).map(|_| ()).map_err(|error| self.failed(error))
    }
}

/// Refuses another version; an empty file is one where `may_be_empty`.
fn fits(path: &Path, version: i32, may_be_empty: bool) -> std::result::Result<(), StoreError> {
    let todo = match version {
        schema::VERSION => return Ok(()),
        0 if may_be_empty => return Ok(()),
        0 => return Err(StoreError::Unreadable(format!("{} is empty", path.display()))),
        older if older < schema::VERSION => "start this hookyard on it once, which brings it up",
        _ => "use the hookyard that knows it",
    };
    let (at, known) = (path.display(), schema::VERSION);
    Err(StoreError::Unreadable(format!("{at}: its schema has version {version}, and version {known} is copied: {todo}")))
}

const PAYLOAD: &[Column] = &[Column { name: "seq", kind: Kind::Long }, Column { name: "body", kind: Kind::Bytes }];

fn execute(statement: &mut Statement<'_>, cells: &[Cell], table: &Table, row: &[Cell]) -> Result<()> {
    match statement.execute(params_from_iter(cells)) {
        Ok(_) => Ok(()),
        Err(error) => match fault(error) {
            StoreError::Backend(why) => Err(Error::Row { table: table.name, row: row_name(table, row), why: why.to_string() }),
            error => Err(Error::Store { side: DESTINATION, error }),
        },
    }
}

impl ToSql for Cell {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Int(it) => ValueRef::Integer(*it),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Bytes(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

/// A cell of `column`, or why it is none.
fn cell(value: ValueRef<'_>, column: &Column) -> std::result::Result<Cell, String> {
    let name = column.name;
    match (value, column.kind) {
        (ValueRef::Null, _) => Ok(Cell::Null),
        (ValueRef::Integer(it), Kind::Small | Kind::Int | Kind::Long | Kind::Bool) => Ok(Cell::Int(it)),
        (ValueRef::Text(text), Kind::Text) => match std::str::from_utf8(text) {
            Ok(text) => Ok(Cell::Text(text.to_owned())),
            Err(_) => Err(format!("{name} is no text")),
        },
        (ValueRef::Blob(bytes), Kind::Bytes) => Ok(Cell::Bytes(bytes.to_vec())),
        (other, _) => Err(format!("{name} holds {}", other.data_type())),
    }
}

/// What is read of a table: under the names of its columns, whatever lies where.
fn from(table: &Table) -> &'static str {
    match table.name {
        // An event without a body is noticed by whoever is to keep it.
        "events" => "(SELECT e.*, p.body AS body FROM main.events e LEFT JOIN main.payloads p ON p.seq = e.seq)",
        "settings" => concat!("(SELECT * FROM main.settings WHERE key NOT IN ", of_the_place!(), ")"),
        "dedupe" => {
            "(SELECT key, body, seq, seen_at, hashed, suffix, forget_at FROM main.dedupe d
                WHERE NOT EXISTS (SELECT 1 FROM temp.lately l WHERE l.key = d.key)
              UNION ALL SELECT key, body, seq, seen_at, hashed, suffix, forget_at FROM temp.lately)"
        }
        other => other,
    }
}

#[async_trait(?Send)]
impl Source for End {
    async fn stamp(&mut self) -> Result<Stamp> {
        let sql = "SELECT salt, max(last_seq, (SELECT coalesce(max(seq), 0) FROM events)), epoch,
            (SELECT coalesce(max(revision), 0) FROM records), (SELECT coalesce(max(id), 0) FROM audit) FROM identity";
        let read = self.conn.query_row(sql, [], |row| {
            Ok(Stamp { salt: row.get(0)?, last_seq: row.get(1)?, epoch: row.get(2)?, revision: row.get(3)?, audit: row.get(4)? })
        });
        read.map_err(|error| self.failed(error))
    }

    async fn mark(&mut self) -> Result<Option<Mark>> {
        let side = self.side;
        let text = kept(&self.conn).map_err(|error| self.failed(error))?;
        text.map(|text| Mark::read(&text)).transpose().map_err(|error| Error::Store { side, error })
    }

    async fn last(&mut self, tables: &[&'static str]) -> Result<Vec<i64>> {
        let one = |name: &&'static str| {
            let given = format!("(SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = '{name}')");
            self.number(&format!("SELECT max({given}, (SELECT coalesce(max(id), 0) FROM {name}))"))
        };
        tables.iter().map(one).collect()
    }

    async fn count(&mut self, table: &Table) -> Result<u64> {
        // Rows of others are joined to them, none more.
        let rows = if table.name == "events" { "events" } else { from(table) };
        self.number(&format!("SELECT count(*) FROM {rows}")).map(i64::cast_unsigned)
    }

    async fn read(&mut self, table: &Table, after: Option<&[Cell]>, limit: usize) -> Result<Vec<Row>> {
        let (columns, key) = (Table::names(table.columns), Table::names(table.key_columns()));
        let marks = vec!["?"; table.key].join(", ");
        let behind = if after.is_some() { format!("WHERE ({key}) > ({marks})") } else { String::new() };
        let sql = format!("SELECT {columns} FROM {} {behind} ORDER BY {key} LIMIT ?", from(table));
        self.rows(&sql, table, after.unwrap_or_default(), limit)
    }

    async fn look_again(&mut self) -> Result<Stamp> {
        // The lock has been held all the time.
        self.stamp().await
    }
}

#[async_trait(?Send)]
impl Destination for End {
    async fn begin(&mut self, mark: &Mark) -> Result<()> {
        let failed = |error| self.failed(error);
        let tx = self.conn.unchecked_transaction().map_err(failed)?;
        let Stamp { salt, last_seq, epoch, .. } = mark.from;
        let sql = "UPDATE identity SET salt = ?, last_seq = ?, epoch = ?, probed_at = NULL";
        self.conn.execute(sql, [salt, last_seq, epoch]).map_err(failed)?;
        self.keep(mark)?;
        tx.commit().map_err(failed)
    }

    async fn write(&mut self, table: &Table, rows: &[Row], mark: &Mark) -> Result<()> {
        self.put(table, rows, mark)
    }

    async fn finish(&mut self, last: &[i64], mark: &Mark) -> Result<()> {
        let failed = |error| self.failed(error);
        let tx = self.conn.unchecked_transaction().map_err(failed)?;
        // The other tables give numbers by the rows that they hold.
        let counted = ["rejections", "audit"];
        for (name, last) in NUMBERED.iter().zip(last).filter(|(name, last)| counted.contains(name) && **last != 0) {
            self.conn.execute("DELETE FROM sqlite_sequence WHERE name = ?", [name]).map_err(failed)?;
            self.conn.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (name, last)).map_err(failed)?;
        }
        self.keep(mark)?;
        tx.commit().map_err(failed)?;
        self.conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).map_err(failed)
    }
}
