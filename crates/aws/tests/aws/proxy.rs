//! A proxy between clients and an emulator, which does to some requests what networks and services do.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// What happens to a request.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// It is answered with this status and body, and nobody else sees it.
    Answer(u16, String),
    /// It is carried out, and its answer is lost.
    LoseReply,
    /// It is carried out, and its answer breaks off half-way.
    Truncate,
}

/// A proxy that runs as long as its runtime.
pub(crate) struct Proxy {
    port: u16,
    faults: Arc<Mutex<VecDeque<(String, Fault)>>>,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// A proxy before the service at this URL.
    #[expect(clippy::disallowed_methods, reason = "it ends with the test's runtime")]
    pub(crate) async fn start(upstream: &str) -> Self {
        let upstream = upstream.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let proxy = Self {
            port: listener.local_addr().expect("an address").port(),
            faults: Arc::default(),
            seen: Arc::default(),
        };
        let (faults, seen) = (proxy.faults.clone(), proxy.seen.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (faults, seen) = (faults.clone(), seen.clone());
                let upstream = upstream.clone();
                tokio::spawn(async move {
                    let _ = Box::pin(carry(client, &upstream, &faults, &seen)).await;
                });
            }
        });
        proxy
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Lets the next request whose head or body holds `text` meet the fault.
    pub(crate) fn next(&self, text: &str, fault: Fault) {
        self.faults.lock().push_back((text.to_owned(), fault));
    }

    /// How many faults no request has met.
    pub(crate) fn left(&self) -> usize {
        self.faults.lock().len()
    }

    /// The requests whose head or body holds `text`.
    pub(crate) fn seen(&self, text: &str) -> Vec<String> {
        let seen = self.seen.lock();
        seen.iter()
            .filter(|request| request.contains(text))
            .cloned()
            .collect()
    }
}

async fn carry(
    mut client: TcpStream,
    upstream: &str,
    faults: &Mutex<VecDeque<(String, Fault)>>,
    seen: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let request = read_request(&mut client).await?;
    let text = String::from_utf8_lossy(&request).into_owned();
    let fault = {
        let mut faults = faults.lock();
        let place = faults
            .iter()
            .position(|(wanted, _)| text.contains(wanted.as_str()));
        place
            .and_then(|place| faults.remove(place))
            .map(|(_, fault)| fault)
    };
    seen.lock().push(text);
    if let Some(Fault::Answer(status, body)) = &fault {
        let answer = format!(
            "HTTP/1.1 {status} Fault\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        return client.write_all(answer.as_bytes()).await;
    }
    let mut server = TcpStream::connect(upstream).await?;
    server.write_all(&closing(&request)).await?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer).await?;
    match fault {
        Some(Fault::LoseReply) => Ok(()),
        Some(Fault::Truncate) => client.write_all(&answer[..answer.len() - answer.len() / 4]).await,
        _ => client.write_all(&answer).await,
    }
}

/// One request, its body by its length.
async fn read_request(client: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut request = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = client.read(&mut buffer).await?;
        request.extend_from_slice(&buffer[..read]);
        if let Some(end) = request.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&request[..end]).to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
            let length: usize = length.and_then(|length| length.trim().parse().ok()).unwrap_or(0);
            if request.len() >= end + 4 + length {
                return Ok(request);
            }
        }
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// The request, with a header that asks to end the connection after the answer.
fn closing(request: &[u8]) -> Vec<u8> {
    let line = request.windows(2).position(|two| two == b"\r\n").unwrap_or(0) + 2;
    let mut closing = request[..line].to_vec();
    closing.extend_from_slice(b"Connection: close\r\n");
    closing.extend_from_slice(&request[line..]);
    closing
}
