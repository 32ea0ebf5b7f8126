//! Bytes of libFuzzer for `readers/parameters.rs`.
#![no_main]

#[path = "../readers/parameters.rs"]
mod reader;

libfuzzer_sys::fuzz_target!(|data: &[u8]| reader::run(data));
