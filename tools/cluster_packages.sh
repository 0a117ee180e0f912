#!/bin/sh
# Debian's packages that `make test-cluster` starts: sshd, Slurm, Open MPI, podman and what builds a base image. As root.
# The daemons that packages would start are not: policy-rc.d says so while they are installed.
set -eu
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod +x "$policy"
fi
apt-get update -qq
apt-get install -qq --yes --no-install-recommends \
    openssh-server iproute2 util-linux nftables curl openmpi-bin slurm-wlm slurm-client munge \
    podman buildah runc netavark aardvark-dns iptables catatonit mmdebstrap
