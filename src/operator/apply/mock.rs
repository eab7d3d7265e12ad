//! An API server that answers from a script, and fails a test that asks for less or for more.
#![allow(clippy::return_self_not_must_use, reason = "modifiers of test objects")]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use kube::{Client, client::Body};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

/// One expected request and its answer.
pub struct Exchange {
    method: &'static str,
    path: String,
    query: &'static str,
    check: Box<dyn FnOnce(&Value) + Send>,
    status: u16,
    answer: Value,
}

/// Expects `METHOD /path` and answers 200 with `answer`.
pub fn expect(method: &'static str, path: &str, answer: Value) -> Exchange {
    Exchange { method, path: path.to_owned(), query: "", check: Box::new(|_| ()), status: 200, answer }
}

impl Exchange {
    /// Expects this in the request's query.
    pub fn query(mut self, part: &'static str) -> Self {
        self.query = part;
        self
    }

    /// Looks at the request's body.
    pub fn body(mut self, check: impl FnOnce(&Value) + Send + 'static) -> Self {
        self.check = Box::new(check);
        self
    }

    /// Answers with an error of Kubernetes instead.
    pub fn refused(mut self, code: u16, reason: &str) -> Self {
        self.status = code;
        self.answer = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code, "message": reason});
        self
    }
}

/// A client of the scripted server, and the task to be awaited with [`finished`].
pub fn server(script: Vec<Exchange>) -> (Client, JoinHandle<()>) {
    let (service, mut handle) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
    let task = tokio::spawn(async move {
        for expected in script {
            let (request, reply) = handle.next_request().await.expect("one more request");
            let (parts, body) = request.into_parts();
            let got = format!("{} {}", parts.method, parts.uri.path());
            assert_eq!(got, format!("{} {}", expected.method, expected.path));
            let query = parts.uri.query().unwrap_or_default();
            assert!(query.contains(expected.query), "{query}");
            let bytes = body.collect().await.unwrap().to_bytes();
            (expected.check)(&serde_json::from_slice(&bytes).unwrap_or(Value::Null));
            let answer = Body::from(serde_json::to_vec(&expected.answer).unwrap());
            reply.send_response(Response::builder().status(StatusCode::from_u16(expected.status).unwrap()).body(answer).unwrap());
        }
        let extra = handle.next_request().await;
        assert!(extra.is_none(), "an unexpected request: {:?}", extra.map(|(request, _)| request.uri().clone()));
    });
    (Client::new(service, "demo"), task)
}

/// Every client has to be dropped by now; the script was played to its end and nothing else was asked.
pub async fn finished(task: JoinHandle<()>) {
    tokio::time::timeout(Duration::from_secs(1), task).await.expect("a request is missing").expect("the script holds");
}

/// An API server of objects by path, for whatever asks in an order of its own. A status that is written stands in
/// the object from then on; every write is taken down.
#[derive(Clone, Default)]
pub struct Objects {
    all: Arc<Mutex<BTreeMap<String, Value>>>,
    writes: Arc<Mutex<Vec<(String, Value)>>>,
    refused: Arc<Mutex<BTreeMap<String, (u16, String)>>>,
}

impl Objects {
    /// What is answered to a GET of `path`; everything else is not found.
    pub fn put(&self, path: &str, object: Value) {
        self.all.lock().unwrap().insert(path.to_owned(), object);
    }

    /// The object at a path, as it is by now.
    pub fn get(&self, path: &str) -> Value {
        self.all.lock().unwrap().get(path).cloned().unwrap_or_default()
    }

    /// What is answered to every `METHOD path` of a write from now on.
    pub fn refuse(&self, write: &str, code: u16, message: &str) {
        self.refused.lock().unwrap().insert(write.to_owned(), (code, message.to_owned()));
    }

    /// The writes since this was last asked: `METHOD path`, and the body.
    pub fn writes(&self) -> Vec<(String, Value)> {
        std::mem::take(&mut *self.writes.lock().unwrap())
    }

    pub fn client(&self) -> Client {
        let (service, mut handle) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
        let objects = self.clone();
        tokio::spawn(async move {
            while let Some((request, reply)) = handle.next_request().await {
                let (parts, body) = request.into_parts();
                let body = serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap_or(Value::Null);
                let (status, answer) = objects.answer(parts.method.as_str(), parts.uri.path(), body);
                let answer = Body::from(serde_json::to_vec(&answer).unwrap());
                reply.send_response(Response::builder().status(status).body(answer).unwrap());
            }
        });
        Client::new(service, "demo")
    }

    fn answer(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let missing = || (404, json!({"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404, "message": path}));
        let mut all = self.all.lock().unwrap();
        if method == "GET" {
            return all.get(path).map_or_else(missing, |object| (200, object.clone()));
        }
        self.writes.lock().unwrap().push((format!("{method} {path}"), body.clone()));
        if let Some((code, message)) = self.refused.lock().unwrap().get(&format!("{method} {path}")) {
            return (*code, json!({"kind": "Status", "status": "Failure", "reason": "Forbidden", "code": code, "message": message}));
        }
        let named = body["metadata"]["name"].as_str().map(|name| format!("{path}/{name}"));
        if method == "POST" && named.is_some_and(|named| all.contains_key(&named)) {
            return (409, json!({"kind": "Status", "status": "Failure", "reason": "AlreadyExists", "code": 409, "message": path}));
        }
        match path.strip_suffix("/status").map(|path| all.get_mut(path)) {
            None => (201, body),
            Some(None) => missing(),
            Some(Some(object)) => {
                object["status"] = body["status"].clone();
                (200, object.clone())
            }
        }
    }
}
