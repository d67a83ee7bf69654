# The NoCloud contract: where the seed is, what it says, and what of it is applied once per instance-id.
# Sourced by `boot`, which has say, problem and run_logged.
# shellcheck shell=dash disable=SC2154 # $here and $run are set there

# The last seed, for boots without one.
seed_copy=/var/lib/cloud/seed/nocloud

# Values of the flattened file $1 whose path matches the shell pattern $2, with newlines restored.
values() {
    local path value
    while IFS='	' read -r path value; do
        # shellcheck disable=SC2254 # it is meant as a pattern
        case $path in $2) printf '%b\n' "$value" ;; esac
    done < "$1"
}

# The value of path $2 in the flattened file $1, in $value; no process is started for it.
read_value() {
    local path
    while IFS='	' read -r path value; do
        [ "$path" != "$2" ] || return 0
    done < "$1"
    value=
    return 1
}

flatten() {
    awk -f "$here/yaml.awk" "$1" > "$2"
}

# Sets $datasource; leaves the flattened meta-data, network-config and cloud-config in $run, and the seed itself in $seed_copy.
read_seed() {
    local device='' file meta_data=$seed_copy/meta-data
    device=$(findfs LABEL=cidata 2> /dev/null || findfs LABEL=CIDATA 2> /dev/null)
    # Where one was seen before, it was taken away on purpose.
    [ -n "$device" ] || [ -s "$meta_data" ] || device=$(find_slow_seed)
    mkdir -p "$seed_copy" "$run/seed"
    if [ -n "$device" ] && take_seed "$device"; then
        datasource="DataSourceNoCloud [seed=$device]"
    elif [ -s "$meta_data" ]; then
        datasource="DataSourceNoCloud [seed=$seed_copy]"
    else
        datasource=DataSourceNone
        meta_data=$run/no-meta-data
        echo 'instance-id: none' > "$meta_data"
        problem "no seed: no disk labelled 'cidata' holds meta-data, and none was seen before"
    fi
    say "seed: $datasource"
    flatten "$meta_data" "$run/meta"
    : > "$run/cloud-config"
    for file in vendor-data user-data; do
        is_cloud_config "$seed_copy/$file" && flatten "$seed_copy/$file" "$run/$file.flat"
    done
    if [ -s "$seed_copy/network-config" ]; then flatten "$seed_copy/network-config" "$run/network"; fi
}

# Optical drives and SCSI need drivers that take long to load, so they come second.
find_slow_seed() {
    modprobe -a -q ata_piix virtio_scsi sr_mod sd_mod 2> /dev/null
    local tries=0
    while [ "$tries" -lt 5 ]; do
        findfs LABEL=cidata 2> /dev/null && return
        findfs LABEL=CIDATA 2> /dev/null && return
        tries=$((tries + 1))
        usleep 200000
    done
}

is_cloud_config() {
    local first=
    [ -s "$1" ] && read -r first < "$1"
    [ "${first%% *}" = "#cloud-config" ]
}

# Copies the seed of device $1; a copy from before is replaced as a whole.
take_seed() {
    local file
    mount -o ro "$1" "$run/seed" 2> /dev/null || {
        problem "the seed on $1 cannot be mounted"
        return 1
    }
    if [ -s "$run/seed/meta-data" ]; then
        for file in meta-data user-data vendor-data network-config; do
            if [ ! -f "$run/seed/$file" ]; then
                rm -f "$seed_copy/$file"
            elif ! cmp -s "$run/seed/$file" "$seed_copy/$file"; then
                (umask 077 && cp "$run/seed/$file" "$seed_copy/$file.new") && mv "$seed_copy/$file.new" "$seed_copy/$file"
            fi
        done
        umount "$run/seed"
    else
        umount "$run/seed"
        problem "the seed on $1 has no meta-data"
        return 1
    fi
}

# Identity and keys, once per instance-id. The mark comes last, so that a boot cut short does it again.
apply_instance() {
    local value instance
    read_value "$run/meta" instance-id || problem "meta-data names no instance-id"
    # It becomes a directory name.
    instance=$(printf %s "${value:-none}" | tr -c 'A-Za-z0-9._-' _)
    instance_dir=/var/lib/cloud/instances/$instance
    mkdir -p "$instance_dir/sem"
    ln -sfn "$instance_dir" /var/lib/cloud/instance
    [ ! -e "$instance_dir/sem/applied" ] || [ "$(readlink /var/lib/cloud/applied)" != "$instance_dir" ] || return 0
    say "new instance: ${value:-none}"
    apply_hostname
    apply_keys
    tr -d - < /proc/sys/kernel/random/uuid > /etc/machine-id
    ln -sfn "$instance_dir" /var/lib/cloud/applied
    : > "$instance_dir/sem/applied"
    sync
}

apply_hostname() {
    read_value "$run/meta" local-hostname || read_value "$run/meta" hostname || value=localhost
    echo "$value" > /etc/hostname
    printf '127.0.0.1 localhost\n127.0.1.1 %s %s\n::1 localhost\n' "$value" "${value%%.*}" > /etc/hosts
}

# Keys of an instance before this one must not open or name this one.
apply_keys() {
    local key=/etc/dropbear/dropbear_ed25519_host_key file
    rm -f /etc/dropbear/dropbear_*_host_key
    {
        values "$run/meta" 'public-keys*'
        for file in vendor-data user-data; do
            if [ -e "$run/$file.flat" ]; then values "$run/$file.flat" 'ssh_authorized_keys/*'; fi
        done
    } > /root/.ssh/authorized_keys.new
    mv /root/.ssh/authorized_keys.new /root/.ssh/authorized_keys
    for file in user-data vendor-data; do
        if [ -e "$run/$file.flat" ] && read_value "$run/$file.flat" ssh_keys/ed25519_private; then
            (umask 077 && printf '%b' "$value" > "$run/host_key")
            dropbearconvert openssh dropbear "$run/host_key" "$key" > /dev/null 2>&1 ||
                problem "ssh_keys: ed25519_private in $file is no OpenSSH key"
            rm -f "$run/host_key"
            break
        fi
    done
}

# Marked before it starts, like cloud-init does: a script that brings the machine down must not run again for ever.
run_user_script() {
    local start=
    [ -s "$seed_copy/user-data" ] || return 0
    read -r start < "$seed_copy/user-data"
    case $start in '#!'*) ;; *) return 0 ;; esac
    [ ! -e "$instance_dir/sem/user-script" ] || return 0
    : > "$instance_dir/sem/user-script"
    cp "$seed_copy/user-data" "$instance_dir/user-data.sh"
    chmod 700 "$instance_dir/user-data.sh"
    sync
    run_logged "user-data script" "$instance_dir/user-data.sh"
}
