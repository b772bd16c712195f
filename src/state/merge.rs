//! The built-in merge functions.
