//! A store in a database as one end of a copy ([`crate::store::copy`]). What is read is read in one snapshot; what is written goes through
//! the tables' parents, so that each row lands in the partition that is its own.

use std::sync::Arc;

use async_trait::async_trait;
use tokio_postgres::{Client, Row as DbRow, error::SqlState, types::ToSql};

use super::{
    connect::fault,
    owners::LEASE_MAX_MS,
    partitions, schema,
    servers::Servers,
    text::{Int, Text},
    tls::Tls,
    url,
};
use crate::{
    clock::{from_ms, rfc3339_s},
    secret::Secret,
    store::{
        Error as StoreError,
        copy::{
            Cell, Column, DESTINATION, Destination, Error, KEY, Kind, Mark, NUMBERED, Result, Row, SOURCE, Source, Stamp, TABLES,
            Table, of_the_place, row_name,
        },
    },
};

/// Every question goes by the order of a key, however few rows the server believes there are. Nothing ends the connection between two.
const SETTINGS: &str =
    "SET idle_in_transaction_session_timeout = 0; SET statement_timeout = 0; SET lock_timeout = '10s'; SET jit = off;
    SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_bitmapscan = off; SET synchronous_commit = on";
/// How long a relay that was stopped may take until its last connection is gone, in a setting of PostgreSQL's.
const LEAVING: &str = "SET lock_timeout = '5s'";
const LEFT: &str = "SET lock_timeout = '10s'";
/// All that is read of the source is of one moment.
const SNAPSHOT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// A connection, which holds the lock of whoever copies.
pub(in crate::store) struct End {
    client: Client,
    side: &'static str,
}

impl End {
    /// The store at `url`, to be read.
    pub(in crate::store) async fn source(url: &Secret) -> Result<Self> {
        let end = Self::connect(url, SOURCE).await?;
        let there = "SELECT to_regclass(quote_ident(current_schema()) || '.hookyard') IS NOT NULL";
        if !end.one::<bool>(there).await? {
            return Err(end.says(StoreError::Unreadable("there is no store of hookyard's in it".to_owned())));
        }
        end.fits().await?;
        end.batch(SNAPSHOT).await?;
        Ok(end)
    }

    /// The store at `url`, to be written; its tables are made where they are missing.
    pub(in crate::store) async fn destination(url: &Secret) -> Result<Self> {
        let mut end = Self::connect(url, DESTINATION).await?;
        schema::prepare(&mut end.client).await.map_err(|error| end.says(error))?;
        end.fits().await?;
        Ok(end)
    }

    async fn connect(url: &Secret, side: &'static str) -> Result<Self> {
        let says = |error| Error::Store { side, error };
        let place = url::parse(url.reveal()).map_err(|why| says(StoreError::Unreadable(format!("its URL: {why}"))))?;
        let tls = Tls::new(&place).map_err(says)?;
        let servers = Arc::new(Servers::new(place, tls));
        let client = servers.connect().await.map_err(says)?.watched(&servers);
        let end = Self { client, side };
        end.batch(SETTINGS).await?;
        let free = end.client.query_one(schema::COPY, &[]).await.map_err(|error| end.says(schema::no_schema(error)))?;
        if !free.get::<_, bool>(0) {
            return Err(end.says(StoreError::Locked("another `hookyard store copy` works on it".to_owned())));
        }
        Ok(end)
    }

    /// Refuses another version, and a store that somebody works on.
    async fn fits(&self) -> Result<()> {
        let version: i32 = self.one("SELECT version FROM hookyard").await?;
        if version != schema::VERSION {
            let known = schema::VERSION;
            let todo = if version < known {
                "start this hookyard on it once, which brings it up"
            } else {
                "use the hookyard that knows it"
            };
            let why = format!("its schema has version {version}, and version {known} is copied: {todo}");
            return Err(self.says(StoreError::Unreadable(why)));
        }
        self.is_free().await?;
        self.is_left().await
    }

    /// Refuses a store that somebody has open, though no lease says so, and keeps others from it.
    async fn is_left(&self) -> Result<()> {
        self.batch(LEAVING).await?;
        match self.client.batch_execute(schema::UNUSED).await {
            Ok(()) => self.batch(LEFT).await,
            Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
                let users: String = self.one(schema::USERS).await?;
                Err(self.says(StoreError::Locked(format!(
                    "a relay is connected to it, whose lease has ended (the server's process {users}): stop every relay first; of one \
                     whose machine is gone, SELECT pg_terminate_backend(…) of that process ends the connection"
                ))))
            }
            Err(error) => Err(self.failed(&error)),
        }
    }

    async fn is_free(&self) -> Result<()> {
        let now = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint";
        let sql = format!(
            "SELECT count(*), coalesce(max(until), 0) FROM owners WHERE until BETWEEN {now} + 1 AND {now} + {LEASE_MAX_MS}"
        );
        let row = self.client.query_one(&sql, &[]).await.map_err(|error| self.failed(&error))?;
        let (live, until): (i64, i64) = (row.get(0), row.get(1));
        if live == 0 {
            return Ok(());
        }
        let relays = if live == 1 { "a relay works".to_owned() } else { format!("{live} relays work") };
        Err(self.says(StoreError::Locked(format!(
            "{relays} on it: stop every relay first (the lease of one that was killed ends by itself, here at {})",
            rfc3339_s(from_ms(until))
        ))))
    }

    fn says(&self, error: StoreError) -> Error {
        Error::Store { side: self.side, error }
    }

    fn failed(&self, error: &tokio_postgres::Error) -> Error {
        self.says(fault(error))
    }

    async fn batch(&self, sql: &str) -> Result<()> {
        self.client.batch_execute(sql).await.map_err(|error| self.failed(&error))
    }

    async fn one<T: for<'r> tokio_postgres::types::FromSql<'r>>(&self, sql: &str) -> Result<T> {
        let row = self.client.query_one(sql, &[]).await.map_err(|error| self.failed(&error))?;
        row.try_get(0).map_err(|error| self.failed(&error))
    }

    async fn keep(&self, mark: &Mark) -> Result<()> {
        let sql = "INSERT INTO settings (key, value) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value";
        let text = mark.written();
        self.client.execute(sql, &[&Text::of(KEY), &Text::of(&text)]).await.map(|_| ()).map_err(|error| self.failed(&error))
    }

    /// `BEGIN`, `work`, `COMMIT`: what fails ends the run, and with it the transaction.
    async fn insert(&self, table: &Table, rows: &[Row]) -> Result<()> {
        let columns: Vec<Column> = table.columns.iter().copied().chain(table.derived.map(|(column, _)| column)).collect();
        let arrays = gather(table, &columns, rows)?;
        let types: Vec<String> =
            columns.iter().enumerate().map(|(at, it)| format!("${}::{}[]", at + 1, array(it.kind))).collect();
        let sql = format!(
            "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT * FROM unnest({})",
            table.name,
            Table::names(&columns),
            types.join(", ")
        );
        let values: Vec<&(dyn ToSql + Sync)> = arrays.iter().map(Array::value).collect();
        match self.client.execute(&sql, &values).await {
            Ok(_) => Ok(()),
            Err(error) => match fault(&error) {
                StoreError::Backend(why) => Err(Error::Row { table: table.name, row: among(table, rows), why: why.to_string() }),
                error => Err(self.says(error)),
            },
        }
    }
}

/// Which rows a statement was about.
fn among(table: &Table, rows: &[Row]) -> String {
    let name = |row: Option<&Row>| row.map(|row| row_name(table, row)).unwrap_or_default();
    if rows.len() == 1 { name(rows.first()) } else { format!("{} to {}", name(rows.first()), name(rows.last())) }
}

/// The type that cells of a kind are sent as: PostgreSQL makes them as narrow as the column is.
const fn array(kind: Kind) -> &'static str {
    match kind {
        Kind::Small | Kind::Int | Kind::Long => "bigint",
        Kind::Bool => "bool",
        Kind::Text => "text",
        Kind::Bytes => "bytea",
    }
}

/// The cells of one column.
enum Array<'r> {
    Ints(Vec<Option<i64>>),
    Bools(Vec<Option<bool>>),
    Texts(Vec<Option<Text<'r>>>),
    Bytes(Vec<Option<&'r [u8]>>),
}

impl<'r> Array<'r> {
    fn of(kind: Kind, room: usize) -> Self {
        match kind {
            Kind::Small | Kind::Int | Kind::Long => Self::Ints(Vec::with_capacity(room)),
            Kind::Bool => Self::Bools(Vec::with_capacity(room)),
            Kind::Text => Self::Texts(Vec::with_capacity(room)),
            Kind::Bytes => Self::Bytes(Vec::with_capacity(room)),
        }
    }

    fn value(&self) -> &(dyn ToSql + Sync) {
        match self {
            Self::Ints(it) => it,
            Self::Bools(it) => it,
            Self::Texts(it) => it,
            Self::Bytes(it) => it,
        }
    }

    /// Adds a cell, or says why it does not fit.
    fn push(&mut self, cell: &'r Cell, column: &Column) -> std::result::Result<(), String> {
        match (self, cell) {
            (Self::Ints(all), Cell::Null) => all.push(None),
            (Self::Bools(all), Cell::Null) => all.push(None),
            (Self::Texts(all), Cell::Null) => all.push(None),
            (Self::Bytes(all), Cell::Null) => all.push(None),
            (Self::Ints(all), Cell::Int(it)) if fits(column.kind, *it) => all.push(Some(*it)),
            (Self::Bools(all), Cell::Int(it)) => all.push(Some(*it != 0)),
            (Self::Texts(all), Cell::Text(text)) => all.push(Some(Text::of(text))),
            (Self::Bytes(all), Cell::Bytes(bytes)) => all.push(Some(bytes)),
            (_, Cell::Int(it)) => return Err(format!("{} is {it}, which the column cannot hold", column.name)),
            _ => return Err(format!("{} is of another kind", column.name)),
        }
        Ok(())
    }
}

fn fits(kind: Kind, it: i64) -> bool {
    match kind {
        Kind::Small => i16::try_from(it).is_ok(),
        Kind::Int => i32::try_from(it).is_ok(),
        _ => true,
    }
}

/// The cells of `rows` by column, with what only PostgreSQL has.
fn gather<'r>(table: &Table, columns: &[Column], rows: &'r [Row]) -> Result<Vec<Array<'r>>> {
    let mut arrays: Vec<Array<'r>> = columns.iter().map(|column| Array::of(column.kind, rows.len())).collect();
    for row in rows {
        let named = |why| Error::Row { table: table.name, row: row_name(table, row), why };
        for ((array, column), cell) in arrays.iter_mut().zip(table.columns).zip(row) {
            array.push(cell, column).map_err(named)?;
        }
        if let (Some((_, make)), Some(Array::Ints(all))) = (table.derived, arrays.last_mut()) {
            all.push(Some(make(row)));
        }
    }
    Ok(arrays)
}

/// A row of the source.
fn read(row: &DbRow, table: &Table) -> std::result::Result<Row, tokio_postgres::Error> {
    let cell = |(at, column): (usize, &Column)| {
        Ok(match column.kind {
            Kind::Small | Kind::Int | Kind::Long => row.try_get::<_, Option<Int>>(at)?.map(|it| Cell::Int(it.0)),
            Kind::Bool => row.try_get::<_, Option<bool>>(at)?.map(|it| Cell::Int(it.into())),
            Kind::Text => row.try_get::<_, Option<Text<'_>>>(at)?.map(|it| Cell::Text(it.into_string())),
            Kind::Bytes => row.try_get::<_, Option<Vec<u8>>>(at)?.map(Cell::Bytes),
        }
        .unwrap_or(Cell::Null))
    };
    table.columns.iter().enumerate().map(cell).collect()
}

/// What is copied of a table.
fn from(table: &Table) -> &'static str {
    match table.name {
        "settings" => concat!("(SELECT key, value FROM settings WHERE key NOT IN ", of_the_place!(), ") AS settings"),
        other => other,
    }
}

#[async_trait(?Send)]
impl Source for End {
    async fn stamp(&mut self) -> Result<Stamp> {
        let sql = "SELECT salt, last_seq, epoch, (SELECT coalesce(max(revision), 0) FROM records), (SELECT coalesce(max(id), 0) FROM audit)
            FROM identity";
        let row = self.client.query_one(sql, &[]).await.map_err(|error| self.failed(&error))?;
        Ok(Stamp { salt: row.get(0), last_seq: row.get(1), epoch: row.get(2), revision: row.get(3), audit: row.get(4) })
    }

    async fn mark(&mut self) -> Result<Option<Mark>> {
        let row = self.client.query_opt("SELECT value FROM settings WHERE key = $1", &[&Text::of(KEY)]).await;
        let row = row.map_err(|error| self.failed(&error))?;
        row.map(|row| Mark::read(row.get::<_, Text<'_>>(0).as_str())).transpose().map_err(|error| self.says(error))
    }

    async fn last(&mut self, tables: &[&'static str]) -> Result<Vec<i64>> {
        let mut last = Vec::new();
        for name in tables {
            let given = format!("coalesce(pg_sequence_last_value(pg_get_serial_sequence('{name}', 'id')::regclass), 0)");
            last.push(self.one(&format!("SELECT greatest({given}, (SELECT coalesce(max(id), 0) FROM {name}))")).await?);
        }
        Ok(last)
    }

    async fn count(&mut self, table: &Table) -> Result<u64> {
        self.one::<i64>(&format!("SELECT count(*) FROM {}", from(table))).await.map(i64::cast_unsigned)
    }

    async fn read(&mut self, table: &Table, after: Option<&[Cell]>, limit: usize) -> Result<Vec<Row>> {
        let (columns, key) = (Table::names(table.columns), Table::names(table.key_columns()));
        let behind = after.map(|_| {
            let marks: Vec<String> =
                table.key_columns().iter().enumerate().map(|(at, it)| format!("${}::{}", at + 1, array(it.kind))).collect();
            format!("WHERE ({key}) > ({})", marks.join(", "))
        });
        let sql = format!("SELECT {columns} FROM {} {} ORDER BY {key} LIMIT {limit}", from(table), behind.unwrap_or_default());
        let key: Vec<Key<'_>> =
            after.unwrap_or_default().iter().zip(table.key_columns()).map(|(cell, column)| Key::of(cell, column)).collect();
        let values: Vec<&(dyn ToSql + Sync)> = key.iter().map(Key::value).collect();
        let rows = self.client.query(&sql, &values).await.map_err(|error| self.failed(&error))?;
        rows.iter().map(|row| read(row, table).map_err(|error| self.failed(&error))).collect()
    }

    async fn look_again(&mut self) -> Result<Stamp> {
        self.batch("COMMIT").await?;
        self.is_free().await?;
        self.stamp().await
    }
}

/// A cell of a key, as a value of a statement.
enum Key<'c> {
    Int(i64),
    Bool(bool),
    Text(Text<'c>),
    Bytes(&'c [u8]),
    Null,
}

impl<'c> Key<'c> {
    fn of(cell: &'c Cell, column: &Column) -> Self {
        match cell {
            Cell::Int(it) if column.kind == Kind::Bool => Self::Bool(*it != 0),
            Cell::Int(it) => Self::Int(*it),
            Cell::Text(text) => Self::Text(Text::of(text)),
            Cell::Bytes(bytes) => Self::Bytes(bytes),
            Cell::Null => Self::Null,
        }
    }

    fn value(&self) -> &(dyn ToSql + Sync) {
        match self {
            Self::Int(it) => it,
            Self::Bool(it) => it,
            Self::Text(it) => it,
            Self::Bytes(it) => it,
            // No column of a key can be without a value.
            Self::Null => &None::<i64>,
        }
    }
}

/// What the rows that are there take, for the bounds of the store.
const USED: &str = "UPDATE identity SET used = (SELECT coalesce(sum(size), 0)::bigint FROM events)";
const USAGE: &str = "UPDATE usage SET bytes = (SELECT coalesce(sum(octet_length(body) + coalesce(octet_length(progress), 0)), 0)::bigint FROM bodies)
        + (SELECT coalesce(sum(octet_length(response)), 0)::bigint FROM attempts) WHERE slot = 0";

#[async_trait(?Send)]
impl Destination for End {
    async fn begin(&mut self, mark: &Mark) -> Result<()> {
        let Stamp { salt, last_seq, epoch, .. } = mark.from;
        self.batch("BEGIN").await?;
        let sql = "UPDATE identity SET salt = $1, last_seq = $2, epoch = $3, probed_at = NULL";
        self.client.execute(sql, &[&salt, &last_seq, &epoch]).await.map_err(|error| self.failed(&error))?;
        if let Some(sql) = partitions::reaching(last_seq) {
            self.batch(&sql).await?;
        }
        self.keep(mark).await?;
        self.batch("COMMIT").await
    }

    async fn write(&mut self, table: &Table, rows: &[Row], mark: &Mark) -> Result<()> {
        self.batch("BEGIN").await?;
        self.insert(table, rows).await?;
        self.keep(mark).await?;
        self.batch("COMMIT").await
    }

    async fn finish(&mut self, last: &[i64], mark: &Mark) -> Result<()> {
        self.is_free().await?;
        let Stamp { salt, last_seq, epoch, .. } = self.stamp().await?;
        if (salt, last_seq, epoch) != (mark.from.salt, mark.from.last_seq, mark.from.epoch) {
            return Err(Error::Refused(
                "a relay has worked on the destination while it was copied into: stop all relays, empty it and begin again"
                    .to_owned(),
            ));
        }
        self.batch("SET enable_seqscan = on; SET enable_bitmapscan = on").await?;
        self.batch("BEGIN").await?;
        for (name, last) in NUMBERED.iter().zip(last).filter(|(_, last)| **last != 0) {
            let sql = format!("SELECT setval(pg_get_serial_sequence('{name}', 'id'), $1)");
            self.client.query_one(&sql, &[last]).await.map_err(|error| self.failed(&error))?;
        }
        self.batch(USED).await?;
        self.batch(USAGE).await?;
        self.batch(partitions::COUNT_ENDED).await?;
        self.keep(mark).await?;
        self.batch("COMMIT").await?;
        // So that the first plans are made for what is there.
        let names: Vec<&str> = TABLES.iter().map(|table| table.name).collect();
        self.batch(&format!("ANALYZE {}", names.join(", "))).await
    }
}
