//! The changelog backend.
