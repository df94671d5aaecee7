//! What fuzzing runs, a function a target. The fuzz targets call them with what libFuzzer makes up,
//! ocipull's test `corpus` with the files of testdata/corpus.
//!
//! A target fails by a panic: of what it calls, or of an assertion about what came out of it.

pub mod repair;
mod targets;

pub use targets::*;
