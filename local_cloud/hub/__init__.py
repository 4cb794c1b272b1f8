"""A Hugging Face Hub for one machine: the download API, over model repositories in a directory.

```
repositories   what there is: DIR/<owner>/<name>/<commit>/<files>, their digests and Git object ids
api            the wire: repository info, file tree, files with ranges, and the Hub's error codes
```

It answers what huggingface_hub 2.4.0 asks when it downloads (observed with that version). It has no uploads, search, branches
other than `main`, folders inside a repository or Xet transfer: without Xet headers the client downloads over plain HTTP.
"""

from local_cloud.hub.api import application

__all__ = ["application"]
