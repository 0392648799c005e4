"""The look of every report: colours, type, and the names (`--left`, `--event0`, ...) that the drawings refer to."""

from __future__ import annotations

# name: (light, dark). The drawings fall back to the light value where they stand alone.
COLOURS = {
    "paper": ("#fbfaf7", "#15171b"),
    "panel": ("#ffffff", "#1c1f25"),
    "ink": ("#1d2129", "#e6e4de"),
    "muted": ("#667080", "#98a0ad"),
    "line": ("#dfddd6", "#31353d"),
    "accent": ("#0f6e74", "#5cc4c4"),
    "good": ("#2b7d4f", "#69c290"),
    "bad": ("#b4443c", "#ec8a80"),
    "left": ("#2a78c2", "#67aef0"),
    "right": ("#dd6b2c", "#f2965c"),
    "body": ("#4a5260", "#b9c0cb"),
    "event0": ("#4f9d8f", "#4f9d8f"),
    "event1": ("#c2873d", "#c2873d"),
    "event2": ("#8a6fbf", "#9b82cc"),
    "event3": ("#c0607f", "#cb7390"),
    "event4": ("#6b8e3d", "#7da24a"),
    "event5": ("#4c7fb0", "#5f92c4"),
}
EVENTS = 6


def colour(name: str) -> str:
    """CSS colour that follows the page's light or dark, usable inside an inline SVG."""
    return f"var(--{name},{COLOURS[name][0]})"


def event_colour(index: int) -> str:
    return colour(f"event{index % EVENTS}")


def _variables(which: int) -> str:
    return "".join(f"--{name}:{pair[which]};" for name, pair in COLOURS.items())


_LAYOUT = """
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);
 font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;
 -webkit-text-size-adjust:100%}
header,main,footer{max-width:1080px;margin:0 auto;padding:0 28px}
header{padding-top:44px}
h1{font-size:2.1rem;line-height:1.15;letter-spacing:-.02em;margin:0;font-weight:680;overflow-wrap:anywhere}
h2{font-size:1.3rem;letter-spacing:-.01em;margin:0 0 .3em;font-weight:650}
h3{font-size:1.02rem;margin:1.8em 0 .5em;font-weight:650}
.subtitle{font-size:1.08rem;color:var(--muted);margin:.5em 0 0;max-width:46em}
.facts{display:flex;flex-wrap:wrap;gap:10px 30px;margin:22px 0 0;padding:14px 0 0;border-top:1px solid var(--line)}
.facts dt{font-size:.74rem;color:var(--muted)}
.facts dd{margin:0;font-weight:550;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
nav{display:flex;flex-wrap:wrap;gap:4px 20px;margin-top:18px;font-size:.9rem}
a{color:var(--accent);text-decoration:none}a:hover{text-decoration:underline}
section{padding:40px 0 4px}
.lead{color:var(--muted);max-width:50em;margin:.2em 0 1.1em}
p{max-width:50em}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(190px,1fr));gap:14px;margin:30px 0 0}
.tiles div{background:var(--panel);border:1px solid var(--line);border-radius:10px;padding:14px 18px 13px}
.tiles span{display:block;white-space:pre-line;font-size:.82rem;color:var(--muted);line-height:1.35}
.tiles strong{display:block;font-size:2rem;line-height:1.25;font-weight:640;letter-spacing:-.02em;
 font-variant-numeric:tabular-nums}
.tiles .label{color:var(--ink);font-weight:600}
.scroll{overflow-x:auto;margin:14px 0 6px}
table{border-collapse:collapse;width:100%;font-size:.92rem;font-variant-numeric:tabular-nums}
caption{text-align:left;color:var(--muted);padding-bottom:6px}
th{font-weight:600;font-size:.8rem;color:var(--muted);text-align:left;vertical-align:bottom}
th,td{padding:7px 12px 7px 0;border-bottom:1px solid var(--line)}
thead th{border-bottom:1.5px solid var(--muted)}
td{vertical-align:top}
td.number,th.number{text-align:right;white-space:nowrap}
td small,.quiet{display:block;color:var(--muted);font-size:.76rem;line-height:1.35;font-weight:400}
td.wide{min-width:13em}
.plot{width:376px;text-align:right;padding-right:0}.plot svg{display:inline-block;vertical-align:top}
tr.group td{border-bottom:0;padding-top:16px;font-weight:640}
.meaning{color:var(--muted);font-weight:400;font-size:.84rem;margin-left:.9em}
.notes{font-size:.82rem;color:var(--muted);margin:6px 0 0;padding-left:1.1em;max-width:62em}
.notes b{font-weight:600}
figure{margin:14px 0 22px}
figure img{max-width:100%;height:auto;display:block}
figcaption{font-size:.86rem;color:var(--muted);margin-top:6px}
.card{background:var(--panel);border:1px solid var(--line);border-radius:12px;padding:20px 22px;margin:18px 0;
 break-inside:avoid-page}
.card>:first-child{margin-top:0}.card>:last-child{margin-bottom:0}
.query{font-size:1.16rem;line-height:1.4;font-weight:560;margin:0 0 .2em;overflow-wrap:anywhere}
.motion{display:flex;align-items:stretch;gap:10px;margin:8px 0 2px}
.motion svg{display:block}
.motion .film{flex:1 1 auto;min-width:0}
.motion .film svg{width:100%;height:auto}
.motion .play{flex:0 0 auto;width:104px;border-right:1px solid var(--line);padding-right:10px}
.motion .play svg{width:100%;height:auto}
.rank{display:grid;grid-template-columns:2.1em minmax(0,1fr);gap:0 12px;padding:12px 0;border-top:1px solid var(--line);
 break-inside:avoid}
.rank .place{font-size:1.1rem;color:var(--muted);font-variant-numeric:tabular-nums;text-align:right}
.rank.right .place{color:var(--good);font-weight:700}
.rank .head{display:flex;flex-wrap:wrap;gap:2px 12px;align-items:baseline}
.rank .name{font-weight:600;overflow-wrap:anywhere}
.rank .words{flex:1 1 16em;overflow-wrap:anywhere}
.tag{font-size:.76rem;font-weight:600;border:1px solid currentColor;border-radius:99px;padding:0 8px;color:var(--good)}
.score{margin-left:auto;white-space:nowrap;font-variant-numeric:tabular-nums;font-weight:600}
.score i{display:inline-block;vertical-align:middle;width:74px;height:6px;border-radius:3px;background:var(--line);
 margin-right:8px;overflow:hidden}
.score i b{display:block;height:100%;background:var(--accent)}
.order{display:flex;gap:10px;align-items:center;padding:6px 0;border-top:1px solid var(--line)}
.order .events{display:flex;flex-wrap:wrap;gap:4px;flex:1 1 auto}
.order .verdict{flex:0 0 6.4em;font-size:.82rem;color:var(--muted)}
.order.true .verdict{color:var(--ink);font-weight:650}
.chip{border-radius:5px;padding:1px 8px;font-size:.86rem;border-left:4px solid;background:var(--paper);
 overflow-wrap:anywhere}
.good{color:var(--good);font-weight:600}.bad{color:var(--bad);font-weight:600}
.legend{font-size:.84rem;color:var(--muted)}
.legend b{font-weight:600}
footer{font-size:.8rem;color:var(--muted);padding-top:34px;padding-bottom:44px}
@media (max-width:640px){header,main,footer{padding-left:16px;padding-right:16px}.motion .play{display:none}
 .order{flex-wrap:wrap}.order .events{order:3;flex-basis:100%}}
@media (prefers-reduced-motion:reduce){.motion .play,.replay{display:none}}
@media print{body{font-size:10.5pt;background:#fff}nav,.motion .play,.replay{display:none}header{padding-top:0}
 section{padding-top:22px}h2,h3{break-after:avoid}tr,figure{break-inside:avoid}.scroll{overflow:visible}
 .card,.tiles div{border-color:#ccc}
 *{-webkit-print-color-adjust:exact;print-color-adjust:exact}}
"""

STYLE = (
    f":root{{color-scheme:light dark;{_variables(0)}}}"
    f"@media screen and (prefers-color-scheme:dark){{:root{{{_variables(1)}}}}}" + _LAYOUT
)
