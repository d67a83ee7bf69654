# Runs in a guest as root: sh -c THIS understudy [SERIAL LABEL DIRECTORY]...
# Finds each disk by its serial, formats it if it holds nothing at all, grows its file system, mounts it, and has it
# mounted at every boot. May be repeated at any time.
# shellcheck shell=sh
set -eu

fail() {
    echo "$1"
    exit 1
}

# virtio tells the serial in /sys, with or without udev; other buses need udev's links.
find_disk() {
    for file in /sys/block/*/serial; do
        [ -e "$file" ] || continue
        found=
        read -r found < "$file" || [ -n "$found" ] || continue
        if [ "$found" = "$1" ]; then
            disk=${file%/serial}
            disk=/dev/${disk##*/}
            return 0
        fi
    done
    for file in /dev/disk/by-id/*_"$1"; do
        [ -e "$file" ] || continue
        disk=$(readlink -f "$file")
        return 0
    done
    return 1
}

# A disk that was just attached shows up when the kernel has looked at it.
await_disk() {
    tries=0
    until find_disk "$1"; do
        tries=$((tries + 1))
        [ "$tries" -lt 20 ] || fail "no disk with the serial $1 shows up"
        sleep 0.5 2> /dev/null || sleep 1
    done
}

# blkid: 0 or 8 something is there, 2 nothing. Any other answer is none: then only zeros count as nothing.
is_blank() {
    status=0
    blkid -p "$1" > /dev/null 2>&1 || status=$?
    case $status in
        0 | 8) return 1 ;;
        2) return 0 ;;
    esac
    [ "$(head -c 4194304 "$1" | tr -d '\000' | wc -c)" -eq 0 ]
}

# From the plain line, which every kind of blkid prints alike.
value_of() {
    blkid "$2" 2> /dev/null | sed -n "s/.* $1=\"\([^\"]*\)\".*/\1/p"
}

mounted_from() {
    while read -r device directory rest; do
        if [ "$directory" = "$1" ]; then echo "$device"; fi
    done < /proc/mounts | tail -n 1
}

use_disk() {
    serial=$1 label=$2 directory=$3
    await_disk "$serial"
    if is_blank "$disk"; then
        mkfs.ext4 -q -F -L "$label" "$disk" || fail "cannot format the disk $serial"
        sync
    fi
    type=$(value_of TYPE "$disk")
    [ -n "$type" ] || fail "the disk $serial holds no file system that could be mounted on $directory, and is not empty"
    mkdir -p "$directory"
    now=$(mounted_from "$directory")
    if [ -z "$now" ]; then
        mount -t "$type" "$disk" "$directory" || fail "cannot mount the disk $serial on $directory"
    elif [ "$(readlink -f "$now")" != "$disk" ]; then
        fail "$directory has $now mounted, not the disk $serial"
    fi
    case $type in
        ext[234]) resize2fs "$disk" > /dev/null 2>&1 || fail "cannot grow the file system of the disk $serial" ;;
    esac
    uuid=$(value_of UUID "$disk")
    if [ -d /etc/boot.d ]; then
        mark="grep -q ' $directory ' /proc/mounts ||"
        keep_line /etc/boot.d/00-understudy-disks "$mark { mkdir -p $directory; mount -t $type \"\$(findfs UUID=$uuid)\" $directory; }"
    else
        mark="x-understudy=$directory,"
        # Before local-fs.target: services that start at boot find it mounted. Missing, it holds up nothing for long.
        keep_line /etc/fstab "UUID=$uuid $directory $type defaults,nofail,${mark}x-systemd.before=local-fs.target,x-systemd.device-timeout=10s 0 0"
    fi
}

# keep_line FILE LINE - in place of the line with $mark; what else is there stays. Never half written.
keep_line() {
    touch "$1"
    ! grep -qxF -e "$2" "$1" || return 0
    if [ "$1" = /etc/fstab ]; then
        { grep -vF -e "$mark" "$1" || true; echo "$2"; } > "$1.new"
        chmod 644 "$1.new"
    else
        # Sorted by directory: an outer one before what is inside it.
        { echo '#!/bin/sh'; { grep -vF -e "$mark" -e '#!/bin/sh' "$1" || true; echo "$2"; } | LC_ALL=C sort; } > "$1.new"
        chmod 755 "$1.new"
    fi
    mv "$1.new" "$1"
    if [ "$1" = /etc/fstab ] && command -v systemctl > /dev/null; then systemctl daemon-reload || true; fi
}

while [ $# -ge 3 ]; do
    use_disk "$1" "$2" "$3"
    shift 3
done
sync
