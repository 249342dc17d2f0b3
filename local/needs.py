"""What must be on the machine: `python3 -m local.needs java mvn`, a sentence for what is missing.

Standard library only: this runs before the virtual environment exists.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

#: What Spark 4.2 and Kafka 4.3 both run on, of the versions with long-term support.
JAVA_VERSIONS = (17, 21)
GET_JAVA = (
    "install Java 17 or 21 (Debian: apt-get install openjdk-17-jre-headless; macOS: brew install "
    "openjdk@21), or let JAVA_HOME name it"
)
GET_MAVEN = "install it (Debian: apt-get install maven; macOS: brew install maven)"


def java() -> str | None:
    """The Java that runs everything: that of JAVA_HOME if it is set, else the one on the path."""
    home = os.environ.get("JAVA_HOME")
    return shutil.which(str(Path(home) / "bin" / "java") if home else "java")


def java_version(output: str) -> int | None:
    """The feature version in what `java -version` prints; None when it says none."""
    found = re.search(r'version "(?:1\.)?([0-9]+)', output)
    return int(found[1]) if found else None


def java_problem() -> str | None:
    """Why no Java here will do, in one sentence; None when there is one that does."""
    command = java()
    if command is None:
        home = os.environ.get("JAVA_HOME")
        where = f"in JAVA_HOME ({home})" if home else "on the path"
        return f"there is no java {where}: {GET_JAVA}"
    try:
        told = subprocess.run(
            [command, "-version"], capture_output=True, text=True, check=False, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{command} does not run ({error}): {GET_JAVA}"
    version = java_version(told.stderr + told.stdout)
    if version not in JAVA_VERSIONS:
        return f"{command} is Java {version or 'of an unknown version'}: {GET_JAVA}"
    return None


def maven_problem() -> str | None:
    """Why Maven cannot be used, in one sentence; None when it is there."""
    if shutil.which("mvn") is None:
        return f"there is no mvn (Maven) on the path: {GET_MAVEN}"
    return None


PROBLEMS = {"java": java_problem, "mvn": maven_problem}


def main() -> None:
    for name in sys.argv[1:]:
        if problem := PROBLEMS[name]():
            print(problem, file=sys.stderr)
            sys.exit(2)


if __name__ == "__main__":
    main()
