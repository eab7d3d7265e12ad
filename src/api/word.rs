//! A word of a status that an operator of another version may have written.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{IntoDeserializer, value::StrDeserializer},
};

/// A word out of a closed set, or one that this version does not know: it is no reason not to read the rest of the object,
/// and it is written back as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word<T> {
    Known(T),
    Other(String),
}

impl<T> Word<T> {
    /// The word, when this version knows it.
    pub fn known(&self) -> Option<&T> {
        match self {
            Self::Known(word) => Some(word),
            Self::Other(_) => None,
        }
    }
}

impl<T> From<T> for Word<T> {
    fn from(word: T) -> Self {
        Self::Known(word)
    }
}

impl<T: PartialEq> PartialEq<T> for Word<T> {
    fn eq(&self, other: &T) -> bool {
        self.known() == Some(other)
    }
}

impl<T: Serialize> Serialize for Word<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Known(word) => word.serialize(serializer),
            Self::Other(word) => word.serialize(serializer),
        }
    }
}

impl<'de, T: for<'word> Deserialize<'word>> Deserialize<'de> for Word<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Ok(known(&text).map_or_else(|| Self::Other(text), Self::Known))
    }
}

fn known<T: for<'word> Deserialize<'word>>(text: &str) -> Option<T> {
    let word: StrDeserializer<'_, serde::de::value::Error> = text.into_deserializer();
    T::deserialize(word).ok()
}

/// For a word that may be missing, too: one that is not known is missing.
pub fn known_or_none<'de, T: for<'word> Deserialize<'word>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    let read = Option::<Word<T>>::deserialize(deserializer)?;
    Ok(match read {
        Some(Word::Known(word)) => Some(word),
        Some(Word::Other(_)) | None => None,
    })
}

impl<T: fmt::Debug> fmt::Display for Word<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(word) => write!(f, "{word:?}"),
            Self::Other(word) => f.write_str(word),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{FailureClass, Step};

    #[test]
    fn a_word_of_another_version_is_read_and_written_back_as_it_was() {
        let newer: Word<FailureClass> = serde_json::from_str("\"Newer\"").unwrap();
        assert_eq!((&newer, newer.to_string().as_str()), (&Word::Other("Newer".into()), "Newer"));
        assert_eq!(serde_json::to_string(&newer).unwrap(), "\"Newer\"");
        let known: Word<Step> = serde_json::from_str("\"Copying\"").unwrap();
        assert!(known == Step::Copying && serde_json::to_string(&known).unwrap() == "\"Copying\"");
        assert!(serde_json::from_str::<Word<Step>>("7").is_err(), "no word at all");
    }
}
