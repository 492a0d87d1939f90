"""Errors that a user can cause and fix. Each is one line: what, where, expected, got and the remedy."""


class GankdError(Exception):
    """Base of every error that the command line prints as one line, with exit code 2 and no traceback.

    In Python: `except GankdError as error: print(error)`. Anything else that is raised is a fault of gankd.
    """


class ConfigError(GankdError):
    """A setting, option, name or loss is missing, misspelt or out of range.

    The line ends with names that are close, or with the range. `gankd list settings PREFIX` has all settings,
    `gankd list` the losses, models, generators and recipes, and `gankd COMMAND --help` the options.
    """


class DataError(GankdError):
    """Images or labels cannot be used.

    The line names a file or row and what was expected there. `gankd data show PATH` prints what gankd finds: format,
    counts, sizes, labels, duplicates and broken files. `--skip-broken` leaves out files that cannot be read. Where a
    label may be a class or a number, say so with `--task`.
    """


class ModelError(GankdError):
    """A network cannot be found or built, does not fit the labels or the images, or is not good enough.

    `gankd inspect TEACHER STUDENT` builds two networks and shows what is paired. A network of your own takes
    `num_outputs` (or `num_classes`), `in_channels` and `image_size` where it needs them, and gives logits (N, K) or
    values (N,). A teacher that is not clearly better than its student: `--teacher auto`. An optional library that is
    missing is named with its extra, as in `pip install gankd[onnx]`.
    """


class CheckpointError(GankdError):
    """A stored file is missing, truncated, changed, of another version, or of a kind that is never loaded.

    Delete the file or the folder that the line names, and run the same command again: only this stage is repeated.
    `gankd verify RUN --files` checks all files of a run. Weights of your own: save only the `state_dict`, best as
    safetensors.
    """


class TrainingError(GankdError):
    """Training diverged or collapsed; the last good checkpoint is kept.

    Lower the learning rate that the line names, or take `precision=fp32`. For a generator see
    docs/generators.md. The same command resumes at the last good checkpoint.
    """


class RunError(GankdError):
    """A run folder cannot be used: another process uses it, it cannot be written to, or the disk is full.

    Wait for the process whose number is in the line, or stop it; free some space (`gankd runs`, `gankd clean RUN`); or
    choose another folder with `--out`. Nothing is lost: `gankd resume RUN` continues.
    """


class LostProcessError(RunError):
    """Another process that computes the same run has ended or cannot be reached.

    Its own message, further up, has the cause. The same command resumes, also on another number of processes
    (docs/many_machines.md).
    """


class TrustError(GankdError):
    """A file names code that the user did not name and does not trust.

    Look at the module that the line names. If you trust it, repeat the command with `--trust`, in Python
    `gankd.trust(FOLDER)`; see SECURITY.md.
    """


class HubError(GankdError):
    """The Hugging Face Hub cannot be reached, refuses a repository, or has none with such files.

    `hf:user/name` needs a network once: later the files in the hub's cache are used. Private repositories need a login
    (`hf auth login`). Without a network, copy the file by other means and give its path.
    """
