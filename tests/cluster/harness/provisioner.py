"""The storage class `standard`: a folder on the machine for each claim. A process of its own.

Class `sized` is the same but for its size, which is as asked for: a small disk that really fills.

Both nodes are the same machine, so a volume is reachable from each and needs no node affinity.
The folder is open to every user, because pods run as users of their own and a hostPath volume
takes no fsGroup. When the claim is deleted the volume is Released, and goes with its folder.

One watch on claims, one on volumes; both start again from a list, so that an API server that is
away for a while delays a claim and loses none.

    python -m harness.provisioner CERTS VOLUMES
"""

import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .api import Api, Refused
from .command import CommandFailed, run
from .layout import PROVISIONER, SIZED_CLASS, STORAGE_CLASS

CLAIMS = "/api/v1/persistentvolumeclaims"
VOLUMES = "/api/v1/persistentvolumes"
OWNER = "pv.kubernetes.io/provisioned-by"
WATCH_SECONDS = 240

Object = dict[str, Any]


def volume(claim: Object, folder: Path) -> Object:
    """The volume that answers a claim, bound to it from the start."""
    meta, spec = claim["metadata"], claim["spec"]
    name = f"pvc-{meta['uid']}"
    return {
        "metadata": {"name": name, "annotations": {OWNER: PROVISIONER}},
        "spec": {
            "capacity": {"storage": spec["resources"]["requests"]["storage"]},
            "accessModes": spec["accessModes"],
            "persistentVolumeReclaimPolicy": "Delete",
            "storageClassName": spec["storageClassName"],
            "hostPath": {"path": str(folder / name), "type": "Directory"},
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": meta["namespace"],
                "name": meta["name"],
                "uid": meta["uid"],
            },
        },
    }


def wants_volume(claim: Object) -> bool:
    spec = claim["spec"]
    return bool(
        spec.get("storageClassName") in (STORAGE_CLASS, SIZED_CLASS)
        and not spec.get("volumeName")
        and claim.get("status", {}).get("phase", "Pending") == "Pending"
        and "deletionTimestamp" not in claim["metadata"]
    )


def is_released(pv: Object) -> bool:
    return bool(
        pv["metadata"].get("annotations", {}).get(OWNER) == PROVISIONER
        and pv.get("status", {}).get("phase") == "Released"
        and pv["spec"].get("persistentVolumeReclaimPolicy") == "Delete"
    )


def provide(api: Api, claim: Object, folder: Path) -> None:
    """Make the folder and the volume of a claim that lacks one."""
    if not wants_volume(claim):
        return
    made = volume(claim, folder)
    path = folder / made["metadata"]["name"]
    path.mkdir(exist_ok=True)
    if claim["spec"]["storageClassName"] == SIZED_CLASS and not path.is_mount():
        size = str(made["spec"]["capacity"]["storage"]).removesuffix("i")
        run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path)
    path.chmod(0o777)
    try:
        api.call("POST", VOLUMES, made)
    except Refused as fault:
        if fault.status != 409:  # made already, on an earlier event of the same claim
            raise


def withdraw(api: Api, pv: Object, folder: Path) -> None:
    """Remove a released volume and its folder."""
    if not is_released(pv):
        return
    name = pv["metadata"]["name"]
    if (folder / name).is_mount():
        run("umount", "--lazy", folder / name)
    shutil.rmtree(folder / name, ignore_errors=True)
    try:
        api.call("DELETE", f"{VOLUMES}/{name}")
    except Refused as fault:
        if fault.status != 404:
            raise


def follow(api: Api, path: str, each: Callable[[Object], None]) -> None:
    """Call `each` with every object of a collection, now and as it changes. Ends only by a fault."""
    while True:
        listed = api.call("GET", path)
        for item in listed["items"]:
            each(item)
        for event in api.watch(path, listed["metadata"]["resourceVersion"], WATCH_SECONDS):
            if event["type"] == "ERROR":  # the version has expired: list again
                break
            if event["type"] in ("ADDED", "MODIFIED"):
                each(event["object"])


def keep_following(api: Api, path: str, each: Callable[[Object], None]) -> None:
    """`follow`, again after every fault of the API server or of the way there."""
    while True:
        try:
            follow(api, path, each)
        except (CommandFailed, OSError, Refused, ValueError) as fault:
            print(f"{path}: {fault}", flush=True)
            time.sleep(0.5)


def main() -> None:
    certs, folder = Path(sys.argv[1]), Path(sys.argv[2])
    api = Api(certs)
    threading.Thread(
        target=keep_following,
        args=(api, VOLUMES, lambda pv: withdraw(api, pv, folder)),
        daemon=True,
    ).start()
    keep_following(api, CLAIMS, lambda claim: provide(api, claim, folder))


if __name__ == "__main__":
    main()
