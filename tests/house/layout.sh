#!/bin/sh
# layout.sh ROOT: the rules about headers that a compiler does not check. Prints every violation; fails if there is one.
#
# Floors (an include goes to the same family or to a lower floor):
#   0 core   1 random   2 draw   3 couple kernels   4 generate speculate allocate select estimate search represent   5 models
root=$1
cd "$root/include/sluice" || exit 2
problems=$(mktemp)
trap 'rm -f "$problems"' EXIT
report() { echo "$*" >>"$problems"; }

floor() {
  case $1 in
    core) echo 0 ;; random) echo 1 ;; draw) echo 2 ;; couple | kernels) echo 3 ;;
    generate | speculate | allocate | select | estimate | search | represent) echo 4 ;;
    models) echo 5 ;; *) echo none ;;
  esac
}

for header in $(find . -name '*.hpp' | sed 's|^\./||' | sort); do
  case $header in
    */*/*) report "$header: headers lie directly in the folder of their family" ;;
    */*) family=${header%%/*} ;;
    *) continue ;; # umbrella headers: below
  esac
  own=$(floor "$family")
  if [ "$own" = none ]; then
    report "$header: $family is not one of the families"
    continue
  fi
  [ "$(sed -n 1p "$header")" = "#pragma once" ] || report "$header: does not begin with #pragma once"
  for included in $(sed -n 's/^ *# *include *[<"]sluice\/\([^>"]*\)[>"].*/\1/p' "$header"); do
    [ -f "$included" ] || report "$header: includes $included, which does not exist"
    case $included in
      */*) other=${included%%/*} ;;
      *) report "$header: includes the umbrella $included" && continue ;;
    esac
    [ "$included" = core/thread_pool.hpp ] && report "$header: includes core/thread_pool.hpp, which only users include"
    [ "$other" = "$family" ] && continue
    lower=$(floor "$other")
    [ "$lower" != none ] && [ "$lower" -lt "$own" ] || report "$header (floor $own): includes $included (floor $lower)"
  done
  # Adaptors are included by name, by users.
  case $header in
    core/eigen_tensor.hpp | core/half.hpp | core/mdspan.hpp | core/torch.hpp) ;;
    *) grep -nE '#include <sluice/core/(eigen_tensor|half|mdspan|torch)\.hpp>' "$header" | sed "s|^|$header: adaptor included at line |" >>"$problems" ;;
  esac
done

# Umbrellas: each family's holds every header of the family; sluice.hpp holds the umbrellas but not models, adaptors and threads.
for family in $(find . -mindepth 1 -maxdepth 1 -type d | sed 's|^\./||' | sort); do
  umbrella=$family.hpp
  if [ ! -f "$umbrella" ]; then
    report "$umbrella: missing, though there is a folder $family"
    continue
  fi
  for header in "$family"/*.hpp; do
    case $header in
      core/eigen_tensor.hpp | core/half.hpp | core/mdspan.hpp | core/torch.hpp | core/thread_pool.hpp | kernels/neighbours.hpp)
        grep -q "<sluice/$header>" "$umbrella" && report "$umbrella: includes $header, which is included by name only" ;;
      *) grep -q "#include <sluice/$header>" "$umbrella" || report "$umbrella: does not include $header" ;;
    esac
  done
  case $family in
    models) grep -q '<sluice/models' sluice.hpp && report "sluice.hpp: includes models" ;;
    *) grep -q "#include <sluice/$umbrella>" sluice.hpp || report "sluice.hpp: does not include $umbrella" ;;
  esac
done

# What no header may contain, comments aside.
forbid() { # PATTERN REASON FILES...
  pattern=$1 reason=$2
  shift 2
  for file in "$@"; do
    sed 's|//.*||' "$file" | grep -nE "$pattern" | sed "s|^|$file: $reason: line |" >>"$problems"
  done
}
headers=$(find . -name '*.hpp' | sed 's|^\./||' | sort)
# shellcheck disable=SC2086
forbid 'std::[a-z_]+_distribution|std::random_device|std::default_random_engine|[^a-z_]s?rand\(' 'a source of numbers that differs between platforms' $headers
forbid '#include *<(iostream|fstream|sstream|regex|format|expected|mdspan|Eigen/Dense|Eigen/Eigen)>' 'an include that costs too much or is not there in C++20' $headers
forbid '\bthrow\b' 'throw, which only core/expects.hpp may' $(echo "$headers" | grep -vE '^core/(expects|thread_pool)\.hpp$')
forbid '\bthread_local\b|^(static|extern) ' 'global state' $headers
forbid '^inline [^(]*[;={]' 'a variable that is not constexpr' $(for h in $headers; do sed 's|//.*||' "$h" | grep -E '^inline [^(]*[;={]' | grep -qvE 'constexpr|namespace' && echo "$h"; done)
forbid '^ *using namespace ' 'using namespace' $headers
for h in $headers; do # macros: defined and left behind only in version.hpp
  [ "$h" = core/version.hpp ] && continue
  for macro in $(sed -n 's/^ *# *define *\([A-Za-z0-9_]*\).*/\1/p' "$h"); do
    case $macro in
      SLUICE_*) grep -qE "# *undef $macro\b" "$h" || report "$h: $macro is not undefined at the end" ;;
      *) report "$h: macro $macro does not begin with SLUICE_" ;;
    esac
  done
done

# The version is the same for the compiler and for CMake.
number() { sed -n "s/^#define SLUICE_VERSION_$1 //p" core/version.hpp; }
macro_version=$(number MAJOR).$(number MINOR).$(number PATCH)
cmake_version=$(sed -n 's/^project(sluice VERSION \([0-9.]*\).*/\1/p' "$root/CMakeLists.txt")
[ "$macro_version" = "$cmake_version" ] || report "version: macros say $macro_version, CMakeLists.txt says $cmake_version"

# Technique headers are the rows between the two marks in docs/techniques.md; each has its test, benchmark, page and index line.
cd "$root" || exit 2
rows=$(sed -n '/<!-- headers:begin -->/,/<!-- headers:end -->/p' docs/techniques.md | grep '^|' |
  grep -oE '(random|draw|couple|kernels|generate|speculate|allocate|select|estimate|search|represent)/[a-z0-9_]+(\.hpp|\b)' | sed 's/\.hpp$//' | sort -u)
[ -n "$rows" ] || report "docs/techniques.md: no technique headers are listed"
for row in $rows; do
  name=${row#*/}
  [ -f "include/sluice/$row.hpp" ] || report "docs/techniques.md: $row.hpp does not exist"
  grep -lqF "<sluice/$row.hpp>" tests/"${row%%/*}"/*_test.cpp 2>/dev/null || report "$row: no test in tests/${row%%/*} includes it"
  grep -lqE "<sluice/$row.hpp>|\b$name\b" bench/*/*_bench.cpp 2>/dev/null || report "$row: no benchmark uses it"
  [ -f "docs/techniques/$name.md" ] || report "$row: no page docs/techniques/$name.md"
  grep -qF "techniques/$name.md" docs/index.md || report "$row: docs/index.md has no line that links its page"
done
for page in docs/techniques/*.md; do
  [ -f "$page" ] || continue
  name=$(basename "$page" .md)
  echo "$rows" | grep -q "/$name\$" || report "$page: docs/techniques.md has no row for it"
done

# Tests say what they catch.
for file in tests/*/*_test.cpp; do
  grep -q '^// Fails for:' "$file" || report "$file: does not say what it fails for"
done

if [ -s "$problems" ]; then
  cat "$problems"
  echo "$(wc -l <"$problems") violations"
  exit 1
fi
echo "layout: $(echo "$headers" | wc -l) headers, $(echo "$rows" | wc -w) techniques"
