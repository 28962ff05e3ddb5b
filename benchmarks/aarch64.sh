#!/bin/bash
# Most Ascend hosts are aarch64. This builds a Debian 12 for arm64 in a folder, from nothing, and runs the project in it
# under QEMU's emulation of the processor: installation, the compiled kernels, recordings of the original, the reader of
# videos, a video. docs/devices.md says what it showed. Not for CI.
#
#   benchmarks/aarch64.sh FOLDER      FOLDER/log holds everything that was printed, FOLDER/summary a line for each step
#   benchmarks/aarch64.sh FOLDER data then also tests/data with what requirements-data.txt and -cluster.txt bring: 1.5 h
#
# Run it as root on x86-64 Linux 6.7 or later (a mount namespace with its own binfmt_misc: nothing is changed outside
# FOLDER) with: apt-get install mmdebstrap arch-test qemu-user-static. PYTHON names a Python 3 with pip, which fetches the
# arm64 wheels from the registries that it is set up for; MIRROR another Debian mirror. 3 GB of disk. Steps that passed
# are not done again: delete FOLDER to begin anew. The exit status is 1 if a step failed.
#
# The packages are unpacked by mmdebstrap but not configured (nothing here needs it), and pip runs emulated.

set -uo pipefail
[ $# = 1 ] || [ "$#:${2:-}" = 2:data ] || { sed -n '2,15s/^# \{0,1\}//p' "$0"; exit 2; }
here=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
mirror=${MIRROR:-http://deb.debian.org/debian}
mkdir -p "$1" && folder=$(cd "$1" && pwd) || exit 2
root=$folder/root
for program in mmdebstrap arch-test qemu-aarch64-static unshare; do
  command -v "$program" > /dev/null || { echo "error: $program is missing: apt-get install mmdebstrap arch-test qemu-user-static" >&2; exit 2; }
done

# Where aarch64's programs begin so, this kernel starts QEMU: ELF, 64 bit, little endian, an executable, machine 183.
magic='\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00'
mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'

child=
trap '[ -z "$child" ] || kill -9 -- "-$child" 2> /dev/null' EXIT

emulated() {  # a command inside; one that hangs is begun again twice
  local status
  for _ in 1 2 3; do
    inside "$@"; status=$?
    [ $status = 137 ] || break
  done
  return $status
}

# QEMU 7.2 hangs at times where a program of several threads starts another one, as the kernels' compiler is.
stop_hanging() {  # a session; killed when it has computed nothing for two minutes
  local before='' now
  while sleep 120; do
    now=$(ps -o pid=,times= -s "$1")
    [ "$now" != "$before" ] || { echo "killed: nothing was computed for two minutes"; kill -9 -- "-$1"; }
    before=$now
  done
}

inside() {  # all users exist there, as tests give files to another one
  local pipe=$folder/mapped status watcher
  rm -f "$pipe" && mkfifo "$pipe"
  setsid unshare --user --mount --setgroups allow bash -c 'read -r < "$1"; shift; exec bash -c "$@"' bash "$pipe" '
    root=$1 magic=$2 mask=$3; shift 3
    mount -t binfmt_misc none /proc/sys/fs/binfmt_misc &&
    printf %s ":aarch64:M::$magic:$mask:$(command -v qemu-aarch64-static):F" > /proc/sys/fs/binfmt_misc/register &&
    mount --rbind /proc "$root/proc" && mount --rbind /dev "$root/dev" &&
    exec env -i HOME=/root LC_ALL=C.UTF-8 PATH=/venv/bin:/usr/bin:/bin PYTHONUNBUFFERED=1 PYTHONWARNINGS="$warnings" \
      "$(command -v chroot)" "$root" /bin/bash -c "cd /svd && \"\$@\"" bash "$@"
  ' bash "$root" "$magic" "$mask" "$@" &
  child=$!
  until [ "$(readlink /proc/$child/ns/user)" != "$(readlink /proc/$$/ns/user)" ]; do sleep 0.1; done
  echo 0 0 65536 > /proc/$child/uid_map && echo 0 0 65536 > /proc/$child/gid_map && echo > "$pipe"
  stop_hanging $child & watcher=$!
  wait $child; status=$?
  kill $watcher
  child=
  return $status
}

# NumPy finds that QEMU takes the smallest numbers for zero, in eight lines on stderr, whose lines tests count.
export warnings='ignore:The value of the smallest subnormal:UserWarning'

failed=0
step() {  # its name, a command
  local name=$1 start=$SECONDS status; shift
  if grep -qs "^passed *$name:" "$folder/summary"; then return; fi
  echo "== $name: $*" >> "$folder/log"
  "$@" >> "$folder/log" 2>&1 < /dev/null; status=$?
  [ $status = 0 ] && word=passed || { word=FAILED; failed=1; }
  printf '%-7s %s: %d s, exit status %d\n' $word "$name" $((SECONDS - start)) $status | tee -a "$folder/summary"
}
need() { step "$@"; [ $failed = 0 ] || { tail -n 20 "$folder/log" >&2; exit 1; }; }

debian() {
  rm -rf "$root"
  mmdebstrap --mode=root --variant=extract --architectures=arm64 \
    --include=base-files,bash,coreutils,findutils,grep,sed,libc-bin,python3,python3-venv,g++ bookworm "$root" "$mirror" &&
    ln -sf bash "$root/bin/sh"
}

wheels() {  # names of lists in pyproject.toml ("dependencies"), of which requirements.txt pins more
  {
    grep -v '^-e ' "$here/requirements.txt"
    for list in "$@"; do sed -n "/^$list = \[/,/^\]/s/^    \"\(.*\)\",\$/\1/p" "$here/pyproject.toml"; done
  } > "$folder/requirements.txt"
  local platforms=()
  for tag in 2014 _2_17 _2_24 _2_26 _2_27 _2_28 _2_31 _2_34 _2_35 _2_36; do platforms+=(--platform "manylinux${tag}_aarch64"); done
  "$python" -m pip download --dest "$root/wheels" --only-binary=:all: --implementation cp --python-version 3.11 \
    "${platforms[@]}" -r "$folder/requirements.txt" 'pytest>=8,<10' 'setuptools<82' wheel
}

project() {  # the tracked files as they are now
  rm -rf "$root/svd" && mkdir "$root/svd" &&
    (cd "$here" && git ls-files -z | tar --null --ignore-failed-read -cT -) | tar -xC "$root/svd"
}

pip='python -m pip install --no-index --find-links=/wheels --no-compile --no-cache-dir --disable-pip-version-check'
small='scalars watermark blocks clip'
files=$(printf 'tests/goldens/%s_golden.safetensors ' $small)
seconds=$SECONDS
need 'Debian for arm64, unpacked' debian
need 'wheels for arm64' wheels dependencies
need 'the project, copied' project
need 'aarch64 programs run' emulated uname -m
need 'virtual environment' emulated python3 -m venv /venv
need 'requirements.txt, installed' emulated $pip -r requirements.txt
need 'pytest, installed' emulated $pip pytest
# Without MindSpore, beside whose threads QEMU hangs most; each later step would do without the kernels, and skip their tests.
need 'kernels compiled' emulated python -c 'from gm import kernels; raise SystemExit(kernels.library() is None)'
step 'which kernels' emulated python -m gm.ops
step 'tests of the kernels' emulated python -m pytest -q -p no:cacheprovider tests/ops/test_kernels.py
step "recordings in graph mode ($small)" emulated python svd_tools/verify.py $files --mode=0 --device_target=CPU
step "recordings in PyNative ($small)" emulated python svd_tools/verify.py $files --mode=1 --device_target=CPU
step 'reader of videos, outputs' emulated python -m pytest -q -p no:cacheprovider tests/data/test_video_file.py tests/data/test_outputs.py
step 'a video of svd_tiny' emulated python image_to_video.py --image=assets/demo.png --output_dir=/out --mode=1 \
  --device_target=CPU --SVD.num_frames=2 --SVD.sampling_steps=2
if [ $# = 2 ]; then
  # Of QEMU's own doing: it reports a crash in its own words, and takes more than the 10 s that 100,000 rows may take.
  not="--deselect tests/data/test_videos.py::test_an_ffmpeg_that_crashes[kill
    --deselect tests/data/test_metadata.py::test_100000_rows_are_checked_in_seconds"
  need 'wheels for tests/data' wheels dependencies data cluster
  need 'requirements-data.txt, requirements-cluster.txt, installed' \
    emulated $pip -r requirements-data.txt -r requirements-cluster.txt 'imageio>=2.31,<3'
  for file in "$here"/tests/data/test_*.py; do
    name=tests/data/$(basename "$file")
    step "$name" emulated python -m pytest -q -p no:cacheprovider "$name" $not
  done
fi
echo "$((SECONDS - seconds)) s in all; $folder/log"
exit $failed
