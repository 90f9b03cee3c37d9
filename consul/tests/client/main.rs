//! The client against an agent that says anything.

#![allow(missing_docs)]

mod calls;
mod faults;
mod reach;
mod support;
