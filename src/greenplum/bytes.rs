//! Text as a server sent it. What people wrote into a catalog is in the encoding of their terminal, whatever the database says.

use tokio_postgres::types::{FromSql, Type};

/// The bytes of a text, which may be in any encoding.
pub struct Bytes(pub Vec<u8>);

impl Bytes {
    /// For people, and for whoever asks whether something could be read: U+FFFD stands for what is no UTF-8.
    pub fn lossy(&self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }
}

impl<'a> FromSql<'a> for Bytes {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(raw.to_vec()))
    }

    fn accepts(of: &Type) -> bool {
        [Type::TEXT, Type::NAME, Type::VARCHAR].contains(of)
    }
}
