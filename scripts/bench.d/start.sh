# scripts/bench start: /bin/true in a rootless container, as an ordinary user, by each runtime with
# the same config.json (what `minirun spec --rootless` writes); what waits outside while one runs.
peer_packages=(crun runc bubblewrap busybox-static)

bench_start() {
  make_bundle spec
  make_bundle net
  # One namespace more.
  sed -i 's/"type": "pid"/"type": "network" }, { "type": "pid"/' "$work/user/net/config.json"
  # Floor: the same system calls by a program that need not find out which. Without --init it leaves
  # out the process that minirun keeps as PID 1.
  note "$rounds rounds of seven or eight programs, twice"
  local kind own filtered
  for kind in spec net; do
    [ "$kind" = spec ] && own='' || own=--net
    # With the network also the filter that minirun's own configurations have; the others go without.
    [ "$kind" = spec ] && filtered=() ||
      filtered=("minirun, net and filter" "minirun --rootless --security-opt seccomp=builtin --bundle $work/user/$kind")
    as_user measure.py time "$work/user/samples" "$rounds" "" \
      "fork and exec alone" "$work/user/$kind/rootfs/bin/true" \
      "floor, $kind" "start-floor $own $work/user/$kind/rootfs /bin/true" \
      "floor with an init, $kind" "start-floor --init $own $work/user/$kind/rootfs /bin/true" \
      "minirun, $kind" "minirun --rootless --bundle $work/user/$kind" \
      ${filtered+"${filtered[@]}"} \
      "bwrap, $kind" "$(bwrap_command "$work/user/$kind/rootfs" ${own:+--unshare-net})" \
      "crun, $kind" "crun run --bundle $work/user/$kind bench" \
      "runc, $kind" "runc run --bundle $work/user/$kind bench"
  done
  measure_memory
  cat "$work/user/samples" >>"$samples"
  print_start
}

make_bundle() {
  local bundle=$work/user/$1
  mkdir -p "$bundle/rootfs"/{bin,dev,proc,sys}
  cp "$(command -v busybox)" "$bundle/rootfs/bin/busybox"
  ln -s busybox "$bundle/rootfs/bin/true"
  ln -s busybox "$bundle/rootfs/bin/sleep"
  chown -hR "$user:$user" "$bundle"
  as_user minirun spec --rootless --bundle "$bundle"
  sed -i 's/"terminal": true/"terminal": false/; s|"sh"|"/bin/true"|' "$bundle/config.json"
}

# The same namespaces, mounts, masked and read-only paths, in bwrap's words.
bwrap_command() {
  local path args=(
    bwrap --unshare-user --uid 0 --gid 0 --unshare-pid --unshare-ipc --unshare-uts --unshare-cgroup
    --hostname bench --die-with-parent --new-session --ro-bind "$1" / --proc /proc --dev /dev
    --tmpfs /dev/shm --mqueue /dev/mqueue --ro-bind /sys /sys --ro-bind /sys/fs/cgroup /sys/fs/cgroup
  )
  for path in bus fs irq sys sysrq-trigger; do
    [ ! -e "/proc/$path" ] || args+=(--ro-bind "/proc/$path" "/proc/$path")
  done
  for path in /proc/{acpi,asound,kcore,keys,latency_stats,timer_list,timer_stats,sched_debug,scsi} /sys/firmware; do
    if [ -d "$path" ]; then args+=(--tmpfs "$path"); elif [ -e "$path" ]; then args+=(--ro-bind /dev/null "$path"); fi
  done
  shift
  echo "${args[*]} $* /bin/true"
}

# Private memory of the runtime's own processes, five containers each.
measure_memory() {
  sed -i 's|"/bin/true"|"/bin/sleep", "1000"|' "$work/user/spec/config.json"
  local round name
  for ((round = 0; round < 5; round++)); do
    for name in minirun crun runc; do
      if [ "$name" = minirun ]; then as_user minirun --rootless --bundle "$work/user/spec" & else
        as_user "$name" run --bundle "$work/user/spec" bench-memory &
      fi
      local outside=$!
      wait_for "$name's container" sleeps "$outside"
      printf '%s, spec\tprivate\t%s\n' "$name" "$(measure.py private "$outside")" >>"$samples"
      kill -9 "$(sleeper "$outside")"
      wait "$outside" || true
    done
  done
}

# The container's command, somewhere below process $1 (crun's and runc's is their child's child).
sleeper() { pgrep -x -U "$user" sleep | head -n 1 | grep .; }
sleeps() { kill -0 "$1" && sleeper "$1" >/dev/null; }

print_start() {
  measure.py table "$samples" 'wall=milliseconds:2*1000' 'cpu=user + system, ms:2*1000' 'private=private memory, kB:0'
  echo
  measure.py goals "$samples" <<'END'
runc's rootless namespaces: of crun's time | minirun, spec:wall / crun, spec:wall | <= | 0.18 |
of bwrap's | minirun, spec:wall / bwrap, spec:wall | <= | 0.55 |
of the floor's with an init | minirun, spec:wall / floor with an init, spec:wall | <= | 1.6 |
with a network namespace too, and the usual seccomp filter: of crun's without one | minirun, net and filter:wall / crun, net:wall | <= | 0.35 |
private memory outside and inside together | minirun, spec:private | <= | 1500 | kB
END
}
