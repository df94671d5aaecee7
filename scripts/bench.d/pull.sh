# scripts/bench pull: an image from a registry on this machine to a tree of files, as root.
peer_packages=(skopeo umoci podman buildah docker-registry curl tar)
registry=127.0.0.1:5000

bench_pull() {
  start_registry
  # What containers/storage keeps, and its caches.
  local dir
  for dir in /var/lib/containers /run/containers /run/libpod; do
    mkdir -p "$dir" && mount -t tmpfs tmpfs "$dir"
  done
  export HOME=$work/user XDG_CACHE_HOME=$work/cache registry work
  export -f pull_ocipull pull_umoci pull_podman pull_plain reset reset_warm
  local image
  for image in one five; do
    list_layers "$image"
  done
  make_changed
  for image in one five changed; do
    compare_trees "$image"
  done
  for image in one five; do
    note "$image: $rounds rounds of five programs"
    measure.py time "$samples" "$rounds" "bash -c reset" \
      "ocipull, $image" "bash -c 'pull_ocipull $image'" \
      "skopeo + umoci, $image" "bash -c 'pull_umoci $image'" \
      "podman pull, $image" "bash -c 'pull_podman $image'" \
      "curl + tar, $image" "bash -c 'pull_plain $image'"
    measure.py time "$samples" "$rounds" "" \
      "ocipull again, unchanged, $image" "ocipull -q $registry/$image $work/kept-$image"
    rm -rf "$work/kept-$image"
  done
  measure_warm
  print_pull
}

# What is left to do when all of `five` was pulled before, and is kept in whatever way a program has.
measure_warm() {
  reset
  rm -rf "$work/kept-changed"
  ocipull -q "$registry/five" "$work/out"
  pull_umoci five
  (pull_podman five) >/dev/null
  mkdir "$work/warm"
  mv "$XDG_CACHE_HOME" "$work/layout" "$work/warm"
  expect_blobs 0 five
  # A config and a layer.
  expect_blobs 2 changed
  note "warm: $rounds rounds of four programs"
  measure.py time "$samples" "$rounds" "bash -c reset_warm" \
    "ocipull, five from the cache" "bash -c 'pull_ocipull five'" \
    "ocipull, changed" "bash -c 'pull_ocipull changed'" \
    "skopeo + umoci, changed" "bash -c 'pull_umoci changed'" \
    "podman pull, changed" "bash -c 'pull_podman changed'"
}

# expect_blobs NUMBER IMAGE: with a warm cache ocipull asks for so many blobs.
expect_blobs() {
  reset_warm
  ocipull -v "$registry/$2" "$work/out" 2>"$work/requests"
  local asked
  asked=$(grep -c '^GET .*/blobs/' "$work/requests" || true)
  [ "$asked" = "$1" ] || die "with a warm cache ocipull fetched $asked blobs of $2, want $1" "run it with -v"
}

list_layers() {
  curl -sSf "http://$registry/v2/$1/manifests/latest" -H 'Accept: application/vnd.oci.image.manifest.v1+json' |
    jq -r '.layers[].digest' >"$work/$1.layers"
}

# `five` with one layer more: what a rebuilt image is to who has the one before.
make_changed() {
  local container buildah=(buildah --storage-driver overlay)
  container=$("${buildah[@]}" from --quiet --tls-verify=false "$registry/five:latest")
  "${buildah[@]}" copy --quiet "$container" "$(command -v podman)" /opt/app/bin/ >/dev/null
  "${buildah[@]}" commit --quiet --tls-verify=false "$container" "docker://$registry/changed:latest" >/dev/null
  "${buildah[@]}" rm --all >/dev/null
  list_layers changed
  head -n -1 "$work/changed.layers" | cmp - "$work/five.layers" || die "buildah pushed other lower layers" "look at both manifests"
  reset
}

start_registry() {
  cat >"$work/registry.yml" <<END
version: 0.1
log: { level: error, accesslog: { disabled: true } }
storage: { filesystem: { rootdirectory: $work/registry } }
http: { addr: $registry }
END
  docker-registry serve "$work/registry.yml" >"$work/registry.log" 2>&1 &
  wait_for "docker-registry" listens "${registry#*:}"
  local image
  for image in one five; do
    skopeo copy --quiet --dest-tls-verify=false "oci:$images/layout:$image" "docker://$registry/$image:latest"
  done
}

pull_ocipull() { exec ocipull -q "$registry/$1" "$work/out"; }

pull_umoci() {
  skopeo copy --quiet --src-tls-verify=false "docker://$registry/$1:latest" "oci:$work/layout:latest" &&
    umoci --log=error unpack --image "$work/layout:latest" "$work/bundle"
}

pull_podman() { exec podman --storage-driver overlay pull --quiet --tls-verify=false "$registry/$1:latest"; }

# The least that leaves files: nothing is verified, whiteouts stay what they are.
pull_plain() {
  mkdir "$work/out"
  set -o pipefail
  local digest
  while read -r digest; do
    curl -sSf "http://$registry/v2/$1/blobs/$digest" | tar -C "$work/out" --numeric-owner --xattrs -xzpf - || return
  done <"$work/$1.layers"
}

# Cold: nothing is left of an earlier pull.
reset() {
  rm -rf "$work/out" "$work/out.image.json" "$work/bundle" "$work/layout" "$XDG_CACHE_HOME"
  podman --storage-driver overlay system reset --force >/dev/null 2>&1 || true
}

# Warm: what `measure_warm` kept.
reset_warm() {
  rm -rf "$work/out" "$work/out.image.json" "$work/bundle" "$work/layout" "$XDG_CACHE_HOME"
  cp -a "$work/warm/." "$work"
  podman --storage-driver overlay rmi --force "$registry/changed:latest" >/dev/null 2>&1 || true
}

# A figure counts only for the same result.
compare_trees() {
  ocipull -q "$registry/$1" "$work/kept-$1"
  list_tree "$work/kept-$1" >"$work/ours"
  pull_umoci "$1"
  same_tree "$1" umoci "$work/bundle/rootfs"
  (pull_podman "$1") >/dev/null
  same_tree "$1" podman "$(podman --storage-driver overlay image mount "$registry/$1:latest")"
  podman --storage-driver overlay image unmount --all >/dev/null
  find "$work/kept-$1" | wc -l >"$work/$1.entries"
  reset
}

same_tree() {
  list_tree "$3" >"$work/theirs"
  diff "$work/ours" "$work/theirs" >"$work/difference" || {
    head -n 10 "$work/difference" >&2
    die "ocipull and $2 unpack $1 differently" "< is ocipull's, > is $2's"
  }
}

# Left out are the root itself, which podman makes 0555 whatever its entry says; times of
# directories, which umoci does not restore where a later layer touches them; and their link counts,
# which overlayfs does not have.
list_tree() {
  (cd "$1" && {
    find . -mindepth 1 \( -type d -printf '%p %y %m %U %G\n' \) -o -printf '%p %y %m %U %G %n %s %T@ %l\n'
    find . -type f -print0 | xargs -0 sha256sum
  } | LC_ALL=C sort)
}

print_pull() {
  measure.py table "$samples" 'wall=seconds:2' 'cpu=user + system, s:2' 'peak=peak memory of a process, MB:0'
  echo
  local limit image
  {
    echo 'five layers: time, of skopeo + umoci | ocipull, five:wall / skopeo + umoci, five:wall | <= | 0.27 | '
    echo 'five layers: CPU time, of skopeo + umoci | ocipull, five:cpu / skopeo + umoci, five:cpu | <= | 0.40 | '
    echo 'one layer: time, of skopeo + umoci | ocipull, one:wall / skopeo + umoci, one:wall | <= | 0.30 | '
    for image in one five; do
      limit=$(awk '{ printf "%.1f", 32 + $1 * 128 / 1e6 }' "$work/$image.entries")
      echo "$image: peak memory, 32 MB and 128 bytes an entry | ocipull, $image:peak | <= | $limit |  MB"
    done
    echo 'five layers again, unchanged | ocipull again, unchanged, five:wall | <= | 0.05 |  s'
  } | measure.py goals "$samples"
}
