//! Bytes of libFuzzer for `readers/arguments.rs`.
#![no_main]

#[path = "../readers/arguments.rs"]
mod reader;

libfuzzer_sys::fuzz_target!(|data: &[u8]| reader::run(data));
