//! Tests of the load generator from outside: hermetic, on free ports of this machine.

mod compare;
mod faults;
mod program;
mod scenarios;
mod support;
