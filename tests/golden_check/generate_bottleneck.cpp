#include <Eigen/Core>
#include <functional>
#include <sluice/generate/bottleneck.hpp>
#include <sluice/generate/ddim.hpp>
#include <sluice/generate/dpm_solver.hpp>
#include <sluice/models/texture_mixture.hpp>
#include <vector>

#include "registry.hpp"

namespace {

using golden::json;
using golden::number;
using golden::numbers;
using sluice::index_t;
using sluice::noise_level;
using sluice::predicts;
using sluice::rectified_flow;

/// An image of one channel, in rows.
struct picture {
  index_t height = 0, width = 0;
  std::vector<double> pixels;
  sluice::image_shape shape() const { return {1, height, width}; }
};
picture read(const json& rows) {
  picture p{static_cast<index_t>(rows.size()), static_cast<index_t>(rows.at(0).size()), {}};
  for (const json& row : rows)
    for (const double v : numbers(row)) p.pixels.push_back(v);
  return p;
}
json write(const std::vector<double>& pixels, index_t width) {
  json rows = json::array();
  for (std::size_t i = 0; i < pixels.size(); i += static_cast<std::size_t>(width)) {
    json row = json::array();
    for (index_t j = 0; j < width; ++j) row.push_back(golden::real(pixels[i + static_cast<std::size_t>(j)]));
    rows.push_back(row);
  }
  return rows;
}
/// The leading block of an image.
std::vector<double> leading(const picture& p, index_t height, index_t width) {
  std::vector<double> block;
  for (index_t i = 0; i < height; ++i)
    for (index_t j = 0; j < width; ++j) block.push_back(p.pixels[static_cast<std::size_t>(i * p.width + j)]);
  return block;
}

const golden::kind shift_and_grids{"bottleneck-sampling", "shift_and_grids", [](const json& in) -> json {
                                     json shifts = json::array(), grids = json::array();
                                     for (const double s : numbers(in.at("s"))) {
                                       json row = json::array();
                                       for (const double t : numbers(in.at("t")))
                                         row.push_back(sluice::time_shift(t, s));
                                       shifts.push_back(row);
                                     }
                                     for (const json& g : in.at("stages"))
                                       grids.push_back(golden::reals(sluice::stage_times(
                                           g.at(2).get<index_t>(), number(g.at(3)), number(g.at(0)), number(g.at(1)))));
                                     return {{"S", shifts}, {"grids", grids}};
                                   }};

const golden::kind transitions{
    "bottleneck-sampling", "transitions", [](const json& in) -> json {
      const picture x = read(in.at("x")), xi = read(in.at("xi"));
      const index_t f = in.at("factor").get<index_t>();
      const sluice::image_shape low = sluice::coarser(x.shape(), f), high{1, x.height * f, x.width * f};
      const double t_down = number(in.at("t_down")), t_up = number(in.at("t_up"));
      const rectified_flow flow;
      json out;

      // The policy itself, as the driver uses it. `xi` may be larger than the image.
      const auto change = [&](const sluice::exact_transition& policy, index_t from, index_t to, double end,
                              const sluice::image_shape& target, double& restart) {
        restart = policy.restart({.index = 0, .count = 1, .end = end, .from = from, .to = to});
        std::vector<double> y(static_cast<std::size_t>(target.size())), unused;
        policy.bind<double>({x.shape(), target, from, to, flow.at(end), flow.at(restart)})(
            y, x.pixels, unused, unused, [&](auto& noise) { noise = leading(xi, target.height, target.width); });
        return write(y, target.width);
      };
      double restart = 0;
      out["down"] = change({}, 1, f, t_down, low, restart);
      out["down_t"] = restart;
      out["up"] = change({}, f, 1, t_up, high, restart);
      out["up_t"] = restart;
      out["up_general"] = change({.residual = number(in.at("c"))}, f, 1, t_up, high, restart);
      out["up_general_t"] = restart;

      const auto resized = [&](const sluice::image_shape& to, const auto& kernel) {
        std::vector<double> y(static_cast<std::size_t>(to.size()));
        sluice::image_resizer<double>(x.shape(), to, kernel)(y, x.pixels);
        return write(y, to.width);
      };
      out["bilinear_up"] = resized(high, sluice::bilinear_kernel{});
      out["lanczos_up"] = resized(high, sluice::lanczos3_kernel{});
      out["bilinear_down"] = resized(low, sluice::bilinear_kernel{});
      out["lanczos_down"] = resized(low, sluice::lanczos3_kernel{});
      const auto odd = in.at("odd_size").get<std::vector<index_t>>();
      out["lanczos_odd"] = resized({1, odd.at(0), odd.at(1)}, sluice::lanczos3_kernel{});

      // The paper's policy where the size stays: the estimate of the data is x.
      const sluice::renoise_transition<> paper{.tau = {t_up}};
      std::vector<double> y(x.pixels.size()), unused;
      paper.bind<double>({x.shape(), x.shape(), 1, 1, flow.at(t_up), flow.at(t_up)})(
          y, x.pixels, x.pixels, unused, [&](auto& noise) { noise = leading(xi, x.height, x.width); });
      out["renoise"] = write(y, x.width);
      return out;
    }};

sluice::models::texture_law read_law(const json& in) {
  sluice::models::texture_law law;
  law.r = in.at("R").get<index_t>();
  const auto w = numbers(in.at("w"));
  law.weights = Eigen::Map<const Eigen::VectorXd>(w.data(), std::ssize(w));
  law.means.resize(law.r * law.r, std::ssize(w));
  for (index_t j = 0; j < std::ssize(w); ++j) {
    const picture p = read(in.at("mu").at(static_cast<std::size_t>(j)));
    law.means.col(j) = Eigen::Map<const Eigen::VectorXd>(p.pixels.data(), law.r * law.r);
  }
  law.spectrum = sluice::models::texture_spectrum(law.r, number(in.at("a")), number(in.at("c")));
  return law;
}

/// The noise of a run, given: the start and the two transitions.
struct given_noise {
  const std::vector<double>*start, *down, *up;
  void operator()(Eigen::VectorXd& out, index_t i, const noise_level&, const noise_level&) const {
    const auto& from = i == 0 ? *start : i == 1 ? *down : *up;
    out = Eigen::Map<const Eigen::VectorXd>(from.data(), std::ssize(from));
  }
};

template <class Recipe>
json trajectory(const json& in, const json& run, const Recipe& recipe) {
  const auto law = read_law(in.at("model"));
  const picture x_t = read(in.at("x_T")), up = read(in.at("xi_up")), down = read(in.at("xi_down"));
  const given_noise noise{&x_t.pixels, &down.pixels, &up.pixels};
  const auto shifts = numbers(in.at("shifts")), tau = numbers(in.at("tau"));
  const auto steps = in.at("steps").get<std::vector<index_t>>();
  const index_t f = in.at("factor").get<index_t>();

  std::int64_t calls[2] = {0, 0};
  const auto counted = [&](sluice::models::texture_law of, std::int64_t& n) {
    return sluice::prediction<predicts::data>([m = sluice::models::texture_mixture<>(std::move(of)), &n](
                                                  const auto& x, const noise_level& l, auto& y) mutable {
      ++n;
      m(x, l, y);
    });
  };
  auto low_law = law;
  for (index_t k = f; k > 1; k /= 2) low_law = sluice::models::low_resolution(low_law);
  std::vector<sluice::bottleneck_stage> stages = {{1, steps.at(0), shifts.at(0), number(in.at("T1"))},
                                                  {f, steps.at(1), shifts.at(1), number(in.at("T3"))},
                                                  {1, steps.at(2), shifts.at(2), 0}};
  const auto policy = run.at("policy").get<std::string>();
  if (policy == "full") stages = {{1, run.at("steps").get<index_t>(), number(run.at("shift")), 0}};
  Eigen::VectorXd x = Eigen::VectorXd::Zero(law.r * law.r);
  const auto drawn = [&](const auto& transition) {
    using transition_type = std::remove_cvref_t<decltype(transition)>;
    const sluice::bottleneck<Recipe, transition_type> plan{
        .recipe = recipe, .image = {1, law.r, law.r}, .stages = stages, .transition = transition};
    if (f == 1) return sample(plan, counted(law, calls[0]), x, {}, noise);
    auto models = sluice::by_factor<1, 2>(counted(law, calls[0]), counted(low_law, calls[1]));
    sluice::expects(f == 2, "trajectories", "factor", f);
    return sample(plan, std::move(models), x, {}, noise);
  };
  const auto kernel = run.value("resize", std::string("lanczos3"));
  const auto r = policy != "paper"      ? drawn(sluice::exact_transition{})
                 : kernel == "lanczos3" ? drawn(sluice::renoise_transition<sluice::lanczos3_kernel>{.tau = tau})
                 : kernel == "bilinear" ? drawn(sluice::renoise_transition<sluice::bilinear_kernel>{.tau = tau})
                                        : drawn(sluice::renoise_transition<sluice::box_kernel>{.tau = tau});
  json out{{"x", write({x.data(), x.data() + x.size()}, law.r)}};
  if (policy == "full") return out;
  const bool as_counted = r.calls(1) == calls[0] && (f == 1 || r.calls(f) == calls[1]);
  out["calls_high"] = as_counted ? json(calls[0]) : json("calls counted otherwise than made");
  out["calls_low"] = calls[1];
  out["t_low_start"] = r.stages.at(1).first.t;
  out["t_high_restart"] = r.stages.at(2).first.t;
  return out;
}

const golden::kind trajectories{
    "bottleneck-sampling", "trajectories", [](const json& in) -> json {
      return golden::or_error([&]() -> json {
        json runs = json::array();
        for (const json& run : in.at("runs")) {
          const auto solver = run.at("solver").get<std::string>();
          if (solver == "euler")
            runs.push_back(trajectory(in, run, sluice::ddim<>{}));
          else if (solver == "2m")
            runs.push_back(trajectory(in, run, sluice::dpm_multistep<2>{.lower_order_final = false}));
          else
            runs.push_back("unknown solver");
        }
        return {{"runs", runs}};
      });
    }};

const golden::kind cost_model{
    "bottleneck-sampling", "cost_model", [](const json& in) -> json {
      return golden::or_error([&]() -> json {
        json rows = json::array();
        const index_t f = in.at("f").get<index_t>();
        for (const json& steps : in.at("steps"))
          for (const double p : numbers(in.at("p_quad"))) {
            std::vector<sluice::bottleneck_stage> stages;
            for (std::size_t i = 0; i < steps.size(); ++i)
              stages.push_back({.factor = i % 2 == 0 ? 1 : f, .steps = steps[i].get<index_t>()});
            const double cost = sluice::full_call_equivalents(stages, p);
            rows.push_back({{"steps", steps},
                            {"p_quad", p},
                            {"full_call_equivalents", cost},
                            {"speedup", number(in.at("baseline_steps")) / cost}});
          }
        return {{"rows", rows}};
      });
    }};

}  // namespace
