//! What stands behind a balancer in a demo and in tests: a development registry, a server cluster, a client.
//!
//! Nothing here is for production. The binary `backend-demo` is a thin command line over these modules.

pub mod registry;
