//! What a server may say to us, in bytes. Behind a wrong port or name anything can listen: a web server, whose first
//! letters would be taken for a message of gigabytes, or something that talks without an end.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Kinds of messages with which a PostgreSQL server begins (protocol 3.0): authentication, error, notice, protocol
/// version; and its answers to a request for TLS.
const FIRST: &[u8] = b"RENvS";
/// Longest first message.
const LARGEST_FIRST: u32 = 64 * 1024;
/// Most bytes before we are logged in: certificates, parameters, notices. The client library keeps each notice, at ten times
/// its size.
const LARGEST_LOGIN: usize = 128 * 1024;
/// Most bytes of one answer: the catalog of ten thousand instances takes two million.
const LARGEST_ANSWER: usize = 4 * 1024 * 1024;
/// Most rows of one answer: some hundred bytes each, however few were sent for it.
pub const MOST_ROWS: usize = 20_000;
/// How much of what is no PostgreSQL is shown.
const SHOWN: usize = 60;

/// Why a server is not listened to any more.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Strange {
    #[error("what listens there speaks no PostgreSQL; it says '{0}'")]
    NotPostgres(String),
    #[error("what listens there does not keep to PostgreSQL's protocol: {0}")]
    OutOfOrder(String),
    #[error("its answer does not end; at login it is read for {} KiB, then for {} MiB and {MOST_ROWS} rows", LARGEST_LOGIN >> 10, LARGEST_ANSWER >> 20)]
    Endless,
}

impl From<Strange> for io::Error {
    fn from(strange: Strange) -> Self {
        Self::new(io::ErrorKind::InvalidData, strange)
    }
}

impl Strange {
    /// The reason within an error of the database client, if it is one of these.
    pub fn within(error: &(dyn std::error::Error + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(strange) = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref).and_then(|e| e.downcast_ref::<Self>()) {
                return Some(strange.clone());
            }
            next = error.source();
        }
        None
    }
}

/// A connection on which only so much is believed.
#[derive(Debug)]
pub struct Guarded<S> {
    stream: S,
    /// The head of the first message, until it was judged.
    first: Option<Vec<u8>>,
    /// Bytes read since something was last written.
    answer: usize,
    most: Bound,
}

/// How many bytes of an answer a connection reads.
#[derive(Clone, Debug)]
pub struct Bound(Arc<AtomicUsize>);

impl Bound {
    /// Whoever let us in may say more.
    pub fn widen(&self) {
        self.0.store(LARGEST_ANSWER, Ordering::Relaxed);
    }
}

impl<S> Guarded<S> {
    pub fn new(stream: S) -> Self {
        Self { stream, first: Some(vec![]), answer: 0, most: Bound(Arc::new(LARGEST_LOGIN.into())) }
    }

    pub fn bound(&self) -> Bound {
        self.most.clone()
    }

    /// Judges what has just come. `alone`: one byte was asked for, as after a request for TLS.
    fn judge(&mut self, came: &[u8], alone: bool) -> Result<(), Strange> {
        self.answer += came.len();
        if self.answer > self.most.0.load(Ordering::Relaxed) {
            return Err(Strange::Endless);
        }
        let Some(head) = &mut self.first else { return Ok(()) };
        head.extend(&came[..came.len().min(SHOWN.saturating_sub(head.len()))]);
        let Some(kind) = head.first() else { return Ok(()) };
        if alone && matches!(kind, b'S' | b'N') {
            // After 'S' comes TLS, which judges for itself; after 'N' the first message is still to come.
            self.first = (*kind == b'N').then(Vec::new);
            return Ok(());
        }
        let length = head.get(1..5).and_then(|bytes| Some(u32::from_be_bytes(bytes.try_into().ok()?)));
        if !FIRST.contains(kind) || length.is_some_and(|length| !(4..=LARGEST_FIRST).contains(&length)) {
            return Err(Strange::NotPostgres(shown(head)));
        }
        if length.is_some() {
            self.first = None;
        }
        Ok(())
    }
}

/// The first line, as far as it can be printed.
fn shown(head: &[u8]) -> String {
    let line = head.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
    line.iter().map(|byte| if byte.is_ascii_graphic() || *byte == b' ' { char::from(*byte) } else { '.' }).collect()
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (before, alone) = (buf.filled().len(), buf.remaining() == 1);
        std::task::ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let judged = self.judge(&buf.filled()[before..], alone);
        if judged.is_err() {
            buf.set_filled(before); // a read that failed has read nothing
        }
        Poll::Ready(judged.map_err(io::Error::from))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.answer = 0;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn read(said: &[u8]) -> Result<usize, Strange> {
        let (ours, mut theirs) = tokio::io::duplex(64);
        let said = said.to_vec();
        tokio::spawn(async move { theirs.write_all(&said).await });
        let mut all = vec![];
        Guarded::new(ours).read_to_end(&mut all).await.map_err(|error| Strange::within(&error).unwrap())
    }

    #[tokio::test]
    async fn a_first_message_of_postgres_passes_and_so_does_what_follows() {
        assert_eq!(read(b"R\0\0\0\x08\0\0\0\0HTTP/1.1").await, Ok(17));
        assert_eq!(read(b"E\0\0\0\x0bSFATAL\0").await, Ok(12));
        assert_eq!(read(b"").await, Ok(0));
    }

    #[tokio::test]
    async fn what_is_no_postgres_is_shown_and_not_listened_to() {
        for (said, shown) in [
            (&b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\n"[..], "HTTP/1.1 400 Bad Request"),
            (b"SSH-2.0-OpenSSH_9.2p1\r\n", "SSH-2.0-OpenSSH_9.2p1"), // begins like an answer to a request for TLS
            (b"RFB 003.008\n", "RFB 003.008"),                       // and like a request for a password
            (b"\x15\x03\x03\0\x02\x02\x16", "......."),
        ] {
            assert_eq!(read(said).await, Err(Strange::NotPostgres(shown.to_owned())));
        }
    }

    #[tokio::test]
    async fn an_answer_without_an_end_is_cut_off_and_each_question_begins_anew() {
        let (ours, mut theirs) = tokio::io::duplex(1 << 20);
        let half = LARGEST_ANSWER / 2 + 16;
        let (asked, mut ask) = tokio::sync::mpsc::channel(2);
        tokio::spawn(async move {
            let _ = theirs.write_all(b"R\0\0\0\x08\0\0\0\0").await;
            while ask.recv().await.is_some() {
                let _ = theirs.write_all(&vec![b'D'; half]).await;
            }
        });
        let mut guarded = Guarded::new(ours);
        guarded.bound().widen();
        let mut piece = vec![0; half];
        guarded.read_exact(&mut piece[..9]).await.unwrap();
        for _ in 0..2 {
            guarded.write_all(b"Q").await.unwrap();
            asked.send(()).await.unwrap();
            guarded.read_exact(&mut piece).await.unwrap();
        }
        asked.send(()).await.unwrap();
        let error = guarded.read_exact(&mut piece).await.unwrap_err();
        assert_eq!(Strange::within(&error), Some(Strange::Endless));
    }

    #[tokio::test]
    async fn who_has_not_let_us_in_may_say_less() {
        let said = [b"R\0\0\0\x08\0\0\0\0".to_vec(), vec![b'N'; LARGEST_LOGIN]].concat();
        assert_eq!(read(&said).await, Err(Strange::Endless));
        assert_eq!(read(&said[..LARGEST_LOGIN]).await, Ok(LARGEST_LOGIN));
    }

    #[tokio::test]
    async fn an_answer_to_a_request_for_tls_is_one_letter() {
        for (said, passes) in [(&b"S\x16\x03\x03"[..], true), (b"NR\0\0\0\x08", true), (b"NHTTP", false), (b"H", false)] {
            let (ours, mut theirs) = tokio::io::duplex(64);
            theirs.write_all(said).await.unwrap();
            drop(theirs);
            let mut guarded = Guarded::new(ours);
            let mut letter = [0];
            let first = guarded.read_exact(&mut letter).await;
            let rest = guarded.read_to_end(&mut vec![]).await;
            assert_eq!(first.is_ok() && rest.is_ok(), passes, "{said:?}");
        }
    }
}
