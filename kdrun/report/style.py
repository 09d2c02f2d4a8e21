"""How a page looks: one style sheet, no file beside it. Colours are variables, so that plots follow light and dark too."""

CSS = """
:root {
  color-scheme: light dark;
  --paper: #fdfdfc; --ink: #1b1c1e; --soft: #5d6167; --line: #d9dadc; --strong: #1b1c1e; --wash: #eef4f9;
  --accent: #0b62a4;
  --blue: #0072b2; --orange: #d98e00; --green: #009e73; --pink: #c2629a; --sky: #3d9fd6; --red: #d55e00; --faint: #8c8c8d;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #16181b; --ink: #e4e5e7; --soft: #a2a7ae; --line: #363a40; --strong: #8d939b; --wash: #1d2832;
    --accent: #7fbdf0;
    --blue: #58aeea; --orange: #f0b13c; --green: #35c79b; --pink: #e39bc4; --sky: #93d2f7; --red: #ff8b4d; --faint: #83878d;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  margin: 0 auto; padding: 2.5rem clamp(1rem, 4vw, 3rem) 4rem; max-width: 76rem;
  background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  font-variant-numeric: tabular-nums lining-nums;
  overflow-wrap: break-word;
}
header { margin-bottom: 2.5rem; }
.kind { margin: 0 0 .2rem; color: var(--soft); font-size: .875rem; }
h1 { margin: 0; font-size: 1.0625rem; font-weight: 600; overflow-wrap: anywhere; }
.headline { margin: 1.75rem 0 .4rem; font-size: clamp(1.75rem, 1.3rem + 2vw, 2.5rem); font-weight: 600; line-height: 1.15;
  letter-spacing: -.015em; color: var(--accent); text-wrap: balance; }
.verdict { margin: 0; max-width: 46rem; font-size: 1.125rem; text-wrap: pretty; }
section { display: grid; grid-template-columns: 10rem minmax(0, 1fr); column-gap: 2.5rem;
  padding: 1.5rem 0 2rem; border-top: 1px solid var(--line); }
section.whole { display: block; }
section.whole h2 { margin-bottom: .75rem; }
h2 { margin: 0; font-size: 1rem; font-weight: 600; line-height: 1.55; }
h3 { margin: 1.75rem 0 .25rem; font-size: 1rem; font-weight: 600; overflow-wrap: anywhere; }
.body > :first-child { margin-top: 0; }
.body > :last-child { margin-bottom: 0; }
p { margin: 0 0 1rem; max-width: 46rem; }
p.headline { max-width: none; }
.body > ul:not(.legend) { margin: 0 0 1rem; padding-left: 1.1rem; max-width: 46rem; }
sup { font-size: .7em; line-height: 0; }
.note { color: var(--soft); font-size: .875rem; }
code, pre { font: .8125rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
code { overflow-wrap: anywhere; }
pre { margin: 0 0 1.25rem; padding: .7rem .9rem; border-left: 2px solid var(--line); overflow-x: auto; }
pre code { overflow-wrap: normal; }
.scroll { margin: 0 0 1.75rem; overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; line-height: 1.4; min-width: min(100%, 30rem);
  border-top: 1.5px solid var(--strong); border-bottom: 1.5px solid var(--strong); }
caption { padding: 0 0 .45rem; text-align: left; color: var(--soft); font-size: .875rem; }
caption span { display: block; position: sticky; left: 0; max-width: calc(100vw - 2rem); }
th, td { padding: .38rem 1.25rem .38rem 0; text-align: left; vertical-align: baseline; font-weight: 400; }
th:last-child, td:last-child { padding-right: .25rem; }
th:first-child { padding-left: .25rem; min-width: 8rem; }
thead th { border-bottom: 1px solid var(--line); color: var(--soft); vertical-align: bottom; }
.numbered { display: block; padding-left: 1.8rem; text-indent: -1.8rem; }
.numbered > span:first-child { display: inline-block; width: 1.8rem; text-indent: 0; color: var(--soft); }
.figure { text-align: right; white-space: nowrap; }
thead .figure { white-space: normal; }
.marked > * { background: var(--wash); font-weight: 600; }
.lost { color: var(--soft); font-style: italic; }
.mark { color: var(--accent); white-space: nowrap; }
dl { margin: 0 0 1.25rem; font-size: .9375rem; }
dl > div { display: grid; grid-template-columns: 8.5rem minmax(0, 1fr); column-gap: 1rem; padding: .15rem 0; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
details { margin: 0 0 1.25rem; }
summary { cursor: pointer; color: var(--accent); margin-bottom: .75rem; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); gap: 1.5rem 2rem;
  align-items: end; }
figure { margin: 0; }
figure.wide { grid-column: 1 / -1; max-width: var(--most); overflow-x: auto; }
figure.wide svg { min-width: var(--least); }
figure.sheet { max-width: none; }
figure.sheet img { display: block; width: 100%; max-width: 62rem; min-width: 32rem; height: auto; }
.legend { display: flex; flex-wrap: wrap; gap: .25rem 1.5rem; margin: 0 0 1rem; padding: 0; list-style: none;
  font-size: .875rem; line-height: 1.35; }
.legend li { display: flex; gap: .5rem; align-items: baseline; overflow-wrap: anywhere; }
.swatch { flex: none; width: 1.9rem; height: .76rem; }
svg.plot { display: block; width: 100%; height: auto; }
svg.plot * { stroke-linejoin: round; stroke-linecap: butt; }
footer { padding-top: 1.5rem; border-top: 1px solid var(--line); color: var(--soft); font-size: .8125rem; }
@media (max-width: 60rem) {
  section { display: block; }
  h2 { margin-bottom: .75rem; font-size: 1.125rem; }
}
@media (max-width: 30rem) {
  body { padding-top: 1.25rem; }
  dl > div { display: block; padding: .3rem 0; }
}
@media print {
  :root {
    color-scheme: light;
    --paper: #fff; --ink: #000; --soft: #444; --line: #bbb; --strong: #000; --wash: #f2f2f2; --accent: #000;
    --blue: #0072b2; --orange: #d98e00; --green: #009e73; --pink: #c2629a; --sky: #3d9fd6; --red: #d55e00; --faint: #777;
  }
  @page { margin: 16mm 14mm; }
  body { padding: 0; max-width: none; font-size: 9.5pt; }
  header { margin-bottom: 1.25rem; }
  .headline { margin-top: 1rem; font-size: 18pt; }
  .verdict { font-size: 11pt; }
  section { display: block; padding: .9rem 0 1rem; }
  h2 { margin-bottom: .5rem; font-size: 11pt; }
  h2, h3, caption { break-after: avoid; }
  tr, figure { break-inside: avoid; }
  table, caption, code, pre, .note, .legend { font-size: 8pt; }
  th, td { padding: .2rem .8rem .2rem 0; }
  .body > .scroll { break-inside: avoid; }
  .scroll, pre, figure.wide { overflow: visible; }
  figure.wide svg { min-width: 0; }
  pre code { white-space: pre-wrap; overflow-wrap: anywhere; }
  .figures { grid-template-columns: 1fr 1fr; }
  summary { display: none; }
  details::details-content { content-visibility: visible; height: auto; }
}
"""
