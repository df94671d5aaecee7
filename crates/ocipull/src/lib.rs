//! Pull an image from an OCI registry, verify it and unpack it into a root filesystem.
