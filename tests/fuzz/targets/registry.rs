//! Bytes of libFuzzer for `readers/registry.rs`.
#![no_main]

#[path = "../readers/registry.rs"]
mod reader;

libfuzzer_sys::fuzz_target!(|data: &[u8]| reader::run(data));
