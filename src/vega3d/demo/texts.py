"""Words of the page."""

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
STOPPED = '<div class="vega-faint">Stopped.</div>'
NOTHING_SAID = "(nothing but blank space)"
READ_GATES = (
    "Each picture is a moment of the video; each square over it is one visual token. <b>Dark</b> squares take in the "
    "most from the world simulator, <b>bright</b> ones keep more of what the vision encoder sees. Click to enlarge."
)
NO_GATES = "The fusion of this model has not one gate for each token, so there is no map to show."
FOOTNOTE = (
    "Without: the vision encoder's own tokens go on unfused, through the same weights, which were not trained that "
    "way. So the difference shows what this model draws from its world simulator, not what a model trained without "
    "one could do. Uploaded files are deleted after an hour and used for nothing else."
)
BAD_REQUEST = (
    "The request does not fit. `/answer` takes four values: a video that was uploaded (`handle_file` of a file), a "
    "question, a kind of answer and options, each text."
)
FAILED = "Something failed on the server; its log says what. Try again."
NO_MEMORY = "The GPU has no memory left for this. Try again, or with a smaller video."
NO_ROOM = "The server holds as many uploads as it takes. Try again in a minute."
OTHER_HOST = (
    "The demo does not answer to this name. Open it under the address that it printed; for a name of its own, or of a "
    "proxy, start it with --allow-host NAME."
)
OTHER_ORIGIN = (
    "The demo does not answer the pages of other sites. For a proxy under another name start it with "
    "--allow-host NAME."
)
SCORES_TITLE = "How good is it, over many rooms? [%]"
SCORES = (
    "{rooms:,} rooms that it was not trained on, {questions:,} questions. <b>Trained with</b> a world "
    "simulator, <b>without</b> one: means over {seeds} models each; the difference is {difference} points (95 % "
    "interval). <b>Constant</b>: an answer that ignores picture and question."
)
CATEGORY_NAMES = {
    "object_counting": "Counting",
    "object_abs_distance": "Distance",
    "object_size_estimation": "Object size",
    "room_size_estimation": "Room size",
    "object_rel_distance": "Which is closest",
    "object_rel_direction": "Left or right, direction",
    "route_planning": "Route",
    "obj_appearance_order": "Order",
    "macro": "Mean of the categories",
}
