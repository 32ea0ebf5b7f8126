//! Bytes of libFuzzer for `readers/gateway_answer.rs`.
#![no_main]

#[path = "../readers/gateway_answer.rs"]
mod reader;

libfuzzer_sys::fuzz_target!(|data: &[u8]| reader::run(data));
