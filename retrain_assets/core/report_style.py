"""The style of the report's page: light, dark and print.

Holds CSS only. Colours are variables, so that charts follow; both palettes keep a contrast of at least 4.5 to 1 for
text, and candidate and production differ in lightness, too, for those who do not tell blue from orange.
"""

STYLE = """
:root{--paper:#fff;--ink:#1c2430;--muted:#556070;--line:#dfe3e8;--soft:#f5f7f9;--candidate:#0b6e99;--production:#c8701a;
--neutral:#7a8594;--limit:#b42318;--ok:#176639;--okbg:#e3f4e9;--bad:#9f1b12;--badbg:#fdeae8;--warn:#7a4b00;--warnbg:#fff2d8}
@media (prefers-color-scheme:dark){:root{--paper:#14181d;--ink:#e6e9ed;--muted:#a3adba;--line:#343c46;--soft:#1c2127;
--candidate:#4fb3dc;--production:#f0a050;--neutral:#8a95a3;--limit:#ff8a7d;--ok:#7fdca4;--okbg:#12351f;--bad:#ffb0a8;
--badbg:#451713;--warn:#ffd48a;--warnbg:#3f2c05}}
@media print{:root{--paper:#fff;--ink:#000;--muted:#444;--line:#bbb;--soft:#fff;--candidate:#0b6e99;
--production:#c8701a;--neutral:#777;--limit:#b42318;--ok:#176639;--okbg:#fff;--bad:#9f1b12;--badbg:#fff;--warn:#7a4b00;--warnbg:#fff}
nav{display:none}section{break-inside:auto}figure,tr,h2,h3{break-inside:avoid}h2,h3{break-after:avoid}
.scroll{overflow:visible!important}body{max-width:none!important;font-size:11px!important}}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;color:var(--ink);background:var(--paper);
max-width:1000px;margin:0 auto;padding:24px 20px 60px;overflow-wrap:break-word}
h1{font-size:30px;margin:0 0 8px;line-height:1.2}
h2{font-size:20px;margin:36px 0 8px}h3{font-size:15px;margin:22px 0 6px}
p{margin:6px 0}.over,.note,.lead{color:var(--muted)}.over{margin:0 0 4px}.verdict{font-size:17px;max-width:75ch}
.badge{display:inline-block;font-size:13px;font-weight:600;padding:2px 9px;border-radius:10px;vertical-align:middle}
.badge.ok{color:var(--ok);background:var(--okbg)}.badge.bad{color:var(--bad);background:var(--badbg)}
.badge.warn{color:var(--warn);background:var(--warnbg)}
.badge{border:1px solid currentColor}
.reasons{border-left:4px solid var(--line);padding:6px 14px 6px 30px;margin:10px 0;background:var(--soft)}
.reasons.bad{border-color:var(--bad)}.reasons.warn{border-color:var(--warn)}
nav ul{list-style:none;display:flex;flex-wrap:wrap;gap:4px 16px;padding:10px 0;margin:14px 0;
border-top:1px solid var(--line);border-bottom:1px solid var(--line)}
a{color:var(--candidate)}a:focus-visible{outline:2px solid var(--candidate);outline-offset:2px}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:14px;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:5px 10px;border-bottom:1px solid var(--line);vertical-align:top}
thead th{color:var(--muted);font-weight:600;border-bottom-width:2px;white-space:nowrap}
tbody th{font-weight:600}td.n,th.n{text-align:right;white-space:nowrap}
#gates td:last-child{min-width:280px}
figure{margin:14px 0;max-width:720px}figcaption{font-weight:600;margin-bottom:4px}
.key{font-weight:400;color:var(--muted);margin-left:14px;font-size:13px;white-space:nowrap}
.key i{display:inline-block;width:11px;height:11px;border-radius:2px;margin-right:5px}
i.candidate{background:var(--candidate)}i.production{background:var(--production)}i.neutral{background:var(--neutral)}
i.limit{background:var(--limit)}
svg{width:100%;height:auto;display:block;background:var(--paper)}
svg text{font:12px system-ui,sans-serif;fill:var(--muted)}svg text.label{fill:var(--ink)}
svg .grid{stroke:var(--line)}svg .reference{stroke:var(--limit);stroke-dasharray:4 3}
svg .whisker{stroke:var(--ink);stroke-width:1.3}
svg rect.candidate,svg circle.candidate{fill:var(--candidate)}
svg rect.production,svg circle.production{fill:var(--production)}
svg rect.neutral,svg circle.neutral{fill:var(--neutral)}svg rect.limit,svg circle.limit{fill:var(--limit)}
svg path,svg line.candidate,svg line.production{fill:none;stroke-width:2}
svg path.candidate,svg line.candidate{stroke:var(--candidate)}
svg path.production,svg line.production{stroke:var(--production)}
svg path.neutral{stroke:var(--neutral);stroke-dasharray:5 4}
dl{display:grid;grid-template-columns:max-content 1fr;gap:3px 18px;font-size:14px}dt{color:var(--muted)}
dd{margin:0;overflow-wrap:anywhere}code{font-family:ui-monospace,monospace;font-size:.93em}
footer{margin-top:40px;border-top:1px solid var(--line);color:var(--muted);font-size:13px}
""".strip()
