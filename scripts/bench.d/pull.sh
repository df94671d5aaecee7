# scripts/bench pull: an image from a registry on this machine to a tree of files, as root.
peer_packages=(skopeo umoci podman docker-registry curl tar)
registry=127.0.0.1:5000

bench_pull() {
  start_registry
  # What containers/storage keeps, and its caches.
  local dir
  for dir in /var/lib/containers /run/containers /run/libpod; do
    mkdir -p "$dir" && mount -t tmpfs tmpfs "$dir"
  done
  export HOME=$work/user XDG_CACHE_HOME=$work/cache registry work
  export -f pull_ocipull pull_umoci pull_podman pull_plain reset
  local image
  for image in one five; do
    curl -sSf "http://$registry/v2/$image/manifests/latest" -H 'Accept: application/vnd.oci.image.manifest.v1+json' |
      jq -r '.layers[].digest' >"$work/$image.layers"
    compare_trees "$image"
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
  print_pull
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

reset() {
  rm -rf "$work/out" "$work/out.image.json" "$work/bundle" "$work/layout" "$XDG_CACHE_HOME"
  podman --storage-driver overlay system reset --force >/dev/null 2>&1 || true
}

# A figure counts only for the same result.
compare_trees() {
  ocipull -q "$registry/$1" "$work/kept-$1"
  pull_umoci "$1"
  list_tree "$work/kept-$1" >"$work/ours"
  list_tree "$work/bundle/rootfs" >"$work/theirs"
  cmp "$work/ours" "$work/theirs" || die "ocipull and umoci unpack $1 differently" "compare their trees"
  find "$work/kept-$1" | wc -l >"$work/$1.entries"
  rm -rf "$work/bundle" "$work/layout"
}

# Times of directories are left out: umoci does not restore those that a later layer touches.
list_tree() {
  (cd "$1" && {
    find . \( -type d -printf '%p %y %m %U %G %n\n' \) -o -printf '%p %y %m %U %G %n %s %T@ %l\n'
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
