//! What was seen, or that it could not be looked at. "Could not look" is never "down".

use serde::{Deserialize, Serialize};

/// The result of looking at something that may be out of reach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Look<T, W = String> {
    /// It answered, and this is what it said.
    Seen(T),
    /// Nobody could look; this says why.
    Unknown(W),
}

impl<T, W> Look<T, W> {
    /// The value, when it was seen.
    pub fn seen(&self) -> Option<&T> {
        match self {
            Self::Seen(value) => Some(value),
            Self::Unknown(_) => None,
        }
    }

    /// Why nobody could look, when nobody could.
    pub fn unknown(&self) -> Option<&W> {
        match self {
            Self::Seen(_) => None,
            Self::Unknown(why) => Some(why),
        }
    }
}

impl<T, E: std::fmt::Display> From<Result<T, E>> for Look<T> {
    fn from(result: Result<T, E>) -> Self {
        match result {
            Ok(value) => Self::Seen(value),
            Err(error) => Self::Unknown(error.to_string()),
        }
    }
}
