//! Bytes of libFuzzer for `readers/imports.rs`.
#![no_main]

#[path = "../readers/imports.rs"]
mod reader;

libfuzzer_sys::fuzz_target!(|data: &[u8]| reader::run(data));
