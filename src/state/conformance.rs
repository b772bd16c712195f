//! What every inner backend has to do, as functions.
