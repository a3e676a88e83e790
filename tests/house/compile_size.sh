#!/bin/sh
# compile_size.sh ROOT WORK BUDGET JOBS COMPILER FLAG...: lines and bytes that each header adds, preprocessed, to Eigen/Core. Fails
# if one exceeds its budget by more than a fifth, or has none. With UPDATE=1 in the environment the budget is written instead.
root=$1 work=$2 budget=$3 jobs=$4
shift 4
mkdir -p "$work" && cd "$work" || exit 2
rm -f ./*.size
# -P leaves the line marks out, so that no path of this machine is counted.
printf '#include <Eigen/Core>\n' | "$@" -x c++ -P -E - | wc -lc >base
headers=$(cd "$root/include" && find sluice -name '*.hpp' ! -name torch.hpp ! -name neighbours.hpp | sort)
command="$* -I$root/include -x c++ -P -E -"
echo "$headers" | xargs -P "$jobs" -n 1 sh -c '
  printf "#include <Eigen/Core>\n#include <%s>\n" "$0" | '"$command"' | wc -lc >"$(echo "$0" | tr / +).size"'
for h in $headers; do
  echo "$h $(cat base "$(echo "$h" | tr / +).size" | tr '\n' ' ')"
done | awk '{ print $1, $4 - $2, $5 - $3 }' >now
if [ "${UPDATE:-}" = 1 ]; then
  { echo "# header, lines and bytes over Eigen/Core after preprocessing (g++ 12). Written by the target update_compile_size."; cat now; } >"$budget"
  echo "compile_size: wrote $budget"
  exit 0
fi
awk '
  NR == FNR { if ($1 !~ /^#/) { lines[$1] = $2; bytes[$1] = $3 } next }
  !($1 in lines) { print $1 ": no budget; " $2 " lines, " $3 " bytes"; bad = 1; next }
  # Small headers may grow by 500 lines and 20000 bytes.
  $2 > lines[$1] * 1.2 + 500 || $3 > bytes[$1] * 1.2 + 20000 {
    print $1 ": " $2 " lines, " $3 " bytes; the budget is " lines[$1] " lines, " bytes[$1] " bytes"; bad = 1 }
  END { if (bad) { print "Raise a budget only with a reason: cmake --build build/release --target update_compile_size"; exit 1 } }
' "$budget" now
