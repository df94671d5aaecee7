//! The built binaries, and running a program so that a failing test says everything.
