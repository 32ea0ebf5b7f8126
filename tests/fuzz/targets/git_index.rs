//! Bytes of libFuzzer for `readers/git_index.rs`.
#![no_main]

#[path = "../readers/git_index.rs"]
mod reader;

libfuzzer_sys::fuzz_target!(|data: &[u8]| reader::run(data));
