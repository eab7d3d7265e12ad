//! Errors for people: the whole chain on one line.

/// The messages of an error and of all its sources, each once.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        if let Some(message) = api_message(inner) {
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

/// What the API server said, in its own words: the client adds a dump of the whole answer to them.
fn api_message<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a str> {
    let error = error.downcast_ref::<kube::Error>().or_else(|| error.downcast_ref::<Box<kube::Error>>().map(|boxed| &**boxed))?;
    if let kube::Error::Api(status) = error { Some(&status.message) } else { None }
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
    fn an_answer_of_the_api_is_told_in_its_own_words() {
        #[derive(Debug, thiserror::Error)]
        #[error("can not read pods")]
        struct Outer(#[source] Box<kube::Error>);
        let status = kube::core::Status { message: "pods is forbidden".into(), code: 403, ..kube::core::Status::default() };
        let error = Outer(Box::new(kube::Error::Api(Box::new(status))));
        assert_eq!(chain(&error), "can not read pods: pods is forbidden");
    }

    #[test]
    fn a_cut_keeps_characters_whole() {
        assert_eq!(cut("abc", 3), "abc");
        assert_eq!(cut("äöüß", 6), "ä…");
        assert!(cut(&"x".repeat(2000), 1000).len() <= 1000);
    }
}
