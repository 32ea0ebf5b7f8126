//! Bytes of libFuzzer for `readers/ignore_rules.rs`.
#![no_main]

#[path = "../readers/ignore_rules.rs"]
mod reader;

libfuzzer_sys::fuzz_target!(|data: &[u8]| reader::run(data));
