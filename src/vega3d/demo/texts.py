"""Words and styles of the page."""

TITLE = "VEGA-3D"
INTRODUCTION = (
    "Ask a question about the space that a video shows. A frozen video diffusion model, the *world simulator*, looks "
    "at the frames beside the vision encoder of a language model, and a gate decides for each token how much of it to "
    "take in. The same model answers twice: with it, and with it switched off."
)
WITH, WITHOUT = "With the world simulator", "Without"
EXAMPLES, QUESTION, KIND = "Examples", "Question", "Answer with"
ASK_HERE, OPTIONS_HERE = "What do you want to know about the space?", "Options, one a line"
GATES = "Gate maps over the frames"
MARKED = "The frame with the boxes"
WAITING = "The answer appears here."
NOTHING_SAID = "(nothing but blank space)"
READ_GATES = (
    "Each picture is a moment of the video; each square over it is one visual token. <b>Dark</b> squares take in the most "
    "from the world simulator, <b>bright</b> ones keep only what the vision encoder sees."
)
NO_GATES = "The fusion of this model has not one gate for each token, so there is no map to show."
FOOTNOTE = (
    "Without: the vision encoder's own tokens go on unfused, through the same weights, which were not trained that way. "
    "So the difference shows what this model draws from its world simulator, not what a model trained without one could do. "
    "Uploaded files are deleted after an hour and used for nothing else."
)

CSS = """
.gradio-container { --faint: color-mix(in srgb, var(--body-text-color) 72%, transparent); --layout-gap: 9px; }
.gradio-container main { max-width: 1240px !important; margin: 0 auto !important; padding: 14px 20px !important; }
.gradio-container .html-container { padding: 0 !important; }
#outcome { min-height: 1.6em; }
#head h1 { margin: 0 0 2px; font-size: 1.4rem; }
#head p { margin: 0; color: var(--faint); max-width: 74rem; line-height: 1.4; }
.vega-notice { padding: 6px 12px; border-left: 4px solid #d97706; border-radius: 4px; background: #d9770622; }
.vega-heading { font-size: .9rem; font-weight: 600; }
#video button[title^="Trim"] { display: none; } /* it would load a video editor from the internet */
.vega-line { align-items: center; }
.vega-line > :first-child { flex: 0 0 auto !important; min-width: 0 !important; width: auto !important; }
#room .wrap, #kind .wrap { gap: 6px; }
#room label, #kind label { padding: 3px 10px; }
#chips { gap: 6px; flex-wrap: wrap; }
#chips button { flex: 0 0 auto !important; min-width: 0 !important; padding: 3px 10px; border-radius: 999px;
  font-weight: 400; }
.vega-answer { min-height: 96px; padding: 10px 12px; border: 1px solid var(--border-color-primary);
  border-radius: var(--block-radius); background: var(--block-background-fill); overflow-wrap: anywhere; }
.vega-answer h3 { margin: 0 0 6px; font-size: .85rem; font-weight: 600; color: var(--faint); }
.vega-answer.fused { border-top: 3px solid var(--color-accent); }
.vega-answer.semantic { border-top: 3px solid var(--border-color-primary); }
.vega-text { font-size: 1.1rem; line-height: 1.35; white-space: pre-wrap; }
.vega-faint, .vega-faint p { color: var(--faint); font-size: .85rem; line-height: 1.45; }
.vega-answer .vega-faint { margin-top: 6px; }
.vega-bars { display: grid; grid-template-columns: minmax(0, 1fr) 2.6em; gap: 4px 6px; align-items: center;
  margin-top: 8px; font-size: .85rem; line-height: 1.35; }
.vega-bar { position: relative; padding: 2px 8px; border-radius: 4px; background: var(--background-fill-secondary);
  overflow: hidden; }
.vega-bar i { position: absolute; inset: 0 auto 0 0; background: var(--color-accent); opacity: .28; }
.vega-bar span { position: relative; }
.vega-bars b { text-align: right; font-variant-numeric: tabular-nums; font-weight: 500; }
.vega-scale { display: inline-block; width: 7em; height: .7em; margin: 0 .4em; border-radius: 3px;
  background: linear-gradient(90deg, #440154, #3b528b, #21918c, #5ec962, #fde725); }
.vega-frames { display: grid; grid-template-columns: repeat(4, minmax(0, 1fr)); gap: 6px; }
.vega-frames.empty { min-height: 120px; border: 1px dashed var(--border-color-primary); border-radius: var(--block-radius); }
figure.vega-picture { position: relative; margin: 0; }
figure.vega-picture img { display: block; width: 100%; border-radius: 4px; cursor: zoom-in; }
figure.vega-picture figcaption { position: absolute; right: 4px; bottom: 4px; padding: 0 6px; border-radius: 3px;
  font-size: .75rem; color: #fff; background: #000a; }
figure.vega-picture img:focus { position: fixed; inset: 4vh 4vw; z-index: 1000; width: 92vw; height: 92vh; object-fit: contain;
  background: #000c; outline: none; cursor: default; }
#marked figure { max-width: 240px; }
@media (max-width: 640px) {
  .gradio-container main { padding: 10px !important; }
  .vega-frames { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .vega-line > :first-child { flex-basis: 100% !important; }
}
"""
