# Network configuration, version 2, from the flattened file $run/network; applied at every boot.
# Sourced by `boot`, which has problem; leaves $network_summary for its log.
# shellcheck shell=dash disable=SC2154 # $run is set there

apply_network() {
    local names name
    network_summary=
    ip link set lo up
    : > "$run/resolv.conf"
    if [ ! -s "$run/network" ]; then
        for name in /sys/class/net/e*; do
            if [ -e "$name" ]; then ask_dhcp "${name##*/}"; return; fi
        done
        return
    fi
    names=$(awk -F / '$1 == "ethernets" && !seen[$2]++ { print $2 }' "$run/network")
    for name in $names; do
        apply_ethernet "$name"
    done
    if [ -s "$run/resolv.conf" ]; then cat "$run/resolv.conf" > /etc/resolv.conf; fi
}

ask_dhcp() {
    ip link set "$1" up
    network_summary="$network_summary $1 DHCP"
    # Goes on asking in the background when nobody answers at first.
    udhcpc -i "$1" -b -t 5 -T 1 -p "/run/udhcpc.$1.pid" > /dev/null 2>&1
}

# Sets $interface to the one with this hardware address, or else of this name.
find_interface() {
    local name=$1 wanted=$2 device address
    interface=
    for device in /sys/class/net/*; do
        read -r address < "$device/address"
        if [ "$address" = "$wanted" ] || { [ -z "$wanted" ] && [ "${device##*/}" = "$name" ]; }; then
            interface=${device##*/}
            return
        fi
    done
    return 1
}

apply_ethernet() {
    local name=$1 path value key wanted='' addresses='' dhcp='' mtu='' new_name='' interface=''
    while IFS='	' read -r path value; do
        key=${path#"ethernets/$name/"}
        [ "$key" != "$path" ] || continue
        case $key in
            match/macaddress) wanted=$(echo "$value" | tr A-F a-f) ;;
            set-name) new_name=$value ;;
            mtu) mtu=$value ;;
            dhcp4) dhcp=$value ;;
            addresses/*) addresses="$addresses $value" ;;
            nameservers/addresses/*) echo "nameserver $value" >> "$run/resolv.conf" ;;
            nameservers/search/*) echo "search $value" >> "$run/resolv.conf" ;;
        esac
    done < "$run/network"
    find_interface "$name" "$wanted" || {
        problem "network-config: no interface for '$name' (${wanted:-by name})"
        return
    }
    if [ -n "$new_name" ] && [ "$new_name" != "$interface" ]; then
        ip link set "$interface" name "$new_name" && interface=$new_name
    fi
    if [ -n "$mtu" ]; then ip link set "$interface" mtu "$mtu"; fi
    ip link set "$interface" up || problem "network-config: $interface cannot be brought up"
    for value in $addresses; do
        ip addr add "$value" dev "$interface" || problem "network-config: address '$value' is not accepted on $interface"
    done
    apply_routes "$name" "$interface"
    network_summary="$network_summary $interface$addresses"
    case $dhcp in true | yes | on) ask_dhcp "$interface" ;; esac
}

# A route is added when the next one begins, because its keys come in any order.
apply_routes() {
    local name=$1 interface=$2 path value key index='' current to='' via='' metric=''
    while IFS='	' read -r path value; do
        key=${path#"ethernets/$name/"}
        case $key in
            "$path") ;;
            gateway4) add_route default "$value" '' ;;
            gateway6) add_route ::/0 "$value" '' ;;
            routes/*)
                current=${key#routes/}
                current=${current%%/*}
                if [ "$current" != "$index" ]; then
                    add_route "$to" "$via" "$metric"
                    index=$current to='' via='' metric=''
                fi
                case ${key##*/} in
                    to) to=$value ;;
                    via) via=$value ;;
                    metric) metric=$value ;;
                esac
                ;;
        esac
    done < "$run/network"
    add_route "$to" "$via" "$metric"
}

# add_route TO VIA METRIC, on $interface
add_route() {
    [ -n "$1" ] || return 0
    ip route add "$1" ${2:+via "$2"} dev "$interface" ${3:+metric "$3"} ||
        problem "network-config: route to '$1' via '$2' is not accepted on $interface"
}
