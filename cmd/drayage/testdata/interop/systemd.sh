#!/usr/bin/env bash
# Becomes systemd, the first process of a container that has this machine's programs and,
# under an overlay, its files: what it writes stays in memory and goes with it. Called as
# the first process of namespaces of its own, except for cgroups.
#
#   systemd.sh DIR CGROUP
#
# DIR/files is copied over the root; CGROUP is a name for its cgroups.
set -euo pipefail
dir=$1 cgroup=$2 fs=/sys/fs/cgroup
root=$dir/mnt/root

unified() { [ "$(stat -f -c %T $fs)" = cgroup2fs ]; }

if [ "${3:-}" != inside ]; then
  mount --make-rprivate /
  if unified; then
    hierarchies=("$fs")
    for c in memory pids cpu; do
      echo "+$c" >"$fs/cgroup.subtree_control" || true # not in every container
    done
  else
    hierarchies=()
    for h in "$fs"/*; do
      if [ -e "$h/cgroup.procs" ] && [ ! -L "$h" ]; then hierarchies+=("$h"); fi
    done
  fi
  for h in "${hierarchies[@]}"; do
    mkdir "$h/$cgroup"
    for f in cpuset.cpus cpuset.mems; do # of cgroups v1, where they begin empty
      if ! unified && [ -e "$h/$f" ]; then cat "$h/$f" >"$h/$cgroup/$f"; fi
    done
    echo 0 >"$h/$cgroup/cgroup.procs"
  done
  exec unshare --cgroup bash "$0" "$dir" "$cgroup" inside
fi

mkdir "$dir/mnt"
mount -t tmpfs tmpfs "$dir/mnt"
mkdir "$dir/mnt/upper" "$dir/mnt/work" "$root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$dir/mnt/upper,workdir=$dir/mnt/work" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
if unified; then
  mount -t cgroup2 cgroup2 "$root$fs"
else
  mount -t tmpfs -o mode=755 tmpfs "$root$fs"
  while IFS=: read -r _ controllers _; do
    case $controllers in
    '') at=unified options=(-t cgroup2) ;;
    name=systemd) at=systemd options=(-t cgroup -o none,name=systemd) ;;
    *) at=$controllers options=(-t cgroup -o "$controllers") ;;
    esac
    mkdir "$root$fs/$at"
    mount "${options[@]}" cgroup "$root$fs/$at"
  done </proc/self/cgroup
fi
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount --rbind /dev "$root/dev"
rm -rf "$root/etc/systemd/system" # this machine's services are not to start
cp -a "$dir/files/." "$root/"
mkdir "$root/run/machine"
cd "$root"
pivot_root . run/machine
umount -l /run/machine
mount --make-rshared / # as systemd wants it to be, for credentials
exec env -i container=drayage PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
  /usr/lib/systemd/systemd --log-target=console --show-status=no --unit=basic.target
