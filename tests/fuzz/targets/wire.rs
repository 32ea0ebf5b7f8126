//! Bytes of libFuzzer for `readers/wire.rs`.
#![no_main]

#[path = "../readers/wire.rs"]
mod reader;

libfuzzer_sys::fuzz_target!(|data: &[u8]| reader::run(data));
