//! The clauses of a list's statement, with their values. Values never become text of the statement.

use tokio_postgres::{Row, types::ToSql};

use super::{
    connect::{Db, Pg},
    text::Text,
};
use crate::{
    clock::{Timestamp, to_ms},
    store::Page,
};

/// A value of a clause.
#[derive(Debug)]
pub(super) enum Value {
    Int(i64),
    Text(Text<'static>),
    Texts(Vec<Text<'static>>),
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<Text<'static>> for Value {
    fn from(value: Text<'static>) -> Self {
        Self::Text(value)
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Self::Text(value.into())
    }
}

impl FromIterator<String> for Value {
    fn from_iter<I: IntoIterator<Item = String>>(values: I) -> Self {
        Self::Texts(values.into_iter().map(Text::from).collect())
    }
}

impl Value {
    fn param(&self) -> &(dyn ToSql + Sync) {
        match self {
            Self::Int(value) => value,
            Self::Text(value) => value,
            Self::Texts(values) => values,
        }
    }
}

/// What stands behind the tables of a list's statement.
#[derive(Debug, Default)]
pub(super) struct Where {
    clauses: Vec<String>,
    values: Vec<Value>,
    tail: String,
}

impl Where {
    /// Adds `clause`, which has one `$` for each of `values`.
    pub(super) fn and<const N: usize>(&mut self, clause: &str, values: [Value; N]) {
        let mut parts = clause.split('$');
        let mut text = parts.next().unwrap_or_default().to_owned();
        for (n, part) in (self.values.len() + 1..).zip(parts) {
            text += &format!("${n}{part}");
        }
        self.clauses.push(text);
        self.values.extend(values);
    }

    /// `column` is `value`, where there is one.
    pub(super) fn equals(&mut self, column: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.and(&format!("{column} = $"), [value.to_owned().into()]);
        }
    }

    /// The time in `column` is `since` or later, and before `until`.
    pub(super) fn between(&mut self, column: &str, since: Option<Timestamp>, until: Option<Timestamp>) {
        if let Some(since) = since {
            self.and(&format!("{column} >= $"), [to_ms(since).into()]);
        }
        if let Some(until) = until {
            self.and(&format!("{column} < $"), [to_ms(until).into()]);
        }
    }

    /// Order and end of `page`, by the place in `column`; comes last.
    pub(super) fn page(&mut self, column: &str, page: Page, limit: u32) {
        let order = match page {
            Page::Newest => "DESC",
            Page::Before(place) => {
                self.and(&format!("{column} < $"), [place.into()]);
                "DESC"
            }
            Page::After(place) => {
                self.and(&format!("{column} > $"), [place.into()]);
                "ASC"
            }
        };
        self.tail = format!(" ORDER BY {column} {order} LIMIT {limit}");
    }

    /// As [`Self::page`], by the steps that made deliveries; `step` made the one at the page's place.
    pub(super) fn page_of_steps(&mut self, page: Page, limit: u32, step: i64) {
        let order = match page {
            Page::Newest => "DESC",
            Page::Before(place) => {
                self.and("r.id <= $ AND (r.id < $ OR d.place < $)", [step.into(), step.into(), place.into()]);
                "DESC"
            }
            Page::After(place) => {
                self.and("r.id >= $ AND (r.id > $ OR d.place > $)", [step.into(), step.into(), place.into()]);
                "ASC"
            }
        };
        self.tail = format!(" ORDER BY r.id {order}, d.place {order} LIMIT {limit}");
    }

    /// What `select` (columns and tables) finds.
    pub(super) async fn rows(&self, db: &Db, select: &str) -> Pg<Vec<Row>> {
        let clauses = self.clauses.join(" AND ");
        let r#where = if clauses.is_empty() { "" } else { " WHERE " };
        let sql = format!("{select}{where}{clauses}{tail}", r#where = r#where, tail = self.tail);
        let params: Vec<_> = self.values.iter().map(Value::param).collect();
        db.rows_once(&sql, &params).await
    }
}
