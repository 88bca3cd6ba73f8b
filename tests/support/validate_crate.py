"""RO-Crate's own validator over one crate, without network: PYTHON validate_crate.py CONTEXT CRATE -> a JSON list.

Run by the Python of an environment that has roc-validator, which cannot share ours: it pins click and rich. CONTEXT is
RO-Crate's vocabulary as the package rocrate brings it, of a later version that has every term of 1.1.
"""

import json
import sys

import requests
from rocrate_validator import services
from rocrate_validator.models import Severity, ValidationSettings
from rocrate_validator.utils.http import HttpRequester

PROFILE = "workflow-run-crate-0.5"
CRATE = "https://w3id.org/ro/crate/1.1/context"
TERMS = "https://w3id.org/ro/terms/workflow-run"  # + "/context"; its terms are this and "#name"
NAMES = ("ParameterConnection", "connection", "sourceParameter", "targetParameter", "sha1", "sha256", "md5", "sha512",
         "environment", "containerImage", "ContainerImage", "registry", "tag", "resourceUsage")  # fmt: skip
BIOSCHEMAS = "https://bioschemas.org/"
OLDER = {  # as version 1.1 has them
    "ComputationalWorkflow": f"{BIOSCHEMAS}ComputationalWorkflow",
    "FormalParameter": f"{BIOSCHEMAS}FormalParameter",
    "input": f"{BIOSCHEMAS}ComputationalWorkflow#input",
    "output": f"{BIOSCHEMAS}ComputationalWorkflow#output",
}


def main(context: str, crate: str) -> None:
    with open(context, encoding="utf-8") as stream:
        vocabulary = json.load(stream)["@context"] | OLDER
    known = {CRATE: vocabulary, f"{TERMS}/context": {name: f"{TERMS}#{name}" for name in NAMES}}

    def get(self: HttpRequester, url: str, **_: object) -> requests.Response:
        answer = requests.Response()
        answer.status_code, answer.url = 200 if url in known else 404, url
        answer._content = json.dumps({"@context": known.get(url, {})}).encode()
        answer.headers["Content-Type"] = "application/ld+json"
        return answer

    HttpRequester.get = get
    asked = ValidationSettings(rocrate_uri=crate, profile_identifier=PROFILE, requirement_severity=Severity.RECOMMENDED)
    found = services.validate(asked)
    print(json.dumps([[each.severity.name, each.check.identifier, each.message] for each in found.get_issues()]))


if __name__ == "__main__":
    main(*sys.argv[1:])
