//! The server on real sockets: who is slow or asks too much is cut, and who goes takes the work with it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Router, body::Body, extract::ConnectInfo, routing};
use bytes::Bytes;
use dormouse_api::server::{ServerLimits, serve};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

struct Served {
    address: SocketAddr,
    stop: CancellationToken,
    server: JoinHandle<dormouse_core::Result<()>>,
}

/// Limits of less than a second, but for those that a test is not about.
fn limits() -> ServerLimits {
    ServerLimits {
        header_timeout: Duration::from_millis(300),
        idle_timeout: Duration::from_millis(900),
        read_timeout: Duration::from_millis(300),
        write_timeout: Duration::from_millis(300),
        drain: Duration::from_secs(10),
        ..ServerLimits::default()
    }
}

#[expect(clippy::disallowed_methods, reason = "it ends with the test's runtime")]
async fn start(app: Router, limits: ServerLimits) -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let server = tokio::spawn(serve(listener, app, limits, stop.clone()));
    Served {
        address,
        stop,
        server,
    }
}

#[expect(clippy::disallowed_methods, reason = "sockets follow the machine's time")]
async fn sleep(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

#[expect(clippy::disallowed_methods, reason = "sockets follow the machine's time")]
async fn soon<T>(future: impl Future<Output = T>) -> T {
    let limit = Duration::from_secs(10);
    tokio::time::timeout(limit, future).await.expect("it hangs")
}

impl Served {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }
}

/// What comes until the server closes, or resets, the connection.
async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let _ = soon(stream.read_to_end(&mut bytes)).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Sends one request and reads an answer that ends with `end`.
async fn exchange(stream: &mut TcpStream, request: &str, end: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    while !text.ends_with(end) {
        let mut bytes = [0; 1024];
        let count = soon(stream.read(&mut bytes)).await.unwrap();
        assert!(count > 0, "closed after {text}");
        text.push_str(&String::from_utf8_lossy(&bytes[..count]));
    }
    text
}

const GET: &str = "GET / HTTP/1.1\r\nhost: x\r\n\r\n";

fn hello() -> Router {
    let greet = |ConnectInfo(address): ConnectInfo<SocketAddr>| async move { address.to_string() };
    let echo = |body: Bytes| async move { body };
    Router::new().route("/", routing::get(greet).post(echo))
}

#[tokio::test]
async fn a_client_asks_several_times_over_one_connection() {
    let served = start(hello(), limits()).await;
    let mut client = served.connect().await;
    let own = client.local_addr().unwrap().to_string();
    for _ in 0..3 {
        let answer = exchange(&mut client, GET, &own).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        // Longer than a head may take, as it is the time between two requests.
        sleep(400).await;
    }
    // It is idle for too long.
    assert_eq!(rest(&mut client).await, "");
}

#[tokio::test]
async fn a_head_that_is_too_slow_is_cut() {
    let served = start(hello(), limits()).await;
    let silent = served.connect().await;
    let mut trickling = served.connect().await;
    let mut second = served.connect().await;
    let own = second.local_addr().unwrap().to_string();
    exchange(&mut second, GET, &own).await;
    second.write_all(b"GET / HT").await.unwrap();
    let mut sent = 0;
    for byte in GET.bytes().cycle().take(40) {
        let byte = if byte == b'\n' { b' ' } else { byte };
        if trickling.write_all(&[byte]).await.is_err() {
            break;
        }
        sent += 1;
        sleep(50).await;
    }
    assert!((2..20).contains(&sent), "{sent} bytes");
    for mut client in [silent, trickling, second] {
        assert_eq!(rest(&mut client).await, "");
    }
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let served = start(hello(), limits()).await;
    for (bytes, status) in [(20 * 1024, "200"), (33 * 1024, "431"), (2 * 1024 * 1024, "431")] {
        let mut client = served.connect().await;
        let request = format!(
            "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\nlong: {}\r\n\r\n",
            "x".repeat(bytes)
        );
        let _ = client.write_all(request.as_bytes()).await;
        let answer = rest(&mut client).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{bytes}: {answer}"
        );
    }
}

#[tokio::test]
async fn a_body_that_stops_to_come_is_cut() {
    let served = start(hello(), limits()).await;
    let head = "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\n";
    // Slow, but it comes.
    let mut slow = served.connect().await;
    slow.write_all(head.as_bytes()).await.unwrap();
    for byte in ["a", "b", "c"] {
        slow.write_all(byte.as_bytes()).await.unwrap();
        sleep(200).await;
    }
    let answer = exchange(&mut slow, "d", "abcd").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    let mut stopped = served.connect().await;
    stopped.write_all(head.as_bytes()).await.unwrap();
    stopped.write_all(b"ab").await.unwrap();
    let answer = rest(&mut stopped).await;
    assert!(!answer.contains("200 OK"), "{answer}");
}

/// Counts those that live.
struct Alive(Arc<AtomicUsize>);

impl Alive {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count.clone())
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn becomes(count: &AtomicUsize, wanted: usize) {
    soon(async {
        while count.load(Ordering::SeqCst) != wanted {
            sleep(5).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_client_that_goes_takes_the_handler_with_it() {
    let alive = Arc::new(AtomicUsize::new(0));
    let count = alive.clone();
    let wait = move |_: Bytes| async move {
        let _alive = Alive::new(&count);
        std::future::pending::<()>().await;
    };
    let served = start(Router::new().route("/", routing::any(wait)), limits()).await;
    let post = "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}";
    for request in [GET, post] {
        let mut client = served.connect().await;
        client.write_all(request.as_bytes()).await.unwrap();
        becomes(&alive, 1).await;
        // A request that takes long is not cut, whatever the limits of reading and writing are.
        sleep(1200).await;
        assert_eq!(alive.load(Ordering::SeqCst), 1);
        drop(client);
        becomes(&alive, 0).await;
    }
}

/// Answers with bytes without end, which are counted while they are sent.
fn endless(alive: &Arc<AtomicUsize>) -> Router {
    let count = alive.clone();
    let send = move || async move {
        let alive = Alive::new(&count);
        let chunks = futures::stream::repeat_with(move || {
            let _ = &alive;
            Ok::<_, std::io::Error>(Bytes::from_static(&[b'x'; 16 * 1024]))
        });
        Body::from_stream(chunks)
    };
    Router::new().route("/", routing::get(send))
}

#[tokio::test]
async fn an_answer_that_is_not_taken_is_cut() {
    let alive = Arc::new(AtomicUsize::new(0));
    let served = start(endless(&alive), limits()).await;
    // One that goes, one that stops to read, and one that is slow.
    let mut gone = served.connect().await;
    gone.write_all(GET.as_bytes()).await.unwrap();
    becomes(&alive, 1).await;
    drop(gone);
    becomes(&alive, 0).await;
    let mut stopped = served.connect().await;
    stopped.write_all(GET.as_bytes()).await.unwrap();
    becomes(&alive, 1).await;
    becomes(&alive, 0).await;
    let mut slow = served.connect().await;
    slow.write_all(GET.as_bytes()).await.unwrap();
    becomes(&alive, 1).await;
    let mut buffer = vec![0; 4 << 20];
    for _ in 0..10 {
        sleep(100).await;
        soon(slow.read_exact(&mut buffer)).await.unwrap();
    }
    assert_eq!(alive.load(Ordering::SeqCst), 1);
}

/// Answers when it is told to.
fn on_notice(notice: &Arc<Notify>, alive: &Arc<AtomicUsize>) -> Router {
    let (notice, count) = (notice.clone(), alive.clone());
    let wait = move || async move {
        let _alive = Alive::new(&count);
        notice.notified().await;
        "done"
    };
    Router::new()
        .route("/", routing::get(wait))
        .route("/now", routing::get(async || "now"))
}

#[tokio::test]
async fn a_server_that_stops_answers_what_it_was_asked() {
    let (notice, alive) = (Arc::new(Notify::new()), Arc::default());
    let served = start(on_notice(&notice, &alive), limits()).await;
    let mut idle = served.connect().await;
    exchange(&mut idle, "GET /now HTTP/1.1\r\nhost: x\r\n\r\n", "now").await;
    let mut fresh = served.connect().await;
    let mut asked = served.connect().await;
    asked.write_all(GET.as_bytes()).await.unwrap();
    becomes(&alive, 1).await;
    served.stop.cancel();
    // Those that wait for nothing go at once, and nobody else comes.
    assert_eq!(rest(&mut idle).await, "");
    assert_eq!(rest(&mut fresh).await, "");
    assert!(TcpStream::connect(served.address).await.is_err());
    assert!(!served.server.is_finished());
    notice.notify_one();
    let answer = rest(&mut asked).await;
    assert!(
        answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("done"),
        "{answer}"
    );
    assert!(answer.contains("connection: close"), "{answer}");
    soon(served.server).await.unwrap().unwrap();
}

#[tokio::test]
async fn what_takes_longer_than_the_drain_is_cut() {
    let (notice, alive) = (Arc::new(Notify::new()), Arc::default());
    let limits = ServerLimits {
        drain: Duration::from_millis(200),
        ..limits()
    };
    let served = start(on_notice(&notice, &alive), limits).await;
    let mut asked = served.connect().await;
    asked.write_all(GET.as_bytes()).await.unwrap();
    becomes(&alive, 1).await;
    served.stop.cancel();
    soon(served.server).await.unwrap().unwrap();
    assert_eq!(alive.load(Ordering::SeqCst), 0);
    assert_eq!(rest(&mut asked).await, "");
}

#[tokio::test]
async fn dropping_the_server_cuts_everybody() {
    let (notice, alive) = (Arc::new(Notify::new()), Arc::default());
    let served = start(on_notice(&notice, &alive), limits()).await;
    let mut asked = served.connect().await;
    asked.write_all(GET.as_bytes()).await.unwrap();
    becomes(&alive, 1).await;
    served.server.abort();
    becomes(&alive, 0).await;
    assert_eq!(rest(&mut asked).await, "");
}

#[tokio::test]
async fn what_is_no_http_is_refused() {
    let served = start(hello(), limits()).await;
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01"[..],
        b"GET\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\n",
    ] {
        let mut client = served.connect().await;
        client.write_all(bytes).await.unwrap();
        let answer = rest(&mut client).await;
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 400"),
            "{answer}"
        );
    }
}
