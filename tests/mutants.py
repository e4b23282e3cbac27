"""Does the testing of this project catch a wrong result? Small faults, each put into a copy of it, against every gate.

python tests/mutants.py [WORDS …]    (only the faults whose description has one of the words)

A fault is a row of MUTANTS: what is wrong, the file, the text there, the text instead. Besides, each optional argument
of a public function is ignored in turn. The gates are tried until one fails: the tests of the changed file, all unit
tests, strict nbval; all must pass without a fault. The last line is `caught N of N`, the exit status 1 where N differ.
"""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "runs", "*cache*", "*.egg-info", ".ipynb_checkpoints")
DATA, MODEL, AUGMENTATION, COPY, TRAINING, EVALUATION, PLOTS, PHOTO, LESSON, RUNS, COMPARISON, PIPELINE, SWEEP, ENVIRONMENT = (
    f"fmnist_utils/{name}.py" for name in ("data", "model", "augmentation", "_training_copy", "training", "evaluation", "plots", "photo", "lesson", "runs", "comparison", "pipeline", "sweep", "_environment")
)  # fmt: skip
NOTEBOOK = {path.name[:2]: f"notebooks/{path.name}" for path in ROOT.glob("notebooks/[0-9][0-9]_*[a-z].ipynb")}

MUTANTS = [
    ("two class names swapped", DATA, '"Pullover", "Dress"', '"Dress", "Pullover"'),
    ("scaling forgotten", DATA, '.astype("float32") / 255', '.astype("float32")'),
    ("images scaled already are let through", DATA, "x.dtype != np.uint8 or x.ndim != 3 or", "x.ndim < 3 or"),
    ("labels shifted by one", DATA, "to_categorical(y,", "to_categorical((y + 1) % 10,"),
    ("split not stratified", DATA, "test_size=fraction, stratify=y,", "test_size=fraction,"),
    ("split not seeded", DATA, "stratify=y, random_state=seed)", "stratify=y)"),
    ("validation images also train", DATA, "return np.sort(train), np.sort(valid)", "return np.arange(len(y)), np.sort(valid)"),
    ("a file's hash is not compared", DATA, ".hexdigest() == digest for", '.hexdigest() != "" for'),
    ("a fetched file's hash is not compared", DATA, "file_hash=digest, ", ""),
    ("softmax twice", MODEL, 'outputs = layers.Dense(len(CLASS_NAMES), activation="softmax", name="probabilities")(x)', 'x = layers.Dense(len(CLASS_NAMES), activation="softmax", name="first")(x)\n    outputs = layers.Softmax(name="probabilities")(x)'),
    ("batch norm never learns its averages", MODEL, "momentum=0.9, name=", "momentum=1.0, name="),
    ("batch norm left out", MODEL, "    if batch_norm:  #", "    if False:  #"),
    ("padding left to the library's default", MODEL, 'strides, padding="same", ', "strides, "),
    ("max_late pools as max does", MODEL, 'convs if downsampling == "max_late" else 1', "1"),
    ("a stride in each convolution of a block", MODEL, 'if conv == 1 and downsampling == "stride"', 'if downsampling == "stride"'),
    ("a convolution's work counted once, not at each pixel", MODEL, " * math.prod(shape[:-1]) if", " if"),
    ("images mirrored upside down", AUGMENTATION, "x[:, :, ::-1]", "x[:, ::-1]"),
    ("every image flipped in every other epoch alike", AUGMENTATION, "tf.gather(first_flips, index)", "tf.gather(first_flips, index) & False"),
    ("an image is flipped in all epochs or in none", AUGMENTATION, "epoch % 2 == 1)", "epoch < 0)"),
    ("shift ignored", AUGMENTATION, "max_shift: random_translation(x, key, max_shift)", "max_shift: x"),
    ("erasing ignored", AUGMENTATION, "max_shift: random_erasing(x, key)", "max_shift: x"),
    ("an unknown augmentation is let through", AUGMENTATION, "if isinstance(augment, str) or set(augment) - set(AUGMENTATIONS):", "if False:"),
    ("every image loses a rectangle", AUGMENTATION, "& (chance < 0.5)", "& (chance < 2)"),
    ("an erased rectangle twice as large", AUGMENTATION, "area = height * width * (", "area = 2 * height * width * ("),
    ("erased rectangles are squares", AUGMENTATION, "aspect = tf.exp(low + aspect * (high - low))", "aspect = tf.ones_like(aspect)"),
    ("training images not shuffled", AUGMENTATION, "tf.random.experimental.stateless_shuffle(tf.range(len(x)), seed=epoch_key)", "tf.range(len(x))"),
    ("order not seeded", AUGMENTATION, "tf.random.experimental.stateless_shuffle(tf.range(len(x)), seed=epoch_key)", "tf.random.shuffle(tf.range(len(x)))"),
    ("one order in all epochs", AUGMENTATION, "tf.range(len(x)), seed=epoch_key)", "tf.range(len(x)), seed=key)"),
    ("all batches augmented alike", AUGMENTATION, "stateless_fold_in(epoch_key, number + 1)", "stateless_fold_in(epoch_key, 1)"),
    ("labels of other images", AUGMENTATION, "return images, tf.gather(y, index)", "return images, tf.gather(y, index[::-1])"),
    ("a training that goes on sees the first epochs again", AUGMENTATION, "tf.data.Dataset.range(initial_epoch, epochs)", "tf.data.Dataset.range(0, epochs)"),
    ("the short rest of an epoch left out", AUGMENTATION, ".batch(batch_size).enumerate()", ".batch(batch_size, drop_remainder=True).enumerate()"),
    ("only the first half's gradients", COPY, "[(first + second, weight) for", "[(first, weight) for"),
    ("the middle image of an odd batch counts twice", COPY, "tf.fill([n % 2], 0.5)", "tf.fill([n % 2], 1.0)"),
    ("the weights of an odd batch on the wrong images", COPY, "tf.concat(ends[::-1], 0)", "tf.concat(ends, 0)"),
    ("both halves are the first", COPY, "(slice(0, half), slice(n - half, n)),", "(slice(0, half), slice(0, half)),"),
    ("moving mean ignored", COPY, "if training else means\n", "if training else (means[0] * 0, means[1])\n"),
    ("the momentum counted twice a step", COPY, "momentum = self.momentum**0.5", "momentum = self.momentum"),
    ("the sample's variance kept, not the batch's", COPY, "result.batch_variance * ((n - 1) / n)", "result.batch_variance"),
    ("epsilon left to the kernel's default", COPY, "epsilon=self.epsilon, ", ""),
    ("batch norm is never trained", COPY, "is_training=bool(training)", "is_training=False"),
    ("a training copy loses the weights", COPY, "    copy.set_weights(model.get_weights())\n    return copy\n\n\ndef plain_copy", "    return copy\n\n\ndef plain_copy"),
    ("the kept model has the training copy's layers", COPY, 'copy = _clone(model, "float32", BatchNormalization)', 'copy = _clone(model, "float32", _FusedBatchNormalization)'),
    ("softmax in 16 bits", COPY, '("image", "probabilities")', '("image",)'),
    ("bfloat16 where it is slower", COPY, '"avx512_bf16" in flags and "AuthenticAMD" in content', '"avx512_bf16" in flags'),
    ("a validation loss in training mode", COPY, "return self._report(x, y, *self._forward(x, y))", "return self._report(x, y, *self._forward(x, y, (tf.GradientTape(), tf.GradientTape())))"),
    ("schedule ignored", TRAINING, 'if schedule == "constant":', "if True:"),
    ("the climb of the learning rate left out", TRAINING, "warmup_target=learning_rate, warmup_steps=warmup_steps", "warmup_target=None"),
    ("what a network predicted that was trained again since is stored", RUNS, 'if finished(run.folder) != run.environment["finished"]:', "if False:"),
    ("what was predicted before a parameter changed is stored", RUNS, "    code_hash()\n", ""),
    ("what was trained before a parameter changed is stored", RUNS, "    code_hash()  # ValueError", "    # ValueError"),
    ("params.yaml tells other parameters than those that trained", RUNS, "if notebook.get(n) != params.get(n)]:", "if False]:"),
    ("another TensorFlow is the same code", ENVIRONMENT, 'version("tensorflow"), version("keras"), ', 'version("keras"), '),
    ("a module beside the notebook does not count", ENVIRONMENT, "if path.stem in sys.modules and cells is None]", "if False]"),
    ("a tuple among the parameters blocks its own run", RUNS, "params = yaml.safe_load(yaml.safe_dump(params))", "pass"),
    ("a lost history is not missed", RUNS, "RESULTS = PARAMS, MODEL, HISTORY, ", "RESULTS = PARAMS, MODEL, "),
    ("010 in a list of lists", PIPELINE, "scalars += scalar.value if isinstance(scalar, yaml.SequenceNode) else []", "scalars += scalar.value if scalar is value and isinstance(value, yaml.SequenceNode) else []"),
    ("a fraction as the limit of a whole parameter", SWEEP, "{int, *[float] * (not whole)}", "{int, float}"),
    ("Muon forgets its momentum", TRAINING, "self.assign(momentum, 0.95 * momentum + gradient)", "self.assign(momentum, gradient)"),
    ("Muon without Nesterov's look ahead", TRAINING, "tf.reshape(gradient + 0.95 * momentum,", "tf.reshape(momentum,"),
    ("Muon takes a kernel's first axis for the matrix's rows", TRAINING, "0.95 * momentum, (-1, variable.shape[-1]))", "0.95 * momentum, (variable.shape[0], -1))"),
    ("Muon steps in the last layer too", TRAINING, " or index >= len(self._momentums) - 2:", ":"),
    ("Muon's step does not grow with the matrix", TRAINING, " * max(x.shape) ** 0.5", " * 2"),
    ("Muon keeps the singular values", TRAINING, "for _ in range(3):", "for _ in range(0):"),
    ("a go that reaches into the next epoch", TRAINING, "if steps_per_epoch % n == 0)", "if n <= steps_per_epoch)"),
    ("a restart forgets the optimizer's state", TRAINING, '            variable.assign(self._arrays[f"optimizer{i}"])', "            pass"),
    ("a restart forgets early stopping's state", TRAINING, "            setattr(self.early_stopping, name, self.state[name])", "            pass"),
    ("a restart forgets the best weights", TRAINING, 'if "best0" in self._arrays:', "if False:"),
    ("a restart forgets the history", TRAINING, '[*self.state["history"].get(name, []), float(value)]', "[float(value)]"),
    ("a restart under another learning rate", TRAINING, 'self.state.get("compiled") != self.compiled', "False"),
    ("a restart counts its epochs from 0", TRAINING, 'list(range(len(kept["loss"])))', "self.model.history.epoch"),
    ("a training that has stopped early goes on", TRAINING, 'self.params["epochs"] if self.model.stop_training else epoch + 1', "epoch + 1"),
    ("the last epoch is trained twice", TRAINING, "self.model.stop_training else epoch + 1", "self.model.stop_training else epoch"),
    ("dropout not seeded by the epoch", TRAINING, 'if hasattr(layer, "seed_generator"):', "if False:"),
    ("dropout's seed is that of every run", TRAINING, "SeedSequence([self.seed, epoch, i])", "SeedSequence([epoch, i])"),
    ("an epoch whose loss is not a number is kept", TRAINING, "if not np.isfinite([logs[name] for name in shown]).all():", "if False:"),
    ("the weights of an epoch whose loss is not a number stay", TRAINING, "self._last_good or self.model.get_weights()", "self.model.get_weights()"),
    ("seconds with validation", TRAINING, '"seconds": self.seconds}', '"seconds": time.perf_counter() - self.start_time}'),
    ("the epoch before the kept one is told", TRAINING, "* epochs)[best_epoch - 1]", "* epochs)[best_epoch - 2]"),
    ("a training of other code goes on", TRAINING, 'state["code"] == self.code', "True"),
    ("an epoch whose loss is not a number stays in the history", TRAINING, 'self.state["history"] or ', ""),
    ("a training on other data goes on", TRAINING, "[code_hash(), int(data)]", "[code_hash(), 0]"),
    ("what data were trained on is not kept", RUNS, "zlib.crc32(np.ascontiguousarray(array), value)", "0"),
    ("runs of other data are averaged", COMPARISON, 'machine.get("data", "unknown")', '"any"'),
    ("confusion matrix transposed", NOTEBOOK["04"], "confusion_matrix(y_test_raw, y_pred)", "confusion_matrix(y_pred, y_test_raw)"),
    ("per-class rows in the wrong order", EVALUATION, "pd.Index(CLASS_NAMES, name", "pd.Index(sorted(CLASS_NAMES), name"),
    ("precision and recall swapped", EVALUATION, '("precision", "recall", "f1", "images"), scores', '("recall", "precision", "f1", "images"), scores'),
    ("interval for the wrong n", EVALUATION, "binomtest(int((y_pred == y).sum()), len(y))", "binomtest(6 * int((y_pred == y).sum()), 6 * len(y))"),
    ("interval at 90 %", EVALUATION, "proportion_ci(0.95,", "proportion_ci(0.90,"),
    ("dropout and batch norm in use as in training", EVALUATION, "model.predict(x, batch_size=1000, verbose=0)", "np.asarray(model(x, training=True))"),
    ("model files may run code", EVALUATION, "compile=False, safe_mode=True", "compile=False, safe_mode=False"),
    ("calibration error without its weights", NOTEBOOK["07"], ', weights=table["images"]', ""),
    ("temperature multiplies the scores", NOTEBOOK["07"], "softmax(logits / temperature", "softmax(logits * temperature"),
    ("temperature fitted to the answers, not the truth", NOTEBOOK["07"], "temperature)[np.arange(len(y_valid)), y_valid]", "temperature)[np.arange(len(y_valid)), valid_prob.argmax(axis=1)]"),
    ("validation curve shows training", PLOTS, 'history[f"val_{name}"], "s--"', 'history[name], "s--"'),
    ("pictures titled with the answer, not the truth", PLOTS, "class_names[true], fontsize", "class_names[probability.argmax()], fontsize"),
    ("mean images drawn inverted", PLOTS, '"cmap": "gray_r"', '"cmap": "gray"'),
    ("confidence drawn over accuracy", PLOTS, 'table["confidence"], table["accuracy"]', 'table["accuracy"], table["confidence"]'),
    ("a photo's background is not turned to 0", PHOTO, "on_white else lifted, 0)", "on_white else lifted, lifted)"),
    ("a photo is not trimmed to the garment", PHOTO, "trimmed = removed[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]", "trimmed = removed"),
    ("every guess is right", LESSON, 'digest(question, guess) == known["digest"]', "digest(question, guess)"),
    ("a bad value is let through", "fmnist_utils/parameters.py", '"dropout": (float, lambda v: 0 <= v < 1,', '"dropout": (float, lambda v: True,'),
    ("a run is complete too early", RUNS, "RESULTS = PARAMS, MODEL, HISTORY, VALIDATION, ENVIRONMENT, METRICS ", "RESULTS = METRICS, PARAMS, MODEL, HISTORY, VALIDATION, ENVIRONMENT "),
    ("the newest file makes the newest run", COMPARISON, "key=runs.finished", "key=lambda path: path.stat().st_mtime"),
    ("runs of other code are averaged", COMPARISON, 'str(machine.get("code_hash", "unknown"))', '"unknown"'),
    ("a damaged run blocks all", COMPARISON, "except runs.RunError as error", "except ZeroDivisionError as error"),
    ("a run is its package's code alone", ENVIRONMENT, "[*code, *_code_behind(cells)]", "code"),
    ("a cell's earlier text counts", ENVIRONMENT, "needed - made | used", "needed | used"),
    ("a cell that is no code stops what comes after", ENVIRONMENT, '        compile(tree, "cell", "exec", ast.PyCF', '        (tree, "cell", "exec", ast.PyCF'),
    ("a change in place does not count", ENVIRONMENT, "made | _changed(tree, modules)", "made"),
    ("a notebook's own parameters do not count", "fmnist_utils/parameters.py", "in declared or [", "in ["),
    ("a key twice is let through", PIPELINE, "if str(key.value) in seen:", "if False:"),
    ("another photo under the same name is taken for the old one", PIPELINE, 'files = {"the photo": runs', 'files = {"the photo": bool and runs.ROOT or runs'),
    ("another notebook's results are vouched for", PIPELINE, "folder / name for name in RESULTS.get(notebook, ())", "folder for name in RESULTS.get(notebook, ())"),
    ("the oldest run is evaluated", RUNS, "max(known, key=known.get", "min(known, key=known.get"),
    ("other parameters are trained into a run", RUNS, "            refuse_another(folder, new)\n", ""),
    ("other values of as many parameters are trained into a run", RUNS, "if old.get(name) != params.get(name)]:", "if len(old) != len(params)]:"),
    ("another run that took a deleted one's place is overwritten", RUNS, "refuse_another(run.folder, run.params)", "pass"),
    ("a reference run of an older copy of the project", RUNS, "RESULTS, shallow=False)[0] == list(RESULTS)", "[METRICS], shallow=False)[0]"),
    ("early stopping without validation images", "fmnist_utils/parameters.py", 'if not fraction and params.get("early_stopping"):', "if False:"),
    ("standard deviation of a population", COMPARISON, "values.std(ddof=1)", "values.std(ddof=0)"),
    ("seeds not paired", COMPARISON, '.sub(by_seed[baseline], axis="index")', ".sub(by_seed[baseline].mean())"),
    ("a notebook of other parameters counts as done", PIPELINE, "== {**parameters, **MOVED}", "is not None"),
    ("a notebook of other code counts as done", PIPELINE, "code_hash(modules, ())", '"any"'),
    ("a sweep's values reach no run", SWEEP, "{**base, **overrides[name]}", "{**base}"),
    ("a random number never is its lower limit", SWEEP, "low - whole / 2", "low + whole / 2"),
    ("a run that failed late counts as complete", SWEEP, "(folder / runs.METRICS).unlink(missing_ok=True)", "pass"),
    ("a worker of other code takes runs", SWEEP, 'info["versions"].get(name) != versions[name]', "False"),
    ("the last run of a sweep computes with more threads", SWEEP, "CPU_COUNT // workers)", "CPU_COUNT // min(workers, len(pending)))"),
    # ================================================= NOTEBOOKS: these rows follow the text of the nine notebooks =====
    ("validation drawn from the test set", NOTEBOOK["03"], "(x_raw, y_raw), _ = data.load_data()", "_, (x_raw, y_raw) = data.load_data()"),
    ("loss without one-hot", NOTEBOOK["03"], "CategoricalCrossentropy(label_smoothing=label_smoothing)", "SparseCategoricalCrossentropy()"),
    ("labels without one-hot", NOTEBOOK["03"], "data.scale(x_raw[train_index]), data.one_hot(y_raw[train_index])", "data.scale(x_raw[train_index]), y_raw[train_index]"),
    ("a parameter ignored", NOTEBOOK["03"], "weight_decay=weight_decay or None", "weight_decay=None"),
    ("Muon asked for, Adam taken", NOTEBOOK["03"], "optimizers[optimizer](", 'optimizers["adam"]('),
    ("training images not augmented", NOTEBOOK["03"], "    augment=augment, max_shift=max_shift, seed=seed)  # fmt", '    augment=[], max_shift=max_shift, seed=seed)  # fmt'),
    ("validated on the training images", NOTEBOOK["03"], "validation_data=(x_valid, y_valid) if", "validation_data=(x_train, y_train) if"),
    ("early stopping watches the training loss", NOTEBOOK["03"], 'monitor="val_loss" if len(x_valid) else "loss"', 'monitor="loss"'),
    ("label smoothing ignored", NOTEBOOK["03"], "CategoricalCrossentropy(label_smoothing=label_smoothing)", "CategoricalCrossentropy()"),
    ("the training is not seeded", NOTEBOOK["03"], "tf.keras.utils.set_random_seed(seed)\n", ""),
    ("parameters not validated", NOTEBOOK["03"], "params = parameters.check_parameters(globals())", "params = {k: v for k, v in globals().items() if k in parameters.PARAMETERS}"),
    ("judged on the training set", NOTEBOOK["04"], "_, (x_test_raw, y_test_raw) = data.load_data()", "(x_test_raw, y_test_raw), _ = data.load_data()"),
    ("mistakes that are right answers", NOTEBOOK["04"], "wrong = np.flatnonzero(y_pred != y_test_raw)", "wrong = np.flatnonzero(y_pred == y_test_raw)"),
    ("recall divides by the column", NOTEBOOK["04"], "recall = matrix[shirt, shirt] / matrix[shirt].sum()", "recall = matrix[shirt, shirt] / matrix[:, shirt].sum()"),
    ("McNemar's test on all images", NOTEBOOK["05"], "binomtest(only_first, differ)", "binomtest(only_first, len(first))"),
    ("the other half of the pair", NOTEBOOK["05"], '"only a": a & ~b, "only b": b & ~a', '"only a": b & ~a, "only b": a & ~b'),
    ("heat where the answer would fall", NOTEBOOK["06"], "tf.nn.relu(tf.reduce_sum(", "tf.nn.relu(-tf.reduce_sum("),
    ("what is hot is not what is erased", NOTEBOOK["06"], "row, column = divmod(", "column, row = divmod("),
    ("temperature fitted on the test set", NOTEBOOK["07"], "apply_temperature(valid_prob, temperature)[np.arange(len(y_valid)), y_valid]", "apply_temperature(test_prob, temperature)[np.arange(len(y_test)), y_test]"),
    ("twins of images of another scale", NOTEBOOK["07"], "nearest_distance / 14", "nearest_distance"),
    ("averages of the wrong images", NOTEBOOK["01"], "x_train_raw[y_train_raw == k].mean(axis=0)", "x_train_raw[:6000][y_train_raw[:6000] == k].mean(axis=0)"),
    ("the response to the upper edge", NOTEBOOK["02"], "[1, 1, 1, 0, 0, 0, -1, -1, -1]", "[-1, -1, -1, 0, 0, 0, 1, 1, 1]"),
    ("the epoch that is marked is not the kept one", NOTEBOOK["03"], "plots.plot_learning_curves(curves, best_epoch)", "plots.plot_learning_curves(curves, 1)"),
    ("a matrix of the wrong answers drawn as that of all", NOTEBOOK["04"], "annot=matrix, fmt", "annot=mistakes, fmt"),
    ("a stale stored output", NOTEBOOK["01"], "48,000 images train, 12,000 validate", "47,000 images train, 13,000 validate"),
    ("an execution count cleared", NOTEBOOK["01"], '"execution_count": 5,\n   "id"', '"execution_count": null,\n   "id"'),
    ("the parameters tag dropped", NOTEBOOK["02"], '     "parameters"\n', '     "parameter"\n'),
    ("a cell's output is no longer compared", NOTEBOOK["04"], '   "id": "evaluate",\n   "metadata": {}', '   "id": "evaluate",\n   "metadata": {"tags": ["nbval-ignore-output"]}'),
    ("params/quick.yaml differs from the defaults", "params/quick.yaml", "run_name: quick", "run_name: quick\nlearning_rate: 0.1"),
]  # fmt: skip


def ignored_arguments():
    """Make a fault for each optional argument of a public function: it has its default, whatever the caller gives."""
    for module in sorted((ROOT / "fmnist_utils").glob("[a-z]*.py")):
        source = module.read_text(encoding="utf-8")
        for function in ast.parse(source).body:
            if not isinstance(function, ast.FunctionDef) or function.name.startswith("_"):
                continue
            # its lines up to the end of its docstring
            start = "\n".join(source.split("\n")[function.lineno - 1 : function.body[0].end_lineno])
            names = function.args
            pairs = [*zip(names.args[::-1], names.defaults[::-1], strict=False)]
            for argument, default in [*pairs, *zip(names.kwonlyargs, names.kw_defaults, strict=True)]:
                if default is not None:  # it has one
                    what, file = f"{module.stem}.{function.name} ignores {argument.arg}", f"fmnist_utils/{module.name}"
                    yield what, file, start, f"{start}\n    {argument.arg} = {ast.unparse(default)}"


def faulty(mutant):
    """Return the file's content with the fault in it; ValueError where the old text does not stand there exactly once.

    In a notebook the texts are those of a cell, or of the file.
    """
    what, file, *texts = mutant
    content = (ROOT / file).read_text(encoding="utf-8")
    in_cells = [json.dumps(text, ensure_ascii=False)[1:-1].replace("\\n", '\\n",\n    "') for text in texts]
    old, new = in_cells if file.endswith(".ipynb") and in_cells[0] in content else texts
    if content.count(old) != 1:
        raise ValueError(f"{what}: {content.count(old)} places in {file} instead of one: {old!r}")
    return content.replace(old, new)


def gates(file):
    """Yield pytest's arguments for each gate of a fault in `file`, the cheapest first."""
    own, side_by_side = f"tests/test_{Path(file).stem.lstrip('_')}.py", ["-n", "2", "--dist", "loadfile"]
    yield [own if (ROOT / own).is_file() else "tests/test_notebooks.py"]
    if not file.endswith(".ipynb"):
        yield ["tests", *side_by_side]
    notebooks = [file] if file.endswith(".ipynb") else NOTEBOOK.values()
    yield ["--nbval", "--nbval-cell-timeout=600", *side_by_side, *notebooks]


def first_failure(folder, arguments):
    """Run pytest in the copy; return the first test that fails, "" for none."""
    words = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-m", "not slow", "-p", "no:cacheprovider"]
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([*words, *arguments], cwd=folder, env=environment, capture_output=True, encoding="utf-8")
    failed = re.search(r"^(?:FAILED|ERROR) (?:\S*/)?(\S+?\.(?:py|ipynb)::\S+)", done.stdout, re.MULTILINE)
    if done.returncode and not failed:  # no test could be run: such a fault proves nothing
        raise RuntimeError(f"pytest {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout[-2000:]}")
    return failed[1] if failed else ""


def hunt(mutant):
    """Put a fault into a copy of the project; return the test that catches it, "" when none does, and the seconds."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT, folder, ignore=LEFT_OUT, dirs_exist_ok=True)
        Path(folder, mutant[1]).write_text(faulty(mutant), encoding="utf-8")
        tried = (first_failure(folder, arguments) for arguments in gates(mutant[1]))
        return next(filter(None, tried), ""), time.monotonic() - start


def main(words):
    wanted = [mutant for mutant in [*MUTANTS, *ignored_arguments()] if not words or any(w in mutant[0] for w in words)]
    for mutant in wanted:
        faulty(mutant)  # an outdated row is told at once, not after an hour
    if not words and (failed := hunt(("no fault", "params/quick.yaml", "run_name: quick", "run_name: quick"))[0]):
        sys.exit(f"without a fault {failed} fails: nothing can be told")
    caught = 0
    with ThreadPoolExecutor(2) as pool:
        for mutant, (test, seconds) in zip(wanted, pool.map(hunt, wanted), strict=True):
            caught += bool(test)
            print(f"{seconds:4.0f} s  {mutant[0]} ({mutant[1]}) {test or 'NOT CAUGHT'}", flush=True)
    print(f"caught {caught} of {len(wanted)}")
    sys.exit(caught < len(wanted))


if __name__ == "__main__":
    main(sys.argv[1:])
