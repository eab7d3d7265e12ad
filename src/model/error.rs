//! Errors for people: the whole chain on one line.

/// The messages of an error and of all its sources, each once.
pub fn chain(error: &dyn std::error::Error) -> String {
    chain_until(error, |_| None)
}

/// The same up to the source that `told` has words for, which are its last.
pub fn chain_until(
    error: &dyn std::error::Error,
    told: impl for<'a> Fn(&'a (dyn std::error::Error + 'static)) -> Option<&'a str>,
) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        if let Some(message) = told(inner) {
            return format!("{text}: {message}");
        }
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        source = inner.source();
    }
    text
}

/// Cut to `bytes` at a character's boundary: the API server refuses longer notes.
pub fn cut(text: &str, bytes: usize) -> String {
    if text.len() <= bytes {
        return text.to_owned();
    }
    let end = (0..=bytes.saturating_sub('…'.len_utf8())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    format!("{}…", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_says_each_thing_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Outer(#[source] std::io::Error);
        assert_eq!(chain(&Outer(std::io::Error::other("inner"))), "outer: inner");
    }

    #[test]
    fn a_cut_keeps_characters_whole() {
        assert_eq!(cut("abc", 3), "abc");
        assert_eq!(cut("äöüß", 6), "ä…");
        assert!(cut(&"x".repeat(2000), 1000).len() <= 1000);
    }
}
