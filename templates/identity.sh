# By which a fork becomes who it is, as root, while its network link is down: the guest that the first boot with its answer
# files would have made it, now and at its next boot. May be repeated: once it has ended well, nothing is left to do.
#
#   source   prepare_source, leave_shell        looks for what there is, and leaves a shell that waits for words
#   fork     words, then `become`, to that shell: it was frozen with the rest
#            or all of this to a new shell: words, `prepare`, `become`
#
# The words set, of which `printf %b` reads the second line:
#   instance name mac address machine_id boot_id entropy resolvers
#   host_key host_key_public meta_data user_data vendor_data network_config values
# and before them, as for the source: version address calls
# shellcheck shell=sh disable=SC2154
set -eu
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
umask 022
cloud=/var/lib/cloud
mark=/run/understudy.fork
source=/run/understudy.source
wake=/run/understudy.wake.$version
said=/run/understudy.said.$version
program=/etc/understudy.fork.$version
program_values=/run/understudy.values
new_boot_id=/run/understudy.boot_id
networkd_processes=/sys/fs/cgroup/system.slice/systemd-networkd.service/cgroup.procs
step=
has_become=
newline='
'

fail() {
    echo "$1" >&2
    exit 1
}

# Each process costs milliseconds of an emulated guest, so the shell does what it can by itself. Nothing is written
# beside and moved: who dies before the end is never started again.

# put FILE CONTENT
put() {
    printf %b "$2" > "$1" || fail "cannot write $1"
}

# ---- before the source is frozen: what a fork would spend its time on --------------------------------------------------

prepare_source() {
    dismiss
    echo "$address" > $source
    prepare
    # What is on the disk already, no fork writes again.
    "$program" s
}

# The pipe first: who finds what is said can speak.
leave_shell() {
    umask 077
    mkfifo "$wake"
    : > "$said"
    # A function that is redirected would keep what it had before, and the agent waits for the end of that.
    (await_words) < /dev/null > /dev/null 2>> "$said" &
    umask 022
}

# The shells that wait here are needed no more, and nobody may take what they say then for more than that.
dismiss() {
    rm -f /run/understudy.said.*
    for pipe in /run/understudy.wake.*; do
        [ ! -p "$pipe" ] || { echo exit 1<> "$pipe" && rm -f "$pipe"; }
    done
}

# Waits in open(2), where it takes no time of anybody.
await_words() {
    umask 022
    trap end_waiting EXIT
    # shellcheck source=/dev/null
    . "$wake"
}

# Whatever was read: only who has become somebody ends well.
end_waiting() {
    status=$?
    [ $status -ne 0 ] || [ -n "$has_become" ] || status=70
    [ $status -eq 0 ] || echo "in $step" >&2
    echo "ended ${instance:-} $status" >&2
}

prepare() {
    if is_done; then return 0; fi
    [ -s $source ] || fail "the golden image does not tell the address of its source"
    read -r old < $source
    find_card
    find_instance
    find_machine_id
    find_what_goes
    find_network_files
    # One that runs cannot be written.
    [ -x "$program" ] || { put "$program" "$calls" && chmod 700 "$program"; }
    ! command -v dropbearconvert > /dev/null || dropbear=1
    [ ! -x /usr/sbin/sshd ] || sshd=1
}

find_card() {
    for device in /sys/class/net/*; do
        if [ -e "$device/device" ]; then
            card=${device##*/}
            read -r old_mac < "$device/address"
            return
        fi
    done
    fail "there is no network card"
}

find_instance() {
    old_instance=
    for before in "$cloud"/instances/*; do
        [ ! "$before" -ef $cloud/instance ] || old_instance=$before
    done
}

find_machine_id() {
    old_id=
    [ ! -s /etc/machine-id ] || read -r old_id < /etc/machine-id
}

# Of the other one: among them, in clear, its host key. A line each.
find_what_goes() {
    removed='' derived=''
    for file in "$cloud"/seed/nocloud/* /run/cloud-init/instance-data*.json /run/cloud-init/combined-cloud-config.json \
        /run/cloud-init/cloud.cfg /run/cloud-init/*.flat /run/cloud-init/meta /run/cloud-init/network \
        /etc/ssh/ssh_host_* /etc/dropbear/dropbear_*_host_key \
        /run/understudy/phase /run/understudy.key /var/lib/dhcp/*.leases /var/lib/dhclient/*.lease* \
        /var/lib/NetworkManager/*.lease /var/lib/NetworkManager/secret_key /etc/dhcpcd.duid /var/lib/dhcpcd/*; do
        if [ -e "$file" ] || [ -L "$file" ]; then removed=$removed$file$newline; fi
    done
    [ -n "$old_instance" ] || return 0
    for file in "$old_instance"/obj.pkl "$old_instance"/cloud-config.txt \
        "$old_instance"/vendor-* "$old_instance"/vendor2-*; do
        [ ! -e "$file" ] || derived=$derived${file##*/}$newline
    done
}

find_network_files() {
    network_files=
    for file in /etc/systemd/network/*.network /etc/systemd/network/*.link /etc/netplan/*.yaml \
        /run/systemd/network/* /etc/network/interfaces /etc/network/interfaces.d/* \
        /etc/NetworkManager/system-connections/* /etc/sysconfig/network-scripts/ifcfg-* \
        /etc/udev/rules.d/70-persistent-net.rules; do
        [ ! -f "$file" ] || network_files=$network_files$file$newline
    done
}

# ---- in the fork ------------------------------------------------------------------------------------------------------

# The network's keeper has seen the link go down and took the address away. Until it is started again it keeps still:
# what it knows is the other's.
hold_network() {
    networkd=
    if [ -z "$resolvers" ] && [ -r $networkd_processes ]; then
        read -r networkd < $networkd_processes || networkd=
    fi
    [ -z "$networkd" ] || kill -STOP "$networkd"
}

# All that takes a system call of its own, by one process. The mark of an instance whose setup is done moves to the
# new one, so that nothing is set up anew at the next boot; what was derived of the other's files goes.
make_calls() {
    here=$cloud/instances/$instance
    [ "$old_instance" != "$here" ] || old_instance=
    [ -n "$old_instance" ] || [ -d "$here" ] || fail "cloud-init has set up nothing here"
    # What the kernel would give out next, other forks get as well. Writing adds to its pool, which is drawn upon about
    # once a minute; only the request makes that happen now. Kernels that hear of a new generation by themselves do the
    # same.
    printf %s "$entropy" > /dev/urandom
    set -- t g f /var/lib/random-seed f /var/lib/systemd/random-seed d $cloud/seed d $cloud/seed/nocloud
    for journal in /run/log/journal /var/log/journal; do
        if [ -n "$old_id" ] && [ "$old_id" != "$machine_id" ] && [ -d "$journal/$old_id" ]; then
            set -- "$@" m "$journal/$old_id" "$journal/$machine_id"
        fi
    done
    [ -z "$old_instance" ] || set -- "$@" m "$old_instance" "$here"
    [ ! -L $cloud/applied ] || set -- "$@" l "$here" $cloud/applied
    set -- "$@" l "$here" $cloud/instance
    by_line
    for file in $removed; do set -- "$@" r "$file"; done
    for file in $derived; do set -- "$@" r "$here/$file"; done
    by_word
    take_boot_id
    if [ "$boot_id" != "$known" ]; then
        set -- "$@" b $new_boot_id /proc/sys/kernel/random/boot_id
    fi
    set -- "$@" c "$card"
    status=0
    put $program_values "$values"
    "$program" "$@" < $program_values > /dev/urandom 2> /dev/null || status=$?
    check_calls
}

# How an unquoted list is read: a name for each line, whatever is in it; and as ever.
by_line() {
    set -f
    IFS=$newline
}

by_word() {
    set +f
    unset IFS
}

check_calls() {
    [ "$status" -lt 64 ] || fail "$program cannot be run, or does not know what to do"
    [ $((status & 1)) -eq 0 ] || fail "its clock cannot be set"
    [ $((status & 2)) -eq 0 ] || [ -e /sys/bus/acpi/drivers/vmgenid/QEMUVGID:00 ] ||
        fail "its random numbers cannot be made its own"
    [ $((status & 4)) -eq 0 ] || fail "its files cannot be made its own"
    [ $((status & 8)) -eq 0 ] || force_card
}

# Some cards take another hardware address only while they are down.
force_card() {
    ip link set dev "$card" down
    "$program" c "$card" < $program_values || true
    ip link set dev "$card" up
    "$program" c "$card" < $program_values || fail "$card does not take the addresses $mac and $address"
}

take_name() {
    echo "$name" > /proc/sys/kernel/hostname
    put /etc/hostname "$name\n"
    hosts=
    while read -r first rest || [ -n "$first" ]; do
        [ "$first" != 127.0.1.1 ] || rest="$name $name"
        hosts="$hosts$first $rest
"
    done < /etc/hosts
    printf %s "$hosts" > /etc/hosts
    # By which cloud-init knows a name that it gave from one that somebody else did.
    [ ! -e $cloud/data/previous-hostname ] || put $cloud/data/previous-hostname "$name\n"
    [ ! -e $cloud/data/set-hostname ] ||
        put $cloud/data/set-hostname "{\"hostname\": \"$name\", \"fqdn\": \"$name\"}\n"
}

# The kernel gives it once. Programs that tell boots apart by it read ours until the next one.
take_boot_id() {
    [ -e $new_boot_id ] || echo "$boot_id" > $new_boot_id
    read -r boot_id < $new_boot_id
    read -r known < /proc/sys/kernel/random/boot_id
}

take_machine_id() {
    put /etc/machine-id "$machine_id\n"
    if [ -e /var/lib/dbus/machine-id ] && [ ! -L /var/lib/dbus/machine-id ]; then
        put /var/lib/dbus/machine-id "$machine_id\n"
    fi
}

# The answer files where NoCloud looks for them without a disk.
take_instance() {
    umask 077
    put $cloud/seed/nocloud/meta-data "$meta_data"
    put $cloud/seed/nocloud/user-data "$user_data"
    put $cloud/seed/nocloud/vendor-data "$vendor_data"
    put $cloud/seed/nocloud/network-config "$network_config"
    umask 022
    for file in $cloud/data/instance-id $cloud/data/previous-instance-id /run/cloud-init/.instance-id; do
        [ ! -e "$file" ] || put "$file" "$instance\n"
    done
}

take_host_key() {
    umask 077
    if [ -n "${dropbear:-}" ]; then
        put /run/understudy.key "$host_key"
        dropbearconvert openssh dropbear /run/understudy.key /etc/dropbear/dropbear_ed25519_host_key > /dev/null 2>&1 ||
            fail "dropbear does not take the host key"
        : > /run/understudy.key
    fi
    if [ -d /etc/ssh ] && [ -n "${sshd:-}" ]; then
        put /etc/ssh/ssh_host_ed25519_key "$host_key"
        umask 022
        put /etc/ssh/ssh_host_ed25519_key.pub "$host_key_public\n"
    fi
    umask 022
}

# The card has them by now; what the first boot wrote about it, as the next boots read it, follows.
take_address() {
    by_line
    # shellcheck disable=SC2086 # one word for each line
    set -- $network_files
    by_word
    if [ "$old" != "$address" ] && [ $# -gt 0 ]; then
        rewrite_address "$@"
    fi
    if [ "$old_mac" != "$mac" ]; then
        either_case "$old_mac"
        for file in "$@"; do
            rewrite_mac "$file"
        done
        renew_link_local
    fi
}

rewrite_address() {
    from=${old%/*}
    rest=${from#*.}
    from=${from%%.*}
    while [ "$rest" != "${rest#*.}" ]; do
        from="$from\\.${rest%%.*}"
        rest=${rest#*.}
    done
    sed -i "s/\\b$from\\.$rest\\b/${address%/*}/g" "$@"
}

# either_case MAC: sets `pattern`
either_case() {
    rest=$1 pattern=
    while [ -n "$rest" ]; do
        one=${rest%"${rest#?}"}
        rest=${rest#?}
        case $one in
        a) one="[aA]" ;;
        b) one="[bB]" ;;
        c) one="[cC]" ;;
        d) one="[dD]" ;;
        e) one="[eE]" ;;
        f) one="[fF]" ;;
        esac
        pattern=$pattern$one
    done
}

# rewrite_mac FILE
rewrite_mac() {
    text='' changed=
    while IFS= read -r line || [ -n "$line" ]; do
        # shellcheck disable=SC2295 # it is a pattern
        case $line in
        *$pattern*)
            line=${line%%$pattern*}$mac${line#*$pattern}
            changed=1
            ;;
        esac
        text="$text$line
"
    done < "$1"
    [ -z "$changed" ] || printf %s "$text" > "$1" || fail "cannot write $1"
}

# Derived of the hardware address by the kernel, once.
renew_link_local() {
    switch=/proc/sys/net/ipv6/conf/$card/disable_ipv6
    [ -e "$switch" ] || return 0
    # The kernel gives a shell that reads byte by byte the first one only.
    read -r is_off < "$switch" || true
    if [ "$is_off" = 0 ]; then
        echo 1 > "$switch"
        echo 0 > "$switch"
    fi
}

restart_services() {
    if [ -d /run/systemd/system ]; then
        restart_sshd
        restart_units
    elif [ -s /run/dropbear.pid ]; then
        restart_dropbear
    elif command -v rc-service > /dev/null; then
        rc-service sshd restart || fail "cannot restart sshd"
    fi
}

# Nobody waits for these: what they hold is on disk, and the card has it already.
restart_units() {
    set --
    [ -n "$networkd" ] || [ ! -d /run/systemd/netif ] || set -- systemd-networkd.service
    [ ! -e /run/NetworkManager ] || set -- "$@" NetworkManager.service
    [ $# -eq 0 ] || systemctl --no-block try-restart "$@" > /dev/null 2>&1 &
}

# What nobody needs for serving is left until the machine has answered: there is but one emulated processor.
put_off() {
    [ -d /run/systemd/system ] || return 0
    set -- systemd-journald.service
    [ -z "$networkd" ] || set -- "$@" systemd-networkd.service
    (
        "$program" p r "$program"
        [ -z "$networkd" ] || end_networkd
        systemctl --no-block restart "$@"
    ) > /dev/null 2>&1 &
}

# Let go on, it would act upon what its socket has heard of the link meanwhile, and so would its successor, which gets
# the same socket from systemd: the address would go once more.
end_networkd() {
    systemctl stop systemd-networkd.socket || true
    kill -KILL "$networkd" || true
}

# The signal makes it read its keys and listen anew, at a fraction of what a restart of the unit costs.
restart_sshd() {
    process=
    [ ! -s /run/sshd.pid ] || read -r process < /run/sshd.pid
    if [ -n "$process" ] && kill -HUP "$process" 2> /dev/null; then return; fi
    for unit in ssh sshd; do
        if systemctl -q is-active "$unit.service"; then
            systemctl restart "$unit.service" || fail "cannot restart $unit"
            return
        fi
    done
}

restart_dropbear() {
    read -r process < /run/dropbear.pid
    kill "$process" 2> /dev/null || true
    tries=0
    while kill -0 "$process" 2> /dev/null && [ $tries -lt 100 ]; do
        tries=$((tries + 1))
        usleep 20000
    done
    dropbear -s -p 22 -r /etc/dropbear/dropbear_ed25519_host_key -P /run/dropbear.pid > /dev/null 2>&1 ||
        fail "dropbear does not start again"
}

# What the image or its setup made of the other's identity, its owner alone can make anew.
run_own_scripts() {
    for file in /etc/understudy/fork.d/*; do
        if [ -f "$file" ] && [ -x "$file" ]; then
            "$file" > /dev/null || fail "$file ended with status $?"
        fi
    done
}

become() {
    if ! is_done; then become_anew; fi
    has_become=1
}

is_done() {
    done_for=
    [ ! -s $mark ] || read -r done_for < $mark
    [ -n "$done_for" ] && [ "$done_for" = "${instance:-}" ]
}

become_anew() {
    for step in hold_network make_calls take_name take_machine_id take_instance take_host_key take_address \
        restart_services run_own_scripts; do
        $step
    done
    step=last_words
    echo "$address" > $source
    # Who loses power now must not come back as the other one.
    "$program" r "$wake" r $program_values s
    echo "$instance" > $mark
    put_off
}
