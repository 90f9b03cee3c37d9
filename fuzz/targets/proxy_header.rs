//! The parser of the PROXY header, fed by libFuzzer. The parser's files are taken in as they are, so that nothing else of
//! the balancer has to be built, or is counted as covered.

#![no_main]
#![allow(dead_code, reason = "the balancer uses the rest")]

#[path = "../../src/proxy_protocol/mod.rs"]
mod proxy_protocol;
#[path = "../../src/proxy_protocol/properties.rs"]
mod properties;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| properties::holds(bytes));
