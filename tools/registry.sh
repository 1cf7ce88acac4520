#!/usr/bin/env bash
# A registry on this machine, 127.0.0.1:5000, with the course's images: so that no lesson waits for the Internet.
#     tools/registry.sh start | stop | status
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/say.sh

address=127.0.0.1:5000
state=$PWD/.registry

# 200 from our kind of registry, something else from another, 000 where nobody listens
answer() { curl --silent --noproxy '*' --max-time 5 --output /dev/null --write-out '%{http_code}' "http://$address/v2/" || true; }

# the process of ours, if it still is one: a pid alone may have been used again
ours() {
    local pid
    pid=$(cat "$state/pid" 2>/dev/null) || return 1
    grep -qzxF "$state/config.yml" "/proc/$pid/cmdline" 2>/dev/null && printf '%s' "$pid"
}

start() {
    case $(answer) in
    200) ;;
    000)
        mkdir -p "$state/data"
        cat >"$state/config.yml" <<YAML
version: 0.1
log: {level: warn, accesslog: {disabled: true}}
storage:
  filesystem: {rootdirectory: $state/data}
  delete: {enabled: true}
http: {addr: "$address"}
YAML
        setsid docker-registry serve "$state/config.yml" </dev/null >"$state/log" 2>&1 &
        echo $! >"$state/pid"
        for _ in $(seq 100); do
            [ "$(answer)" = 200 ] && break
            sleep 0.1
        done
        [ "$(answer)" = 200 ] || { tail -n 5 "$state/log" >&2; die "the registry does not answer on $address" "see .registry/log"; }
        say "started a registry on $address (state in .registry/)" ;;
    *)
        die "port 5000 is taken by something that is not an open registry" \
            "see 'ss -ltnp sport = :5000'; Debian's own service: systemctl disable --now docker-registry" ;;
    esac
    as_root "making the course's images" .venv/bin/python tools/course_images.py
}

stop() {
    local pid
    pid=$(ours) || return 0
    kill "$pid"
    while [ -d "/proc/$pid" ] && ! grep -q '^State:.*Z' "/proc/$pid/status" 2>/dev/null; do sleep 0.05; done
    rm -f "$state/pid"
}

case ${1:-} in
start) start ;;
stop) stop ;;
status)
    if pid=$(ours); then say "running, process $pid, http://$address/v2/_catalog"
    elif [ "$(answer)" = 200 ]; then say "running, but not started from here"
    else say "not running"; fi ;;
*) die "usage: tools/registry.sh start | stop | status" ;;
esac
