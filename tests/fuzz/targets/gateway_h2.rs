//! Bytes of libFuzzer for `readers/gateway_h2.rs`.
#![no_main]

#[path = "../readers/gateway_h2.rs"]
mod reader;

libfuzzer_sys::fuzz_target!(|data: &[u8]| reader::run(data));
