//! What programs of an earlier version have written is read, and nothing of it is lost. The files of a version never change: what is
//! new is optional.

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{Attempt, Outcome, Page, Progress};

/// Whatever `recorded` says, `kept` says the same.
fn loses_nothing(recorded: &Value, kept: &Value, at: &str) {
    match (recorded, kept) {
        (Value::Object(recorded), Value::Object(kept)) => {
            for (field, value) in recorded {
                let at = format!("{at}.{field}");
                loses_nothing(value, kept.get(field).unwrap_or_else(|| panic!("{at} is lost")), &at);
            }
        }
        (recorded, kept) => assert_eq!(recorded, kept, "{at}"),
    }
}

fn reads<T: DeserializeOwned + Serialize>(text: &str) {
    let recorded: Value = serde_json::from_str(text).unwrap();
    let read: T = serde_json::from_value(recorded.clone()).unwrap();
    loses_nothing(&recorded, &serde_json::to_value(read).unwrap(), std::any::type_name::<T>());
}

#[test]
fn what_version_0_1_0_says_is_understood() {
    reads::<Page>(include_str!("golden/0.1.0/page.json"));
    reads::<Attempt>(include_str!("golden/0.1.0/attempt.json"));
    reads::<Outcome>(include_str!("golden/0.1.0/outcome.json"));
    reads::<Progress>(include_str!("golden/0.1.0/progress.json"));
}
