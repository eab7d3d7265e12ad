//! What postgres would come up as on this directory.

use std::path::Path;

use crate::{
    greenplum::{Dialect, control::ControlData},
    model::page::Shape,
};

/// A data directory, looked at from outside.
#[derive(Clone, Debug)]
pub struct Shaped {
    pub shape: Shape,
    pub dialect: Option<Dialect>,
    pub control: Option<ControlData>,
    /// Why it is unusable.
    pub why: String,
}

/// Looks at `data`. The control file is read by the image's own `pg_controldata`, so it is in every version's words.
pub fn look(data: &Path) -> Shaped {
    if is_empty(data) {
        return Shaped { shape: Shape::Empty, dialect: None, control: None, why: format!("{} is empty or missing", data.display()) };
    }
    let unusable = |dialect, why: String| Shaped { shape: Shape::Unusable, dialect, control: None, why };
    let dialect = match std::fs::read_to_string(data.join("PG_VERSION")) {
        Ok(text) => match Dialect::from_pg_version(&text) {
            Ok(dialect) => dialect,
            Err(error) => return unusable(None, error.to_string()),
        },
        Err(error) => return unusable(None, format!("PG_VERSION: {error}")),
    };
    match ControlData::read(data) {
        Ok(control) => {
            let mirror = data.join(dialect.mirror_marker()).exists();
            let shape = if mirror { Shape::Mirror } else { Shape::Primary };
            Shaped { shape, dialect: Some(dialect), control: Some(control), why: String::new() }
        }
        Err(error) => unusable(Some(dialect), error.to_string()),
    }
}

fn is_empty(data: &Path) -> bool {
    std::fs::read_dir(data).map_or(true, |mut entries| entries.next().is_none())
}
