# Sourced by the scripts in this directory: how they speak, install packages and make the virtual environment.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=$root/.venv
program=${0##*/}

# `su` without `-` leaves root without Debian's sbin directories; numbers and texts are parsed here and there.
export PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin LC_ALL=C.UTF-8

# What running guests needs, in Debian's words.
# shellcheck disable=SC2034 # read by the scripts
readonly HOST_PACKAGES=(
    qemu-system-x86 qemu-utils
    libvirt-daemon-system libvirt-clients libvirt-daemon-driver-qemu
    haproxy dnsmasq-base tini openssh-client curl
    # libvirt's Python binding comes as source.
    libvirt-dev pkg-config gcc python3-dev python3-venv
)

say() {
    printf '%s\n' "$*"
}

# complain WHAT_COULD_NOT_BE_DONE [ADVICE]
complain() {
    printf '%s: %s\n' "$program" "$1" >&2
    if [[ -n ${2:-} ]]; then printf '  (%s)\n' "$2" >&2; fi
}

fail() {
    complain "$@"
    exit 1
}

# need_root WHAT ARGUMENTS... - the arguments are those of the script, to be shown in the advice.
need_root() {
    local what=$1
    shift
    [[ $EUID -eq 0 ]] || fail "cannot $what as user $(id -un): that takes root" "run: sudo $0${*:+ $*}"
}

# ---- commands whose output nobody wants to see unless they fail --------------------------------------------------------------

log='' drawer=''

# run_logged WHAT COMMAND... - a bar with the time on a terminal, two lines elsewhere; output to a log that is shown on failure.
# The command may write apt's status lines (`pmstatus:PACKAGE:PERCENT:WORDS`) to file descriptor 3; then the bar shows them.
run_logged() {
    local what=$1 began=$SECONDS code=0
    shift
    log=$(mktemp --tmpdir "understudy-$program.XXXXXXXX.log")
    : > "$log.status"
    if [[ -t 1 && ${TERM:-dumb} != dumb ]]; then
        # Drawn beside the command, which stays in the foreground: Ctrl-C is for the command.
        draw_progress "$what" "$log" $$ &
        drawer=$!
    else
        say "$what ..."
    fi
    "$@" > "$log" 2>&1 < /dev/null 3> "$log.status" || code=$?
    stop_drawing
    if ((code)); then
        tail -n 25 "$log" >&2
        say "the whole output is in $log" >&2
        rm -f "$log.status"
        log=
        return "$code"
    fi
    say "$what: $((SECONDS - began)) s"
    drop_log
}

# draw_progress WHAT LOG PARENT - until it is stopped, or the script is gone.
draw_progress() {
    local what=$1 log=$2 parent=$3 began=$SECONDS tick=0 status part percent words bar blank='....................'
    local full='####################' room width
    width=$(stty size 2>/dev/null <&1) || width="24 80"
    width=${width#* }
    while kill -0 "$parent" 2>/dev/null; do
        status=$(tail -n 1 "$log.status" 2>/dev/null) || status=
        IFS=: read -r part _ percent words <<< "$status"
        percent=${percent%%.*}
        if [[ $part == [dp][lm]status && $percent =~ ^[0-9]+$ ]]; then
            # Downloads are the first half, unpacking and configuring the second.
            percent=$((percent / 2)) && [[ $part == dlstatus ]] || percent=$((percent + 50))
            bar=${full:0:percent / 5}${blank:percent / 5}
        else
            # How much there is to do is not known: a mark that moves says that something does.
            bar=${blank:0:tick % 18}###${blank:tick % 18 + 3}
            words=$(tail -n 1 "$log" 2>/dev/null | tr -cd '[:print:]') || words=
        fi
        room=$((width - ${#what} - 34))
        printf '\r%s [%s] %d s  %s\e[K' "$what" "${bar:0:20}" $((SECONDS - began)) "${words:0:room > 0 ? room : 0}"
        tick=$((tick + 1))
        sleep 0.1
    done
}

stop_drawing() {
    [[ -n $drawer ]] || return 0
    kill "$drawer" 2>/dev/null || true
    wait "$drawer" 2>/dev/null || true
    drawer=
    printf '\r\e[K'
}

drop_log() {
    [[ -z $log ]] || rm -f "$log" "$log.status"
    log=
}

leave_nothing() {
    stop_drawing
    drop_log
}
trap leave_nothing EXIT
# EXIT runs after these; without them an interrupted child would decide which status is seen.
trap 'exit 130' INT
trap 'exit 143' TERM

# ---- Debian packages --------------------------------------------------------------------------------------------------------

# missing_packages NAME... - one line for each that is not installed.
missing_packages() {
    local name status
    local -A installed=()
    while read -r name status; do
        [[ $status != installed ]] || installed[$name]=1
    done < <(dpkg-query -W -f '${Package} ${db:Status-Status}\n' "$@" 2>/dev/null)
    for name in "$@"; do
        [[ -n ${installed[$name]:-} ]] || printf '%s\n' "$name"
    done
}

# need_packages NAME... - installs what is missing and touches nothing else; asks apt nothing if nothing is.
need_packages() {
    local missing
    command -v apt-get > /dev/null || fail "cannot install packages: there is no apt-get here" \
        "these scripts know Debian 12; elsewhere install by hand: $*"
    mapfile -t missing < <(missing_packages "$@")
    ((${#missing[@]})) || return 0
    [[ $EUID -eq 0 ]] || fail "cannot install ${missing[*]} as user $(id -un)" \
        "run: sudo apt-get install --no-install-recommends ${missing[*]}"
    refresh_package_lists
    run_logged "installing ${#missing[@]} Debian packages" apt_get install --no-install-recommends "${missing[@]}" ||
        fail "cannot install ${missing[*]}" "mend what apt says above, then run this again"
}

# want_packages WHAT_FOR NAME... - what is good to have: without it something is left out, which is said.
want_packages() {
    local purpose=$1 missing
    shift
    mapfile -t missing < <(missing_packages "$@")
    ((${#missing[@]})) || return 0
    [[ $EUID -ne 0 ]] || apt_knows "${missing[@]}" || refresh_package_lists
    if [[ $EUID -ne 0 ]] || ! apt_knows "${missing[@]}"; then
        say "not installed here: ${missing[*]}; $purpose"
        return 0
    fi
    run_logged "installing ${missing[*]}" apt_get install --no-install-recommends "${missing[@]}" ||
        say "could not be installed: ${missing[*]}; $purpose"
}

apt_knows() {
    apt-get install --simulate --no-install-recommends "$@" > /dev/null 2>&1
}

lists_are_fresh=''
refresh_package_lists() {
    [[ -z $lists_are_fresh ]] || return 0
    lists_are_fresh=yes
    # One source that is down must not stop what the others can give: the installation will tell.
    run_logged "reading package lists" apt_get update || say "not every package list could be read; going on with what is known"
    # A run that was interrupted in the middle of dpkg is taken up here.
    dpkg --configure -a > /dev/null 2>&1 || true
}

apt_get() {
    # A fresh machine's own upgrades may hold the lock for minutes.
    DEBIAN_FRONTEND=noninteractive apt-get -y -o DPkg::Lock::Timeout=600 -o Dpkg::Use-Pty=0 -o APT::Status-Fd=3 "$@"
}

# ---- the virtual environment ------------------------------------------------------------------------------------------------

# ensure_venv base|EXTRA - .venv of the checkout with this project (editable), and the packages of EXTRA from pyproject.toml.
# Nothing is asked of any package index unless pyproject.toml, the constraints, the interpreter or the place of the checkout changed.
ensure_venv() {
    # Two scripts started at once must not install over each other. The lock ends with this script at the latest.
    exec 9< "$root"
    flock --nonblock 9 || { say "waiting for another script that installs into .venv" && flock 9; }
    make_venv "$1"
    exec 9<&-
}

make_venv() {
    local extra=$1 key project=$root made_for=$venv/understudy-made-for installed=$venv/understudy-installed
    /usr/bin/python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
        fail "cannot use /usr/bin/python3: Python 3.11 or newer is needed" "Debian 12 and newer have it"
    # A virtual environment knows its own path and its interpreter: moved or outlived, it is made anew.
    key="$root, $(/usr/bin/python3 --version)"
    if [[ -e $venv && ! -e $made_for ]]; then
        # Somebody's own: used as it is.
        is_usable_venv ||
            fail "cannot use $venv: these scripts did not make it, and it is not of /usr/bin/python3" "move it away, then run this again"
    elif [[ $(cat "$made_for" 2>/dev/null) != "$key" ]]; then
        rm -rf "$venv"
        mkdir "$venv"
        printf '%s\n' "$key" > "$made_for"
    fi
    # What tests run with is the same everywhere; who only uses the product gets what pip finds.
    local -a pinned=()
    [[ $extra != test ]] || pinned=(--constraint "$root/constraints/ci.txt")
    key=$(cat "$root/pyproject.toml" "${pinned[@]:1}" < /dev/null | sha256sum)
    key=${key%% *}
    ! grep -qsxF "$extra $key" "$installed" || return 0
    [[ $extra == base ]] || project+="[$extra]"
    # Here, what an interrupted run leaves is found by the next one.
    rm -rf "$venv/tmp"
    mkdir "$venv/tmp"
    local -x TMPDIR=$venv/tmp
    is_usable_venv || run_logged "making .venv" /usr/bin/python3 -m venv "$venv" || fail "cannot make $venv" "apt-get install python3-venv"
    run_logged "installing Python packages into .venv" "$venv/bin/python" -m pip install --no-input --disable-pip-version-check \
        "${pinned[@]}" --editable "$project" ||
        fail "cannot install the Python packages that pyproject.toml names" "mend what pip says above, then run this again"
    rm -rf "$venv/tmp"
    # What is in an extra is there without it, too.
    printf '%s\n' "base $key" "$extra $key" > "$installed"
}

# need_recipe_packages - what building the images of images/ takes; needs .venv.
need_recipe_packages() {
    local packages
    packages=$("$venv/bin/python" -c '
import sys, yaml
for file in sys.argv[1:]:
    for tool in yaml.safe_load(open(file, encoding="utf-8"))["tools"]:
        print(tool["package"])' "$root"/images/*/recipe.yaml | sort -u)
    # shellcheck disable=SC2086 # one word for each package
    need_packages $packages
}

# index_answers PYTHON - whether pip gets a small package from wherever it is told to look; asks for half a minute at the most.
index_answers() {
    local folder code=0
    folder=$(mktemp -d)
    timeout 30 "$1" -m pip download --quiet --no-input --disable-pip-version-check --retries 0 --timeout 10 --no-cache-dir --no-deps \
        --dest "$folder" pip-audit > /dev/null 2>&1 < /dev/null || code=1
    rm -rf "$folder"
    return "$code"
}

# Made completely, and from the distribution's Python.
is_usable_venv() {
    "$venv/bin/python" -c 'import pip, sys; sys.exit(sys.base_prefix != "/usr" or sys.version_info < (3, 11))' 2>/dev/null
}
