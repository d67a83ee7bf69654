# Sourced by every recipe's `build`: a BIOS disk from a kernel, an initramfs and a root tree, with no loop device and no mount.
#
#   sector 0          MBR with syslinux' boot code
#   1 MiB  ..         FAT: syslinux, kernel, initramfs
#   behind it .. end  ext4: the root, last so that it can grow with the disk
# shellcheck shell=bash

readonly MBR_CODE=/usr/lib/syslinux/mbr/mbr.bin

# make_disk DISK.raw SIZE_MIB BOOT_MIB LABEL UUID KERNEL INITRD ROOT_TREE KERNEL_ARGUMENTS
make_disk() {
    local disk=$1 size=$2 boot=$3 label=$4 uuid=$5 kernel=$6 initrd=$7 tree=$8 arguments=$9
    local root_at=$(((1 + boot) * 1024 * 1024))

    [[ -r $MBR_CODE ]] || fail "$MBR_CODE is missing (run: apt-get install syslinux-common)"
    truncate -s "${size}M" "$disk"
    sfdisk --quiet --no-reread --no-tell-kernel "$disk" <<-TABLE
	label: dos
	start=1MiB, size=${boot}MiB, type=c, bootable
	start=$((1 + boot))MiB, type=83
	TABLE
    dd if="$MBR_CODE" of="$disk" bs=440 count=1 conv=notrunc status=none

    # -h: boot code finds its files relative to the start of the partition, sector 2048.
    mkfs.vfat -h 2048 -n BOOT -C "$disk.boot" $((boot * 1024)) > /dev/null
    mcopy -i "$disk.boot" "$kernel" ::vmlinuz
    mcopy -i "$disk.boot" "$initrd" ::initrd.img
    # Neither a prompt nor an escape to one: nobody at the console may change what is booted.
    mcopy -i "$disk.boot" - ::syslinux.cfg <<-CONFIG
	DEFAULT linux
	PROMPT 0
	NOESCAPE 1
	LABEL linux
	  LINUX vmlinuz
	  INITRD initrd.img
	  APPEND $arguments
	CONFIG
    syslinux --install "$disk.boot"
    dd if="$disk.boot" of="$disk" bs=1M seek=1 conv=notrunc,sparse status=none
    rm "$disk.boot"

    # 4 KiB blocks although small, and tables written now: otherwise the guest writes them, each one into its own overlay.
    as_root_of_files mke2fs -q -t ext4 -b 4096 -L "$label" -U "$uuid" -d "$tree" -E "offset=$root_at,lazy_itable_init=0,lazy_journal_init=0" \
        "$disk" $(((size - boot - 1) * 1024))K
}

# mke2fs takes the owner of each file from the tree. An ordinary user's files become root's in a user namespace.
as_root_of_files() {
    if [[ $EUID -eq 0 ]]; then "$@"; else unshare --map-root-user -- "$@"; fi
}
