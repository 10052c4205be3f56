//! Text as PostgreSQL can keep it. It knows no NUL, which hostile events hold: NUL is written as SUB 0, and SUB itself as SUB 1.

use std::{borrow::Cow, error::Error};

use bytes::BytesMut;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

/// ASCII's "substitute": the mark before what stands for another character.
const SUB: char = '\u{1a}';

/// A text on its way into a statement or out of a row: there any text, in the tables without NUL.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Text<'t>(Cow<'t, str>);

impl<'t> Text<'t> {
    /// `text` as it is to be kept.
    pub(super) fn of(text: &'t str) -> Self {
        Self(Cow::Borrowed(text))
    }

    /// The same, where there is one.
    pub(super) fn of_some(text: Option<&'t str>) -> Option<Self> {
        text.map(Self::of)
    }

    /// The text itself.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// The same, to be kept.
    pub(super) fn into_string(self) -> String {
        self.0.into_owned()
    }
}

impl From<String> for Text<'_> {
    fn from(text: String) -> Self {
        Self(Cow::Owned(text))
    }
}

impl ToSql for Text<'_> {
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        written(&self.0).as_ref().to_sql(ty, out)
    }

    fn accepts(ty: &Type) -> bool {
        <&str as ToSql>::accepts(ty)
    }

    to_sql_checked!();
}

impl<'r> FromSql<'r> for Text<'r> {
    fn from_sql(ty: &Type, raw: &'r [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(read(<&str as FromSql>::from_sql(ty, raw)?)))
    }

    fn accepts(ty: &Type) -> bool {
        <&str as FromSql>::accepts(ty)
    }
}

fn written(text: &str) -> Cow<'_, str> {
    if !text.contains(['\0', SUB]) {
        return Cow::Borrowed(text);
    }
    let mut written = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '\0' => written.extend([SUB, '0']),
            SUB => written.extend([SUB, '1']),
            other => written.push(other),
        }
    }
    Cow::Owned(written)
}

/// `text` as it was before it was kept, of which the tables say this.
pub(super) fn unwritten(text: &str) -> String {
    read(text).into_owned()
}

fn read(text: &str) -> Cow<'_, str> {
    if !text.contains(SUB) {
        return Cow::Borrowed(text);
    }
    let mut read = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        read.push(match c {
            SUB if rest.next() == Some('0') => '\0',
            other => other,
        });
    }
    Cow::Owned(read)
}

/// A whole number of any of PostgreSQL's widths.
#[derive(Debug, Clone, Copy)]
pub(super) struct Int(pub(super) i64);

impl FromSql<'_> for Int {
    fn from_sql(ty: &Type, raw: &[u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(match *ty {
            Type::INT2 => i16::from_sql(ty, raw)?.into(),
            Type::INT4 => i32::from_sql(ty, raw)?.into(),
            _ => i64::from_sql(ty, raw)?,
        }))
    }

    fn accepts(ty: &Type) -> bool {
        matches!(*ty, Type::INT2 | Type::INT4 | Type::INT8)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_text_is_read_back_and_holds_no_nul(text in "[a\0\u{1a}01é]{0,12}") {
            let kept = written(&text);
            prop_assert!(!kept.contains('\0'));
            prop_assert_eq!(unwritten(&kept), text.clone());
        }
    }
}
