//! Bytes of libFuzzer for `readers/channel.rs`.
#![no_main]

#[path = "../readers/channel.rs"]
mod reader;

libfuzzer_sys::fuzz_target!(|data: &[u8]| reader::run(data));
