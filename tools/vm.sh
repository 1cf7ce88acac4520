#!/usr/bin/env bash
# A small virtual machine, for notebook 00 to compare containers with: .cache/vm/kernel and .cache/vm/initramfs.
#
# The kernel is the distribution's smallest one for virtual machines, out of its package; nothing is installed but QEMU.
# Its only files are a static busybox and an init that says it is up. Where one of these cannot be had, the reason goes
# to .cache/vm/missing and the notebook says it: the course does not stop for a comparison.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/say.sh
cache=.cache/vm

# a reason, and the course goes on without
without() {
    rm -f $cache/recipe
    printf '%s\n' "$1" >$cache/missing
    say "no virtual machine to compare with: $1"
    exit 0
}

mkdir -p $cache
case $(uname -m) in
x86_64) qemu=qemu-system-x86_64 package=qemu-system-x86 kernels=(linux-image-cloud-amd64 linux-image-virtual linux-image-amd64) ;;
aarch64) qemu=qemu-system-aarch64 package=qemu-system-arm kernels=(linux-image-cloud-arm64 linux-image-virtual linux-image-arm64) ;;
*) without "it is made for x86_64 and aarch64, and this machine is $(uname -m)" ;;
esac

recipe=$(cat tools/vm.sh /bin/busybox | sha256sum | cut -c1-16)
if [ "$(cat $cache/recipe 2>/dev/null)" = "$recipe" ] && command -v $qemu >/dev/null; then exit 0; fi
rm -f $cache/*
echo '*' >.cache/.gitignore

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
apt() { as_root "the virtual machine" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 \
    -o Acquire::Retries=0 -o Acquire::http::Timeout=20 "$@" >"$work/log" 2>&1 </dev/null; }

if ! command -v $qemu >/dev/null; then
    say "installing $package, for the comparison with virtual machines"
    { apt install -y --no-install-recommends $package || { apt update && apt install -y --no-install-recommends $package; }; } \
        || without "apt-get could not install $package: $(tail -n 1 "$work/log")"
fi

# A meta package names the newest real one. The file in it is taken out and the rest thrown away.
real() { apt-cache depends --important "$1" 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1; }
download() { # with the lists as they are, or, if those are old, with new ones
    local name
    for name in "${kernels[@]}"; do
        name=$(real "$name")
        if [ -n "$name" ] && (cd "$work" && apt download "$name"); then return; fi
    done
    false
}
say "making a small virtual machine (once)"
if download || { apt update && download; }; then
    dpkg-deb --fsys-tarfile "$work"/linux-image-*.deb | tar -x -C "$work" --wildcards './boot/vmlinuz-*'
elif compgen -G '/boot/vmlinuz-*' >/dev/null; then
    mkdir "$work/boot"
    as_root "only root may read the kernel's file" cp "$(ls -v /boot/vmlinuz-* | tail -n 1)" "$work/boot"
else
    why=$(tail -n 1 "$work/log")
    without "apt-get could not download a kernel (${why:-its lists know none}), and there is none in /boot"
fi

mkdir -p "$work/initramfs/bin" "$work/initramfs/proc"
cp /bin/busybox "$work/initramfs/bin/busybox"
cat >"$work/initramfs/init" <<'INIT'
#!/bin/busybox sh
# The first and only process of the virtual machine: say what there is to say, wait for a line, switch off.
PATH=/bin
busybox mount -t proc proc /proc
read seconds _ </proc/uptime
echo "kernel $(busybox uname -r)"
echo "boot $(busybox cat /proc/sys/kernel/random/boot_id)"
busybox grep -E '^(MemTotal|MemAvailable):' /proc/meminfo
echo "up $seconds"
read word
busybox poweroff -f
INIT
chmod 755 "$work/initramfs/init"
(cd "$work/initramfs" && find . | busybox cpio -o -H newc 2>/dev/null) >$cache/initramfs
cp "$work"/boot/vmlinuz-* $cache/kernel
chmod 644 $cache/kernel
echo "$recipe" >$cache/recipe
