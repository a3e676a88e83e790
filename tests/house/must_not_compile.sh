#!/bin/sh
# must_not_compile.sh ROOT WORK JOBS COMPILER FLAG...: each file of must_not_compile/ fails with the text that its line
# "// Expect: REGEX" names, and compiles with -DCONTROL, so that it fails for the reason meant.
root=$1 work=$2 jobs=$3
shift 3
mkdir -p "$work" && cd "$work" || exit 2
rm -f ./*.log
cases=$(ls "$root"/tests/house/must_not_compile/*.cpp)
# All cases begin with the same includes, compiled once.
cat >all.hpp <<'END'
#include <sluice/core/eigen_tensor.hpp>
#include <sluice/core/half.hpp>
#include <sluice/core/mdspan.hpp>
#include <sluice/core/thread_pool.hpp>
#include <sluice/sluice.hpp>
END
"$@" -I"$root/include" -I"$root/tests" -x c++-header all.hpp -o all.hpp.gch || exit 1
for c in $cases; do echo "#include \"$c\""; done >controls.cpp
"$@" -I"$root/include" -I"$root/tests" -include all.hpp -DCONTROL -fsyntax-only controls.cpp || { echo "a control case does not compile"; exit 1; }
command="$* -I$root/include -I$root/tests -include all.hpp -fsyntax-only"
# shellcheck disable=SC2016
echo "$cases" | xargs -P "$jobs" -n 1 sh -c '
  log=$(basename "$0").log
  expected=$(sed -n "s|^// Expect: ||p" "$0")
  [ -n "$expected" ] || { echo "$0: says nothing about the error"; exit 1; }
  if '"$command"' "$0" >"$log" 2>&1; then echo "$0: compiles"; exit 1; fi
  grep -qE "$expected" "$log" || { echo "$0: fails, but no line matches: $expected"; head -n 8 "$log"; exit 1; }' || exit 1
echo "must_not_compile: $(echo "$cases" | wc -l) cases"
