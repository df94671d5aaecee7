# Sourced by what builds the release, and by what tests it.
#
# release_binaries: builds them all, and prints the directory where they lie together.
#
# minirun is linked with musl where its target is to be had (rustup target add): its start-up code
# does not ask the processor what it is, which is a third of a millisecond in a virtual machine.
# The others stay with glibc, whose memory allocator suits threads.
release_binaries() {
  local host musl bin=target/release-bin
  host=$(host_target)
  musl=$(musl_target)
  cargo build --quiet --release --workspace --bins >&2
  cargo build --quiet --release -p ctsys --example start-floor >&2
  rm -rf "$bin"
  mkdir -p "$bin"
  install -m 755 "target/$host/release/"{ocipull,minirun,pfwd,test-registry} "target/$host/release/examples/start-floor" "$bin"
  if has_target "$musl"; then
    # For size: as quick to start as one for speed, with three quarters of its memory mapped.
    CARGO_PROFILE_RELEASE_OPT_LEVEL=s cargo build --quiet --release -p minirun --bins --target "$musl" >&2
    CARGO_PROFILE_RELEASE_OPT_LEVEL=s cargo build --quiet --release -p ctsys --example start-floor --target "$musl" >&2
    install -m 755 "target/$musl/release/minirun" "target/$musl/release/examples/start-floor" "$bin"
  fi
  echo "$bin"
}

host_target() { rustc -vV | sed -n 's/^host: //p'; }
musl_target() { host_target | sed 's/-[^-]*$/-musl/'; }

# Whether programs can be built for the target $1; it is fetched where it can be.
has_target() {
  [ -d "$(rustc --print target-libdir --target "$1" 2>/dev/null)" ] ||
    timeout 120 rustup target add "$1" >/dev/null 2>&1
}
