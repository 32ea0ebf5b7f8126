//! Bytes of libFuzzer for `readers/connect.rs`.
#![no_main]

#[path = "../readers/connect.rs"]
mod reader;

libfuzzer_sys::fuzz_target!(|data: &[u8]| reader::run(data));
