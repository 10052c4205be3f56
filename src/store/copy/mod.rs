//! Copies a whole store into another, of the same kind or not: two URLs come in, and the copy holds every row under its own number, so that
//! ids, cursors and places stay what they were. Goes table by table in the order of their keys ([`tables`]), in bounded slices; each slice
//! is one commit of the destination, with the mark of how far it came ([`mark`]), so a run that was killed is gone on with by the next.
//!
//! The source is only read. Neither side may be in use; what begins to work on the source meanwhile is noticed at the end.
//! Blocks the thread that it runs on: it is for a tool that has nothing else to do.

use std::{path::Path, time::Duration};

use async_trait::async_trait;

pub(in crate::store) use self::{
    mark::{KEY, Mark, Stamp, of_the_place, unfinished},
    tables::{BODY, Cell, Column, Kind, Row, TABLES, Table, row_name},
};
use super::{Error as StoreError, postgres, sqlite};
use crate::{
    clock::{Clock, Timestamp, from_ms, rfc3339_s, to_ms},
    secret::Secret,
};

mod mark;
mod tables;
#[cfg(test)]
mod tests;

/// Rows that one commit takes at most.
const SLICE_ROWS: usize = 2000;
/// Bytes after which a commit takes no more rows.
const SLICE_BYTES: usize = 8 * 1024 * 1024;

/// Why a store was not copied.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// One of the two cannot be opened, read or written.
    #[error("{side}: {error}")]
    Store {
        /// Which.
        side: &'static str,
        /// What it says.
        error: StoreError,
    },
    /// What was asked for makes no sense, or would spoil something.
    #[error("{0}")]
    Refused(String),
    /// A row is none that the other store can hold.
    #[error("table {table}, row {row}: {why}")]
    Row {
        /// Of which table.
        table: &'static str,
        /// Its key.
        row: String,
        /// What is wrong with it.
        why: String,
    },
}

/// What copying answers.
pub type Result<T> = std::result::Result<T, Error>;

/// How far a copy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The table that is copied.
    pub table: &'static str,
    /// Rows of all tables that are there.
    pub done: u64,
    /// Rows of all tables that there are.
    pub total: u64,
}

/// A copy that is whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// Rows of each table, counted on both sides; of the source alone where [`Copied::already`].
    pub tables: Vec<(&'static str, u64)>,
    /// Rows that an earlier run had copied, where this one went on with it.
    pub before: Option<u64>,
    /// When it was finished; by an earlier run where [`Copied::already`].
    pub finished_at: Timestamp,
    /// Nothing was left to do.
    pub already: bool,
}

impl Copied {
    /// Rows of all tables.
    pub fn rows(&self) -> u64 {
        self.tables.iter().map(|(_, rows)| rows).sum()
    }
}

/// From where to where, and how fast.
#[derive(Debug)]
pub struct Plan<'p> {
    /// The URL of the store that is copied.
    pub from: &'p Secret,
    /// The URL of the store that becomes its copy.
    pub to: &'p Secret,
    /// Where relative paths begin.
    pub folder: &'p Path,
    /// Rows per second at most.
    pub rate: Option<u32>,
}

/// A store that is read, and that nobody else works on.
#[async_trait(?Send)]
pub(in crate::store) trait Source {
    /// What tells this store, and its state, from others.
    async fn stamp(&mut self) -> Result<Stamp>;
    /// What a copy that was made into it, or begun, has left there.
    async fn mark(&mut self) -> Result<Option<Mark>>;
    /// The last numbers that were given to rows of these tables, which are never given again.
    async fn last(&mut self, tables: &[&'static str]) -> Result<Vec<i64>>;
    /// How many rows there are.
    async fn count(&mut self, table: &Table) -> Result<u64>;
    /// Up to `limit` rows behind the one with the key `after`, by key.
    async fn read(&mut self, table: &Table, after: Option<&[Cell]>, limit: usize) -> Result<Vec<Row>>;
    /// Looks anew whether somebody works on it, and answers [`Source::stamp`] as it is now.
    async fn look_again(&mut self) -> Result<Stamp>;
}

/// A store that is written, and that nobody else works on.
#[async_trait(?Send)]
pub(in crate::store) trait Destination: Source {
    /// Makes it a copy of the store of `mark` that has no rows yet.
    async fn begin(&mut self, mark: &Mark) -> Result<()>;
    /// Writes rows, and `mark`, in one commit.
    async fn write(&mut self, table: &Table, rows: &[Row], mark: &Mark) -> Result<()>;
    /// Makes it a store that can be worked on; `last` as [`Source::last`] answers for [`NUMBERED`].
    async fn finish(&mut self, last: &[i64], mark: &Mark) -> Result<()>;
}

/// The tables whose rows the store gives numbers to.
pub(in crate::store) const NUMBERED: [&str; 4] = ["targets", "rejections", "replays", "audit"];

/// Copies, or goes on with a copy that was begun; `told` hears how far it is.
///
/// # Errors
/// Nothing of the source is changed. The destination stays as it is where it is refused; else it holds what was copied by then, and the
/// same call goes on with it.
pub async fn copy(plan: &Plan<'_>, clock: &Clock, told: &mut dyn FnMut(Progress)) -> Result<Copied> {
    by_slices(plan, SLICE_ROWS.min(plan.rate.unwrap_or(u32::MAX).max(1) as usize), clock, told).await
}

/// The same with at most `rows_max` rows in a commit.
async fn by_slices(plan: &Plan<'_>, rows_max: usize, clock: &Clock, told: &mut dyn FnMut(Progress)) -> Result<Copied> {
    if plan.from.reveal() == plan.to.reveal() {
        return Err(Error::Refused("source and destination are the same store".to_owned()));
    }
    let mut source = open_source(plan.from, plan.folder).await?;
    let mut destination = open_destination(plan.to, plan.folder).await?;
    let (source, destination) = (&mut *source, &mut *destination);
    if source.mark().await?.is_some_and(|mark| mark.finished_at.is_none()) {
        return Err(Error::Refused("the source is itself an unfinished copy: finish that first".to_owned()));
    }
    let stamp = source.stamp().await?;
    let (mut mark, before) = match destination.mark().await? {
        None => {
            is_empty(destination).await?;
            let mark = Mark::new(stamp, to_ms(clock.now()));
            destination.begin(&mark).await?;
            (mark, None)
        }
        Some(mark) => {
            goes_on(&mark, &stamp)?;
            let rows = mark.rows;
            (mark, Some(rows))
        }
    };
    let (mut total, mut tables) = (0, Vec::new());
    for table in TABLES {
        let rows = source.count(table).await?;
        total += rows;
        tables.push((table.name, rows));
    }
    if let Some(at) = mark.finished_at {
        return Ok(Copied { tables, before, finished_at: from_ms(at), already: true });
    }
    let begun = TABLES.iter().position(|table| table.name == mark.table).unwrap_or_default();
    for (at, table) in TABLES.iter().enumerate().skip(begun) {
        let after = (at == begun && !mark.after.is_empty()).then(|| mark.after.clone());
        one_table((plan.rate, rows_max), (source, destination), (table, after), &mut mark, &mut |done| {
            told(Progress { table: table.name, done, total });
        })
        .await?;
    }
    let tables = same_counts(source, destination).await?;
    if source.look_again().await? != mark.from {
        return Err(changed());
    }
    let last = source.last(&NUMBERED).await?;
    let finished_at = clock.now();
    mark.finished_at = Some(to_ms(finished_at));
    destination.finish(&last, &mark).await?;
    Ok(Copied { tables, before, finished_at, already: false })
}

/// Copies what lies behind `after` of one table.
async fn one_table(
    (rate, rows_max): (Option<u32>, usize),
    (source, destination): (&mut dyn Source, &mut dyn Destination),
    (table, mut after): (&'static Table, Option<Vec<Cell>>),
    mark: &mut Mark,
    told: &mut dyn FnMut(u64),
) -> Result<()> {
    table.name.clone_into(&mut mark.table);
    told(mark.rows);
    loop {
        let rows = slice(source, table, after.take(), rows_max).await?;
        let Some(last) = rows.last() else { return Ok(()) };
        let key = last.get(..table.key).unwrap_or_default().to_vec();
        mark.after.clone_from(&key);
        mark.rows += rows.len() as u64;
        destination.write(table, &rows, mark).await?;
        told(mark.rows);
        after = Some(key);
        if let Some(rate) = rate {
            tokio::time::sleep(Duration::from_secs_f64(rows.len() as f64 / f64::from(rate.max(1)))).await;
        }
    }
}

/// What one commit takes of `table`: a few rows are read at a time, so that large ones do not fill the memory.
async fn slice(source: &mut dyn Source, table: &Table, mut after: Option<Vec<Cell>>, rows_max: usize) -> Result<Vec<Row>> {
    let (mut rows, mut bytes) = (Vec::new(), 0);
    while rows.len() < rows_max && bytes < SLICE_BYTES {
        let limit = table.chunk.min(rows_max - rows.len());
        let more = source.read(table, after.as_deref(), limit).await?;
        let Some(last) = more.last() else { break };
        after = last.get(..table.key).map(<[Cell]>::to_vec);
        let whole = more.len() < limit;
        bytes += more.iter().flatten().map(Cell::size).sum::<usize>();
        rows.extend(more);
        if whole {
            break;
        }
    }
    Ok(rows)
}

async fn is_empty(destination: &mut dyn Destination) -> Result<()> {
    for table in TABLES {
        let rows = destination.count(table).await?;
        if rows != 0 {
            let name = table.name;
            return Err(Error::Refused(format!(
                "the destination is not empty (table {name} has {rows} rows), and no copy that was begun: name a file that is not there \
                 yet, or an empty database or schema"
            )));
        }
    }
    let Stamp { last_seq, epoch, .. } = destination.stamp().await?;
    if last_seq != 0 || epoch != 0 {
        return Err(Error::Refused(
            "a relay has worked on the destination: name a file that is not there yet, or an empty database or schema".to_owned(),
        ));
    }
    Ok(())
}

/// Whether what `mark` says of the destination can be gone on with from the source of `stamp`.
fn goes_on(mark: &Mark, stamp: &Stamp) -> Result<()> {
    let begun = rfc3339_s(from_ms(mark.begun_at));
    if mark.from.salt != stamp.salt {
        return Err(Error::Refused(format!("the destination is a copy of another store, begun at {begun}: name an empty one")));
    }
    match mark.finished_at {
        Some(at) if mark.from != *stamp => Err(Error::Refused(format!(
            "the copy was finished at {}; since then a relay has worked on the source, which holds more now: copy it into an empty store",
            rfc3339_s(from_ms(at))
        ))),
        None if mark.from != *stamp => Err(Error::Refused(format!(
            "a relay has worked on the source since the copy was begun at {begun}: empty the destination and begin again"
        ))),
        _ => Ok(()),
    }
}

/// Counts each table on both sides.
async fn same_counts(source: &mut dyn Source, destination: &mut dyn Destination) -> Result<Vec<(&'static str, u64)>> {
    let mut tables = Vec::new();
    for table in TABLES {
        let (there, here) = (source.count(table).await?, destination.count(table).await?);
        if there != here {
            return Err(Error::Refused(format!(
                "table {} has {there} rows in the source and {here} in the copy: somebody has written to one of them; empty the \
                 destination and begin again",
                table.name
            )));
        }
        tables.push((table.name, there));
    }
    Ok(tables)
}

/// The source is not what it was.
pub(in crate::store) fn changed() -> Error {
    Error::Refused(
        "the source has changed while it was copied: stop all relays, empty the destination and begin again".to_owned(),
    )
}

/// What the source's side says.
pub(in crate::store) const SOURCE: &str = "the source";
/// What the destination's side says.
pub(in crate::store) const DESTINATION: &str = "the destination";

async fn open_source(url: &Secret, folder: &Path) -> Result<Box<dyn Source>> {
    match super::file(url, folder) {
        Some(path) => Ok(Box::new(sqlite::copy::End::source(&path)?)),
        None => Ok(Box::new(postgres::copy::End::source(url).await?)),
    }
}

async fn open_destination(url: &Secret, folder: &Path) -> Result<Box<dyn Destination>> {
    match super::file(url, folder) {
        Some(path) => Ok(Box::new(sqlite::copy::End::destination(&path)?)),
        None => Ok(Box::new(postgres::copy::End::destination(url).await?)),
    }
}
