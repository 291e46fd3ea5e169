//! Runs each target on its corpus and on mutations of it. What the environment may say is in the documentation of
//! the crate.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test; time limits are by the machine's clock, and people wait"
)]

use std::{
    collections::BTreeMap,
    env, fs,
    fs::File,
    os::unix::fs::FileExt,
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
    process,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use cap::Cap;
use dormouse_fuzz::{Mutator, TARGETS, fingerprint};

/// Counts what is allocated; an allocation beyond the limit ends the process.
#[global_allocator]
static ALLOCATOR: Cap<std::alloc::System> = Cap::new(std::alloc::System, usize::MAX);

/// How many bytes an input may make its target hold, with the corpus and the little that tests need.
const MEMORY_LIMIT: usize = 512 << 20;

/// How long one input may take.
const TIME_LIMIT: Duration = Duration::from_secs(5);

/// How many mutations a target runs where the environment does not say, so that all take seconds.
const INPUTS: [(&str, u64); 11] = [
    ("items", 3_000),
    ("key", 800),
    ("manifest", 10_000),
    ("message", 20_000),
    ("names", 8_000),
    ("parquet", 2_500),
    ("predicate", 600),
    ("properties", 4_000),
    ("schema", 15_000),
    ("snapshot", 3_000),
    ("transaction", 800),
];

macro_rules! targets {
    ($($name:ident),*) => {$(
        #[test]
        fn $name() {
            run(stringify!($name));
        }
    )*};
}

targets!(
    items,
    key,
    manifest,
    message,
    names,
    parquet,
    predicate,
    properties,
    schema,
    snapshot,
    transaction
);

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} is {text}, no number")),
    )
}

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target)
}

fn run(name: &'static str) {
    let (_, target) = TARGETS.into_iter().find(|(target, _)| *target == name).unwrap();
    if let Ok(path) = env::var("DORMOUSE_FUZZ_REPLAY") {
        let input = fs::read(&path).unwrap();
        return Guard::new(name, target).run(&input, Some(Path::new(&path)));
    }
    let mut files: Vec<_> = fs::read_dir(corpus(name))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{name} has no corpus");
    let pool: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    let guard = Guard::new(name, target);
    for (input, file) in pool.iter().zip(&files) {
        guard.run(input, Some(file));
    }
    // An input that takes long or much is not one to make others of.
    let small: Vec<_> = pool
        .iter()
        .filter(|input| input.len() <= 16 << 10)
        .cloned()
        .collect();
    let seed = number("DORMOUSE_FUZZ_SEED").unwrap_or(1);
    let mut mutator = Mutator::new(seed);
    let seconds = number("DORMOUSE_FUZZ_SECONDS").map(Duration::from_secs);
    let wanted = number("DORMOUSE_FUZZ_INPUTS").unwrap_or(BTreeMap::from(INPUTS)[name]);
    let begin = Instant::now();
    let mut inputs = 0;
    while seconds.map_or(inputs < wanted, |seconds| begin.elapsed() < seconds) {
        guard.run(&mutator.mutate(&small), None);
        inputs += 1;
    }
    fs::remove_file(&guard.path).unwrap();
    let report = serde_json::json!({
        "target": name,
        "inputs": inputs + pool.len() as u64,
        "seconds": begin.elapsed().as_secs_f64(),
        "slowestMillis": guard.slowest.load(Ordering::Relaxed),
        "peakAllocatedBytes": ALLOCATOR.max_allocated(),
        "peakRssBytes": peak_rss(),
    });
    eprintln!("{report}");
    if let Ok(directory) = env::var("DORMOUSE_FUZZ_REPORT") {
        fs::write(
            Path::new(&directory).join(format!("{name}-{seed}.json")),
            report.to_string(),
        )
        .unwrap();
    }
}

fn peak_rss() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kilobytes.unwrap_or(0) << 10
}

/// Runs inputs and keeps the one that breaks something.
struct Guard {
    name: &'static str,
    target: fn(&[u8]),
    begin: Instant,
    running: Arc<Mutex<Vec<u8>>>,
    /// Holds the input that runs, for what ends the process.
    file: File,
    path: PathBuf,
    /// When the input that runs was begun, in milliseconds after `begin`, plus one; zero between inputs.
    since: Arc<AtomicU64>,
    /// Where the panic of the last input was.
    panicked: Arc<Mutex<String>>,
    slowest: AtomicU64,
}

impl Guard {
    fn new(name: &'static str, target: fn(&[u8])) -> Self {
        let panicked = Arc::new(Mutex::new(String::new()));
        let message = panicked.clone();
        // Panics that the code under test contains are many.
        panic::set_hook(Box::new(move |panic| {
            *message.lock().unwrap() = panic.to_string();
        }));
        ALLOCATOR.set_limit(MEMORY_LIMIT).unwrap();
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", process::id()));
        eprintln!("an input that ends the process is left in {}", path.display());
        let guard = Self {
            file: File::create(&path).unwrap(),
            path,
            name,
            target,
            begin: Instant::now(),
            running: Arc::default(),
            since: Arc::default(),
            panicked,
            slowest: AtomicU64::new(0),
        };
        let (running, since, begin) = (guard.running.clone(), guard.since.clone(), guard.begin);
        thread::spawn(move || {
            loop {
                thread::sleep(Duration::from_millis(200));
                let started = since.load(Ordering::Relaxed);
                let now = begin.elapsed().as_millis() as u64;
                if started > 0 && now > started + TIME_LIMIT.as_millis() as u64 {
                    let input = running.lock().unwrap().clone();
                    let path = save(name, &input);
                    eprintln!("{name} takes more than {TIME_LIMIT:?} for {}", path.display());
                    process::abort();
                }
            }
        });
        guard
    }

    fn run(&self, input: &[u8], file: Option<&Path>) {
        self.file.set_len(input.len() as u64).unwrap();
        self.file.write_all_at(input, 0).unwrap();
        input.clone_into(&mut self.running.lock().unwrap());
        let started = self.begin.elapsed().as_millis() as u64 + 1;
        self.since.store(started, Ordering::Relaxed);
        let result = panic::catch_unwind(AssertUnwindSafe(|| (self.target)(input)));
        self.since.store(0, Ordering::Relaxed);
        let millis = self.begin.elapsed().as_millis() as u64 + 1 - started;
        self.slowest.fetch_max(millis, Ordering::Relaxed);
        if result.is_ok() {
            return;
        }
        let path = file.map_or_else(|| save(self.name, input), Path::to_owned);
        let why = self.panicked.lock().unwrap().clone();
        let _ = panic::take_hook();
        panic!(
            "{why}\n\nThe input is {}. Replay it with\nDORMOUSE_FUZZ_REPLAY={} cargo nextest run -p dormouse-fuzz {} --no-capture",
            path.display(),
            path.display(),
            self.name
        );
    }
}

/// Keeps an input in the corpus.
fn save(target: &str, input: &[u8]) -> PathBuf {
    let path = corpus(target).join(format!("crash-{:016x}", fingerprint(input)));
    fs::write(&path, input).unwrap();
    path
}
