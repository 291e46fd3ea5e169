//! Links to objects as those see them who follow them.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Request, StatusCode},
    middleware::from_fn,
};
use bytes::Bytes;
use dormouse_api::{
    error,
    gateway::Gateway,
    secret::InstanceSecret,
    server::{ServerLimits, serve},
};
use dormouse_core::{
    ErrorKind,
    ids::BucketName,
    ports::{Bucket, Buckets, Clock, LinkMethod, UrlSigner},
    testing::{
        memory::{MemoryBuckets, MemoryItemStore},
        seeded::{PausedClock, SeededIds},
    },
    time::Timestamp,
};
use http_body_util::BodyExt;
use object_store::{ObjectStoreExt, path::Path};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

const HOUR: Duration = Duration::from_secs(3600);
const MINUTE: Duration = Duration::from_secs(60);
const PATH: &str = "tenant-a/job-1/data.csv.gz";
const BODY: &[u8] = b"0123456789";

struct World {
    clock: Arc<PausedClock>,
    items: Arc<MemoryItemStore>,
    buckets: Arc<MemoryBuckets>,
    gateway: Arc<Gateway>,
}

/// The routes of a gateway, with its errors written.
fn written(gateway: &Arc<Gateway>) -> Router {
    gateway.clone().router().layer(from_fn(error::render))
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn message(&self) -> String {
        let body: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
        body["error"]["message"].as_str().unwrap().to_owned()
    }
}

fn bucket() -> Bucket {
    Bucket::Named(BucketName::new("results").unwrap())
}

async fn world() -> World {
    let clock = Arc::new(PausedClock::new(Timestamp::from_millis(1_000_000_500)));
    let items = Arc::new(MemoryItemStore::new(clock.clone()));
    let buckets = Arc::new(MemoryBuckets::new());
    let world = World {
        gateway: open(&clock, &items, &buckets, 1).await,
        clock,
        items,
        buckets,
    };
    world.put(PATH, BODY).await;
    world
}

async fn open(
    clock: &Arc<PausedClock>,
    items: &Arc<MemoryItemStore>,
    buckets: &Arc<MemoryBuckets>,
    seed: u64,
) -> Arc<Gateway> {
    let (items, buckets, clock) = (items.clone(), buckets.clone(), clock.clone());
    let ids = Arc::new(SeededIds::new(seed));
    let secret = InstanceSecret::open(&*items, &*ids).await.unwrap();
    Arc::new(Gateway::new(
        secret,
        items,
        buckets,
        clock,
        ids,
        "http://api.test/",
    ))
}

impl World {
    async fn put(&self, path: &str, bytes: &'static [u8]) {
        let store = self.buckets.open(&bucket()).unwrap();
        store
            .put(&Path::parse(path).unwrap(), Bytes::from_static(bytes).into())
            .await
            .unwrap();
    }

    async fn link(&self, path: &str) -> String {
        let path = Path::parse(path).unwrap();
        self.gateway
            .sign(LinkMethod::Get, &bucket(), &path, HOUR)
            .await
            .unwrap()
    }

    fn once(&self) -> String {
        let path = Path::parse(PATH).unwrap();
        self.gateway.sign_single_use(&bucket(), &path, HOUR).unwrap()
    }

    fn router(&self) -> Router {
        written(&self.gateway)
    }

    async fn ask(&self, method: &str, link: &str, headers: &[(&str, &str)]) -> Answer {
        ask(self.router(), method, link, headers).await
    }

    async fn get(&self, link: &str, headers: &[(&str, &str)]) -> Answer {
        self.ask("GET", link, headers).await
    }

    async fn status(&self, link: &str) -> u16 {
        self.get(link, &[]).await.status.as_u16()
    }
}

async fn ask(router: Router, method: &str, link: &str, headers: &[(&str, &str)]) -> Answer {
    let target = link.strip_prefix("http://api.test").unwrap();
    let mut request = Request::builder().method(method).uri(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = router
        .oneshot(request.body(Body::empty()).unwrap())
        .await
        .unwrap();
    let (parts, body) = response.into_parts();
    Answer {
        status: parts.status,
        headers: parts.headers,
        body: body.collect().await.unwrap().to_bytes(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_link_leads_to_an_object() {
    let world = world().await;
    let link = world.link(PATH).await;
    assert!(
        link.starts_with(
            "http://api.test/files/results/tenant-a/job-1/data.csv.gz?expires=1003600&signature="
        ),
        "{link}"
    );
    let whole = world.get(&link, &[]).await;
    assert_eq!((whole.status, &whole.body[..]), (StatusCode::OK, BODY));
    let head = world.ask("HEAD", &link, &[]).await;
    assert_eq!((head.status, head.body.len()), (StatusCode::OK, 0));
    for answer in [&whole, &head] {
        for (name, value) in [
            ("content-length", "10"),
            ("content-type", "application/gzip"),
            ("content-disposition", "attachment; filename=\"data.csv.gz\""),
            ("accept-ranges", "bytes"),
            ("cache-control", "private, no-store"),
            ("content-encoding", ""),
        ] {
            assert_eq!(answer.header(name), value, "{name}");
        }
        assert!(answer.header("etag").starts_with('"'), "{:?}", answer.headers);
        assert!(answer.header("last-modified").ends_with(" GMT"));
    }
    assert_eq!(whole.header("etag"), head.header("etag"));
    // A range of a HEAD is passed over.
    let head = world.ask("HEAD", &link, &[("range", "bytes=0-1")]).await;
    assert_eq!(
        (head.status, head.header("content-length")),
        (StatusCode::OK, "10")
    );
    let post = world.ask("POST", &link, &[]).await;
    assert_eq!(post.status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test(start_paused = true)]
async fn names_may_have_any_characters() {
    let world = world().await;
    for path in [
        "a b/c%20d?e#f&g=h+i.csv",
        "ä/名.parquet",
        "a/%2F/b%",
        "a;b,c'd\"e",
    ] {
        world.put(path, b"x").await;
        let link = world.link(path).await;
        let answer = world.get(&link, &[]).await;
        assert_eq!(
            (answer.status, &answer.body[..]),
            (StatusCode::OK, &b"x"[..]),
            "{link}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn ranges_are_answered_with_their_bytes() {
    let world = world().await;
    let link = world.link(PATH).await;
    let table = [
        ("bytes=0-0", 206, "0", "bytes 0-0/10"),
        ("bytes=2-5", 206, "2345", "bytes 2-5/10"),
        ("bytes=7-", 206, "789", "bytes 7-9/10"),
        ("bytes=7-99", 206, "789", "bytes 7-9/10"),
        ("bytes=-2", 206, "89", "bytes 8-9/10"),
        ("bytes=-99", 206, "0123456789", "bytes 0-9/10"),
        ("bytes=0-9", 206, "0123456789", "bytes 0-9/10"),
        ("bytes=0-1,4-5", 200, "0123456789", ""),
        ("bytes=5-2", 200, "0123456789", ""),
        ("lines=1-2", 200, "0123456789", ""),
    ];
    for (range, status, body, told) in table {
        let answer = world.get(&link, &[("range", range)]).await;
        assert_eq!(answer.status.as_u16(), status, "{range}");
        assert_eq!(answer.body, body, "{range}");
        assert_eq!(answer.header("content-range"), told, "{range}");
        assert_eq!(answer.header("content-length"), body.len().to_string(), "{range}");
    }
    for range in ["bytes=10-", "bytes=10-12", "bytes=-0"] {
        let answer = world.get(&link, &[("range", range)]).await;
        assert_eq!(answer.status, StatusCode::RANGE_NOT_SATISFIABLE, "{range}");
        assert_eq!(answer.header("content-range"), "bytes */10", "{range}");
    }
    world.put("empty.csv", b"").await;
    let empty = world.link("empty.csv").await;
    let whole = world.get(&empty, &[]).await;
    assert_eq!((whole.status, whole.body.len()), (StatusCode::OK, 0));
    let answer = world.get(&empty, &[("range", "bytes=0-")]).await;
    assert_eq!(answer.header("content-range"), "bytes */0");
}

#[tokio::test(start_paused = true)]
async fn conditions_are_on_the_version() {
    let world = world().await;
    let link = world.link(PATH).await;
    let tag = world.get(&link, &[]).await.header("etag").to_owned();
    let range = ("range", "bytes=2-5");
    let table: [(&[(&str, &str)], u16); 9] = [
        (&[("if-none-match", &tag)], 304),
        (&[("if-none-match", "\"other\"")], 200),
        (&[("if-none-match", &tag), range], 304),
        (&[("if-match", &tag)], 200),
        (&[("if-match", "\"other\"")], 412),
        (&[("if-match", "\"other\""), range], 412),
        (&[("if-range", &tag), range], 206),
        (&[("if-range", "\"other\""), range], 200),
        (&[("if-range", "\"other\""), ("range", "bytes=99-")], 200),
    ];
    for (headers, status) in table {
        let answer = world.get(&link, headers).await;
        assert_eq!(answer.status.as_u16(), status, "{headers:?}");
        if status == 304 {
            assert_eq!((answer.header("etag"), answer.body.len()), (tag.as_str(), 0));
        }
    }
    // An object of the same size that replaces it is another version.
    world.put(PATH, b"9876543210").await;
    let answer = world.get(&link, &[("if-range", &tag), range]).await;
    assert_eq!(
        (answer.status.as_u16(), &answer.body[..]),
        (200, &b"9876543210"[..])
    );
}

#[tokio::test(start_paused = true)]
async fn a_link_that_was_changed_tells_nothing() {
    let world = world().await;
    let link = world.link(PATH).await;
    let once = world.once();
    let (target, query) = link.split_once('?').unwrap();
    let (expires, signature) = query.split_once('&').unwrap();
    let digits = signature.strip_prefix("signature=").unwrap();
    let last = if digits.ends_with('0') { "1" } else { "0" };
    let mut changed = vec![
        target.to_owned(),
        format!("{target}?{expires}"),
        format!("{target}?{signature}"),
        format!("{target}?{expires}&signature="),
        format!("{target}?{expires}&signature={}{last}", &digits[..63]),
        format!("{target}?{expires}&signature={}", &digits[..62]),
        format!("{target}?{expires}&signature=%00"),
        format!("{target}?expires=9999999999&{signature}"),
        format!("{target}?expires=99999999999999999999999&{signature}"),
        format!("{target}?expires=-1&{signature}"),
        format!("{target}?{expires}&{expires}&{signature}"),
        format!("{link}&once=1"),
        once.split("&once=").next().unwrap().to_owned(),
        format!("{once}&once=2"),
        link.replace("/results/", "/others/"),
        link.replace("job-1", "job-2"),
        link.replace("job-1/", "job-1/../job-1/"),
        link.replace("job-1", "%ff"),
    ];
    // The same whether there is such an object or not.
    let absent = world.link("absent.csv").await;
    changed.push(absent.replace("signature=", "signature=00"));
    for link in changed {
        for method in ["GET", "HEAD"] {
            let answer = world.ask(method, &link, &[("if-none-match", "*")]).await;
            assert_eq!(answer.status, StatusCode::FORBIDDEN, "{link}");
            assert_eq!(answer.header("etag"), "", "{link}");
        }
        let answer = world.get(&link, &[]).await;
        assert_eq!(answer.message(), "The link's signature does not match", "{link}");
    }
    let answer = world.get(&absent, &[]).await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    // More parameters do no harm.
    assert_eq!(world.status(&format!("{link}&cache=no")).await, 200);
}

#[tokio::test(start_paused = true)]
async fn a_link_ends() {
    let world = world().await;
    let link = world.link(PATH).await;
    // Links end at whole seconds: no later than they were asked for.
    world.clock.sleep(HOUR - Duration::from_millis(501)).await;
    assert_eq!(world.status(&link).await, 200);
    world.clock.sleep(Duration::from_millis(1)).await;
    let answer = world.get(&link, &[]).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    assert_eq!(answer.message(), "Request has expired");
}

#[tokio::test(start_paused = true)]
async fn every_process_of_an_instance_follows_its_links() {
    let world = world().await;
    let link = world.link(PATH).await;
    let other = open(&world.clock, &world.items, &world.buckets, 2).await;
    let answer = ask(written(&other), "GET", &link, &[]).await;
    assert_eq!(answer.status, StatusCode::OK);
    let strange_items = Arc::new(MemoryItemStore::new(world.clock.clone()));
    let stranger = open(&world.clock, &strange_items, &world.buckets, 3).await;
    let answer = ask(written(&stranger), "GET", &link, &[]).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
}

#[tokio::test(start_paused = true)]
async fn what_has_no_link_is_refused() {
    let World { gateway, .. } = world().await;
    let path = Path::from(PATH);
    let put = gateway.sign(LinkMethod::Put, &bucket(), &path, HOUR).await;
    let files = gateway.sign(LinkMethod::Get, &Bucket::Files, &path, HOUR).await;
    let life = gateway
        .sign(LinkMethod::Get, &bucket(), &path, Duration::ZERO)
        .await;
    for refused in [put, files, life] {
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Invalid);
    }
    assert!(!format!("{gateway:?}").contains("key"), "{gateway:?}");
}

#[tokio::test(start_paused = true)]
async fn a_link_for_one_use_is_good_once() {
    let world = world().await;
    let link = world.once();
    assert_ne!(link, world.once());
    for _ in 0..3 {
        assert_eq!(world.ask("HEAD", &link, &[]).await.status, StatusCode::OK);
    }
    let unused = world.get(&link, &[("range", "bytes=10-")]).await;
    assert_eq!(unused.status, StatusCode::RANGE_NOT_SATISFIABLE);
    let whole = world.get(&link, &[]).await;
    assert_eq!((whole.status, &whole.body[..]), (StatusCode::OK, BODY));
    for method in ["GET", "HEAD"] {
        let gone = world.ask(method, &link, &[("range", "bytes=0-0")]).await;
        assert_eq!(gone.status, StatusCode::GONE);
    }
    assert_eq!(world.status(&world.once()).await, 200);
}

#[tokio::test(start_paused = true)]
async fn a_link_for_one_use_may_be_read_in_ranges_and_again() {
    let world = world().await;
    let link = world.once();
    for range in ["bytes=5-9", "bytes=5-9", "bytes=0-2", "bytes=-1", "bytes=3-3"] {
        let answer = world.get(&link, &[("range", range)]).await;
        assert_eq!(answer.status, StatusCode::PARTIAL_CONTENT, "{range}");
    }
    // Another process goes on where this one was.
    let other = open(&world.clock, &world.items, &world.buckets, 2).await;
    let answer = ask(written(&other), "GET", &link, &[("range", "bytes=4-4")]).await;
    assert_eq!(answer.body, "4");
    assert_eq!(world.status(&link).await, 410);
}

#[tokio::test(start_paused = true)]
async fn a_link_for_one_use_is_gone_when_nobody_goes_on() {
    let world = world().await;
    let link = world.once();
    world.clock.sleep(MINUTE * 15).await;
    for _ in 0..3 {
        let answer = world.get(&link, &[("range", "bytes=0-1")]).await;
        assert_eq!(answer.status, StatusCode::PARTIAL_CONTENT);
        world.clock.sleep(MINUTE * 9).await;
    }
    world.clock.sleep(MINUTE * 2).await;
    assert_eq!(world.status(&link).await, 410);
}

#[tokio::test(start_paused = true)]
async fn a_download_that_is_cut_off_uses_nothing() {
    let world = world().await;
    let link = world.once();
    for _ in 0..3 {
        let target = link.strip_prefix("http://api.test").unwrap();
        let request = Request::get(target).body(Body::empty()).unwrap();
        let response = world.router().oneshot(request).await.unwrap();
        let mut body = response.into_body();
        let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(frame, BODY[..9]);
    }
    assert_eq!(world.status(&link).await, 200);
    assert_eq!(world.status(&link).await, 410);
}

#[tokio::test(start_paused = true)]
async fn a_slow_download_keeps_its_link() {
    let world = world().await;
    let link = world.once();
    let target = link.strip_prefix("http://api.test").unwrap();
    let request = Request::get(target).body(Body::empty()).unwrap();
    let mut body = world.router().oneshot(request).await.unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    world.clock.sleep(MINUTE * 5).await;
    body.frame().await.unwrap().unwrap();
    assert_eq!(world.status(&link).await, 410);
}

#[tokio::test(start_paused = true)]
async fn an_empty_object_is_read_once() {
    let world = world().await;
    world.put("empty.csv", b"").await;
    let path = Path::from("empty.csv");
    let link = world.gateway.sign_single_use(&bucket(), &path, HOUR).unwrap();
    assert_eq!(world.status(&link).await, 200);
    assert_eq!(world.status(&link).await, 410);
}

/// What a server on a real socket answers, head and body.
async fn over_socket(router: Router, method: &str, link: &str) -> (String, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = serve(
        listener,
        router,
        ServerLimits::default(),
        CancellationToken::new(),
    );
    let ask = async {
        let target = link.strip_prefix("http://api.test").unwrap();
        let request = format!("{method} {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let answer = tokio::select! {
        _ = server => panic!("the server ended"),
        answer = ask => answer,
    };
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

#[tokio::test]
async fn links_are_followed_over_sockets() {
    let world = world().await;
    let link = world.once();
    for (method, status, body) in [
        ("HEAD", "200", ""),
        ("GET", "200", "0123456789"),
        ("HEAD", "410", ""),
    ] {
        let (head, sent) = over_socket(world.router(), method, &link).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        assert_eq!(sent, body, "{head}");
        if status == "200" {
            assert!(head.contains("content-length: 10\r\n"), "{head}");
            assert!(!head.contains("transfer-encoding"), "{head}");
        }
    }
    assert_eq!(world.status(&link).await, 410);
}
