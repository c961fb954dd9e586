"""The look of a report, and its script: values under the pointer, zoom, pictures at full size."""

# The colours of curves are those of Okabe and Ito's palette (2008), lighter on a dark page.
STYLE = """
:root { --page: #fff; --card: #f5f6f7; --ink: #1b1f23; --quiet: #57606a; --line: #d8dde2;
  --training: #0072b2; --held: #d55e00; --rate: #555; --good: #0072b2; --warn: #8a5a00;
  --faint: .35 }
@media screen and (prefers-color-scheme: dark) { :root { --page: #14171a; --card: #1f2428;
  --ink: #e6e8ea; --quiet: #a2abb4; --line: #3a4249; --training: #56b4e9; --held: #f0a04b;
  --rate: #b5bcc3; --good: #56b4e9; --warn: #f0c35a;
  --faint: .6 } }
* { box-sizing: border-box }
html { color-scheme: light dark; -webkit-text-size-adjust: 100% }
body { margin: 0 auto; max-width: 1120px; padding: 20px 16px 60px; background: var(--page);
  color: var(--ink); font: 16px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 8px 0; overflow-wrap: anywhere }
h2 { font-size: 1.25rem; margin: 44px 0 8px; padding-top: 10px; border-top: 1px solid var(--line) }
p { margin: 6px 0; max-width: 48em }
small, .quiet { color: var(--quiet) }
.status { font-size: .9rem; font-weight: 600; padding: 2px 10px; border-radius: 99px;
  border: 1px solid currentColor; color: var(--good); white-space: nowrap; vertical-align: middle }
.status.open { color: var(--warn) }
nav { display: flex; flex-wrap: wrap; gap: 2px 18px; margin: 12px 0 }
a { color: var(--training) }
.facts { display: grid; margin: 18px 0; gap: 10px;
  grid-template-columns: repeat(auto-fill, minmax(min(47%, 200px), 1fr)) }
.facts div { background: var(--card); border-radius: 8px; padding: 10px 12px }
.facts dt { color: var(--quiet); font-size: .85rem }
.facts dd { margin: 0; font-size: 1.4rem; line-height: 1.3; font-variant-numeric: tabular-nums;
  overflow-wrap: anywhere }
.facts dd small { display: block; font-size: .8rem; line-height: 1.35 }
ul.warnings { border-left: 4px solid var(--warn); margin: 16px 0; padding: 4px 0 4px 28px;
  overflow-wrap: anywhere }
.curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr));
  gap: 22px 28px; margin-top: 14px }
figure { margin: 0; break-inside: avoid; position: relative }
figcaption { margin-bottom: 4px }
.legend { display: flex; flex-wrap: wrap; gap: 0 16px; margin: 0; font-size: .85rem }
.legend span::before { content: ""; display: inline-block; width: 18px; height: 3px;
  margin-right: 6px; vertical-align: middle; background: var(--colour); opacity: var(--strength) }
svg.panel { display: block; width: 100%; height: auto; touch-action: pan-y }
svg text { fill: var(--quiet); font-size: 11px } text.below { text-anchor: middle }
text.beside { text-anchor: end } .grid { stroke: var(--line); fill: none; stroke-width: .6 }
.step { --colour: var(--training); --strength: var(--faint) }
.epoch { --colour: var(--training); --strength: 1 }
.held { --colour: var(--held); --strength: 1 } .rate { --colour: var(--rate); --strength: 1 }
.plot polyline, .plot path { fill: none; stroke: var(--colour); stroke-opacity: var(--strength);
  stroke-width: 2px; vector-effect: non-scaling-stroke; stroke-linejoin: round }
.plot .step { stroke-width: 1px } .plot .dots { stroke-width: 7px; stroke-linecap: round }
.under { position: absolute; pointer-events: none; background: var(--page); padding: 4px 8px;
  border: 1px solid var(--line); border-radius: 6px; font-size: .8rem; white-space: nowrap }
.under b { color: var(--colour) } .cursor { stroke: var(--quiet); stroke-dasharray: 3 3 }
.range { fill: var(--training); opacity: .15 }
.pictures { display: flex; flex-wrap: wrap; gap: 26px; align-items: flex-start; margin-top: 14px }
.pictures figure { max-width: 100% } .pictures figcaption { max-width: 44em }
.pictures img { display: block; max-width: 100%; height: auto; background: #fff;
  border: 1px solid var(--line); border-radius: 4px }
img.opens { cursor: zoom-in }
img.large { position: fixed; inset: 0; z-index: 9; margin: auto; max-width: 100vw;
  max-height: 100vh; width: 100vw; height: 100vh; object-fit: contain; border: 0; cursor: zoom-out;
  background: #fff }
.scrolls { overflow-x: auto }
table { border-collapse: collapse; margin: 10px 0; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: 4px 16px 4px 0; border-bottom: 1px solid var(--line);
  vertical-align: top }
th { font-size: .85rem; color: var(--quiet); font-weight: 600 } td.n { text-align: right }
td { overflow-wrap: break-word; max-width: 28em }
td.bar { width: 220px; min-width: 90px; vertical-align: middle }
td.bar span { display: block; height: 10px; background: var(--training); min-width: 1px;
  print-color-adjust: exact; -webkit-print-color-adjust: exact }
pre { background: var(--card); border-radius: 6px; padding: 10px 12px; overflow-x: auto;
  margin: 4px 0 14px; font: .85rem/1.5 ui-monospace, Menlo, "DejaVu Sans Mono", monospace }
pre.command { user-select: all; -webkit-user-select: all }
details { margin: 10px 0 } summary { cursor: pointer } details pre { max-height: 70vh }
.script { display: none } .scripted .script { display: block }
@media (max-width: 600px) { table { font-size: .85rem } th, td { padding-right: 10px }
  td.bar { width: 110px; min-width: 70px } }
@media print { body { max-width: none; padding: 0 } nav, .script { display: none !important }
  pre { white-space: pre-wrap; overflow-wrap: anywhere } h2 { break-after: avoid }
  tr { break-inside: avoid } .curves { grid-template-columns: 1fr 1fr } }
"""

SCRIPT = """
'use strict';
document.documentElement.classList.add('scripted');
const make = (name, around, attributes) => {
  const made = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const key in attributes) made.setAttribute(key, attributes[key]);
  return around.appendChild(made);
};
const short = (value, digits) => String(Number(value.toPrecision(digits)));
const ticks = (low, high) => {
  const power = 10 ** Math.floor(Math.log10((high - low) / 7));
  const step = [1, 2, 5, 10].map(m => m * power).find(s => (high - low) / s <= 7);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++)
    found.push(i * step);
  return found;
};
const panels = [...document.querySelectorAll('svg.panel')].map(panel => {
  const plot = panel.querySelector('.plot'), size = {};
  for (const key of ['x', 'y', 'width', 'height']) size[key] = +plot.getAttribute(key);
  const end = +panel.dataset.x, top = +panel.dataset.y;
  const curves = [...plot.querySelectorAll('polyline')].map(line => ({
    name: line.dataset.name, kind: line.getAttribute('class'),
    points: line.getAttribute('points').split(' ').map(pair => {
      const [x, y] = pair.split(',').map(Number);
      return [x / 1000 * end, (1 - y / 1000) * top];
    }),
  }));
  return {panel, plot, size, end, top, curves, full: [0, end, 0, top], view: [0, end, 0, top]};
});

function show(one) {
  const [x0, x1, y0, y1] = one.view, {x, y, width, height} = one.size;
  one.plot.setAttribute('viewBox', [x0 / one.end * 1000, (1 - y1 / one.top) * 1000,
    (x1 - x0) / one.end * 1000, (y1 - y0) / one.top * 1000].join(' '));
  const axes = one.panel.querySelector('.axes');
  axes.replaceChildren();
  one.plot.setAttribute('overflow', x0 > 0 || x1 < one.end ? 'hidden' : 'visible');
  for (const value of ticks(x0, x1)) {
    const at = x + width * (value - x0) / (x1 - x0);
    make('path', axes, {class: 'grid', d: `M${at} ${y}v${height}`});
    make('text', axes, {class: 'below', x: at, y: y + height + 15}).textContent = short(value, 6);
  }
  for (const value of ticks(y0, y1)) {
    const at = y + height * (1 - (value - y0) / (y1 - y0));
    make('path', axes, {class: 'grid', d: `M${x} ${at}h${width}`});
    make('text', axes, {class: 'beside', x: x - 6, y: at + 4}).textContent = short(value, 6);
  }
}

// To the same epochs in all panels, each with the values that are there.
function zoom(low, high) {
  for (const one of panels) {
    const seen = one.curves.flatMap(c => c.points).filter(p => p[0] >= low && p[0] <= high)
      .map(p => p[1]);
    if (seen.length < 2) { one.view = [low, high, 0, one.top]; show(one); continue; }
    const least = seen.reduce((a, b) => Math.min(a, b));
    const most = seen.reduce((a, b) => Math.max(a, b));
    const margin = (most - least) * .05 || most * .05 || 1;
    one.view = [low, high, least - margin, most + margin];
    show(one);
  }
}

for (const one of panels) {
  const {panel, size} = one;
  const cursor = make('path', panel, {class: 'cursor', visibility: 'hidden'});
  const range = make('rect', panel, {class: 'range', y: size.y, height: size.height, width: 0});
  const under = document.createElement('div');
  under.className = 'under';
  under.hidden = true;
  panel.parentNode.append(under);
  let from = null;
  const place = event => {
    const box = panel.getBoundingClientRect();
    const at = (event.clientX - box.left) / box.width * panel.viewBox.baseVal.width;
    return Math.min(Math.max(at, size.x), size.x + size.width);
  };
  const epoch = at => one.view[0] + (at - size.x) / size.width * (one.view[1] - one.view[0]);
  panel.addEventListener('pointermove', event => {
    const at = place(event), wanted = epoch(at);
    cursor.setAttribute('visibility', 'visible');
    cursor.setAttribute('d', `M${at} ${size.y}v${size.height}`);
    under.replaceChildren('epoch ' + short(wanted, 4));
    for (const curve of one.curves) {
      const near = curve.points.reduce((a, b) =>
        Math.abs(b[0] - wanted) < Math.abs(a[0] - wanted) ? b : a);
      const value = document.createElement('b');
      value.className = curve.kind;
      value.textContent = short(near[1], 4);
      under.append(document.createElement('br'), value, ' ' + curve.name);
    }
    under.hidden = false;
    const box = panel.getBoundingClientRect(), around = panel.parentNode.getBoundingClientRect();
    const left = event.clientX - around.left;
    const beside = left + 14 + under.offsetWidth > around.width
      ? Math.max(0, left - 14 - under.offsetWidth) : left + 14;
    under.style.left = beside + 'px';
    under.style.top = box.top - around.top + 14 + 'px';
    if (from !== null) {
      range.setAttribute('x', Math.min(from, at));
      range.setAttribute('width', Math.abs(at - from));
    }
  });
  panel.addEventListener('pointerleave', () => {
    under.hidden = true;
    cursor.setAttribute('visibility', 'hidden');
  });
  panel.addEventListener('pointerdown', event => {
    if (event.pointerType === 'mouse' && event.button === 0) {
      from = place(event);
      panel.setPointerCapture(event.pointerId);
      event.preventDefault();
    }
  });
  panel.addEventListener('pointerup', event => {
    const at = place(event);
    if (from !== null && Math.abs(at - from) > 8)
      zoom(epoch(Math.min(from, at)), epoch(Math.max(from, at)));
    from = null;
    range.setAttribute('width', 0);
  });
  panel.addEventListener('dblclick', () => {
    for (const other of panels) { other.view = [...other.full]; show(other); }
  });
}

for (const picture of document.querySelectorAll('.pictures img')) {
  picture.classList.add('opens');
  picture.tabIndex = 0;
  const turn = () => picture.classList.toggle('large');
  picture.addEventListener('click', turn);
  picture.addEventListener('keydown', event => { if (event.key === 'Enter') turn(); });
}
document.addEventListener('keydown', event => {
  if (event.key === 'Escape')
    for (const picture of document.querySelectorAll('img.large')) picture.classList.remove('large');
});
"""
