//! Bytes of libFuzzer for `readers/gateway_request.rs`.
#![no_main]

#[path = "../readers/gateway_request.rs"]
mod reader;

libfuzzer_sys::fuzz_target!(|data: &[u8]| reader::run(data));
