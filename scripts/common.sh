# shellcheck shell=bash
# What the commands of this directory share: finding the root, speaking, and setting up a machine. Sourced, never run.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
fetch=OFF # ON: CMake fetches the missing test and benchmark libraries at fixed commits
cmake_extra=()

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then bold=$'\e[1m' plain=$'\e[0m'; else bold='' plain=''; fi
say() { printf '%s==> %s (%d:%02d)%s\n' "$bold" "$*" $((SECONDS / 60)) $((SECONDS % 60)) "$plain"; }
fail() { # fail CODE SENTENCE
  printf '%s\n' "$2" >&2
  exit "$1"
}

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}
may_install() {
  command -v apt-get >/dev/null && { [ "$(id -u)" = 0 ] || { command -v sudo >/dev/null && sudo -n true 2>/dev/null; }; }
}
installed() { dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q 'ok installed'; }

# install PACKAGE...: installs with apt-get what is missing. Returns 1 if something is still missing.
install() {
  local missing=() p
  for p in "$@"; do
    if ! command -v dpkg-query >/dev/null || ! installed "$p"; then missing+=("$p"); fi
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  may_install || return 1
  say "installing ${missing[*]}"
  if [ -z "${apt_updated:-}" ]; then
    as_root apt-get -qq update || printf 'apt-get update failed; trying with the package lists at hand\n' >&2
    apt_updated=yes
  fi
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install "${missing[@]}" >/dev/null
}

# try_compile HEADER...: can g++ find these headers?
try_compile() {
  local h
  for h in "$@"; do printf '#include <%s>\n' "$h"; done | g++ -std=c++20 -fsyntax-only -x c++ -I/usr/include/eigen3 - 2>/dev/null
}

# Compiler, CMake, Ninja and Eigen. Without apt-get or the right to use it, Eigen comes from its sources at a fixed commit.
set_up_base() {
  install g++ cmake ninja-build make libeigen3-dev || true
  local tool
  for tool in g++ cmake ninja; do
    command -v "$tool" >/dev/null ||
      fail 3 "$tool is not installed, and neither root nor sudo is at hand to install it. On Debian: apt-get install g++ cmake ninja-build libeigen3-dev"
  done
  [ "$(g++ -dumpversion | cut -d. -f1)" -ge 12 ] || fail 3 "g++ 12 or later is needed; this is $(g++ -dumpversion)."
  if ! try_compile Eigen/Core; then fetch_eigen; fi
}
fetch_eigen() {
  local dir=$root/build/eigen commit=3147391d946bb4b6c68edd901f2add6ac1f31f8c # 3.4.0
  if [ ! -f "$dir/prefix/share/eigen3/cmake/Eigen3Config.cmake" ]; then
    command -v git >/dev/null || fail 3 "Eigen 3.4 is not installed, and git, which could fetch it, is not either."
    say "fetching Eigen 3.4.0"
    rm -rf "$dir"
    mkdir -p "$dir/source"
    git -C "$dir/source" init -q
    git -C "$dir/source" fetch -q --depth 1 https://gitlab.com/libeigen/eigen.git "$commit"
    git -C "$dir/source" checkout -q FETCH_HEAD
    cmake -S "$dir/source" -B "$dir/build" -G Ninja -DCMAKE_INSTALL_PREFIX="$dir/prefix" -DBUILD_TESTING=OFF -DEIGEN_BUILD_DOC=OFF >/dev/null
    cmake --install "$dir/build" >/dev/null
  fi
  cmake_extra+=("-DCMAKE_PREFIX_PATH=$dir/prefix")
}
# set_up_libraries HEADER=PACKAGE...: packaged libraries if they can be installed, else CMake fetches them at fixed commits.
set_up_libraries() {
  local pair missing=()
  for pair in "$@"; do
    try_compile "${pair%%=*}" || install "${pair#*=}" || true
    try_compile "${pair%%=*}" || missing+=("${pair#*=}")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  install git || true
  command -v git >/dev/null || fail 3 "${missing[*]} cannot be installed, and git, which could fetch them, is not installed either."
  say "fetching the sources of ${missing[*]}"
  fetch=ON
}

# configure PRESET [CMAKE ARGUMENT...], build PRESET [TARGET...]
configure() {
  local preset=$1
  shift
  (cd "$root" && cmake --preset "$preset" -DSLUICE_FETCH_DEPENDENCIES=$fetch ${cmake_extra[@]+"${cmake_extra[@]}"} "$@" |
    grep -v -e '^-- \(Detecting\|Check\|The\|Looking\|Performing\|Found\)' -e '^Preset CMake' -e '^  [A-Z_]*=' -e '^$' || [ "${PIPESTATUS[0]}" = 0 ])
}
build() {
  local preset=$1
  shift
  (cd "$root" && cmake --build --preset "$preset" ${1:+--target "$@"})
}
