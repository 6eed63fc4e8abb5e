#!/usr/bin/env bash
# image.sh ROOT SOURCES: takes the steps of launch/compose/Dockerfile in ROOT, a plain Debian, and runs the cluster of
# docker-compose.yml there: a head and a worker in networks of their own, as the image's user, without any capability.
# Run it in mount, network and process namespaces of its own; what ends there takes all of it along.
set -euo pipefail
root=$1 sources=$2
export root
mount --bind /dev "$root/dev"
mount -t proc proc "$root/proc"
for folder in ${PIP_FOLDERS:-}; do
    mkdir -p "$root$folder"
    mount --bind "$folder" "$root$folder"
done

build() {  # as root, with this machine's network
    printf '#!/bin/sh\nexit 101\n' > "$root/usr/sbin/policy-rc.d"  # as in Debian's own images: packages start nothing
    chmod 755 "$root/usr/sbin/policy-rc.d"
    cp /etc/resolv.conf "$root/etc/resolv.conf"
    mkdir -p "$root/usr/local/share/ca-certificates" "$root/opt/distgrad/launch"
    cp /usr/local/share/ca-certificates/*.crt "$root/usr/local/share/ca-certificates/" 2> /dev/null || true
    (cd "$sources" && tar -c --exclude=__pycache__ pyproject.toml README.md LICENSE CHANGELOG.md distgrad examples \
        launch/compose) | tar -x -C "$root/opt/distgrad"
    chroot "$root" sh -c 'cd /opt/distgrad && PIP_CERT=/etc/ssl/certs/ca-certificates.crt launch/compose/install'
    if ls "$root"/etc/ssh/ssh_host_* 2> /dev/null; then echo "a key in the image"; exit 1; fi
}

as_user() {
    chroot "$root" setpriv --reuid 10001 --regid 10001 --clear-groups --no-new-privs --bounding-set=-all \
        env -i PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin HOME=/tmp RANKS=2 SCRIPT="$SCRIPT" "$@"
}
export -f as_user

# A network of the worker's own, joined to the head's by one cable.
worker() {
    hostname worker1
    until ip link show vworker > /dev/null 2>&1; do sleep 0.1; done
    ip link set lo up
    ip addr add 10.99.0.2/24 dev vworker
    ip link set vworker up
    as_user worker
}
export -f worker

run() {
    mount -t tmpfs none "$root/tmp"
    chmod 1777 "$root/tmp"
    printf '127.0.0.1 localhost\n10.99.0.2 worker\n' > "$root/etc/hosts"
    ip link set lo up
    ip link add vhead type veth peer name vworker
    ip addr add 10.99.0.1/24 dev vhead
    ip link set vhead up
    export SCRIPT="-m distgrad doctor"
    as_user make-keys
    unshare --net --uts bash -c worker &
    worker=$!
    sleep 0.5
    ip link set vworker netns "$worker"
    for _ in $(seq 50); do as_user ssh 10.99.0.2 true 2> /dev/null && break; sleep 0.2; done
    echo "inside: $(as_user ssh 10.99.0.2 'id -u; hostname; CLIENT_KEYS=/none healthy && echo healthy' | xargs)"
    echo "password: $(as_user ssh -o BatchMode=no -o PubkeyAuthentication=no -o NumberOfPasswordPrompts=0 10.99.0.2 id 2>&1 |
        grep -o 'Permission denied.*')"
    echo "root: $(as_user ssh -l root 10.99.0.2 id 2>&1 | grep -o 'Permission denied.*')"
    code=0
    as_user head || code=$?
    echo "head ended with $code"
    kill "$worker"
}

"${3:-run}"
