# scripts/bench forward: from a port of the host into a network namespace of an ordinary user's, by
# that user. "direct" is a client in the namespace itself, "raw loopback" client and server outside.
peer_packages=(passt slirp4netns socat util-linux iperf3 wrk nginx python3)

# Each way in, and what is added to 8080 (HTTP), 5201 (stream) and 7000 (echo) for its ports.
ways=('raw loopback' direct pfwd pasta slirp4netns 'nsenter + socat')
declare -A offset=(['raw loopback']=0 [direct]=0 [pfwd]=1 [pasta]=2 [slirp4netns]=3 ['nsenter + socat']=4)
declare -A pid_of=()

bench_forward() {
  ulimit -Sn "$(ulimit -Hn)"
  open_tun
  make_target
  serve ''
  serve in_target
  start_forwarders
  local round way
  for ((round = 0; round <= rounds; round++)); do
    note "round $round of $rounds"
    for way in "${ways[@]}"; do
      # The first round warms up.
      if [ "$round" = 0 ]; then measure_way "$way" >/dev/null; else measure_way "$way" >>"$samples"; fi
    done
  done
  for way in pfwd pasta slirp4netns 'nsenter + socat'; do measure_idle "$way" >>"$samples"; done
  print_forward
}

# pasta and slirp4netns open it as the user.
open_tun() {
  mknod -m 666 "$work/tun" c 10 200
  mount --bind "$work/tun" /dev/net/tun
  # pasta wants an interface that leads outside.
  ip link add outside type bridge
  ip address add 192.0.2.1/24 dev outside
  ip link set outside up
  ip route add default via 192.0.2.2
  wide_ports
}

# A measurement of new connections uses more ports than the kernel hands out by default.
wide_ports() {
  echo '10240 65535' >/proc/sys/net/ipv4/ip_local_port_range
}

make_target() {
  as_user unshare --user --map-root-user --net sh -c 'ip link set lo up && exec sleep infinity' &
  wait_for "the namespace" find_target
  in_target ip link set lo up
  nsenter --net="/proc/$target/ns/net" bash -c "$(declare -f wide_ports); wide_ports"
}

find_target() { target=$(pgrep -x -U "$user" sleep); }

in_target() { as_user nsenter --user --net --preserve-credentials --target "$target" "$@"; }

# nginx, iperf3 and an echo server, here or (with in_target) in the namespace.
serve() {
  local dir=$work/user/nginx$1 run=${1:-as_user}
  as_user mkdir -p "$dir"
  cat >"$dir/nginx.conf" <<END
$([ -z "$1" ] || echo 'user root root;') # the one id that the namespace has
worker_processes 2;
daemon off;
pid $dir/pid;
error_log $dir/error.log;
events { worker_connections 4096; }
http {
  access_log off;
  keepalive_requests 1000000000;
  client_body_temp_path $dir/1; proxy_temp_path $dir/2; fastcgi_temp_path $dir/3;
  uwsgi_temp_path $dir/4; scgi_temp_path $dir/5;
  server { listen 8080 backlog=4096; return 200 "hello\n"; }
}
END
  "$run" nginx -e "$dir/error.log" -c "$dir/nginx.conf" 2>"$dir/start.log" &
  "$run" iperf3 --server >/dev/null 2>&1 &
  "$run" measure.py echo 7000 &
  local port
  for port in 8080 5201 7000; do wait_for "port $port" "$run" bash -c "exec 3<>/dev/tcp/127.0.0.1/$port"; done
}

start_forwarders() {
  as_user pfwd "pid:$target" 8081:8080 5202:5201 7001:7000 2>"$work/user/pfwd.log" &
  pid_of[pfwd]=$!
  as_user pasta --quiet --foreground -t 8082:8080,5203:5201,7002:7000 -u none -T none -U none "$target" &
  pid_of[pasta]=$!
  as_user slirp4netns --configure --mtu=65520 --api-socket "$work/user/slirp" "$target" tap0 >/dev/null 2>&1 &
  pid_of[slirp4netns]=$!
  wait_for "slirp4netns" test -S "$work/user/slirp"
  local pair
  for pair in 8083:8080 5204:5201 7003:7000; do
    printf '{"execute":"add_hostfwd","arguments":{"proto":"tcp","host_addr":"127.0.0.1","host_port":%s,"guest_port":%s}}' "${pair%:*}" "${pair#*:}" |
      as_user socat -t 1 - "UNIX-CONNECT:$work/user/slirp" >/dev/null
  done
  for pair in 8084:8080 5205:5201 7004:7000; do
    as_user socat "TCP-LISTEN:${pair%:*},bind=127.0.0.1,backlog=4096,reuseaddr,fork" \
      "EXEC:nsenter --user --net --preserve-credentials --target $target socat STDIO TCP\\:127.0.0.1\\:${pair#*:}" 2>/dev/null &
    pid_of['nsenter + socat']=$!
  done
  for pair in {8081..8084} {5202..5205} {7001..7004}; do wait_for "port $pair" listens "$pair"; done
}

# One round: prints samples.
measure_way() {
  local way=$1 run=as_user more=${offset[$1]}
  [ "$way" != direct ] || run=in_target
  local url=http://127.0.0.1:$((8080 + more))/
  sample() { printf '%s\t%s\t%s\n' "$way" "$1" "$2"; }
  sample stream "$("$run" iperf3 --client 127.0.0.1 --port $((5201 + more)) --time "$seconds" --json | jq '.end.sum_received.bits_per_second / 1e9')"
  sample keepalive "$("$run" wrk --threads 1 --connections 32 --duration "${seconds}s" "$url" | requests)"
  sample new "$("$run" wrk --threads 1 --connections 32 --duration "${seconds}s" --header 'Connection: close' "$url" | requests)"
  sample latency "$("$run" measure.py latency $((7000 + more)) 5000)"
}

# wrk names requests that failed only when there were some.
requests() {
  awk '/^Requests\/sec/ { print $2 / 1000 } /Socket errors|Non-2xx/ { print "bench: wrk: " $0 >"/dev/stderr" }'
}

measure_idle() {
  local count=1000
  # Two processes a connection.
  [ "$1" != 'nsenter + socat' ] || count=100
  printf '%s\tidle\t%s\n' "$1" "$(measure.py idle $((7000 + offset[$1])) "$count" "${pid_of[$1]}")"
}

print_forward() {
  measure.py table "$samples" 'stream=one stream, Gbit/s:1' 'keepalive=keep-alive, thousand requests/s:1' \
    'new=new connections, thousand/s:1' 'latency=round trip, µs:1' 'idle=idle memory, kB a connection:2'
  echo
  measure.py goals "$samples" <<'END'
one stream: of raw loopback | pfwd:stream / raw loopback:stream | >= | 0.70 |
one stream: of pasta | pfwd:stream / pasta:stream | >= | 1.1 |
new connections: of direct | pfwd:new / direct:new | >= | 0.5 |
new connections: of pasta | pfwd:new / pasta:new | >= | 1.15 |
keep-alive requests: of direct | pfwd:keepalive / direct:keepalive | >= | 0.45 |
keep-alive requests: of pasta | pfwd:keepalive / pasta:keepalive | >= | 1.0 |
added latency, p50 | pfwd:latency - direct:latency | <= | 30 | µs
idle memory of a connection | pfwd:idle | <= | 1 | kB
END
}
