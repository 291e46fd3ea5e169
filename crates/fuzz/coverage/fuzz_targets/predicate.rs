#![no_main]

libfuzzer_sys::fuzz_target!(init: dormouse_fuzz::silence_panics(), |data: &[u8]| dormouse_fuzz::predicate(data));
