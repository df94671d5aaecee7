//! Forward ports into the network namespace of a container or pod.
