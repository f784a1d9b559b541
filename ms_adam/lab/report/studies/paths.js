// Methods of ms_adam/reference, in the order of operations that they have there.
// tests/lab/report/studies/test_trajectory_page.py compares.
"use strict";

const { cos, sin, PI: pi } = Math; // names in the formulas of ms_adam/lab/problems/functions.py

// f and its gradient, of the plane, from their formulas in x and y.
function plane(formulas) {
  const [value, dx, dy] = formulas.map((text) => new Function("x", "y", `return ${text}`));
  return [value, (x, y) => [dx(x, y), dy(x, y)]];
}

// The mean squared error of a linear model of two weights on a batch: w A w - 2 b w + c.
function quadratic([a11, a12, a22, b1, b2, c]) {
  return [
    (x, y) => a11 * x ** 2 + 2 * a12 * x * y + a22 * y ** 2 - 2 * (b1 * x + b2 * y) + c,
    (x, y) => [2 * (a11 * x + a12 * y - b1), 2 * (a12 * x + a22 * y - b2)],
  ];
}

function correction(beta, t) {
  return beta > 0 ? -Math.expm1(t * Math.log(beta)) : 1;
}

function root(o, square) {
  return o.epsilon === "inside" ? Math.sqrt(square + o.eps) : Math.sqrt(square) + o.eps;
}

function regularized(o, w, g, decay) {
  return (o.maximize ? -g : g) / o.loss_scale + decay * w;
}

// Of a method's numbers: the step of one element, (w, g, t) -> w, which keeps its state.
const METHODS = {
  SGD: (o) => (w, g) => w - o.learning_rate * g,
  Momentum: (o) => {
    let v = 0;
    return (w, g, t) => {
      if (o.form === "scaled") {
        v = o.rho * v - o.learning_rate * g;
        return w + v;
      }
      v = o.rho * v + (o.form === "ema" ? (1 - o.rho) * g : g);
      return w - (o.learning_rate * v) / (o.bias_correction ? correction(o.rho, t) : 1);
    };
  },
  Nesterov: (o) => {
    let v = 0;
    const step = (w, g) => {
      if (o.form === "sutskever") {
        v = o.rho * v - o.learning_rate * g;
        return w + v;
      }
      v = o.rho * v + g;
      return w - o.learning_rate * (g + o.rho * v);
    };
    step.lookahead = (w) => (o.form === "sutskever" ? w + o.rho * v : w);
    return step;
  },
  AdaGrad: (o) => {
    let s = o.initial_accumulator;
    return (w, g) => {
      s = s + g * g;
      return w - (o.learning_rate * g) / root(o, s);
    };
  },
  RMSProp: (o) => {
    let s = o.initial_mean_square;
    let n = 0;
    return (w, g) => {
      s = o.beta * s + (1 - o.beta) * (g * g);
      n = o.beta * n + (1 - o.beta) * g;
      return w - (o.learning_rate * g) / root(o, o.centered ? Math.max(s - n * n, 0) : s);
    };
  },
  Adam: (o) => {
    let [m, v, largest] = [0, 0, 0];
    return (w, gradient, t) => {
      const g = regularized(o, w, gradient, o.decoupled ? 0 : o.weight_decay);
      m = o.beta1 * m + (1 - o.beta1) * g;
      v = o.beta2 * v + (1 - o.beta2) * (g * g);
      largest = Math.max(largest, v);
      const first = o.nesterov ? o.beta1 * m + (1 - o.beta1) * g : m;
      const second = o.amsgrad ? largest : v;
      const c1 = o.bias_correction ? correction(o.beta1, t) : 1;
      const c2 = o.bias_correction ? correction(o.beta2, t) : 1;
      let step = first / c1 / root(o, second / c2);
      if (o.epsilon === "hat") step = ((Math.sqrt(c2) / c1) * first) / (Math.sqrt(second) + o.eps);
      if (o.decoupled) step = step + o.weight_decay * w;
      return w - o.learning_rate * step;
    };
  },
  AdaMax: (o) => {
    let [m, u] = [0, 0];
    return (w, gradient, t) => {
      const g = regularized(o, w, gradient, o.weight_decay);
      m = o.beta1 * m + (1 - o.beta1) * g;
      u = Math.max(o.beta2 * u, Math.abs(g));
      return w - ((o.learning_rate / correction(o.beta1, t)) * m) / (u + o.eps || 1);
    };
  },
};

// The points before each step and after the last; gradient(point, steps made) is asked for each.
function follow(method, options, gradient, start, steps) {
  const elements = start.map(() => METHODS[method](options));
  const points = [start];
  for (let t = 1; t <= steps; t++) {
    const w = points[t - 1];
    const seen = elements.map((step, i) => (step.lookahead ? step.lookahead(w[i]) : w[i]));
    const g = gradient(seen, t - 1);
    points.push(elements.map((step, i) => step(w[i], g[i], t)));
  }
  return points;
}
