#!/bin/sh
# Install what the tests use beside Python: SLURM, its accounting, a browser. On Debian and Ubuntu, as root.
#
# Takes no time where everything is there, and never fails: tests that lack a program are skipped
# (but without SLURM they fail where CI=true). No daemon is started.

set -u
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
export DEBIAN_FRONTEND=noninteractive

need() { # PROGRAM PACKAGE
    command -v "$1" >/dev/null && return
    [ -n "$prepared" ] || prepare "$2"
    echo "Installing $2 for the tests" >&2
    run_apt install -y --no-install-recommends "$2" || echo "$2 cannot be installed; its tests are skipped" >&2
}

prepare() { # PACKAGE
    [ "$(id -u)" = 0 ] || give_up "$1 is not installed, and only root may"
    command -v apt-get >/dev/null || give_up "$1 is not installed, and there is no apt-get"
    forbid_daemons
    # apt's own user writes temporary files, and /tmp is not open to others everywhere.
    TMPDIR=$(mktemp -d) || give_up "$1 is not installed, and there is no room for temporary files"
    prepared=yes
    chmod 1777 "$TMPDIR"
    export TMPDIR
    run_apt update || give_up "apt-get update failed"
}

forbid_daemons() { # packages ask this file whether they may start one; 101 says no
    [ ! -e "$policy" ] || return
    made_policy=yes
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
}

run_apt() {
    timeout 300 apt-get -q -o DPkg::Lock::Timeout=60 -o Acquire::http::Timeout=20 "$@" \
        </dev/null >"$TMPDIR/log" 2>&1 && return
    tail -n 3 "$TMPDIR/log" >&2
    return 1
}

give_up() { # REASON
    echo "$1: some tests are skipped" >&2
    exit 0
}

# shellcheck disable=SC2329 # called by the trap
clean_up() {
    [ -z "$made_policy" ] || rm -f "$policy"
    [ -z "$prepared" ] || rm -rf "$TMPDIR"
}

policy=/usr/sbin/policy-rc.d
made_policy=""
prepared=""
trap clean_up EXIT
trap 'exit 130' HUP INT TERM

need munged munge
need slurmctld slurmctld
need slurmd slurmd
need sbatch slurm-client
need mariadbd mariadb-server
need slurmdbd slurmdbd
need chromium chromium
