//! A tree as comparable text.
