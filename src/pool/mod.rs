//! What both planes share about a pool. Nothing in here awaits, does I/O or logs.

mod source;

pub use source::{SourceStatus, SourceView};
