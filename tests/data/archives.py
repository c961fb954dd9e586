"""Archives written by tests, and what has been unpacked of them."""

import io
import stat
import tarfile
import zipfile

TARS = {".tar": "w", ".tar.gz": "w:gz", ".tgz": "w:gz", ".tar.bz2": "w:bz2", ".tar.xz": "w:xz"}
SUFFIXES = [".zip", *TARS]


def write(path, files):
    """An archive of these contents by name; the suffix tells its kind. Links are `(target,)`."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                member = zipfile.ZipInfo(name)
                if isinstance(content, tuple):
                    member.external_attr = (stat.S_IFLNK | 0o777) << 16
                    content = content[0].encode()
                archive.writestr(member, content, zipfile.ZIP_DEFLATED)
        return path
    mode = next(mode for suffix, mode in TARS.items() if path.name.endswith(suffix))
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            if isinstance(content, tuple):
                member.type, member.linkname = tarfile.SYMTYPE, content[0]
                archive.addfile(member)
            elif isinstance(content, tarfile.TarInfo):
                content.name = name
                archive.addfile(content)
            else:
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return path


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
