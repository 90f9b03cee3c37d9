//! `lb.toml`: from text to a [`Config`] in which everything is valid.

mod model;

pub use model::*;
