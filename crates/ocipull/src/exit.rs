//! What the program's exit code says of a failure: a script that has to choose what to do next reads
//! nothing else. `ocipull --help` lists them.

/// The registry wants to be left alone.
pub const EXIT_RATE_LIMITED: u8 = 3;
/// Content is not what its digest, size or diff_id says.
pub const EXIT_DAMAGED: u8 = 4;
/// The network took too long.
pub const EXIT_TIMED_OUT: u8 = 5;
/// There is no room for the image on the disk.
pub const EXIT_DISK_FULL: u8 = 6;
/// A comparison could not be made, where 1 says that something differs.
pub const EXIT_UNVERIFIED: u8 = 7;
/// The repository, the tag or the digest is not there.
pub const EXIT_NOT_FOUND: u8 = 8;
/// The registry wants a login, or another one.
pub const EXIT_DENIED: u8 = 9;
/// The image is there, and not for the platform.
pub const EXIT_NO_PLATFORM: u8 = 10;
/// The registry speaks plain HTTP, or TLS with a certificate that is not trusted.
pub const EXIT_NOT_TRUSTED: u8 = 11;
/// A manifest, or what an image unpacks to, is past a limit.
pub const EXIT_OVER_LIMIT: u8 = 12;
