"""The entities of a run's crate: workflow, parameters, files, what it ran on, and the one action that joins them.

Process Run Crate and Workflow Run Crate 0.5, which rest on RO-Crate 1.1. Needs the package rocrate.
"""

import mimetypes
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nbformat
from rocrate.model import ComputerLanguage, ContextEntity
from rocrate.rocrate import ROCrate

from geofm_lib import files, settings
from geofm_lib.catalog.datasets import DATASETS
from geofm_lib.catalog.metrics import counted
from geofm_lib.report import notebook_outputs
from geofm_lib.report.public import Public
from geofm_lib.runs.run import Run

PROFILES = {  # what the crate conforms to -> (its name, its version)
    "https://w3id.org/ro/wfrun/process/0.5": ("Process Run Crate", "0.5"),
    "https://w3id.org/ro/wfrun/workflow/0.5": ("Workflow Run Crate", "0.5"),
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": ("Workflow RO-Crate", "1.0"),
}
TERMS = "https://w3id.org/ro/terms/workflow-run/context"
LICENCE = "https://spdx.org/licenses/BSD-3-Clause"
PAPER = "https://doi.org/10.48550/arXiv.2404.11706"
TITLE = "Pretraining Billion-scale Geospatial Foundational Models on Frontier"
README = """# {name}

{description}

It is a Workflow Run RO-Crate of: {status}. `ro-crate-metadata.json` says what ran, with which parameters, when and on
what, and has the SHA-256 of every file. The notebook has no outputs; geofm executes it again with the same parameters.
Names of people, machines and folders were taken out.
"""
KERNEL = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
KINDS = {bool: "Boolean", int: "Integer", float: "Float"}  # of a parameter; others are Text
RAN_ON = ("device", "device_type", "cores", "ranks", "threads_per_rank", "torch", "torch_build", "python", "platform")
MEDIA = {".jsonl": "application/jsonl", ".npz": "application/zip", ".safetensors": "application/octet-stream",
         ".md": "text/markdown"}  # fmt: skip


@dataclass(frozen=True)
class Described:
    """An ended run, what of it is public, its notebook, and a folder for what is written on the way."""

    run: Run
    public: Public
    notebook: Path
    place: Path

    def crate(self) -> ROCrate:
        """The whole crate, not yet written."""
        crate = ROCrate(version="1.1")
        crate.metadata.extra_contexts.append(TERMS)
        licence = _add(crate, LICENCE, "CreativeWork", name="BSD 3-Clause licence", identifier="BSD-3-Clause")
        workflow = self._workflow(crate)
        inputs, outputs = list(self._inputs(crate)), list(self._outputs(crate))
        where = self.run.environment
        version = where.get("packages", {}).get("geofm") or self.run.stored.get("geofm_version", "not known")
        workflow["license"], workflow["version"] = (
            licence,
            f"geofm {version}, commit {where.get('commit', 'not known')}",
        )
        workflow["input"] = [each["exampleOfWork"] for each in inputs]
        workflow["output"] = [each["exampleOfWork"] for each in outputs]
        workflow["softwareRequirements"] = list(self._software(crate))
        action = self._action(crate, workflow, inputs, outputs)
        root = crate.root_dataset
        root["name"] = f"{self.run.job} by geofm: {self.run.folder.name}"
        root["description"] = f"{action['description']} Pictures of other people's images stay in the run folder."
        root["datePublished"] = action["endTime"]
        root["license"] = licence if self.public.own_images else self._terms(crate)
        root["mentions"], root["author"] = action, action["agent"]
        readme = README.format(name=root["name"], description=root["description"], status=action["name"])
        (self.place / "README.md").write_text(readme, encoding="utf-8")
        about = {"encodingFormat": "text/markdown", "about": root, "name": "What this is"}
        crate.add_file(self.place / "README.md", "README.md", properties=about)
        root["citation"] = _add(crate, PAPER, "ScholarlyArticle", identifier="arXiv:2404.11706", name=TITLE)
        for profile, (name, version) in PROFILES.items():
            root.append_to("conformsTo", _add(crate, profile, "CreativeWork", name=name, version=version))
        return crate

    def _workflow(self, crate: ROCrate) -> Any:
        """The notebook without outputs, metadata of its execution, and private words."""
        found = nbformat.read(self.notebook, as_version=4)
        title = notebook_outputs.title(found)
        for cell in found.cells:
            cell.metadata = {name: each for name, each in cell.metadata.items() if name == "tags"}
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        found.metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
        name = self.run.read_json("execution.json").get("notebook") or self.notebook.name
        nbformat.write(found, self.place / "workflow.ipynb")
        text = (self.place / "workflow.ipynb").read_text(encoding="utf-8")
        (self.place / "workflow.ipynb").write_text(self.public.text(text), encoding="utf-8")
        workflow = crate.add_workflow(
            self.place / "workflow.ipynb", self.public.text(name), main=True, lang=_jupyter(crate)
        )
        workflow["name"] = title
        workflow["encodingFormat"] = "application/x-ipynb+json"
        workflow["conformsTo"] = {"@id": "https://bioschemas.org/profiles/ComputationalWorkflow/1.0-RELEASE"}
        return workflow

    def _inputs(self, crate: ROCrate) -> Iterator[Any]:
        """Every setting, as it was asked and as it is described in the notebook."""
        known = settings.JOBS[self.run.job].model_fields if self.run.job in settings.JOBS else {}
        for name, value in self.run.settings.items():
            about = known[name].description if name in known else None
            kind = KINDS.get(type(value), "Text")
            formal = _formal(crate, f"setting-{name}", kind, name, about)
            text = self.public.text(value) if isinstance(value, str) else value
            yield _add(crate, f"#value-{name}", "PropertyValue", name=name, value=text, exampleOfWork=formal)

    def _outputs(self, crate: ROCrate) -> Iterator[Any]:
        """Every public file, with its digest."""
        for name in self.public.names:
            if source := self.public.file(name, self.place / "files"):
                facts = {"name": name, "sha256": files.digest(source), "contentSize": str(source.stat().st_size)}
                guessed = MEDIA.get(source.suffix) or mimetypes.guess_type(name)[0]
                facts |= {"encodingFormat": guessed or "application/octet-stream"}
                formal = _formal(crate, f"file-{name}", "File", name, None)
                yield crate.add_file(source, name, properties=facts | {"exampleOfWork": formal})

    def _software(self, crate: ROCrate) -> Iterator[Any]:
        for name, version in self.run.environment.get("packages", {}).items():
            if name != "geofm":  # it is the workflow's version
                url = f"https://pypi.org/project/{name}/{version}/"
                yield _add(crate, url, "SoftwareApplication", name=name, softwareVersion=version, url=url)

    def _action(self, crate: ROCrate, workflow: Any, inputs: list[Any], outputs: list[Any]) -> Any:
        state, starts, where = self.run.status, self.run.slices, self.run.environment
        began, ended = (starts[0]["started"], starts[-1]["ended"]) if starts else (None, self.run.written("."))
        facts: dict[str, Any] = {"startTime": _time(began), "endTime": _time(ended)}
        if state != "finished":
            why = starts[-1]["reason"] if starts else self.run.summary.get("error", "")
            facts["error"] = self.public.text(f"{state}: {why or 'no reason was written'}")
        ran_on = [
            _add(crate, f"#ran-on-{name}", "PropertyValue", name=name, value=self.public.text(str(where[name])))
            for name in RAN_ON if where.get(name) not in (None, "")
        ]  # fmt: skip
        agent = _add(crate, "#whoever-ran-it", "Organization", name="whoever ran it (not named here)")
        ranks = counted(where.get("ranks", 1), "rank")
        told = f"A {self.run.job} run of {ranks} on {where.get('device', 'an unknown device')}"
        told += f", in {counted(len(starts), 'launch', 'launches')}: {state}."
        return _add(
            crate, f"#run-{self.run.folder.name}", "CreateAction", name=f"{workflow['name']} ({state})",
            description=self.public.text(told), instrument=workflow,
            agent=agent, object=inputs, result=outputs, environment=ran_on, **facts,
            actionStatus=f"http://schema.org/{'Completed' if state == 'finished' else 'Failed'}ActionStatus",
        )  # fmt: skip

    def _terms(self, crate: ROCrate) -> Any:
        """The terms of a known data set, else whose they are to say."""
        card = DATASETS.get(Path(self.run.dataset).name.split(".")[0])
        terms = card.terms if card else "not known: those of the images that were read, which their owner can tell"
        return _add(crate, "#terms", "CreativeWork", name=f"Terms of the images: {terms}")


def _add(crate: ROCrate, at: str, kind: str, **facts: Any) -> Any:
    given = {name: value for name, value in facts.items() if value not in (None, "", [])}
    return crate.add(ContextEntity(crate, at, properties={"@type": kind, **given}))


def _formal(crate: ROCrate, identifier: str, kind: str, name: str, about: str | None) -> Any:
    return _add(crate, f"#{identifier}", "FormalParameter", additionalType=kind, name=name, description=about,
                conformsTo={"@id": "https://bioschemas.org/profiles/FormalParameter/1.0-RELEASE"})  # fmt: skip


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _jupyter(crate: ROCrate) -> Any:
    facts = {"name": "Jupyter Notebook", "identifier": "https://jupyter.org", "url": "https://jupyter.org"}
    return crate.add(ComputerLanguage(crate, "https://jupyter.org", properties=facts))
