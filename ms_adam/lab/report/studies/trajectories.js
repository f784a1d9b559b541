// The page of a comparison: draws what `data` has, and moves it.
"use strict";

const NUMBERS = ["learning_rate", "beta1", "beta2", "rho", "beta"]; // that have sliders
const data = JSON.parse(document.getElementById("data").textContent);
const find = (id) => document.getElementById(id);
let scene = data.scenes[0];
let steps = 0; // of the longest path
let waiting = false;
let playing = null;

function make(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

// The path of an optimizer as it is drawn: computed again with the options that a slider changed.
function path(line) {
  if (!line.changed) return line;
  // The gradient of a linear fit's step is of its batch, the value of all points.
  const batches = scene.batches ? scene.batches.map(quadratic) : [plane(scene.function)];
  const [value] = batches[batches.length - 1];
  const gradient = (w, t) => batches[Math.min(t, batches.length - 1)][1](...w);
  const points = follow(line.method, line.changed, gradient, scene.start, line.points.length - 1);
  return { ...line, points, values: points.map((w) => value(...w)) };
}

function height(f) {
  return scene.log ? Math.log10(1 + Math.max(f - scene.least, 0)) : f;
}

// The first step at which a path is out of the picture or not finite; its length if none is.
function end(line) {
  const inside = (w, f) =>
    Number.isFinite(f) &&
    w.every((z, i) => z !== null && z >= scene.ranges[i][0] && z <= scene.ranges[i][1]);
  const gone = line.points.findIndex((w, t) => !inside(w, line.values[t]));
  return gone < 0 ? line.points.length : gone;
}

// Where the surface is convex, its grid hides a path that lies on it.
function lift() {
  const heights = scene.heights.flat().filter((z) => z !== null);
  return 0.006 * (Math.max(...heights) - Math.min(...heights));
}

function drawn(line, step, look) {
  const shown = Math.min(step + 1, end(line));
  const points = line.points.slice(0, shown);
  const lifted = lift();
  return {
    type: "scatter3d",
    x: points.map((w) => w[0]),
    y: points.map((w) => w[1]),
    z: line.values.slice(0, shown).map((f) => height(f) + lifted),
    hovertemplate: `step %{pointNumber}<br>${scene.axes[0]} %{x:.5g}<br>${scene.axes[1]} %{y:.5g}`,
    ...look,
  };
}

function traces(step) {
  const found = [
    {
      type: "surface",
      name: "f",
      x: scene.x,
      y: scene.y,
      z: scene.heights,
      colorscale: [[0, "#8f959e"], [1, "#fafafa"]],
      showscale: false,
      opacity: 0.92,
      hoverinfo: "skip",
      lighting: { ambient: 0.75, diffuse: 0.5, specular: 0.05 },
      contours: { z: { show: true, color: "#7a7f87", width: 1, highlight: false } },
    },
  ];
  for (const [i, line] of scene.lines.entries()) {
    if (!find(`on-${i}`).checked) continue;
    const moving = path(line);
    const { color, name } = line;
    found.push(drawn(moving, step, { name, mode: "lines", line: { color, width: 5 } }));
    const last = drawn(moving, step, { name: `${name}, step`, mode: "markers" });
    for (const axis of ["x", "y", "z"]) last[axis] = last[axis].slice(-1);
    last.marker = { color, size: 6, line: { color: "#fff", width: 1 } };
    found.push({ ...last, hoverinfo: "skip", hovertemplate: null });
    if (line.float32 && find("float32").checked && moving === line) {
      const marker = { color, size: 4, symbol: "circle-open" };
      found.push(drawn(line.float32, step, { name: line.float32.name, mode: "markers", marker }));
    }
  }
  return found;
}

function layout() {
  const color = getComputedStyle(document.body).color;
  const axis = (title, range) => ({ title: { text: title }, range, color, gridcolor: "#b5bac2" });
  const [elevation, azimuth] = scene.seen_from.map((degrees) => (degrees * Math.PI) / 180);
  const radius = 1.8;
  return {
    margin: { l: 0, r: 0, t: 0, b: 0 },
    paper_bgcolor: "rgba(0,0,0,0)",
    font: { color, size: 11 },
    showlegend: false,
    uirevision: scene.name, // a turned scene stays turned until another one is chosen
    scene: {
      xaxis: axis(scene.axes[0], scene.ranges[0]),
      yaxis: axis(scene.axes[1], scene.ranges[1]),
      zaxis: axis(scene.height_label),
      aspectratio: { x: 1, y: 1, z: 0.7 },
      camera: {
        eye: {
          x: radius * Math.cos(elevation) * Math.cos(azimuth),
          y: radius * Math.cos(elevation) * Math.sin(azimuth),
          z: radius * Math.sin(elevation),
        },
        center: { x: 0, y: 0, z: -0.1 },
      },
    },
  };
}

function words(line, step) {
  const t = Math.min(step, line.points.length - 1);
  const f = line.values[t];
  const gone = end(line);
  const value = Number.isFinite(f) ? `f = ${f.toPrecision(3)}` : "not finite";
  return gone <= t ? `${value}, out of the picture from step ${gone}` : value;
}

function draw() {
  waiting = false;
  const step = Number(find("step").value);
  find("at").textContent = `step ${step} of ${steps}`;
  scene.lines.forEach((line, i) => {
    find(`value-${i}`).textContent = words(path(line), step);
    find(`changed-${i}`).hidden = !line.changed;
  });
  return Plotly.react("plot", traces(step), layout(), { responsive: true, displaylogo: false });
}

function redraw() {
  if (!waiting) setTimeout(draw, 16); // once for all events of a frame
  waiting = true;
}

function chosen() {
  return scene.lines.find((line) => line.name === find("optimizer").value);
}

// Sliders of the chosen optimizer: a factor of the learning rate, and beta by the size of 1 - beta.
function showNumbers() {
  const line = chosen();
  find("numbers").replaceChildren();
  if (!line) return;
  for (const name of NUMBERS) {
    const original = line.options[name];
    if (original === undefined) continue;
    const isRate = name === "learning_rate";
    const value = (line.changed || line.options)[name];
    const limits = isRate ? { min: -2, max: 2 } : { min: 0, max: 4 };
    const at = isRate ? Math.log10(value / original) : -Math.log10(1 - value);
    const slider = make("input", { type: "range", id: name, ...limits, step: 0.01, value: at });
    const output = make("output", {}, String(Number(value.toPrecision(4))));
    slider.addEventListener("input", () => {
      const moved = isRate ? original * 10 ** slider.value : 1 - 10 ** -slider.value;
      line.changed = { ...(line.changed || line.options), [name]: moved };
      output.textContent = String(Number(moved.toPrecision(4)));
      redraw();
    });
    find("numbers").append(make("label", {}, make("span", {}, name.replace("_", " ")), slider, output));
  }
}

function showScene(name) {
  scene = data.scenes.find((it) => it.name === name);
  const before = steps && Number(find("step").value) / steps;
  steps = Math.max(...scene.lines.map((line) => line.points.length - 1));
  Object.assign(find("step"), { max: steps, value: steps ? Math.round(before * steps) : 0 });
  find("formula").textContent = scene.title;
  const known = scene.lines.filter((line) => line.options);
  find("optimizer").replaceChildren(...known.map((it) => new Option(it.name)));
  find("change").hidden = known.length === 0;
  const adam = known.find((line) => line.options.beta1 !== undefined);
  if (adam) find("optimizer").value = adam.name;
  showNumbers();
  return draw();
}

function play() {
  const slider = find("step");
  if (playing === null && Number(slider.value) >= steps) slider.value = 0;
  if (playing === null) {
    playing = setInterval(() => {
      slider.value = Number(slider.value) + Math.ceil(steps / 120);
      if (Number(slider.value) >= steps) play();
      redraw();
    }, 50);
  } else {
    clearInterval(playing);
    playing = null;
  }
  find("play").textContent = playing === null ? "Play" : "Pause";
}

find("scene").append(...data.scenes.map((it) => new Option(it.name)));
find("scene").hidden = data.scenes.length === 1;
find("scene").addEventListener("change", () => showScene(find("scene").value));
find("step").addEventListener("input", redraw);
find("float32").addEventListener("change", redraw);
find("optimizers").addEventListener("change", redraw);
find("optimizer").addEventListener("change", showNumbers);
find("play").addEventListener("click", play);
find("reset").addEventListener("click", () => {
  delete chosen().changed;
  showNumbers();
  redraw();
});
steps = 1;
find("step").max = find("step").value = 1; // the first picture shows whole paths
showScene(scene.name);
