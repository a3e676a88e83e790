#!/bin/sh
# one_definition.sh ROOT WORK LTO COMPILER FLAG...: two units with all headers link into one program and agree on every definition;
# LTO is 1 for g++, which then compares types across units (-Wodr).
root=$1 work=$2 lto=$3
shift 3
mkdir -p "$work" && cd "$work" || exit 2
headers=$(cd "$root/include" && find sluice -name '*.hpp' ! -name torch.hpp ! -name neighbours.hpp | sort)
for h in $headers; do echo "#include <$h>"; done >first.cpp
for h in $headers; do echo "#include <$h>"; done | tac >second.cpp # the other order
cat >>first.cpp <<'END'
double second(const std::vector<double>& x);
int main() {
  const std::vector<double> x{3, 4};
  const sluice::thread_pool pool(2);
  const double sum = sluice::sum_chunks<double>([&](sluice::index_t, sluice::index_t) { return sluice::norm(x); }, 2, pool);
  return sum == second(x) && &sluice::norm == &sluice::norm ? 0 : 1;
}
END
cat >>second.cpp <<'END'
double second(const std::vector<double>& x) {
  const sluice::thread_pool pool(2);
  return sluice::sum_chunks<double>([&](sluice::index_t, sluice::index_t) { return sluice::norm(x); }, 2, pool);
}
END
flags="-I$root/include -O1 -pthread"
# Warnings inside Eigen that only link-time inlining shows are not the matter here.
[ "$lto" = 1 ] && flags="$flags -flto -fno-fat-lto-objects -Wodr -Werror=odr -Werror=lto-type-mismatch -Wno-maybe-uninitialized"
# shellcheck disable=SC2086
"$@" $flags -c first.cpp -o first.o && "$@" $flags -c second.cpp -o second.o && "$@" $flags first.o second.o -o both && ./both
