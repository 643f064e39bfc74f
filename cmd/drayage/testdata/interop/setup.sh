#!/usr/bin/env bash
# Installs the programs that `make interop` tests against, where apt-get can;
# elsewhere it says what is missing.
set -euo pipefail

declare -A package=(
  [docker-registry]=docker-registry
  [htpasswd]=apache2-utils
  [dockerd]=docker.io
  [podman]=podman
  [skopeo]=skopeo
  [containerd]=containerd
  [ctr]=containerd
  [bsdtar]=libarchive-tools
  [tar]=tar
  [python3]=python3
  [chromium]=chromium
  [aria2c]=aria2
  [nginx]=nginx-light
  [zstd]=zstd
  [mkfs.xfs]=xfsprogs
  [mkfs.btrfs]=btrfs-progs
  [qemu-arm]=qemu-user
  [qemu-s390x]=qemu-user
  [systemd-analyze]=systemd
  [curl]=curl
)

missing=()
for program in "${!package[@]}"; do
  command -v "$program" >/dev/null || missing+=("${package[$program]}")
done
# The docker client may be there without its daemon, or the reverse.
command -v docker >/dev/null || missing+=(docker.io)
[ ${#missing[@]} -eq 0 ] && exit 0

if ! command -v apt-get >/dev/null || [ "$(id -u)" -ne 0 ]; then
  printf 'interop: missing: %s. Install them, or run this as root where apt-get is.\n' "${missing[*]}" >&2
  exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
# Services that start by themselves are of no use here: the tests start their own.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod +x "$policy"
  trap 'rm -f "$policy"' EXIT
fi
apt-get install -q -y --no-install-recommends "${missing[@]}" crun iptables ca-certificates
