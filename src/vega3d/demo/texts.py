"""Words and styles of the page."""

TITLE = "VEGA-3D"
INTRODUCTION = (
    "Ask a question about the space that a video shows. A frozen video diffusion model, the *world simulator*, looks "
    "at the frames beside the vision encoder of a language model, and a gate decides for each token how much of it to "
    "take in. The same model answers twice: with it, and with it switched off."
)
WITH, WITHOUT = "With the world simulator", "Without"
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
    "Uploads are kept for an hour at most and used for nothing else."
)

CSS = """
.gradio-container { max-width: 1180px !important; margin: 0 auto !important; }
.gradio-container main, .gradio-container .main { padding-top: 12px !important; }
#head h1 { margin: 0 0 2px; font-size: 1.5rem; }
#head p { margin: 0; color: var(--body-text-color-subdued); max-width: 60rem; }
.vega-notice { padding: 8px 12px; border-left: 4px solid #d97706; border-radius: 4px; background: #d9770622; }
#chips { gap: 6px; flex-wrap: wrap; }
#chips button { flex: 0 0 auto !important; min-width: 0 !important; padding: 4px 10px; border-radius: 999px; font-weight: 400; }
.vega-answer { min-height: 120px; padding: 10px 12px; border: 1px solid var(--border-color-primary);
  border-radius: var(--block-radius); background: var(--block-background-fill); overflow-wrap: anywhere; }
.vega-answer h3 { margin: 0 0 6px; font-size: .85rem; font-weight: 600; color: var(--body-text-color-subdued); }
.vega-answer.fused h3 { color: var(--color-accent); }
.vega-text { font-size: 1.15rem; line-height: 1.35; white-space: pre-wrap; }
.vega-faint { color: var(--body-text-color-subdued); font-size: .85rem; }
.vega-bars { display: grid; grid-template-columns: minmax(0, 1fr) 3.2em; gap: 4px 8px; margin-top: 8px; font-size: .85rem; }
.vega-bar { position: relative; padding: 2px 8px; border-radius: 4px; background: var(--background-fill-secondary);
  overflow: hidden; }
.vega-bar i { position: absolute; inset: 0 auto 0 0; background: var(--color-accent); opacity: .28; }
.vega-bar span { position: relative; }
.vega-bars b { text-align: right; font-variant-numeric: tabular-nums; font-weight: 500; }
.vega-scale { display: inline-block; width: 7em; height: .7em; margin: 0 .4em; border-radius: 3px;
  background: linear-gradient(90deg, #440154, #3b528b, #21918c, #5ec962, #fde725); }
@media (max-width: 640px) {
  #gates .grid-container { grid-template-columns: repeat(2, minmax(0, 1fr)) !important; }
}
"""
