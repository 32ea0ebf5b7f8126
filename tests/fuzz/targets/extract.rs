//! Bytes of libFuzzer for `readers/extract.rs`.
#![no_main]

#[path = "../readers/extract.rs"]
mod reader;

libfuzzer_sys::fuzz_target!(|data: &[u8]| reader::run(data));
