#!/bin/sh
# self_contained.sh ROOT WORK JOBS COMPILER FLAG...: every header compiles alone and included twice.
# Left out: kernels/neighbours.hpp where nanoflann is not installed; core/torch.hpp, which tests/core/torch/torch_test.cpp includes first
# where LibTorch is built at all.
#
# Headers that reach core/tensor.hpp through their own includes are compiled after a precompiled core/tensor.hpp. That hides nothing:
# the text of a header follows its includes, so it sees core/tensor.hpp in any case, and headers that do not reach it are compiled
# without.
root=$1 work=$2 jobs=$3
shift 3
mkdir -p "$work" && cd "$work" || exit 2
rm -f ./*.cpp ./*.log
skip=core/torch.hpp
echo '#include <nanoflann.hpp>' >probe.cpp
"$@" -E probe.cpp >probe.log 2>&1 || skip="$skip kernels/neighbours.hpp"
rm -f probe.cpp probe.log

reached=" core/tensor.hpp "
before=
while [ "$before" != "$reached" ]; do
  before=$reached
  pattern=$(echo "$reached" | tr -s ' ' '\n' | sed '/^$/d; s|.*|^#include <sluice/&>|')
  reached=" core/tensor.hpp $(cd "$root/include/sluice" && grep -lE "$pattern" -r . | sed 's|^\./||' | sort | tr '\n' ' ')"
done
echo '#include <sluice/core/tensor.hpp>' >floor.hpp
"$@" -I"$root/include" -x c++-header floor.hpp -o floor.hpp.gch || exit 1

for header in $(cd "$root/include/sluice" && find . -name '*.hpp' | sed 's|^\./||'); do
  case " $skip " in *" $header "*) continue ;; esac
  name=$(echo "$header" | tr '/.' '__')
  case "$reached" in *" $header "*) [ "$header" = core/tensor.hpp ] || name=$name.floor ;; esac
  printf '#include <sluice/%s>\n#include <sluice/%s>\n' "$header" "$header" >"$name.cpp"
done
command="$* -I$root/include -fsyntax-only"
# shellcheck disable=SC2016
ls ./*.cpp | xargs -P "$jobs" -n 1 sh -c '
  case $0 in *.floor.cpp) first="-include floor.hpp" ;; *) first= ;; esac
  '"$command"' $first "$0" >"$0.log" 2>&1 || { echo "$0 does not compile:"; head -n 20 "$0.log"; exit 1; }' || exit 1
echo "self_contained: $(ls ./*.cpp | wc -l) headers; left out: $skip"
