// Golden kinds of the statistics that the tests use.
#include <support/statistics.hpp>

#include <cmath>
#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "registry.hpp"

namespace {
using golden::json, golden::number, golden::numbers, golden::or_error, golden::real;
constexpr const char* technique = "statistics-for-tests";

support::points points_of(const json& rows) {
  support::points x;
  for (const json& row : rows) x.push_back(numbers(row));
  return x;
}
/// The list of f(row), each row refused by itself.
template <class F>
json each(const json& rows, F f) {
  json list = json::array();
  for (const json& row : rows) list.push_back(or_error([&]() -> json { return f(row); }));
  return list;
}

const golden::kind chi_square{
    technique, "chi_square_and_G", [](const json& in) -> json {
      return {{"rows", each(in.at("rows"), [](const json& row) -> json {
                 const auto observed = numbers(row.at("observed")), p = numbers(row.at("p"));
                 const auto x = support::pearson(observed, p), g = support::g_test(observed, p);
                 return {{"pearson", real(x.statistic)},
                         {"G", real(g.statistic)},
                         {"df", x.df},
                         {"p_pearson", real(x.p())},
                         {"log_p_pearson", real(x.log_p)},
                         {"p_G", real(g.p())},
                         {"wilson_hilferty_z",
                          x.df > 0 ? real(support::wilson_hilferty_z(x.statistic, x.df)) : json(nullptr)}};
               })}};
    }};

const golden::kind multinomial{
    technique, "exact_multinomial", [](const json& in) -> json {
      return or_error([&]() -> json {
        return {{"p_value", real(support::exact_multinomial_p(numbers(in.at("observed")), numbers(in.at("p"))))}};
      });
    }};

const golden::kind critical{
    technique, "critical_values", [](const json& in) -> json {
      const json& alphas = in.at("alpha");
      const auto per_alpha = [&](auto f) {
        return each(alphas, [f](const json& a) -> json { return real(f(number(a))); });
      };
      json out;
      if (in.contains("df"))
        out["chi2"] = each(in.at("df"), [&](const json& df) -> json {
          return per_alpha([d = number(df)](double a) { return support::chi_square_critical(d, a); });
        });
      out["normal_two_sided"] = per_alpha([](double a) { return support::normal_critical(a); });
      out["kolmogorov_lambda"] = per_alpha([](double a) { return support::kolmogorov_critical(a); });
      out["anderson_darling_tail"] = per_alpha([](double a) { return support::anderson_darling_critical(a); });
      out["cramer_von_mises_tail"] = per_alpha([](double a) { return support::cramer_von_mises_critical(a); });
      if (in.contains("student_t_df"))
        out["student_t_two_sided"] =
            per_alpha([df = number(in.at("student_t_df"))](double a) { return support::student_t_critical(df, a); });
      return out;
    }};

const golden::kind tails{
    technique, "tail_functions", [](const json& in) -> json {
      json out;
      if (in.contains("a"))
        out["log_gammaincc"] = each(in.at("a"), [&](const json& a) -> json {
          return each(in.at("x"),
                      [&](const json& x) -> json { return real(support::log_gamma_q(number(a), number(x))); });
        });
      if (in.contains("z"))
        out["log_normal_sf"] =
            each(in.at("z"), [](const json& z) -> json { return real(support::log_normal_sf(number(z))); });
      if (in.contains("lambda"))
        out["kolmogorov_sf"] =
            each(in.at("lambda"), [](const json& l) -> json { return real(support::kolmogorov_sf(number(l))); });
      if (in.contains("quantile_p"))
        out["normal_quantile"] =
            each(in.at("quantile_p"), [](const json& p) -> json { return real(support::normal_quantile(number(p))); });
      return out;
    }};

const golden::kind continuous{technique, "ks_ad_cvm", [](const json& in) -> json {
                                return or_error([&]() -> json {
                                  const auto u = numbers(in.at("u"));
                                  const double d = support::ks_statistic(u),
                                               root = std::sqrt(static_cast<double>(u.size()));
                                  const double w = support::cramer_von_mises_statistic(u);
                                  json out{{"D", d},
                                           {"p_exact", support::ks_exact_p(d, u.size())},
                                           {"p_asymptotic", support::kolmogorov_sf(root * d)},
                                           {"p_stephens", support::kolmogorov_sf((root + 0.12 + 0.11 / root) * d)},
                                           {"anderson_darling_A2", support::anderson_darling_statistic(u)},
                                           {"cramer_von_mises_W2", w},
                                           {"cvm_p", support::cramer_von_mises_p(w, u.size())}};
                                  if (in.contains("v")) {
                                    const auto v = numbers(in.at("v"));
                                    const double two = support::ks_two_sample_statistic(u, v);
                                    out["two_sample_D"] = two;
                                    out["two_sample_p_exact"] = support::ks_two_sample_exact_p(two, u.size(), v.size());
                                  }
                                  return out;
                                });
                              }};

const golden::kind binomial{
    technique, "binomial_and_coverage", [](const json& in) -> json {
      json out;
      if (in.contains("coverage"))
        out["coverage"] = each(in.at("coverage"), [](const json& row) -> json {
          const auto range =
              support::coverage_range(number(row.at("R")), number(row.at("level")), number(row.at("alpha")));
          return {{"accept_low", range.low}, {"accept_high", range.high}};
        });
      if (in.contains("two_sided"))
        out["two_sided_p"] = each(in.at("two_sided"), [](const json& row) -> json {
          return support::binomial_two_sided(number(row.at("successes")), number(row.at("n")), number(row.at("p"))).p();
        });
      if (in.contains("intervals"))
        out["intervals"] = each(in.at("intervals"), [](const json& row) -> json {
          const double k = number(row.at("successes")), n = number(row.at("n")), level = number(row.at("level"));
          const auto exact = support::clopper_pearson(k, n, level), score = support::wilson(k, n, level);
          return {{"clopper_pearson", {exact.low, exact.high}}, {"wilson", {score.low, score.high}}};
        });
      return out;
    }};

const golden::kind sizes{
    technique, "sample_sizes", [](const json& in) -> json {
      const double alpha = number(in.at("alpha")), power = number(in.at("power"));
      json out{{"z_sum_squared", support::z_sum_squared(alpha, power)}};
      if (in.contains("relative_bias"))
        out["n_relative_bias"] = each(in.at("relative_bias"), [&](const json& row) -> json {
          return real(support::n_relative_bias(number(row.at("p")), number(row.at("bias")), alpha, power));
        });
      const auto with = [&](const char* input, const char* result, auto f) {
        if (in.contains(input)) out[result] = or_error([&]() -> json { return real(f(in.at(input))); });
      };
      with("mean_shift", "n_mean_shift",
           [&](const json& j) { return support::n_mean_shift(number(j.at("in_sd")), alpha, power); });
      with("variance_shift", "n_variance_shift_normal",
           [&](const json& j) { return support::n_variance_shift(number(j.at("relative")), alpha, power); });
      with("tv_mcdiarmid", "tv_mcdiarmid_margin",
           [&](const json& j) { return support::tv_margin(number(j.at("n")), alpha); });
      with("hoeffding", "hoeffding_margin",
           [&](const json& j) { return support::hoeffding_margin(number(j.at("n")), number(j.at("range")), alpha); });
      with("ks", "ks_detectable_shift",
           [&](const json& j) { return support::ks_detectable_shift(number(j.at("n")), alpha); });
      if (in.contains("ncp_df"))
        out["ncp_chi2"] = each(in.at("ncp_df"), [&](const json& df) -> json {
          return real(support::chi_square_noncentrality(number(df), alpha, power));
        });
      return out;
    }};

const golden::kind sprt{technique, "sprt_bernoulli", [](const json& in) -> json {
                          return or_error([&]() -> json {
                            const support::sprt_bernoulli test(number(in.at("p0")), number(in.at("p1")),
                                                               number(in.at("alpha")), number(in.at("beta")));
                            return {{"upper", test.upper()},
                                    {"lower", test.lower()},
                                    {"step_success", test.step_success()},
                                    {"step_failure", test.step_failure()},
                                    {"asn_h0", test.mean_draws_p0()},
                                    {"asn_h1", test.mean_draws_p1()},
                                    {"fixed_n", test.fixed_n()}};
                          });
                        }};

const golden::kind kernels{technique, "two_sample_kernels", [](const json& in) -> json {
                             return or_error([&]() -> json {
                               const auto x = points_of(in.at("X")), y = points_of(in.at("Y"));
                               const double h = number(in.at("bandwidth"));
                               const auto quadratic = support::mmd_squared(x, y, h);
                               json out{{"mmd2_unbiased", quadratic.unbiased},
                                        {"mmd2_biased", quadratic.biased},
                                        {"energy_distance", support::energy_distance(x, y)}};
                               if (x.size() == y.size() && x.size() >= 4) {
                                 const auto linear = support::mmd_linear(x, y, h);
                                 out["mmd2_linear_mean"] = linear.mean;
                                 out["mmd2_linear_z"] = real(linear.z);
                               }
                               return out;
                             });
                           }};

const golden::kind stein{technique, "kernel_stein", [](const json& in) -> json {
                           return or_error([&]() -> json {
                             const auto x = points_of(in.at("X"));
                             const auto mean = numbers(in.at("mean"));
                             const double variance = number(in.at("variance"));
                             const support::stein_kernel kernel{number(in.at("c")), number(in.at("beta"))};
                             const auto score = [&](const std::vector<double>& p) {
                               std::vector<double> s(p.size());
                               for (std::size_t k = 0; k < p.size(); ++k) s[k] = (mean.at(k) - p[k]) / variance;
                               return s;
                             };
                             const auto whole = support::kernel_stein(x, score, kernel);
                             json out{{"V", whole.v}, {"U", whole.u}};
                             if (in.contains("entries"))
                               out["entries"] = each(in.at("entries"), [&](const json& pair) -> json {
                                 const auto &a = x.at(pair.at(0).get<std::size_t>()),
                                            &b = x.at(pair.at(1).get<std::size_t>());
                                 return kernel(a, score(a), b, score(b));
                               });
                             return out;
                           });
                         }};

const golden::kind t_tests{technique, "t_tests", [](const json& in) -> json {
                             return or_error([&]() -> json {
                               const auto x = numbers(in.at("x")), y = numbers(in.at("y"));
                               const auto one = support::one_sample_t(x, in.contains("mu0") ? number(in.at("mu0")) : 0);
                               const auto welch = support::welch_t(x, y), rank = support::mann_whitney(x, y);
                               return {{"one_sample_t", one.statistic},    {"one_sample_p", one.p()},
                                       {"welch_t", welch.statistic},       {"welch_p", welch.p()},
                                       {"mann_whitney_U", rank.statistic}, {"mann_whitney_p", rank.p()}};
                             });
                           }};

const golden::kind correlation{
    technique, "autocorrelation", [](const json& in) -> json {
      return or_error([&]() -> json {
        const auto x = numbers(in.at("series"));
        const auto acf = support::autocorrelation(x, in.at("lags").get<std::size_t>());
        const double tau = support::geyer_tau(acf);
        return {{"acf", acf}, {"geyer_initial_monotone_tau", tau}, {"ess", real(static_cast<double>(x.size()) / tau)}};
      });
    }};

}  // namespace
