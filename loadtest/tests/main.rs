//! Tests of the load generator from outside: hermetic, on free ports of this machine.

mod chaos;
mod compare;
mod faults;
mod program;
mod scenarios;
mod support;
