//! Errors for people, with what the API server said.

use std::error::Error;

pub use model::error::cut;

/// The messages of an error and of all its sources, each once.
pub fn chain(error: &dyn Error) -> String {
    model::error::chain_until(error, api_message)
}

/// What the API server said, in its own words: the client adds a dump of the whole answer to them.
fn api_message<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a str> {
    let error = error.downcast_ref::<kube::Error>().or_else(|| error.downcast_ref::<Box<kube::Error>>().map(|boxed| &**boxed))?;
    if let kube::Error::Api(status) = error { Some(&status.message) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_the_api_is_told_in_its_own_words() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot read pods")]
        struct Outer(#[source] Box<kube::Error>);
        let status = kube::core::Status { message: "pods is forbidden".into(), code: 403, ..kube::core::Status::default() };
        let error = Outer(Box::new(kube::Error::Api(Box::new(status))));
        assert_eq!(chain(&error), "cannot read pods: pods is forbidden");
    }
}
