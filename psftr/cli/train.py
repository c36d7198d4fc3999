"""Train PSFTR on the seen classes of one split. No class of the test split reaches this verb under protocol=clean."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psftr.cli.run_folder import RunFolder, find_runs
from psftr.errors import PsftrError

if TYPE_CHECKING:
    import pytorch_lightning as pl

    from psftr.cli.objects import Config, Dataset

CONFIG = "train"
HELP = """
usage: psftr train [key=value …] [-m]

Train PSFTR on the seen classes of one split. The run folder holds checkpoints, metrics and weights; score it with
`psftr evaluate run=DIR`.

examples:
  psftr train                                                    the embedded synthetic world
  psftr train dataset=thumos14 split.ratio=75 split.index=0      real data, after `psftr prepare thumos14`
  psftr train -m dataset=thumos14 'split.index=range(10)' model.heads=4,8
  psftr train experiment=table2                                  every row of the paper's Table 2
  psftr train resume=outputs/thumos14/75-split0/…                go on where a killed run stopped

main keys (psftr train --cfg job prints all):
  dataset=synthetic|thumos14|activitynet13    split.ratio=75|50   split.index=0…9   split.kind=published|random|file
  model.*  matcher.*  loss.*  optimizer.*  decode.*  trainer.*  data.*  text.*      logger=csv|tensorboard|wandb|none
  checkpoint.rule=last|best-seen-val          protocol=clean|peer                   resume=DIR
"""
log = logging.getLogger("psftr")

RULES = ("last", "best-seen-val")


def rewrite_arguments(arguments: list[str]) -> list[str]:
    """`resume=DIR` becomes the overrides that DIR was started with, into the same folder."""
    given = [a for a in arguments if a.startswith("resume=")]
    if not given or given[-1] in ("resume=", "resume=null"):
        return arguments
    others = [a for a in arguments if not a.startswith("resume=") and a not in ("-m", "--multirun")]
    if others:
        raise PsftrError(f"resume takes its configuration from the folder; leave out {' '.join(others)}")
    return resume_arguments(Path(given[-1].partition("=")[2]))


def resume_arguments(folder: Path) -> list[str]:
    import yaml

    single, sweep = folder / ".hydra" / "overrides.yaml", folder / "multirun.yaml"
    if single.is_file():
        overrides = yaml.safe_load(single.read_text(encoding="utf-8")) or []
        where = [f"hydra.run.dir={quoted(folder)}", "hydra.mode=RUN"]
    elif sweep.is_file():
        overrides = yaml.safe_load(sweep.read_text(encoding="utf-8"))["hydra"]["overrides"]["task"]
        where = [f"hydra.sweep.dir={quoted(folder)}", "hydra.mode=MULTIRUN"]
    else:
        raise PsftrError(f"nothing to resume in {folder}: give a run or a multirun folder written by `psftr train`")
    # a folder from elsewhere may not redirect Hydra's own plugins
    return [str(text) for text in overrides if not str(text).lstrip("+~").startswith("hydra")] + where


def quoted(path: Path) -> str:
    return "'" + str(path).replace("'", r"\'") + "'"


def run(cfg: Any) -> float | None:
    """One job: returns the seen-class validation mAP, so that a sweep optimises nothing else."""
    from hydra.core.hydra_config import HydraConfig

    from psftr.cli.objects import plain

    config = plain(cfg)
    folder = RunFolder(Path(HydraConfig.get().runtime.output_dir))
    finished = finished_score(folder, config)
    if finished is not None:
        log.info("%s is finished already (seen-class validation mAP %.2f)", folder.path, 100 * finished)
        return finished
    return train(config, folder)


def finished_score(folder: RunFolder, config: Config) -> float | None:
    """The score of a run that is complete, None for one that is to be started or resumed.

    Raises:
        PsftrError: the folder holds a run of another configuration.
    """
    if not folder.facts_file.is_file():
        return None
    facts = folder.read()
    differing = sorted(different_keys(facts["config"], config))
    if differing:
        raise PsftrError(
            f"{folder.path} holds a run that differs in {', '.join(differing[:6])}: "
            "choose another folder (hydra.run.dir=… or hydra.sweep.dir=…), or remove this one"
        )
    return facts["val_score"] if facts["status"] == "finished" else None


def different_keys(old: Any, new: Any, prefix: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = {**old, **new}
        return [k for key in keys for k in different_keys(old.get(key), new.get(key), f"{prefix}{key}.")]
    return [] if old == new else [prefix.rstrip(".")]


def train(config: Config, folder: RunFolder) -> float:
    import pytorch_lightning as pl
    import torch

    from psftr.cli.objects import build_criterion, build_datamodule, build_decoder, load_class_text, load_dataset
    from psftr.cli.objects import network_config as network_config_of
    from psftr.cli.progress import silence_lightning
    from psftr.evaluation.protocol import scorer
    from psftr.evaluation.rules import protocol_for
    from psftr.methods.psftr.build import build_network
    from psftr.methods.psftr.export import save_pretrained
    from psftr.methods.psftr.module import OptimizerConfig, PsftrModule
    from psftr.ops import selected_path
    from psftr.predictions import code_version

    if config["checkpoint"]["rule"] not in RULES:
        from psftr.cli.objects import choice_error

        raise choice_error("checkpoint.rule", config["checkpoint"]["rule"], RULES)
    silence_lightning()
    if config["trainer"]["threads"]:
        torch.set_num_threads(config["trainer"]["threads"])
    pl.seed_everything(config["seed"], workers=True, verbose=False)
    dataset = load_dataset(config)
    data = build_datamodule(config, dataset)
    # under protocol=clean the names of unseen classes are not even embedded here
    names = tuple(dict.fromkeys((*data.train_classes, *data.val_classes)))
    text = load_class_text(config, dataset.store, names)
    settings = network_config_of(config, feature_dim=dataset.store.dim, text_dim=text.dim)
    network = build_network(settings)
    facts = {
        "code_version": code_version(),
        "config": config,
        "network": settings.to_dict(),
        **dataset.provenance(),
        "train_classes": list(data.train_classes),
        "val_classes": list(data.val_classes),
        "checkpoint_rule": checkpoint_rule(config),
        "text": {"encoder": text.encoder, "prompt": text.prompt, "synthetic": text.synthetic},
        "data": data.summary(),
    }
    optimizer = {k: v for k, v in config["optimizer"].items() if k != "ema_decay"}
    module = PsftrModule(
        network=network,
        criterion=build_criterion(config),
        decoder=build_decoder(config),
        text=text,
        train_classes=data.train_classes,
        val_classes=data.val_classes,
        optimizer=OptimizerConfig(**optimizer),
        score=scorer(data.val_annotations, classes=data.val_classes, protocol=protocol_for(dataset.name)),
        checkpoint_facts=facts,
        log_val_losses=config["protocol"] != "peer",  # the unseen test has no targets in the loader
    )
    resumed = folder.last_checkpoint if folder.last_checkpoint.is_file() else None
    if folder.facts_file.is_file() and resumed is None:
        log.info("no checkpoint in %s yet: starting from the beginning", folder.path)
    folder.write(status="training", val_score=None, **facts)
    trainer = build_trainer(config, folder)
    describe(config, dataset, data, settings, network, resumed, str(selected_path(trainer.strategy.root_device)))
    started = time.monotonic()
    trainer.fit(module, datamodule=data, ckpt_path=resumed, weights_only=True if resumed else None)
    if trainer.interrupted:
        raise KeyboardInterrupt
    if trainer.current_epoch % config["trainer"]["validate_every"]:  # the last epoch is validated in any case
        trainer.validate(module, datamodule=data, verbose=False)
    score = float(trainer.callback_metrics.get("val/mAP", float("nan")))
    if config["checkpoint"]["rule"] != "last" or config["protocol"] == "peer":
        score = load_best(module, folder, score)
    if trainer.is_global_zero:
        save_pretrained(folder.path, network, module.facts)
        folder.update(status="finished", val_score=score, train_seconds=round(time.monotonic() - started, 1))
    log.info("validation mAP %.2f (%s)", 100 * score, validation_words(config))
    log.info("run folder  %s\nscore it    psftr evaluate run=%s", folder.path, folder.path)
    return score


def checkpoint_rule(config: Config) -> str:
    from psftr.predictions import CHECKPOINT_BEST_SEEN, CHECKPOINT_LAST, CHECKPOINT_PEER

    if config["protocol"] == "peer":
        return CHECKPOINT_PEER
    return CHECKPOINT_LAST if config["checkpoint"]["rule"] == "last" else CHECKPOINT_BEST_SEEN


def validation_words(config: Config) -> str:
    if config["protocol"] == "peer":
        return "protocol=peer: measured on the TEST classes"
    return "held-out seen classes" if config["data"]["held_out_classes"] else "seen classes, held-out videos"


def describe(
    config: Config, dataset: Dataset, data: Any, settings: Any, network: Any, resumed: Path | None, path: str
) -> None:
    count = sum(p.numel() for p in network.parameters()) / 1e6
    split = dataset.split
    synthetic = ", SYNTHETIC features" if dataset.store.synthetic else ""
    log.info(
        "%s%s · %s split %s/%s: %s seen, %s unseen classes",
        dataset.name, synthetic, split.source, split.ratio, split.index, len(split.seen), len(split.unseen),
    )  # fmt: skip
    log.info("%s", " · ".join(f"{key.replace('_', ' ')} {value}" for key, value in brief(data.summary()).items()))
    log.info("PSFTR %.1f M parameters, dim %s · deformable attention: %s", count, settings.dim, path)
    if config["protocol"] == "peer":
        log.info("protocol=peer: the best epoch is chosen on the TEST classes; every table will say so")
    if resumed is not None:
        log.info("resuming from %s", resumed)


def brief(summary: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in summary.items() if isinstance(value, int | float | str)}


def build_trainer(config: Config, folder: RunFolder) -> pl.Trainer:
    import pytorch_lightning as pl
    import torch
    from pytorch_lightning.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint

    from psftr.cli.progress import EpochSeed, progress_callback
    from psftr.methods.psftr.averaging import LastEpochsAverage

    trainer, checkpoint = config["trainer"], config["checkpoint"]
    precision = trainer["precision"]
    if precision == "auto":
        on_gpu = trainer["accelerator"] in ("auto", "gpu", "cuda") and torch.cuda.is_available()
        precision = "bf16-mixed" if on_gpu and torch.cuda.is_bf16_supported() else "32-true"
    callbacks: list[Callback] = [
        EpochSeed(config["seed"]),
        ModelCheckpoint(
            dirpath=folder.last_checkpoint.parent,
            filename="last",
            every_n_epochs=checkpoint["every_epochs"],
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        ),
    ]
    if checkpoint["rule"] != "last" or config["protocol"] == "peer":
        callbacks.append(
            ModelCheckpoint(
                dirpath=folder.best_checkpoint.parent,
                filename="best",
                monitor="val/mAP",
                mode="max",
                enable_version_counter=False,
            )
        )
    if config["optimizer"]["ema_decay"] is not None:
        callbacks.append(EMAWeightAveraging(decay=config["optimizer"]["ema_decay"]))
    elif trainer.get("average_share"):
        callbacks.append(LastEpochsAverage(share=trainer["average_share"], max_epochs=trainer["max_epochs"]))
    progress = progress_callback(trainer["progress"])
    return pl.Trainer(
        accelerator=trainer["accelerator"],
        devices=trainer["devices"],
        strategy=trainer["strategy"],
        precision=precision,
        max_epochs=trainer["max_epochs"],
        max_steps=trainer["max_steps"] or -1,
        accumulate_grad_batches=trainer["accumulate"],
        gradient_clip_val=trainer["gradient_clip"],
        deterministic=trainer["deterministic"],
        check_val_every_n_epoch=trainer["validate_every"],
        num_sanity_val_steps=0,
        log_every_n_steps=10,
        logger=build_loggers(config, folder),
        callbacks=callbacks + ([progress] if progress else []),
        enable_progress_bar=bool(progress and progress.is_bar),
        enable_model_summary=False,
        default_root_dir=folder.path,
    )


def build_loggers(config: Config, folder: RunFolder) -> list[Any]:
    from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger, WandbLogger

    from psftr.cli.objects import choice_error

    kind = config["logger"]["kind"]
    # each resume gets a version folder of its own, so nothing logged before is overwritten
    loggers: list[Any] = [CSVLogger(folder.path, name="logs")]
    if kind == "tensorboard":
        try:
            loggers.append(TensorBoardLogger(folder.path, name="tensorboard"))
        except ModuleNotFoundError as error:
            raise PsftrError("logger=tensorboard needs tensorboard: pip install 'psftr[tensorboard]'") from error
    elif kind == "wandb":
        project, offline = config["logger"]["project"], config["logger"]["offline"]
        name = f"{config['dataset']['name']}-{config['split']['ratio']}-{config['split']['index']}"
        loggers.append(
            WandbLogger(project=project, offline=offline, name=name, save_dir=folder.path, config=dict(config))
        )
    elif kind not in ("csv", "none"):
        raise choice_error("logger.kind", kind, ("csv", "tensorboard", "wandb", "none"))
    return loggers


def load_best(module: Any, folder: RunFolder, fallback: float) -> float:
    """Put the best checkpoint's weights into the module; its validation score."""
    import torch

    if not folder.best_checkpoint.is_file():
        return fallback
    saved = torch.load(folder.best_checkpoint, map_location="cpu", weights_only=True)
    module.load_state_dict(saved["state_dict"])
    scores = [
        state["best_model_score"]
        for name, state in saved["callbacks"].items()
        if name.startswith("ModelCheckpoint") and state.get("best_model_score") is not None
    ]
    return float(scores[0]) if scores else fallback


def unfinished(folder: Path) -> list[RunFolder]:
    return [run for run in find_runs(folder) if run.read()["status"] != "finished"]
