//! Write a rootless OCI runtime config and run the container.
