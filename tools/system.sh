#!/usr/bin/env bash
# System packages: install those that are missing, and say plainly what this machine cannot do.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/say.sh

[ "$(uname -s)" = Linux ] || die "this is $(uname -s): containers are made of Linux" "use a Linux machine or a virtual one"

packages=(
    # what the engine and the set-up stand on
    python3 python3-venv ca-certificates curl nftables iproute2 libseccomp2
    # where the course's images come from, and where they are pushed to
    busybox-static mmdebstrap docker-registry
    # witnesses: they look at what we did from outside, or do the same on the same input
    strace tcpdump iputils-ping bind9-dnsutils dnsmasq-base skopeo umoci crun runc uidmap apache2-utils
    # the floor of the benchmark is a C program
    gcc libc6-dev
)
if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    die "no apt-get: this set-up is for Debian, Ubuntu and their kin" "install by hand what these are here: ${packages[*]}"
fi

# ${db:Status-Status} is "installed"; of a package that dpkg has never heard of it prints nothing, and exits 1
known=$(dpkg-query -W -f '${binary:Package} ${db:Status-Status}\n' "${packages[@]}" 2>/dev/null || true)
have=" $(sed -n 's/^\([^ :]*\)[^ ]* installed$/\1/p' <<<"$known" | tr '\n' ' ')"
missing=()
for package in "${packages[@]}"; do
    case $have in *" $package "*) ;; *) missing+=("$package") ;; esac
done

if [ ${#missing[@]} -gt 0 ]; then
    say "installing system packages: ${missing[*]}"
    apt() { as_root "system packages" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 "$@"; }
    quietly "apt-get update failed" apt update
    quietly "apt-get could not install: ${missing[*]}" apt install -y --no-install-recommends "${missing[@]}"
    # Debian starts a registry of its own for the whole network when the package arrives. Ours is for this machine.
    case " ${missing[*]} " in *" docker-registry "*)
        if [ -d /run/systemd/system ]; then
            as_root "its system service is not ours" systemctl disable --now --quiet docker-registry || true
        fi ;;
    esac
fi

# overlayfs may be a module that nobody has loaded yet
grep -qw overlay /proc/filesystems || as_root "loading overlayfs" modprobe overlay 2>/dev/null || true
grep -qw overlay /proc/filesystems \
    || die "this kernel has no overlayfs" "chapter 5 stands on it: use a kernel with CONFIG_OVERLAY_FS (any distribution's)"
