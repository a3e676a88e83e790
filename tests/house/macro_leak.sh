#!/bin/sh
# macro_leak.sh ROOT WORK COMPILER FLAG...: the macros that all headers leave behind, beyond those of the standard library and
# Eigen, are the version and nothing else.
root=$1 work=$2
shift 2
mkdir -p "$work" && cd "$work" || exit 2
headers=$(cd "$root/include" && find sluice -name '*.hpp' ! -name torch.hpp ! -name neighbours.hpp | sort)
for h in $headers; do echo "#include <$h>"; done >ours.cpp
(cd "$root/include" && sed -n 's/^ *# *include *<\([^>]*\)>.*/\1/p' $headers) | grep -v '^sluice/' | sort -u |
  while read -r h; do printf '#if __has_include(<%s>)\n#include <%s>\n#endif\n' "$h" "$h"; done >theirs.cpp
"$@" -I"$root/include" -dM -E ours.cpp | sed 's/^#define \([A-Za-z0-9_]*\).*/\1/' | sort -u >ours.txt
"$@" -dM -E theirs.cpp | sed 's/^#define \([A-Za-z0-9_]*\).*/\1/' | sort -u >theirs.txt
[ "$(wc -l <ours.txt)" -gt 1000 ] || { echo "the headers were not preprocessed"; exit 1; }
comm -23 ours.txt theirs.txt >left.txt
printf 'SLUICE_VERSION_MAJOR\nSLUICE_VERSION_MINOR\nSLUICE_VERSION_PATCH\n' >allowed.txt
if ! cmp -s left.txt allowed.txt; then
  echo "macros left behind, expected the three of the version:"
  cat left.txt
  exit 1
fi
