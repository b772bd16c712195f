//! The tests of dstl from outside: the demo, stock clients in Python, a server that speaks S3. They are a binary of
//! their own, since they need no part of the daemon in their process, and PyPI the first time.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::disallowed_methods)]

mod demo;
mod python;
mod s3;
mod venv;
