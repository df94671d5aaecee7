# The images that `scripts/bench pull` pulls, as an OCI layout in target/bench-images, kept for the
# next run. Sourced by scripts/bench; runs in its private mount namespace.
#
#   one   a Debian system in one layer                                    about 70 MB compressed
#   five  the same layer, Python, a C toolchain, Node and a JDK above it  about 420 MB compressed
#
# Each layer but the first takes something away from those below it (whiteouts).
images=target/bench-images

make_images() {
  [ ! -e "$images/complete" ] || return 0
  note "making the images (some minutes, once)"
  rm -rf "$images"
  mkdir -p "$images"
  local rootfs=$work/bundle/rootfs layout=$images/layout codename
  codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
  mmdebstrap --quiet --variant=minbase --include=ca-certificates,curl,perl,procps \
    --customize-hook='rm -rf "$1"/var/lib/apt/lists/*' "$codename" "$work/base.tar"
  umoci init --layout "$layout"
  umoci new --image "$layout:five"
  umoci unpack --image "$layout:five" "$work/bundle"
  # Device nodes are of no use in an image.
  tar -C "$rootfs" --numeric-owner --xattrs -xpf "$work/base.tar" --exclude='./dev/*'
  layer debian
  umoci tag --image "$layout:five" one
  in_image apt-get update -qq
  add_packages python3 python3-venv python3-pip
  rm -rf "$rootfs"/usr/share/{doc,man}
  layer python
  add_packages gcc g++ make libc6-dev pkg-config
  rm -rf "$rootfs"/usr/share/{locale,info}
  layer toolchain
  add_packages nodejs npm
  rm -rf "$rootfs"/var/log/*
  layer node
  add_packages default-jdk-headless
  rm -rf "$rootfs"/var/lib/apt/lists
  layer jdk
  umoci gc --layout "$layout"
  rm -rf "$work/bundle" "$work/base.tar"
  touch "$images/complete"
}

layer() {
  umoci repack --refresh-bundle --image "$layout:five" --history.comment "$1" "$work/bundle"
}

# Without recommended packages the JDK's and Node's dependencies stay below the size that is wanted.
add_packages() {
  in_image env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$@" >/dev/null
  in_image apt-get clean
}

# Runs a command in the tree. The mounts are gone before the layer is taken.
in_image() {
  unshare --mount --pid --fork --kill-child sh -c '
    mount -t proc proc "$1/proc" && mount -t tmpfs tmpfs "$1/dev" && mkdir "$1/dev/pts" &&
      mount -t devpts devpts -o newinstance,ptmxmode=666 "$1/dev/pts" && ln -s pts/ptmx "$1/dev/ptmx" &&
      mknod -m 666 "$1/dev/null" c 1 3 &&
      touch "$1/etc/resolv.conf" && mount --bind /etc/resolv.conf "$1/etc/resolv.conf" || exit
    root=$1; shift; exec chroot "$root" "$@"' sh "$rootfs" "$@"
}
