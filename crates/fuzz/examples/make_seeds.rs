//! Writes the corpus' seeds: real values, as they are written and sent.

#![expect(clippy::unwrap_used, reason = "a program for developers")]

#[path = "make_seeds/parquet.rs"]
mod parquet;
#[path = "make_seeds/text.rs"]
mod text;

use std::{fs, path::Path};

use rand::{RngExt, SeedableRng, rngs::StdRng};

fn put(target: &str, name: &str, bytes: impl AsRef<[u8]>) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join(name), bytes).unwrap();
}

/// Bytes that choices are made of.
fn choices(target: &str, count: u64, bytes: usize) {
    for number in 0..count {
        let mut random = StdRng::seed_from_u64(number);
        let bytes: Vec<u8> = (0..bytes).map(|_| random.random()).collect();
        put(target, &format!("choices-{number}"), bytes);
    }
}

fn fixtures() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../core/tests/fixtures");
    for file in fs::read_dir(fixtures.join("records")).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        put("transaction", &name, fs::read(&path).unwrap());
    }
    let snapshot = fs::read(fixtures.join("snapshots/1.dmsnap")).unwrap();
    put("snapshot", "stored", &snapshot);
    let frames = zstd::decode_all(&snapshot[8..]).unwrap();
    put("snapshot", "frames", frames);
}

fn main() {
    fixtures();
    choices("transaction", 12, 300);
    choices("key", 16, 200);
    text::write();
    parquet::write();
}
