"""How the report looks: one column, light, readable on a phone and on paper."""

_RULES = """
:root{
    color-scheme:light;--ink:#1f2933;--muted:#5f6b7a;--line:#dfe3e8;--soft:#f5f7f9;--model:#1f5fa8;
    --good:#2c7a5b;--bad:#b3261e;--warn:#8a5a00}
*{box-sizing:border-box}
body{
    margin:0;background:#fff;color:var(--ink);
    font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;
    -webkit-text-size-adjust:100%}
header,main,footer{max-width:1024px;margin:0 auto;padding:0 24px}
header{padding-top:40px}
h1{font-size:2.1rem;line-height:1.15;margin:.1em 0 .2em;letter-spacing:-.015em}
h2{font-size:1.35rem;line-height:1.3;margin:0 0 .6em;letter-spacing:-.01em}
h3{font-size:1rem;margin:1.4em 0 .5em}
p{margin:0 0 .8em}
header p,.caveat,.note,footer{color:var(--muted)}
.eyebrow{font-size:.8rem;font-weight:600;letter-spacing:.02em;color:var(--muted);margin:0}
.version{font-size:.9rem;overflow-wrap:anywhere}
section{margin:0 0 56px;scroll-margin-top:16px}
.verdict{
    margin:24px 0;padding:24px 28px;border:1px solid var(--line);border-left:6px solid #52606d;
    border-radius:10px;background:var(--soft)}
.verdict.promoted{border-left-color:var(--good)}
.verdict h2{font-size:1.6rem;margin:.1em 0 .4em;overflow-wrap:anywhere}
.verdict ul{margin:.2em 0 .8em;padding-left:1.2em}
.verdict .caveat{margin:0;font-size:.9rem}
.warning{
    margin:0 0 12px;padding:12px 16px;border:1px solid #e8c888;border-radius:8px;background:#fff8e8;
    color:var(--warn);font-weight:600}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(200px,1fr));gap:12px;margin:24px 0}
.cards>div{padding:14px 16px;border:1px solid var(--line);border-radius:10px}
.cards p{margin:0}
.name{font-size:.9rem;color:var(--muted)}
.value{font-size:1.5rem;font-weight:650;font-variant-numeric:tabular-nums;letter-spacing:-.01em}
.note{font-size:.85rem}
nav{
    display:flex;flex-wrap:wrap;gap:6px 18px;margin:28px 0 40px;padding:12px 0;border-top:1px solid var(--line);
    border-bottom:1px solid var(--line);font-size:.92rem}
a{color:var(--model);text-decoration:none}
a:hover{text-decoration:underline}
.source{
    margin-left:.7em;padding:.15em .6em;border-radius:99px;background:var(--soft);border:1px solid var(--line);
    color:var(--muted);font-size:.75rem;font-weight:500;letter-spacing:0;vertical-align:middle;
    white-space:nowrap}
table{border-collapse:collapse;width:100%;font-size:.92rem;font-variant-numeric:tabular-nums}
th{font-weight:600;color:var(--muted);text-align:left;vertical-align:bottom;border-bottom:1.5px solid var(--line)}
td{border-bottom:1px solid #edf0f3;vertical-align:top}
th,td{padding:7px 20px 7px 0}
th:last-child,td:last-child{padding-right:0}
.n{text-align:right}
td.n,.d{white-space:nowrap}
.u{color:var(--muted);font-style:italic}
.marked td{font-weight:650}
.scroll{overflow-x:auto;margin:0 0 1em}
.scroll td:not(.n){min-width:6.5em}
.chip{
    display:inline-block;min-width:3.6em;padding:.05em .6em;border-radius:99px;text-align:center;
    font-size:.82rem;font-weight:650}
.pass{background:#e4f2ec;color:var(--good)}
.fail{background:#fbe9e7;color:var(--bad)}
.open{background:var(--soft);color:var(--muted)}
figure{margin:8px 0 20px}
img{display:block;width:100%;height:auto;border:1px solid var(--line);border-radius:10px}
.columns{display:grid;grid-template-columns:repeat(2,minmax(0,1fr));gap:20px 28px;align-items:start;margin:20px 0}
.columns figure{margin:0}
.columns h3:first-child{margin-top:.2em}
details{margin:16px 0;border:1px solid var(--line);border-radius:10px;padding:0 16px}
summary{padding:12px 0;cursor:pointer;font-weight:600}
footer{padding-bottom:48px;font-size:.9rem}
@media(max-width:700px){
header,main,footer{padding-left:16px;padding-right:16px}
header{padding-top:24px}
h1{font-size:1.7rem}
.verdict{padding:18px}
.verdict h2{font-size:1.3rem}
.columns{grid-template-columns:minmax(0,1fr)}
.cards{grid-template-columns:1fr 1fr}
.cards>div{padding:10px 12px}
.value{font-size:1.15rem}
.source{display:table;margin:.4em 0 0}
table{font-size:.86rem}
th,td{padding-right:12px}
.scroll td:not(.n){min-width:5.5em}
.conditions thead{display:none}
.conditions tr{display:grid;grid-template-columns:4.4em 1fr;gap:0 10px;padding:8px 0;border-bottom:1px solid #edf0f3}
.conditions td{border:0;padding:1px 0}
.conditions td:nth-child(1){grid-row:1/4}
.conditions td:nth-child(2){font-weight:600}
.conditions td:nth-child(3),.conditions td:nth-child(4){grid-column:2}
.conditions td:nth-child(3)::before{content:"found ";color:var(--muted)}
.conditions td:nth-child(4)::before{content:"asked ";color:var(--muted)}
}
@media print{nav{display:none}section{break-inside:avoid-page;margin-bottom:28px}}
"""

CSS = "".join(line.strip() for line in _RULES.splitlines())
