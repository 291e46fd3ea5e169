//! Inputs made of others: a small mutator without knowledge of what an input reached.

use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::Value;

/// The longest input that is made.
const MAX_BYTES: usize = 64 << 10;

const NUMBERS: [u64; 16] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0x8000,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    1 << 40,
    i64::MAX as u64,
    1 << 63,
    u64::MAX - 1,
    u64::MAX,
];

const TOKENS: [&[u8]; 24] = [
    b"../",
    b"/./",
    b"//",
    b"%2e%2e%2f",
    b"%00",
    b"\0",
    "\u{2215}".as_bytes(),
    "\u{ff0e}\u{ff0e}".as_bytes(),
    b"..",
    b"\\",
    b"s3://",
    b"s3a://",
    b"file:///",
    b"$ALLOWED/",
    b"$SECRET/",
    b"link/",
    b"null",
    b"-1",
    b"18446744073709551616",
    b"1e999",
    b"\"\":",
    b"\\ud800",
    b"\xff\xfe",
    b"\n",
];

/// Makes inputs; the same seed makes the same ones of the same pool.
#[derive(Debug)]
pub struct Mutator {
    random: StdRng,
}

impl Mutator {
    /// A mutator that follows from a seed.
    pub fn new(seed: u64) -> Self {
        Self {
            random: StdRng::seed_from_u64(seed),
        }
    }

    /// An input made of one or two of the pool, which is not empty.
    pub fn mutate(&mut self, pool: &[Vec<u8>]) -> Vec<u8> {
        let mut input = pool[self.random.random_range(0..pool.len())].clone();
        let is_json = matches!(input.first(), Some(b'{' | b'['));
        if is_json
            && self.random.random_ratio(2, 3)
            && let Ok(mut json) = serde_json::from_slice::<Value>(&input)
        {
            let other = &pool[self.random.random_range(0..pool.len())];
            let other = serde_json::from_slice(other).unwrap_or(Value::Null);
            for _ in 0..self.random.random_range(1..4) {
                self.change_json(&mut json, &other);
            }
            input = json.to_string().into_bytes();
            if self.random.random_ratio(7, 8) {
                return input;
            }
        }
        for _ in 0..self.random.random_range(1..5) {
            let other = &pool[self.random.random_range(0..pool.len())];
            self.change_bytes(&mut input, other);
        }
        input.truncate(MAX_BYTES);
        input
    }

    fn change_bytes(&mut self, input: &mut Vec<u8>, other: &[u8]) {
        let random = &mut self.random;
        if input.is_empty() {
            input.push(random.random());
            return;
        }
        // Formats that end in a footer deserve attention there.
        let from = if random.random() { 0 } else { input.len() * 2 / 3 };
        let at = random.random_range(from..input.len());
        let span = (1 + random.random_range(0..32_usize).pow(2) / 16).min(input.len() - at);
        match random.random_range(0..16) {
            0..=3 => input[at] ^= 1 << random.random_range(0..8),
            4 => input[at] = random.random(),
            5 => {
                input[at] = input[at]
                    .wrapping_add(random.random_range(0..5_u8))
                    .wrapping_sub(2)
            }
            6 => {
                let number = NUMBERS[random.random_range(0..NUMBERS.len())];
                let width = 1 << random.random_range(0..4);
                let bytes = if random.random() {
                    number.to_le_bytes()[..width].to_vec()
                } else {
                    number.to_be_bytes()[8 - width..].to_vec()
                };
                let end = (at + width).min(input.len());
                input.splice(at..end, bytes);
            }
            7 => {
                let bytes = varint(NUMBERS[random.random_range(0..NUMBERS.len())]);
                let end = (at + random.random_range(0..3)).min(input.len());
                input.splice(at..end, bytes);
            }
            8 => {
                input.drain(at..at + span);
            }
            9 => {
                let copy = input[at..at + span].to_vec();
                let to = random.random_range(0..=input.len());
                input.splice(to..to, copy);
            }
            10 => {
                let copy = input[at..at + span].to_vec();
                let to = random.random_range(0..=input.len() - span);
                input[to..to + span].copy_from_slice(&copy);
            }
            11 => input.truncate(at),
            12 if !other.is_empty() => {
                let cut = random.random_range(0..other.len());
                input.truncate(at);
                input.extend_from_slice(&other[cut..]);
            }
            13 if !other.is_empty() => {
                let cut = random.random_range(0..other.len());
                let end = (cut + span).min(other.len());
                input.splice(at..(at + end - cut).min(input.len()), other[cut..end].to_vec());
            }
            14 => {
                let token = TOKENS[random.random_range(0..TOKENS.len())];
                input.splice(at..at, token.iter().copied());
            }
            _ => {
                let bytes: Vec<u8> = (0..span).map(|_| random.random()).collect();
                input.splice(at..at, bytes);
            }
        }
    }

    fn change_json(&mut self, json: &mut Value, other: &Value) {
        let target = self.random.random_range(0..count(json));
        let donor = self.random.random_range(0..count(other));
        let with = match self.random.random_range(0..5) {
            0 => node(other, &mut donor.clone()).cloned(),
            1 => node(json, &mut self.random.random_range(0..count(json))).cloned(),
            _ => None,
        };
        let choice = self.random.random_range(0..10);
        let Some(place) = node_mut(json, &mut target.clone()) else {
            return;
        };
        if let Some(with) = with {
            *place = with;
            return;
        }
        match place {
            Value::Array(items) if !items.is_empty() && choice < 6 => {
                let at = self.random.random_range(0..items.len());
                match choice {
                    0 => drop(items.remove(at)),
                    1 => items.push(items[at].clone()),
                    2 => items.insert(0, items[at].clone()),
                    3 => items.reverse(),
                    4 => items.truncate(at),
                    _ => items.push(Value::Null),
                }
            }
            Value::Object(fields) if !fields.is_empty() && choice < 6 => {
                let at = self.random.random_range(0..fields.len());
                let Some(name) = fields.keys().nth(at).cloned() else {
                    return;
                };
                match choice {
                    0 | 1 => drop(fields.remove(&name)),
                    2 => {
                        let value = fields.remove(&name).unwrap_or_default();
                        fields.insert(name + "x", value);
                    }
                    _ => {
                        fields.insert(name, Value::Null);
                    }
                }
            }
            Value::String(text) if choice < 7 => {
                let mut bytes = std::mem::take(text).into_bytes();
                self.change_bytes(&mut bytes, b"partition_root/a.parquet");
                *text = String::from_utf8_lossy(&bytes).into_owned();
            }
            place => *place = self.json_value(),
        }
    }

    fn json_value(&mut self) -> Value {
        let number = NUMBERS[self.random.random_range(0..NUMBERS.len())];
        match self.random.random_range(0..9) {
            0 => Value::Null,
            1 => Value::Bool(self.random.random()),
            2 => number.into(),
            3 => number.cast_signed().into(),
            4 => (number as f64 * 0.5).into(),
            5 => Value::String(String::new()),
            6 => Value::String("x".repeat(self.random.random_range(1..300))),
            7 => Value::Array(Vec::new()),
            _ => {
                let token = TOKENS[self.random.random_range(0..TOKENS.len())];
                Value::String(String::from_utf8_lossy(token).into_owned())
            }
        }
    }
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push((number as u8) | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

fn count(json: &Value) -> usize {
    1 + match json {
        Value::Array(items) => items.iter().map(count).sum(),
        Value::Object(fields) => fields.values().map(count).sum(),
        _ => 0,
    }
}

/// The value with this number, counted from the root.
fn node<'a>(json: &'a Value, number: &mut usize) -> Option<&'a Value> {
    if *number == 0 {
        return Some(json);
    }
    *number -= 1;
    match json {
        Value::Array(items) => items.iter().find_map(|item| node(item, number)),
        Value::Object(fields) => fields.values().find_map(|value| node(value, number)),
        _ => None,
    }
}

fn node_mut<'a>(json: &'a mut Value, number: &mut usize) -> Option<&'a mut Value> {
    if *number == 0 {
        return Some(json);
    }
    *number -= 1;
    match json {
        Value::Array(items) => items.iter_mut().find_map(|item| node_mut(item, number)),
        Value::Object(fields) => fields.values_mut().find_map(|value| node_mut(value, number)),
        _ => None,
    }
}
