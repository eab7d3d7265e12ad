//! Pages of supervisors that do not exist: what is believed of a page has to be tried with pages that lie.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use model::{Content, Dbid, InstanceState, Page, Role, page::Shape};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
};

/// Serves one page to whoever asks, until it is dropped.
pub struct Told {
    page: Arc<Mutex<Page>>,
    serving: JoinHandle<()>,
}

impl Told {
    pub async fn serve(at: &str, page: Page) -> Result<Self> {
        let listener = TcpListener::bind(at).await?;
        let page = Arc::new(Mutex::new(page));
        let shown = Arc::clone(&page);
        let serving = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let body = serde_json::to_string(&*shown.lock().unwrap_or_else(PoisonError::into_inner)).unwrap_or_default();
                let _ = stream.read(&mut [0; 1024]).await;
                let _ = stream.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).as_bytes()).await;
            }
        });
        Ok(Self { page, serving })
    }

    pub fn change(&self, change: impl FnOnce(&mut Page)) {
        change(&mut self.page.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// The page of a primary that serves.
pub fn primary(dbid: i16, content: i16, address: &str, port: u16, directory: &str) -> Page {
    Page {
        dbid: Some(Dbid(dbid)),
        content: Some(Content(content)),
        state: InstanceState::Serving,
        shape: Shape::Primary,
        serves: Some(Role::Primary),
        ..Page::first("test", (address, port, directory), jiff::Timestamp::now())
    }
}
