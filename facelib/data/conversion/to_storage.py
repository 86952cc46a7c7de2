"""Any face data -> a data directory in object storage: made in a folder of this machine, then uploaded."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

from facelib.data.conversion.job import Conversion, check_made_from, open_job, run_job
from facelib.data.data_dir import META
from facelib.data.readers.open_records import open_records
from facelib.data.storage import StoredPath, read_stored, size_of, upload_folder
from facelib.files import read_json


def convert_to_storage(source_path: Path, out: StoredPath, **options) -> Conversion:
    """Writes the faces at `source_path` as a data directory in object storage.

    The cache of this machine needs room for all of it until it is uploaded. meta.json is uploaded last, so that an
    upload which was stopped is no data directory; the same command again uploads what was converted.

    Args:
        source_path: face data of any format.
        out: address of the data directory, such as s3://BUCKET/NAME.
        options: those of `facelib.data.conversion.job.open_job`.

    Raises:
        FaceError: those of `convert`, and what the storage says.
    """
    local = out.cache / "upload"
    job = open_job(source_path, local, **options)
    if size_of(out / META) is not None:
        meta = json.loads(read_stored(out / META))
        check_made_from(out, meta.get("source") or {}, job.made_from)
        records = open_records(out)
        shards, num_bad = len(records.files), meta.get("num_bad", 0)
        return Conversion(out, len(records), records.num_classes, shards, num_bad, was_finished=True)
    if (local / META).exists() and read_json(local / META, "meta.json of an upload").get("source") != job.made_from:
        shutil.rmtree(local)  # of an upload to the same address that was given up
    done = run_job(job)
    upload_folder(local, out, last=META)
    shutil.rmtree(local)
    return replace(done, out=out, was_finished=False)
