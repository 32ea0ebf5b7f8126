//! Bytes of libFuzzer for `readers/config.rs`.
#![no_main]

#[path = "../readers/config.rs"]
mod reader;

libfuzzer_sys::fuzz_target!(|data: &[u8]| reader::run(data));
