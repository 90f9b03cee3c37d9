//! The reader of ClientHellos, fed by libFuzzer. Its files are taken in as they are, so that nothing else of the balancer has
//! to be built, or is counted as covered.

#![no_main]
#![allow(dead_code, reason = "the balancer uses the rest")]

#[path = "../../src/route/hello/mod.rs"]
mod hello;
#[path = "../../src/route/hello/properties.rs"]
mod properties;

use hello::{ClientHello, HelloReader, Reading, read};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| properties::holds(bytes));
