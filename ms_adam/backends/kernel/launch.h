// One launch: reads the inputs, makes the tasks and carries out one step.
//
// Inputs, in order:
//   formulas                                   float64: of the optimizer, then of each group
//   plan                                       int64
//   global_step                                int32: steps that schedules have seen
//   update_count                               int32: updates made; increased by one
//   beta1_power, beta2_power, counted_power    float32: set to beta1^t, beta2^t and beta2^t. If the
//                                              last two differ, the state of another optimizer was
//                                              loaded and global_step is its count
//                                              (scalars.UpdateCount)
//   norm                                       if gradients are clipped: float32, set to their norm
//   skipped, skipped_in_row                    if steps are skipped: int32, how many were, in all
//                                              and since the last that was not
//   scale, counter                             of a loss scaler: float32; int32, if the scale moves
//   accumulated                                if gradients are accumulated: int32, how many are in
//                                              the accumulators
//   ema_weight                                 if a schedule gives the decay of unbiased averages:
//                                              float64, the sum of the weights of all their terms
//   learning rates, weight decays              float32, one for each group
//   ema_decay                                  if a schedule gives it: float32
//   gradients                                  one for each weight; none in a launch that updates
//                                              with what is in the accumulators
//   indices                                    if any gradient is row-sparse: one for each weight,
//                                              int32 or int64; one axis, or none if it is dense
//   weights                                    one for each weight; of a master of which the
//                                              parameter has the first bits, int16, the others
//   parameters                                 one for each master weight
//   moment1, moment2, vhat (AMSGrad), ema      one for each weight that is updated here, of that
//                                              size; or the flat buffers. Moments in bytes are
//                                              followed by the exponents of their blocks
//   accumulators                               if gradients are accumulated: one for each weight, of
//                                              the shape of its gradient
// A launch that only accumulates lacks weights, parameters and moments.
// Output: int32, 1 if the weights were updated, else 0.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "inputs.h"
#include "narrow.h"
#include "numbers.h"
#include "rows.h"
#include "step.h"
#include "sums.h"
#include "tail.h"
#include "tasks.h"
#include "threads.h"

namespace {

// The inputs before the tensors of each weight.
struct Head {
  const Formula* formulas;  // of the optimizer, then of each group
  Plan plan;
  const Layout* layouts;
  const int32_t* global_step;
  int32_t* update_count;
  float *beta1_power, *beta2_power, *counted_power;
  float* norm = nullptr;       // if gradients are clipped
  int32_t *skipped = nullptr, *skipped_in_row = nullptr;  // if steps are skipped
  float* scale = nullptr;      // of a loss scaler
  int32_t* counter = nullptr;  // of a loss scaler that moves its scale
  int32_t* accumulated = nullptr;  // if gradients are accumulated
  double* ema_weight = nullptr;    // if a schedule gives the decay of unbiased averages
  double ema_decay;
  std::vector<double> learning_rates, weight_decays;

  const Formula& formula() const { return formulas[0]; }
  double loss_scale() const { return scale ? *scale : formula().loss_scale; }
};

int read_head(Inputs& inputs, Head& head) {
  const Tensor formulas = inputs.next(), plan = inputs.next();
  std::memcpy(&head.plan, plan.data, sizeof head.plan);
  if (plan.size * sizeof(int64_t) != sizeof(Plan) + head.plan.weights * sizeof(Layout))
    return malformed;
  head.layouts = reinterpret_cast<const Layout*>(plan.data + sizeof(Plan));
  if (formulas.size * sizeof(double) != (1 + head.plan.groups) * sizeof(Formula)) return malformed;
  head.formulas = reinterpret_cast<const Formula*>(formulas.data);

  const Tensor global_step = inputs.next(), update_count = inputs.next();
  if (global_step.kind != Kind::Int32 || update_count.kind != Kind::Int32) return malformed;
  head.global_step = reinterpret_cast<const int32_t*>(global_step.data);
  head.update_count = reinterpret_cast<int32_t*>(update_count.data);
  for (float** power : {&head.beta1_power, &head.beta2_power, &head.counted_power})
    *power = reinterpret_cast<float*>(inputs.next().data);
  if (head.formula().max_grad_norm < std::numeric_limits<double>::infinity())
    head.norm = reinterpret_cast<float*>(inputs.next().data);
  if (head.formula().skips != 0)
    for (int32_t** number : {&head.skipped, &head.skipped_in_row})
      *number = reinterpret_cast<int32_t*>(inputs.next().data);
  if (head.formula().scale_window >= 0) head.scale = reinterpret_cast<float*>(inputs.next().data);
  if (head.formula().scale_window > 0) head.counter = reinterpret_cast<int32_t*>(inputs.next().data);
  if (head.formula().accumulate_steps > 1)
    head.accumulated = reinterpret_cast<int32_t*>(inputs.next().data);
  const bool scheduled = head.formula().ema_scheduled != 0;
  if (scheduled && head.formula().ema_debias != 0)
    head.ema_weight = reinterpret_cast<double*>(inputs.next().data);
  const auto read_number = [&inputs](double& number) {
    const Tensor value = inputs.next();
    if (value.kind != Kind::Float32 || value.size != 1) return false;
    number = *reinterpret_cast<const float*>(value.data);
    return true;
  };
  for (auto* values : {&head.learning_rates, &head.weight_decays}) {
    values->resize(head.plan.groups);
    for (double& value : *values)
      if (!read_number(value)) return malformed;
  }
  head.ema_decay = head.formula().ema_decay;
  if (scheduled && !read_number(head.ema_decay)) return malformed;
  return 0;
}

// The tensors of each weight; empty ones where a weight has none.
struct Tensors {
  std::vector<Tensor> gradients, indices, weights, parameters;
  std::vector<Tensor> moments;  // all first moments, then all second ones, ...
  int64_t stride = 0;           // how many there are of each
  std::vector<Tensor> accumulators;
  bool flushes = false;     // whether there are no gradients, and the accumulators take their place
  int32_t* made = nullptr;  // the output

  // Lets the update read the accumulators.
  void take_accumulators() {
    gradients = accumulators;
    indices.assign(gradients.size(), Tensor());
  }
};

int read_tensors(Inputs& inputs, const Head& head, int moments, bool updates, Tensors& tensors) {
  const int64_t weights = head.plan.weights;
  const Layout* const layouts = head.layouts;
  int64_t owned = 0, masters = 0;
  for (int64_t i = 0; i < weights; ++i) {
    owned += layouts[i].own_size >= 0;
    masters += layouts[i].is_master;
  }
  tensors.stride = head.plan.buffers ? head.plan.buffers : owned;
  const int64_t accumulators = head.accumulated ? weights : 0;
  const int64_t updated = updates ? weights + masters + moments * tensors.stride : 0;
  const int64_t state = updated + accumulators + 1;
  tensors.flushes = updates && head.accumulated && inputs.left() == state;
  if (!tensors.flushes) {
    for (int64_t i = 0; i < weights; ++i) tensors.gradients.push_back(inputs.next());
    const Kind after = inputs.peek().kind;
    const bool any_sparse = after == Kind::Int32 || after == Kind::Int64;
    for (int64_t i = 0; i < weights; ++i)
      tensors.indices.push_back(any_sparse ? inputs.next() : Tensor());
  }
  if (inputs.left() != state) return malformed;
  if (updates) {
    for (int64_t i = 0; i < weights; ++i) tensors.weights.push_back(inputs.next());
    for (int64_t i = 0; i < weights; ++i)
      tensors.parameters.push_back(layouts[i].is_master ? inputs.next() : Tensor());
    for (int64_t i = 0; i < moments * tensors.stride; ++i) tensors.moments.push_back(inputs.next());
  }
  for (int64_t i = 0; i < accumulators; ++i) tensors.accumulators.push_back(inputs.next());
  if (!updates) {  // the accumulators have the weights' shapes, and the types of their steps
    tensors.weights = tensors.accumulators;
    tensors.parameters.resize(weights);
  }
  if (tensors.flushes) tensors.take_accumulators();
  tensors.made = reinterpret_cast<int32_t*>(inputs.next().data);
  return 0;
}

// Finds where a moment of a weight begins, and its exponents if it is in bytes, given the first of
// the tensors of this moment and the number of weights before it that are updated here. Returns false
// if the state does not fit.
bool find_moment(const Tensor* moment, int64_t nth, int64_t buffers, const Layout& layout,
                 Kind kind, char*& data, char*& exponents) {
  const int64_t size = layout.own_size;
  if (!buffers) {
    moment += nth;
    data = moment->data;
    if (kind != Kind::Uint8) return moment->kind == kind && moment->size == size;
    exponents = data + size;
    return moment->kind == kind && moment->size == size + blocks_of(size);
  }
  const Tensor* const end = moment + buffers;
  while (moment < end && moment->kind != kind) ++moment;
  if (moment == end || layout.offset < 0 || layout.offset + layout.own_size > moment->size)
    return false;
  data = moment->data + layout.offset * width(kind);
  return true;
}

// The type in which a moment of a weight is stored.
Kind moment_kind(const Formula& formula, Kind weight) {
  if (formula.narrow == 16) return Kind::Bfloat16;
  return formula.narrow == 8 ? Kind::Uint8 : computed_kind(weight);
}

int make_tasks(const Head& head, const Tensors& tensors, const Method& method, bool updates,
               Tasks& tasks, SparseRows& sparse_rows, Report& report) {
  const Formula& formula = head.formula();
  for (int64_t i = 0, nth = 0; i < head.plan.weights; ++i) {
    report.gradient = i;
    const Tensor &gradient = tensors.gradients[i], &indices = tensors.indices[i];
    const Tensor &weight = tensors.weights[i], &parameter = tensors.parameters[i];
    const Layout& layout = head.layouts[i];
    const bool owns = updates && layout.own_size >= 0, is_master = updates && layout.is_master;
    const bool sparse = indices.axes == 1;
    // A master weight has only the elements that are updated here; its parameter has all.
    const Tensor& whole = is_master ? parameter : weight;
    const int64_t rows = whole.axes ? whole.shape[0] : 0, row = rows ? whole.size / rows : 0;
    if (gradient.size != (sparse ? indices.size * row : whole.size)) return unfit_gradient;
    if (owns && (layout.own_begin < 0 || layout.own_begin + layout.own_size > whole.size))
      return malformed;
    if (is_master && weight.size != layout.own_size) return malformed;
    if (layout.group < 0 || layout.group >= head.plan.groups) return malformed;

    Task task;
    task.size = whole.size;
    task.own_begin = owns ? layout.own_begin : 0;
    task.own_end = owns ? layout.own_begin + layout.own_size : 0;
    task.group = layout.group;
    task.l2 = layout.decayed && !formula.decoupled;
    task.decoupled_decay = layout.decayed && formula.decoupled;
    task.centralized = layout.centralized && whole.axes > 1;
    task.lazy = formula.lazy && whole.axes > 1 && !sparse;
    if (task.centralized || task.lazy) task.row = task.unit = row;
    task.number = i;
    task.gradient = gradient.data;
    task.gradient_kind = gradient.kind;
    // Tensors of own elements only are addressed as if they had all elements.
    task.weight = weight.data - (is_master ? task.own_begin * width(weight.kind) : 0);
    task.parameter = parameter.data;

    const Kind computed = computed_kind(weight.kind), stored = moment_kind(formula, weight.kind);
    if (stored == Kind::Uint8) {
      // A block is not divided, neither between ranks nor between rows.
      if (task.row || (owns && layout.own_size != whole.size)) return unfit_state;
      task.unit = block_size;
    }
    const auto find = [&](int k, Kind kind, char*& data, char*& exponents) {
      const Tensor* const moments = &tensors.moments[k * tensors.stride];
      if (!find_moment(moments, nth, head.plan.buffers, layout, kind, data, exponents)) return false;
      data -= task.own_begin * width(kind);
      return true;
    };
    char* none;
    char** const pointers[] = {&task.moment1, &task.moment2, &task.vhat};
    for (int k = 0; k < method.moments && owns; ++k)
      if (!find(k, stored, *pointers[k], task.exponents[k])) return unfit_state;
    if (formula.ema_decay >= 0 && owns && !find(method.moments, computed, task.ema, none))
      return unfit_state;
    nth += owns;
    if (head.accumulated) {
      const Tensor& accumulator = tensors.accumulators[i];
      if (accumulator.kind != computed || accumulator.size != whole.size) return unfit_state;
      task.accumulator = accumulator.data;
      task.accumulate = accumulate_of(gradient.kind, computed);
    }

    task.update = method.update_of(weight.kind, parameter.kind, stored);
    task.average = average_of(weight.kind, parameter.kind);
    task.sum_gradient = sum_of<false>(gradient.kind);
    task.sum_weight = sum_weight_of(weight.kind, parameter.kind);
    task.squares = sum_of<true>(gradient.kind);
    if (!task.update || !task.squares) return unfit_gradient;
    task.is_zero = is_zero_of(gradient.kind);
    task.is_finite = is_finite_of(gradient.kind);
    if (!sparse) {
      tasks.add(task);
      continue;
    }
    Task summed = task;
    summed.gradient_kind = computed;
    summed.sum_gradient = sum_of<false>(computed);
    summed.squares = sum_of<true>(computed);
    summed.is_finite = is_finite_of(computed);
    summed.accumulate = accumulate_of(computed, computed);
    const SparseRows::Table table{task,          summed,         rows,   row,     weight.kind,
                                  parameter.kind, gradient.kind, stored, computed};
    if (!row) continue;
    const bool known = stored == Kind::Uint8
                           ? sparse_rows.densify(table, indices, gradient, tasks, report)
                           : sparse_rows.split(table, indices, gradient, formula.lazy, tasks, report);
    if (!known) return unknown_row;
  }
  return 0;
}

// Returns the number of this update, 1 for the first.
int64_t count_of(const Head& head) {
  if (*head.beta2_power == *head.counted_power) return int64_t(*head.update_count) + 1;
  const bool none_made = *head.beta2_power == 1.0f;
  return int64_t(none_made ? 0 : std::max(*head.global_step, 0)) + 1;
}

// Moves the loss scale and counts a launch that is skipped. Returns whether it goes on.
bool judge(const Head& head, bool finite, Report& report) {
  if (head.counter) adjust_scale(head.formula(), finite, *head.scale, *head.counter);
  if (head.skipped) {
    *head.skipped += !finite;
    report.skipped_in_row = *head.skipped_in_row = finite ? 0 : *head.skipped_in_row + 1;
  }
  return finite;
}

// Makes a step; without `updates`, only accumulates. Returns 0; or a Failure with its details in
// `report`, and has changed nothing.
int launch(int count, void** data, int* axes, int64_t** shapes, const char** dtypes,
           bool updates, Report& report) {
  const FloatMode mode;
  Inputs inputs(count, data, axes, shapes, dtypes);
  Head head;
  if (const int failure = read_head(inputs, head)) return failure;
  const Formula& formula = head.formula();
  const Method method = method_for(formula);
  Tensors tensors;
  const int moments = method.moments + (formula.ema_decay >= 0);
  if (const int failure = read_tensors(inputs, head, moments, updates, tensors)) return failure;
  const bool in_time = head.accumulated && *head.accumulated + 1 < formula.accumulate_steps;
  if (!updates && !in_time) return malformed;

  static thread_local Tasks tasks;  // keeps its memory: the system is slow to give new memory
  tasks.clear();
  SparseRows sparse_rows;
  if (const int failure = make_tasks(head, tensors, method, updates, tasks, sparse_rows, report))
    return failure;

  *tensors.made = 0;
  double divisor = head.loss_scale();
  bool finite = !head.skipped;  // known to be
  if (head.accumulated) {
    int32_t count = *head.accumulated;
    if (!tensors.flushes) {
      if (!judge(head, finite || all_finite(tasks, head.plan.threads), report)) return 0;
      accumulate(tasks, head.plan.threads, 1.0 / divisor, count == 0);
      ++count;
    }
    const bool due = count >= (tensors.flushes ? 1 : formula.accumulate_steps);
    *head.accumulated = due ? 0 : count;
    if (!due) return 0;
    divisor = count;
    tasks.clear();
    tensors.take_accumulators();
    if (const int failure = make_tasks(head, tensors, method, updates, tasks, sparse_rows, report))
      return failure;
  }

  const int64_t t = count_of(head);
  const AverageRate average(formula, t, head.ema_decay, head.ema_weight ? *head.ema_weight : 0.0);
  const Keys keys = formula.narrow != 0 ? Keys(uint32_t(formula.seed), uint32_t(t)) : Keys();
  std::vector<Step> steps;
  for (int64_t i = 0; i < head.plan.groups; ++i) {
    // At least 1: a state that was loaded may be from before the group joined.
    const double own_t = std::max(1.0, t - head.formulas[1 + i].begun);
    steps.push_back(method.scalars(head.formulas[1 + i], divisor, own_t, head.learning_rates[i],
                                   head.weight_decays[i]));
    steps.back().keys = &keys;
    steps.back().ema_rate = average.rate;
    steps.back().ema_begins = average.begins;
  }
  if (head.norm) {
    const double norm = global_norm(tasks, head.plan.threads, divisor);
    finite |= std::isfinite(norm);
    // A norm of NaN clips nothing, as in ops.clip_by_global_norm: a NaN reaches only its own weight.
    if (norm > formula.max_grad_norm)
      for (Step& step : steps) step.gradient_scale *= formula.max_grad_norm / norm;
    *head.norm = float(norm);
  }
  // A norm that is not finite proves nothing: squares of float64 can overflow.
  if (!head.accumulated && !judge(head, finite || all_finite(tasks, head.plan.threads), report))
    return 0;
  *tensors.made = 1;
  for_each_chunk(tasks.chunks(), head.plan.threads, [&, &tasks = tasks](int64_t chunk) {
    step_chunk(tasks, chunk, steps.data());
  });

  if (head.ema_weight) *head.ema_weight = average.sum;
  *head.update_count = int32_t(t);
  *head.beta1_power = float(std::pow(formula.beta1, t));
  // AdaMax has one power, which stands for both.
  const double beta2 = formula.infinity_norm ? formula.beta1 : formula.beta2;
  *head.beta2_power = *head.counted_power = float(std::pow(beta2, t));
  return 0;
}

}  // namespace
