"""Run SQL statements in Flink, all in one JVM: `python flink.py CLASSPATH JOB JAVA_OPTION ...`.

JOB is a JSON file with `configuration` and `statements`. The program starts the JVM with py4j,
which PySpark installs, so Flink needs no Python package. It ends when the last statement has ended.
"""

import json
import sys
from pathlib import Path

import pyspark
from py4j.java_gateway import GatewayParameters, JavaGateway, launch_gateway

class_path, job, *java_options = sys.argv[1:]
described = json.loads(Path(job).read_text(encoding="utf-8"))

py4j_jar = next((Path(pyspark.__file__).parent / "jars").glob("py4j-*.jar"))
#: Flink's own scripts also open these packages of Java 17.
PACKAGES = ("lang", "lang.reflect", "math", "net", "nio", "text", "time", "util", "util.concurrent")
port, java = launch_gateway(
    jarpath=str(py4j_jar),
    classpath=class_path,
    javaopts=[
        *java_options,
        *(f"--add-opens=java.base/java.{package}=ALL-UNNAMED" for package in PACKAGES),
    ],
    redirect_stdout=sys.stdout,
    redirect_stderr=sys.stderr,
    die_on_exit=True,
    return_proc=True,
)
gateway = JavaGateway(gateway_parameters=GatewayParameters(port=port))
flink = gateway.jvm.org.apache.flink
configuration = flink.configuration.Configuration()
for name, value in described["configuration"].items():
    configuration.setString(name, value)
settings = flink.table.api.EnvironmentSettings.newInstance().inStreamingMode()
environment = flink.table.api.TableEnvironment.create(
    settings.withConfiguration(configuration).build()
)
for statement in described["statements"]:
    result = environment.executeSql(statement)
getattr(result, "await")()  # a keyword of Python
gateway.shutdown()
java.stdin.close()  # the JVM ends
java.wait()  # so that its CPU seconds count
