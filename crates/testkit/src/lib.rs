//! For tests only: a registry that can misbehave, image builders, an unprivileged user, trees as text.
