"""How the page looks: one style sheet for wide and narrow, light and dark, screen and paper."""

from __future__ import annotations

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fefefe; --sheet: #f4f5f7; --ink: #1f2328; --quiet: #656d76; --grid: #dfe3e8;
  --accent: #0b5cad; --good: #1a7f37; --warn: #9a6700; --bad: #cf222e;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #161a20; --sheet: #0d1014; --ink: #e8eaed; --quiet: #9aa4b0; --grid: #333a44;
    --accent: #6cb2ff; --good: #4cc26a; --warn: #d9a93c; --bad: #ff7b72;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--sheet); color: var(--ink);
  font: 1rem/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  overflow-wrap: break-word;
}
main { max-width: 64rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.125rem; margin: 2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 0 0 .5rem; }
p { margin: .25rem 0; }
header, article, figure, .box {
  background: var(--paper); border: 1px solid var(--grid); border-radius: .5rem;
  padding: 1rem; margin: 0;
}
header { border-left: .5rem solid var(--zone); }
article { border-left: .25rem solid var(--zone); margin-bottom: .75rem; }
.safe { --zone: var(--good); }
.near, .warning { --zone: var(--warn); }
.unsafe, .error { --zone: var(--bad); }
.inconclusive { --zone: var(--quiet); }
.info { --zone: var(--accent); }
.zone { color: var(--zone); font-weight: 700; }
.quiet, footer { color: var(--quiet); font-size: .875rem; }
.grid {
  display: grid; gap: .75rem; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 24rem), 1fr));
}
svg { display: block; width: 100%; height: auto; max-width: 32rem; margin: 0 auto; }
svg text { font-family: inherit !important; }
.box { overflow-x: auto; margin-bottom: .75rem; }
caption { text-align: left; white-space: nowrap; font-weight: 600; padding-bottom: .25rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .75rem .25rem 0; text-align: left; white-space: nowrap; }
thead th { color: var(--quiet); font-weight: 600; border-bottom: 1px solid var(--grid); }
tbody th { font-weight: 400; white-space: normal; }
th.right, td.right { text-align: right; padding-left: .75rem; }
tr.error td, tr.error th, tr.warning td, tr.warning th { color: var(--zone); font-weight: 600; }
dl { display: grid; grid-template-columns: minmax(7rem, max-content) 1fr; gap: .25rem 1rem; margin: 0; }
dt { color: var(--quiet); }
dd { margin: 0; min-width: 0; }
pre { overflow-x: auto; margin: .5rem 0; padding: .5rem; background: var(--sheet); border-radius: .25rem; }
pre, code { font: .8125rem/1.5 ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
ul { padding-left: 1.25rem; margin: 0; }
footer { margin-top: 2rem; }
@media (max-width: 30rem) {
  figure { padding: .75rem .5rem; }
  th, td { font-size: .875rem; padding-right: .5rem; }
  th.right, td.right { padding-left: .5rem; }
  dl { grid-template-columns: 1fr; }
  dd { margin-bottom: .5rem; }
}
@media print { body { background: none; } header, article, figure, .box { break-inside: avoid; } }
"""
