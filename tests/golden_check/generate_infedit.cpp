#include <Eigen/Core>
#include <array>
#include <cmath>
#include <cstddef>
#include <sluice/generate/attention_control.hpp>
#include <sluice/generate/ddcm.hpp>
#include <sluice/generate/guidance.hpp>
#include <sluice/generate/time_grid.hpp>
#include <sluice/models/gaussian_mixture.hpp>
#include <span>
#include <string>
#include <vector>

#include "registry.hpp"

namespace {

using golden::json;
using golden::numbers;
using golden::reals;
using sluice::index_t;
using sluice::noise_level;
using row = std::vector<double>;

noise_level variance_preserving(double abar) {
  sluice::expects(abar > 0 && abar < 1, "infedit", "abar", abar);
  return {0, std::sqrt(abar), std::sqrt(1 - abar)};
}

Eigen::MatrixXd matrix(const json& rows) {
  Eigen::MatrixXd m(static_cast<Eigen::Index>(rows.size()),
                    rows.empty() ? 0 : static_cast<Eigen::Index>(rows[0].size()));
  for (Eigen::Index i = 0; i < m.rows(); ++i)
    for (Eigen::Index j = 0; j < m.cols(); ++j)
      m(i, j) = golden::number(rows[static_cast<std::size_t>(i)][static_cast<std::size_t>(j)]);
  return m;
}
json nested(const Eigen::MatrixXd& m) {
  json out = json::array();
  for (Eigen::Index i = 0; i < m.rows(); ++i) {
    json line = json::array();
    for (Eigen::Index j = 0; j < m.cols(); ++j) line.push_back(golden::real(m(i, j)));
    out.push_back(line);
  }
  return out;
}

sluice::vp_discrete schedule_of(const json& in) {
  const row ends = numbers(in.at("scaled_linear"));
  return sluice::vp_discrete::scaled_linear(in.at("N").get<index_t>(), ends.at(0), ends.at(1));
}

const golden::kind schedule{"infedit", "schedule", [](const json& in) -> json {
                              return golden::or_error([&]() -> json {
                                const auto s = schedule_of(in);
                                const auto steps = sluice::consistency_indices(
                                    in.at("lcm_steps").get<index_t>(), s.n_steps(), in.at("original").get<index_t>());
                                row abar;
                                for (const index_t i : steps) abar.push_back(s.at_index(i).alpha * s.at_index(i).alpha);
                                return {{"timesteps", steps}, {"abar", reals(abar)}};
                              });
                            }};

const golden::kind ddcm_step{
    "infedit", "ddcm_step", [](const json& in) -> json {
      return golden::or_error([&]() -> json {
        const noise_level l = variance_preserving(golden::number(in.at("abar_t"))),
                          to = variance_preserving(golden::number(in.at("abar_prev")));
        const row xs = numbers(in.at("xs")), xt = numbers(in.at("xt")), es = numbers(in.at("es")),
                  et = numbers(in.at("et")), x0 = numbers(in.at("x0")), xi = numbers(in.at("noise"));
        for (const row* x : {&xs, &xt, &es, &et, &xi}) sluice::expects(x->size() == x0.size(), "ddcm_step", "size", 0);
        const auto data = sluice::conversion(sluice::predicts::noise, sluice::predicts::data, l);
        row source(x0.size()), z(x0.size()), n(x0.size()), next_s(x0.size()), next_t(x0.size());
        sluice::lincomb(source, data.x, xs, data.p, es);
        sluice::lincomb(z, data.x, xt, data.p, et);
        sluice::edited_estimate(z, source, x0);
        sluice::implied_noise(n, xt, z, l);
        json rows = json::array();
        for (const double eta : numbers(in.at("eta")))
          rows.push_back(golden::or_error([&]() -> json {
            sluice::renoised_state(next_s, x0, n, xi, to, eta);
            sluice::renoised_state(next_t, z, n, xi, to, eta);
            return {{"xs", reals(next_s)}, {"xt", reals(next_t)}, {"z", reals(z)}};
          }));
        return {{"rows", rows}};
      });
    }};

/// The components with this label, or all; uniform weights.
auto prompt(const json& in, index_t label) {
  const Eigen::MatrixXd means = matrix(in.at("means"));
  const auto labels = in.at("object_label").get<std::vector<index_t>>();
  Eigen::VectorXd weight(means.rows());
  for (Eigen::Index j = 0; j < weight.size(); ++j)
    weight(j) = label < 0 || labels[static_cast<std::size_t>(j)] == label ? 1 : 0;
  const double sd = std::sqrt(golden::number(in.at("var")));
  return sluice::prediction<sluice::predicts::data>(
      sluice::models::gaussian_mixture(weight, means.transpose(), Eigen::VectorXd::Constant(weight.size(), sd)));
}

const golden::kind edit_trajectory{
    "infedit", "edit_trajectory", [](const json& in) -> json {
      return golden::or_error([&]() -> json {
        const json& plan = in.at("schedule");
        const auto s = schedule_of(plan);
        std::vector<noise_level> levels;
        for (const index_t i : sluice::consistency_indices(in.at("steps").get<index_t>(), s.n_steps(),
                                                           plan.at("original").get<index_t>()))
          levels.push_back(s.at_index(i));
        const row x0 = numbers(in.at("x0")), start = numbers(in.at("xT"));
        // Draw i makes the states of level i; the file numbers the noise by the step that leads there.
        const auto noise = [&](Eigen::VectorXd& out, index_t i, const noise_level&, const noise_level&) {
          const row xi = i == 0 ? start : numbers(in.at("noises").at(static_cast<std::size_t>(i - 1)));
          out = Eigen::Map<const Eigen::VectorXd>(xi.data(), static_cast<Eigen::Index>(xi.size()));
        };
        const Eigen::VectorXd datum = Eigen::Map<const Eigen::VectorXd>(x0.data(), std::ssize(x0));
        const auto source = prompt(in, in.at("source_object").get<index_t>());
        const auto target = prompt(in, in.at("target_object").get<index_t>());
        json finals = json::array();
        row first;
        for (const json& run : in.at("runs")) {
          Eigen::VectorXd z(datum.size());
          const auto editor = sluice::ddcm{
              .eta = golden::number(run.at("eta")),
              .start = run.at("start") == "noise" ? sluice::edit_start::noise : sluice::edit_start::noised};
          row after;
          const auto watch = [&](index_t i, const noise_level&, const auto& state) {
            if (i == 0) after.assign(state.begin(), state.end());
            return true;
          };
          const auto with = [&](auto model) {
            const auto r = sluice::edit(
                editor, sluice::conditions(prompt(in, in.at("source_object").get<index_t>()), std::move(model)), z,
                datum, levels, {}, noise, sluice::no_blend{}, watch);
            if (r.status != sluice::status::completed) z.setConstant(std::nan(""));
          };
          if (run.at("target") == "source")
            with(source);
          else if (run.at("target") == "target")
            with(target);
          else
            with(sluice::guided(target, prompt(in, -1), datum, golden::number(in.at("guidance_target"))));
          if (std::ssize(finals) == in.value("first_step_of_run", index_t{0})) first = after;
          finals.push_back(reals(z));
        }
        const auto skip = static_cast<std::ptrdiff_t>(in.at("dims_object").get<index_t>());
        return {{"runs", finals},
                {"after_first_step", reals(first)},
                {"background_of_x0", reals(row(x0.begin() + skip, x0.end()))}};
      });
    }};

const golden::kind attention_and_blend{
    "infedit", "attention_and_blend", [](const json& in) -> json {
      return golden::or_error([&]() -> json {
        std::array<Eigen::MatrixXd, 3> q, k, v, out;
        for (std::size_t b = 0; b < 3; ++b) {
          q[b] = matrix(in.at("q").at(b));
          k[b] = matrix(in.at("k").at(b));
          v[b] = matrix(in.at("v").at(b));
        }
        Eigen::MatrixXd weights;
        json result;
        for (const auto phase : {sluice::attention_phase::layout, sluice::attention_phase::mutual}) {
          sluice::controlled_self_attention(out, weights, q, k, v, golden::number(in.at("scale")), phase);
          json branches = json::array();
          for (const auto& o : out) branches.push_back(nested(o));
          result[phase == sluice::attention_phase::layout ? "self_early" : "self_late"] = branches;
        }
        const Eigen::MatrixXd source = matrix(in.at("cross_source")), target = matrix(in.at("cross_target"));
        Eigen::MatrixXd refined = target;
        sluice::refine_cross_attention(refined, source, target, in.at("mapper").get<std::vector<index_t>>(),
                                       numbers(in.at("alphas")));
        result["cross_refined"] = nested(refined);

        const row map_e = numbers(in.at("map_e")), map_m = numbers(in.at("map_m"));
        const sluice::local_blend<double> blend{.map_e = map_e,
                                                .map_m = map_m,
                                                .edit_threshold = golden::number(in.at("th_e")),
                                                .keep_threshold = golden::number(in.at("th_m"))};
        row x = numbers(in.at("xt"));
        blend.check(std::ssize(x), 1);
        const noise_level l = variance_preserving(golden::number(in.at("abar")));
        blend({1, 0, 8, l}, x, numbers(in.at("xs")), numbers(in.at("xm")));
        result["blend"] = reals(x);
        result["blend_threshold"] = golden::real(sluice::blend_threshold(blend.edit_threshold, l));
        return result;
      });
    }};

}  // namespace
