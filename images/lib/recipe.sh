# Sourced by every recipe's `build`: how a build reports, where it works, how its result appears and where its packages come from.
# shellcheck shell=bash

# progress PERCENT WHAT - the only thing a build writes to standard output (see recipe_begin).
progress() {
    printf 'progress %d %s\n' "$1" "$2" >&3
}

# The caller shows the last line of standard error to a person, so it must say what is wrong by itself.
fail() {
    printf 'image build: %s\n' "$*" >&2
    exit 1
}

# recipe_begin ARGUMENTS... - check the command line; afterwards $output and the scratch directory $work are set.
recipe_begin() {
    [[ $# -eq 1 && $1 == *.qcow2 ]] || fail "usage: build OUTPUT.qcow2"
    # shellcheck disable=SC2034 # read by recipe_end and by the recipes
    output=$(realpath -m -- "$1")
    [[ -d ${output%/*} && -w ${output%/*} ]] || fail "cannot write to directory ${output%/*}"
    # Tools talk on standard output as they like; the progress lines keep it for themselves.
    exec 3>&1 1>&2
    # Debian's tools are in the sbin directories, which ordinary users do not have in their PATH.
    export PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin LC_ALL=C.UTF-8
    umask 022
    work=$(mktemp -d --tmpdir understudy-image.XXXXXXXX)
    partial=
    trap recipe_clean EXIT
    # EXIT runs on its own after these; without them an interrupted child would decide which status is seen.
    trap 'exit 130' INT
    trap 'exit 143' TERM
    trap 'echo "image build: line $LINENO failed: $BASH_COMMAND" >&2' ERR
}

recipe_clean() {
    # --one-file-system: should a tool have left something mounted in there, it must not be emptied.
    rm -rf --one-file-system -- "$work" ${partial:+"$partial"}
}

# recipe_end DISK.raw - compress the disk into $output, which appears complete or not at all.
recipe_end() {
    local raw=$1
    partial=$(mktemp -- "$output.partial.XXXXXX")
    # zstd reads back several times faster than the default zlib, and every first read of a guest goes through it.
    qemu-img convert -f raw -O qcow2 -c -o compression_type=zstd -- "$raw" "$partial"
    chmod 644 -- "$partial"
    sync -- "$partial"
    mv -- "$partial" "$output"
    partial=
    progress 100 "image ready"
}

readonly DEBIAN_SUITE=bookworm
readonly DEBIAN_KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg

# One-line style sources for the suite. A mirror named by the caller wins; then what the build host itself uses for Debian;
# then Debian's own. Other sources of the host are left out: an image must not take packages from whoever else serves the host.
debian_sources() {
    local mirror=${UNDERSTUDY_DEBIAN_MIRROR:-} security=${UNDERSTUDY_DEBIAN_SECURITY_MIRROR:-} options="[signed-by=$DEBIAN_KEYRING]"
    if [[ -z $mirror ]]; then
        mirror=$(host_mirror "$DEBIAN_SUITE")
        security=${security:-$(host_mirror "$DEBIAN_SUITE-security")}
        mirror=${mirror:-http://deb.debian.org/debian}
        security=${security:-http://deb.debian.org/debian-security}
    fi
    echo "deb $options $mirror $DEBIAN_SUITE main"
    echo "deb $options $mirror $DEBIAN_SUITE-updates main"
    if [[ -n $security ]]; then echo "deb $options $security $DEBIAN_SUITE-security main"; fi
}

# host_mirror SUITE - the first address from which the build host's apt takes this suite of Debian, if any.
host_mirror() {
    # shellcheck disable=SC2016 # the names are for apt
    apt-get indextargets --format '$(SITE) $(RELEASE) $(REPO_URI) $(ORIGIN)' 2>/dev/null |
        awk -v suite="$1" '$2 == suite && $4 == "Debian" { sub(/\/$/, "", $3); print $3 }' | sed -n 1p
}

# apt configuration with its own lists and cache under $work: nothing of the host's is changed and no rights are needed,
# while the host's proxy settings still hold.
private_apt() {
    apt-get -qq \
        -o Dir::Etc::SourceList="$work/apt/sources.list" -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::State="$work/apt/state" -o Dir::State::status="$work/apt/status" \
        -o Dir::Cache="$work/apt/cache" -o APT::Sandbox::User= -o Debug::NoLocking=true \
        -o Acquire::Languages=none -o Acquire::Retries=3 -o APT::Update::Error-Mode=any "$@"
}

write_apt_configuration() {
    mkdir -p "$work/apt/state/lists/partial" "$work/apt/cache/archives/partial"
    : > "$work/apt/status"
    debian_sources > "$work/apt/sources.list"
    private_apt update || fail "cannot read the package lists of Debian $DEBIAN_SUITE (see the lines above; UNDERSTUDY_DEBIAN_MIRROR names another mirror)"
}

# newest_kernel FLAVOUR - the package that linux-image-FLAVOUR stands for at the moment.
newest_kernel() {
    private_apt -s install "linux-image-$1" --no-install-recommends |
        awk '$1 == "Inst" && $2 ~ /^linux-image-[0-9]/ { name = $2 } END { print name; exit name == "" }' ||
        fail "Debian $DEBIAN_SUITE has no installable linux-image-$1 (see the lines above)"
}

# fetch_packages DIRECTORY PACKAGE... - download these packages, and only these, unpacked into DIRECTORY.
fetch_packages() {
    local into=$1 deb
    shift
    mkdir -p "$work/debs" "$into"
    (cd "$work/debs" && private_apt download "$@") || fail "cannot download packages of Debian $DEBIAN_SUITE (see the lines above)"
    for deb in "$work"/debs/*.deb; do
        dpkg-deb -x "$deb" "$into"
    done
}
